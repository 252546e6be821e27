import json
import re
from dataclasses import replace

import pytest

from molstream.shards.errors import ChecksumError, FormatError
from molstream.shards.format.manifest import Manifest, fingerprint
from molstream.shards.schema import ATOM_FEATURES, BOND_FEATURES


def test_a_manifest_comes_back_as_it_was(sample_set):
    data = (sample_set.path / "manifest.json").read_bytes()
    assert Manifest.parse(data) == sample_set.manifest
    assert Manifest.parse(data).encode() == data


def test_a_manifest_lists_tasks_features_and_versions(sample_set):
    fields = json.loads((sample_set.path / "manifest.json").read_text())
    assert (fields["format"], fields["format_version"], fields["draft"]) == ("molstream", 4, True)
    assert [len(s["tasks"]) for s in fields["task_sets"]] == [62, 7]
    assert [t["name"] for t in fields["tasks"]] == [name for s in fields["task_sets"] for name in s["tasks"]]
    assert set(fields["provenance"]["versions"]) == {"rdkit", "zstd", "pyarrow"}
    assert fields["provenance"]["inputs"][0]["name"] == "sample.parquet"
    assert fields["provenance"]["inputs"][0]["rows"] == 300


def test_a_newer_format_version_is_refused(sample_set):
    fields = json.loads(sample_set.manifest.encode()) | {"format_version": 5, "something_new": 1}
    with pytest.raises(FormatError, match=r"manifest\.json: format version 5, this molstream reads 4"):
        Manifest.parse(json.dumps(fields).encode())


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_draft_is_refused_with_what_to_do(sample_set, version):
    fields = json.loads(sample_set.manifest.encode()) | {"format_version": version}
    with pytest.raises(FormatError, match=rf"format version {version}, this molstream reads 4; use the one that built it"):
        Manifest.parse(json.dumps(fields).encode())


def without(manifest: Manifest, key: str) -> bytes:
    fields = json.loads(manifest.encode())
    del fields[key]
    return json.dumps(fields).encode()


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
        b'{"format": "molstream"}',
        b'{"format": "molstream", "format_version": 4}',
        # deeper than the parser's stack, and a number longer than Python reads
        b"[" * 100_000,
        b'{"format": ' + b"1" * 5000 + b"}",
    ],
    ids=range(12),
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(FormatError, match=r"manifest\.json: damaged or of another draft"):
        Manifest.parse(data)


def test_a_manifest_of_something_else_is_refused():
    with pytest.raises(FormatError, match="not a molstream shard set"):
        Manifest.parse(b'{"format": "other"}')


def test_a_manifest_without_one_of_its_fields_or_with_one_more_is_refused(sample_set):
    for key in json.loads(sample_set.manifest.encode()):
        with pytest.raises(FormatError, match=re.escape("manifest.json: damaged or")):
            Manifest.parse(without(sample_set.manifest, key))
    more = json.loads(sample_set.manifest.encode()) | {"surplus": 1}
    with pytest.raises(ChecksumError, match="damaged or edited"):
        Manifest.parse(json.dumps(more).encode())


def test_every_truncation_of_a_manifest_is_refused(sample_set):
    data = sample_set.manifest.encode()
    for size in range(0, len(data) - 2, 97):
        with pytest.raises(FormatError, match="damaged or of another draft"):
            Manifest.parse(data[:size])


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
        with pytest.raises(FormatError, match=r"manifest\.json: "):
            Manifest.parse(bytes(data))
        data[at] ^= 1 << (at % 7)
    assert Manifest.parse(bytes(data)) == sample_set.manifest
