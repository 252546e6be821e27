import json
from dataclasses import replace
from typing import Any

import pytest

from molstream.shards.errors import FormatError
from molstream.shards.format.manifest import Manifest, fingerprint
from molstream.shards.schema import ATOM_FEATURES, BOND_FEATURES
from molstream.shards.store.documents import seal_json
from molstream.shards.store.fields import to_json


def test_a_manifest_comes_back_as_it_was(sample_set):
    data = (sample_set.path / "manifest.json").read_bytes()
    assert Manifest.parse(data, where="x") == sample_set.manifest
    assert Manifest.parse(data, where="x").encode() == data


def test_a_manifest_lists_tasks_features_and_versions(sample_set):
    fields = json.loads((sample_set.path / "manifest.json").read_text())
    assert (fields["format"], fields["format_version"]) == ("molstream shard set", 5)
    assert [len(s["tasks"]) for s in fields["task_sets"]] == [62, 7]
    assert [t["name"] for t in fields["tasks"]] == [name for s in fields["task_sets"] for name in s["tasks"]]
    assert set(fields["provenance"]["versions"]) == {"rdkit", "zstd", "pyarrow"}
    assert fields["provenance"]["inputs"][0]["name"] == "sample.parquet"
    assert fields["provenance"]["inputs"][0]["rows"] == 300


def test_a_newer_format_version_is_refused():
    data = seal_json({"something_new": 1}, kind="shard set", version=6)
    with pytest.raises(FormatError, match=r"^m: shard set version 6, this molstream reads 5; use the one that wrote it"):
        Manifest.parse(data, where="m")


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_an_older_draft_is_refused_with_what_to_do(version):
    # as they were: with a seal of another name or none
    data = json.dumps({"format": "molstream", "format_version": version, "draft": True, "manifest_sha256": "0" * 64}).encode()
    with pytest.raises(FormatError, match=rf"^m: shard set version {version}, this molstream reads 5; .* or build the set again"):
        Manifest.parse(data, where="m")


def resealed(manifest: Manifest, **changes: Any) -> bytes:
    """A manifest with other fields, its seal whole."""
    fields = to_json(manifest) | changes
    return seal_json({k: v for k, v in fields.items() if v is not ...}, kind="shard set", version=5)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'"molstream"',
        b"{}",
        b"\xff\xfe",
        b'{"format": "molstream shard set"}',
        b'{"format": "molstream shard set", "format_version": 5}',
        # deeper than the parser's stack, and a number longer than Python reads
        b"[" * 100_000,
        b'{"format": ' + b"1" * 5000 + b"}",
    ],
    ids=range(12),
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(FormatError, match=r"^m: (damaged|no shard set).*; restore it or build the set again$"):
        Manifest.parse(data, where="m")


def test_a_manifest_of_something_else_is_refused():
    with pytest.raises(FormatError, match=r"^m: is a molstream other, expected a molstream shard set"):
        Manifest.parse(seal_json({}, kind="other", version=5), where="m")


def test_a_manifest_without_one_of_its_fields_or_with_one_more_is_refused(sample_set):
    for key in to_json(sample_set.manifest):
        with pytest.raises(FormatError, match=f"^m: field {key} is missing"):
            Manifest.parse(resealed(sample_set.manifest, **{key: ...}), where="m")
    with pytest.raises(FormatError, match=r"^m: field surplus is one that no reader expects"):
        Manifest.parse(resealed(sample_set.manifest, surplus=1), where="m")


WRONG = [0, -1, 1.5, True, None, "x", [], [1], {}, {"x": 1}, {"x": {"y": -1}}, [{"name": 3}]]


def test_a_field_of_another_type_is_refused_or_makes_no_difference_to_types(sample_set):
    """Whatever stands in a field, it is one error of ours, or what the manifest's types say."""
    refused = 0
    for key in to_json(sample_set.manifest):
        for value in WRONG:
            data = resealed(sample_set.manifest, **{key: value})
            try:
                assert Manifest.parse(data, where="m").encode() == data
            except FormatError as error:
                # of one that does not fit another, either may be named
                assert str(error).startswith("m: field ")  # noqa: PT017
                assert key in str(error)  # noqa: PT017
                refused += 1
    assert refused > 0.8 * len(WRONG) * len(to_json(sample_set.manifest))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"provenance": {}}, "field provenance.options is None, expected dict"),
        (
            {"provenance": {"options": {"tables": [{"name": 1, "dataset": ""}]}}},
            r"field provenance.options.tables\[0\].name is 1",
        ),
        ({"labels": {}}, "field labels: of 0 tasks, expected of the 69 tasks; graph_"),
        ({"histograms": {"elements": {"x": 1}}}, "field histograms: elements counts 'x'"),
        ({"histograms": {"atoms": {"-1": 1}}}, "field histograms: atoms counts '-1'"),
    ],
)
def test_what_types_do_not_say_is_one_error_too(sample_set, changes, match):
    with pytest.raises(FormatError, match=rf"^m: {match}"):
        Manifest.parse(resealed(sample_set.manifest, **changes), where="m")


@pytest.mark.parametrize(
    ("name", "value"), [("rows", -1), ("rows", True), ("table", 1), ("table", -1), ("name", None), ("rows", ...)]
)
def test_inputs_that_readers_cannot_use_are_refused(sample_set, name, value):
    fields = to_json(sample_set.manifest)["provenance"]
    fields["inputs"][0][name] = value
    if value is ...:
        del fields["inputs"][0][name]
    with pytest.raises(FormatError, match=rf"^m: field provenance.inputs\[0\].{name} is "):
        Manifest.parse(resealed(sample_set.manifest, provenance=fields), where="m")


def test_every_truncation_of_a_manifest_is_refused(sample_set):
    data = sample_set.manifest.encode()
    for size in range(0, len(data) - 2, 97):
        with pytest.raises(FormatError, match=r"^m: damaged"):
            Manifest.parse(data[:size], where="m")


def test_the_fingerprint_depends_on_tasks_features_and_blocks_and_their_order(sample_set):
    tasks = sample_set.manifest.tasks
    blocks = list(sample_set.index.iter_contents())
    base = fingerprint(tasks, ATOM_FEATURES, BOND_FEATURES, blocks)
    assert base == sample_set.manifest.fingerprint
    others = [
        fingerprint(tasks[1:], ATOM_FEATURES, BOND_FEATURES, blocks),
        fingerprint((replace(tasks[0], unit="Hartree"), *tasks[1:]), ATOM_FEATURES, BOND_FEATURES, blocks),
        fingerprint(tasks, ATOM_FEATURES[1:], BOND_FEATURES, blocks),
        fingerprint(tasks, ATOM_FEATURES, BOND_FEATURES[1:], blocks),
        fingerprint(tasks, ATOM_FEATURES, BOND_FEATURES, blocks[::-1]),
        fingerprint(tasks, ATOM_FEATURES, BOND_FEATURES, [("val", blocks[0][1]), *blocks[1:]]),
    ]
    assert len({base, *others}) == 7


def test_every_single_bit_flip_in_a_manifest_is_refused(sample_set):
    data = bytearray(sample_set.manifest.encode())
    for at in range(0, len(data) - 1, 41):
        data[at] ^= 1 << (at % 7)
        with pytest.raises(FormatError, match=r"^m: .*; restore it or build the set again$"):
            Manifest.parse(bytes(data), where="m")
        data[at] ^= 1 << (at % 7)
    assert Manifest.parse(bytes(data), where="m") == sample_set.manifest
