"""Documents: what comes back is what was written; whatever is wrong with a file is one error that names it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.shards.errors import ChecksumError, FormatError, MissingError
from molstream.shards.store import documents
from molstream.shards.store.documents import Document, encode_line, parse_json, seal_json
from molstream.shards.store.fields import Count, Whole, from_json, to_json
from molstream.shards.store.lines import LineWriter, read_json_lines


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    size: Count

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise ValueError("name is forbidden, expected another")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example(Document):
    KIND: ClassVar[str] = "example"
    VERSION: ClassVar[int] = 3
    REMEDY: ClassVar[str] = "make it again"

    flag: bool
    number: float
    whole: Whole
    text: str
    level: Literal["graph", "atom"]
    maybe: float | None
    either: int | str
    parts: tuple[Part, ...]
    pair: tuple[int, str]
    by_name: Mapping[str, Part]
    anything: Any
    loose: dict = field(default_factory=dict)


numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=8)
parts = st.builds(Part, texts.filter(lambda t: t != "forbidden"), st.integers(0, 2**63 - 1))
loose = st.recursive(
    st.none() | st.booleans() | numbers | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
examples = st.builds(
    Example,
    flag=st.booleans(),
    number=numbers,
    whole=st.integers(0),
    text=texts,
    level=st.sampled_from(["graph", "atom"]),
    maybe=st.none() | numbers,
    either=st.integers() | texts,
    parts=st.lists(parts, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), texts),
    by_name=st.dictionaries(texts, parts, max_size=3),
    anything=loose,
    loose=st.dictionaries(texts, loose, max_size=3),
)
ONE = Example(
    flag=True,
    number=0.1,
    whole=10**30,
    text="µ",
    level="atom",
    maybe=None,
    either="x",
    parts=(Part("a", 1), Part("b", 2)),
    pair=(1, "x"),
    by_name={"c": Part("c", 3)},
    anything=[1, {"x": None}],
    loose={"y": [0.5]},
)


@given(examples)
def test_a_document_comes_back_as_it_was(example):
    data = example.encode()
    assert Example.parse(data, where="x") == example
    assert data == example.encode()
    assert json.loads(data)["format_version"] == 3


@given(examples, st.data())
def test_every_flip_of_a_bit_is_one_error_that_names_the_file(example, data):
    content = bytearray(example.encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FormatError, match=r"^x\.json: [^\n]+; make it again$"):
        Example.parse(bytes(content), where="x.json")


@given(examples, st.data())
def test_every_cut_is_one_error_and_so_is_more(example, data):
    content = example.encode()
    size = data.draw(st.integers(0, len(content) - 1))
    for damaged in (content[:size], content + b" ", content[:size] + bytes(len(content) - size)):
        with pytest.raises(FormatError, match=r"^x: .*; make it again$"):
            Example.parse(damaged, where="x")


@given(st.binary(max_size=200) | loose.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_document_is_one_error(data):
    with pytest.raises(FormatError, match=r"^x: .*; make it again$"):
        Example.parse(data, where="x")


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"[" * 10**6, b'{"a":' * 10**6, b'{"a": ' + b"1" * 5000 + b"}", bytes(500), b"\xef\xbb\xbf{}"],
    ids=range(7),
)
def test_what_no_parser_takes_is_one_error(data):
    with pytest.raises(FormatError, match=r"^x: .*; make it again$"):
        Example.parse(data, where="x")


def resealed(**changes: Any) -> bytes:
    """The document with other fields, its seal whole: what no accident makes."""
    fields = to_json(ONE) | changes
    return seal_json({k: v for k, v in fields.items() if v is not ...}, kind="example", version=3)


WRONG = [
    ({"flag": 1}, "field flag is 1, expected true or false"),
    ({"flag": None}, "field flag is None, expected true or false"),
    ({"number": "0.1"}, "field number is '0.1', expected a finite number"),
    ({"number": True}, "field number is True, expected a finite number"),
    ({"number": 10**400}, "field number is 1000.*, expected a finite number"),
    ({"whole": 1.0}, "field whole is 1.0, expected a whole number"),
    ({"whole": True}, "field whole is True, expected a whole number"),
    ({"whole": -1}, "field whole is -1, expected at least 0"),
    ({"text": 3}, "field text is 3, expected text"),
    ({"level": "bond"}, "field level is 'bond', expected one of graph, atom"),
    ({"maybe": []}, "field maybe is \\[\\], expected a finite number"),
    ({"either": 1.5}, "field either is 1.5, expected text"),
    ({"parts": {}}, "field parts is {}, expected a list"),
    ({"parts": [{"name": "a"}]}, r"field parts\[0\].size is missing"),
    ({"parts": [{"name": "a", "size": 2**63}]}, r"field parts\[0\].size is \d+, expected at least 0 and at most"),
    ({"parts": [{"name": "a", "size": 1, "more": 1}]}, r"field parts\[0\].more is one that no reader expects"),
    ({"parts": [{"name": "forbidden", "size": 1}]}, r"field parts\[0\]: name is forbidden"),
    ({"parts": [3]}, r"field parts\[0\] is 3, expected a mapping"),
    ({"pair": [1]}, "field pair is \\[1\\], expected a list of 2"),
    ({"pair": [1, 2]}, r"field pair\[1\] is 2, expected text"),
    ({"by_name": {"c": 1}}, "field by_name.c is 1, expected a mapping"),
    ({"by_name": []}, "field by_name is \\[\\], expected a mapping"),
    ({"loose": [1]}, "field loose is \\[1\\], expected a mapping"),
    ({"text": ...}, "field text is missing"),
    ({"surplus": 1}, "field surplus is one that no reader expects"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_field_of_another_type_or_size_is_named_though_the_seal_is_whole(changes, message):
    with pytest.raises(FormatError, match=f"^x: {message}.*; make it again$"):
        Example.parse(resealed(**changes), where="x")


def test_a_field_with_a_default_may_be_missing_for_it_was_added_later():
    assert Example.parse(resealed(loose=...), where="x") == replace(ONE, loose={})


def test_numbers_that_are_not_finite_are_neither_written_nor_read():
    for value in ("NaN", "Infinity", "-Infinity", "1e999"):
        body = resealed().replace(b'"number": 0.1', f'"number": {value}'.encode())
        at = body.rfind(b',\n "seal"')
        with pytest.raises(FormatError, match=r"^x: .*finite number"):
            Example.parse(body[:at] + documents._seal(body[:at]), where="x")
        body = resealed().replace(b"0.5", value.encode())
        at = body.rfind(b',\n "seal"')
        with pytest.raises(FormatError, match=r"^x: .*finite number"):
            Example.parse(body[:at] + documents._seal(body[:at]), where="x")
    with pytest.raises(ValueError, match="not JSON compliant"):
        seal_json({"a": float("nan")}, kind="example", version=3)


@pytest.mark.parametrize("version", [0, 1, 2, 4, 99])
def test_a_file_of_another_version_is_one_line_with_what_to_do(version):
    data = seal_json({"what": "ever"}, kind="example", version=version)
    with pytest.raises(
        FormatError, match=f"^x: example version {version}, this molstream reads 3; use the one that wrote it; make it"
    ):
        Example.parse(data, where="x")


def test_a_file_of_a_version_before_there_were_seals_is_called_so():
    data = json.dumps({"format": "molstream", "format_version": 2, "a": 1}).encode()
    with pytest.raises(FormatError, match=r"^x: example version 2, this molstream reads 3"):
        Example.parse(data, where="x")


def test_a_damaged_version_is_damage_and_not_another_version():
    data = ONE.encode().replace(b'"format_version": 3', b'"format_version": 2')
    with pytest.raises(ChecksumError, match=r"^x: damaged or edited"):
        Example.parse(data, where="x")


def test_a_document_of_another_kind_is_refused():
    data = seal_json(to_json(ONE), kind="other", version=3)
    with pytest.raises(FormatError, match=r"^x: is a molstream other, expected a molstream example; make it again"):
        Example.parse(data, where="x")


def test_a_document_is_a_file_of_its_name(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    with pytest.raises(MissingError, match=r"x\.json: missing"):
        Example.read(path)
    assert ONE.write(path).size == len(path.read_bytes())
    assert Example.read(path) == ONE
    monkeypatch.setattr(documents, "MAX_BYTES", 100)
    with pytest.raises(FormatError, match=r"x\.json: \d+ bytes, expected at most 100; make it again"):
        Example.read(path)


def test_json_of_others_is_read_or_refused():
    assert parse_json("[1, null]") == [1, None]
    assert str(parse_json("[NaN, -Infinity]", nan=True)) == "[nan, -inf]"
    for text in ("[NaN]", "", "[1", "[" * 10**6, "1" * 5000, b"\xff"):
        with pytest.raises(FormatError, match=r"^not JSON"):
            parse_json(text)


def test_a_dataclass_without_a_file_is_held_to_its_types_too():
    assert from_json(Part, {"name": "a", "size": 0}) == Part("a", 0)
    with pytest.raises(FormatError, match=r"^field size is -1, expected at least 0"):
        from_json(Part, {"name": "a", "size": -1})


# logs


@settings(max_examples=30)
@given(st.lists(st.dictionaries(texts, loose, max_size=3), max_size=5), st.data())
def test_a_log_is_read_to_its_last_whole_line_wherever_it_is_cut(tmp_path_factory, lines, data):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    with LineWriter(path) as log:
        for line in lines:
            log.add(line)
    assert read_json_lines(path) == (lines, 0)
    content = path.read_bytes()
    size = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:size])
    whole = content[:size].count(b"\n")
    assert read_json_lines(path) == (lines[:whole], 0)
    # and goes on from there
    with LineWriter(path) as log:
        log.add({"a": 1})
    assert read_json_lines(path) == ([*lines[:whole], {"a": 1}], 0)


def test_damaged_lines_of_a_log_are_counted(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_json_lines(path) == ([], 0)
    path.write_bytes(b'{"a": 1}\n{"a": \xff}\n[1]\n\n' + b"[" * 10**6 + b'\n{"a": NaN}\n{"a": 2}\n{"a"')
    assert read_json_lines(path) == ([{"a": 1}, {"a": 2}], 5)


def test_a_line_of_a_log_has_no_line_break(tmp_path):
    assert re.fullmatch(rb"[^\n\r]+\n", encode_line({"a": "x\ny\r\u2028"}))
