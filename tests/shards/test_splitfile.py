"""Every format says the same split in its own way; what contradicts itself or the data set is refused in one line."""

import bz2
import csv
import gzip
import io
import json
import os
import random
import re
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.kernels.rng.permutation import python_shuffle
from molstream.shards.errors import InputError, SchemaError
from molstream.shards.splits.assignment import parse_renames
from molstream.shards.splits.files import NO_SPLIT, read_split_file

ROWS = {"train": [7, 0, 3, 9], "val": [2], "test": [5, 1]}
NAMES = ("train", "val", "test")
ASSIGNMENT = [0, 2, 1, 0, NO_SPLIT, 2, NO_SPLIT, 0, NO_SPLIT, 0]
IN_ORDER = [(*NAMES, "")[min(code, 3)] for code in ASSIGNMENT]
"""The name of each row's split."""
AS_THEY_COME = [{1: 2, 2: 1}.get(code, code) for code in ASSIGNMENT]
"""The same where test comes before val."""


def write(path, rows: dict | list, layout: str = "rows") -> str:
    """A split file by its extension. rows: {split: row numbers}, or with another layout columns or names."""
    kind = path.name.split(".", 1)[1]
    if kind == "pt":
        torch.save(rows, path)
    elif kind == "npz":
        np.savez(path, **{name: np.array(numbers) for name, numbers in rows.items()})
    elif kind == "npy":
        np.save(path, np.array(rows))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        longest = max(map(len, rows.values()))
        columns = {name: [*values, *[None] * (longest - len(values))] for name, values in rows.items()}
        if kind == "parquet":
            pq.write_table(pa.table(columns), path)
        else:
            text = io.StringIO()
            lines = csv.writer(text)
            lines.writerow(columns)
            lines.writerows(zip(*columns.values(), strict=True))
            path.write_bytes(gzip.compress(text.getvalue().encode()) if kind == "csv.gz" else text.getvalue().encode())
    return str(path)


def check(path, num_rows=10, names=NAMES, assignment=ASSIGNMENT):
    found = read_split_file(str(path), num_rows=num_rows)
    assert found.names == names
    assert found.assignment.dtype == np.uint8
    assert found.assignment.tolist() == assignment


def refusal(path, num_rows=10) -> str:
    with pytest.raises(SchemaError, match=r"\A" + str(path)) as caught:
        read_split_file(str(path), num_rows=num_rows)
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix(f"{path}: ")


ROW_FORMATS = ["pt", "npz", "json", "csv", "csv.gz", "parquet"]

# what is read


@pytest.mark.parametrize("kind", ROW_FORMATS)
def test_row_numbers_of_each_split_are_read(tmp_path, kind):
    check(write(tmp_path / f"a.{kind}", ROWS))


@pytest.mark.parametrize("kind", [*ROW_FORMATS, "PT", "CSV.GZ"])
def test_capitals_and_urls_make_no_difference(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    write(path, ROWS)
    check(f"file://{path.rename(tmp_path / f'a b.{kind}')}")


def test_a_query_after_a_url_is_no_part_of_the_name(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS))
    monkeypatch.setattr("fsspec.open", lambda url, mode: path.open(mode))
    check("https://zenodo.org/records/1/files/a.json?download=1")


@pytest.mark.parametrize("kind", ROW_FORMATS)
def test_names_keep_the_order_of_the_file_and_valid_is_val(tmp_path, kind):
    rows = {"test_seen": [4], "valid": [2], "train": [0]}
    check(write(tmp_path / f"a.{kind}", rows), 5, ("test_seen", "val", "train"), [2, NO_SPLIT, 1, NO_SPLIT, 0])
    rows = {"train": [0], "validation": [2], "X1": [1]}
    check(write(tmp_path / f"a.{kind}", rows), 3, ("train", "val", "X1"), [0, 2, 1])


@pytest.mark.parametrize("kind", ROW_FORMATS)
def test_an_empty_split_keeps_its_name(tmp_path, kind):
    empty = np.empty(0, np.int64) if kind == "npz" else []
    check(write(tmp_path / f"a.{kind}", {"train": [0, 1], "val": empty}), 2, ("train", "val"), [0, 0])


@pytest.mark.parametrize(
    "make", [np.array, torch.tensor, tuple, lambda rows: np.array(rows, np.uint64), lambda rows: list(np.array(rows))]
)
def test_a_pt_may_hold_lists_tuples_arrays_and_tensors(tmp_path, make):
    check(write(tmp_path / "a.pt", {name: make(rows) for name, rows in ROWS.items()}))


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i4", ">i4", "u4", "i8", "u8", "f8"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_may_hold_any_whole_numbers(tmp_path, dtype, save):
    save(tmp_path / "a.npz", **{name: np.array(rows, dtype) for name, rows in ROWS.items()})
    check(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", ["U", "U9", "S", ">U6"])
def test_an_npy_of_names_is_read_in_order(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.array(IN_ORDER, dtype))
    check(tmp_path / "a.npy", 10, ("train", "test", "val"), AS_THEY_COME)


@pytest.mark.parametrize("dtype", ["i1", "u1", ">i2", "i8"])
def test_an_npy_of_0_1_2_is_train_val_test(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.array([0, 2, 0, 0], dtype))
    check(tmp_path / "a.npy", 4, NAMES, [0, 2, 0, 0])


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_a_column_of_names_is_read_in_order_or_by_row(tmp_path, kind):
    check(write(tmp_path / f"a.{kind}", {"split": IN_ORDER}), 10, ("train", "test", "val"), AS_THEY_COME)
    order = [9, 4, 2, 1, 5, 0, 7, 3]
    for columns in ({"row": order, "split": [IN_ORDER[r] for r in order]}, {"split": [IN_ORDER[r] for r in order], "row": order}):
        check(write(tmp_path / f"a.{kind}", columns), 10, ("train", "val", "test"))


def test_parquet_names_may_be_null_large_or_of_a_dictionary(tmp_path):
    names = [name or None for name in IN_ORDER]
    for dtype in (
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ):
        pq.write_table(pa.table({"split": pa.array(names, pa.string()).cast(dtype)}), tmp_path / "a.parquet")
        check(tmp_path / "a.parquet", 10, ("train", "test", "val"), AS_THEY_COME)


def test_what_pandas_makes_of_columns_of_several_lengths_is_read(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftrain, val ,test\r\n7,2.0,5.0\r\n\r\n0,,1.0\r\n3, ,\r\n9,,\r\n")
    check(tmp_path / "a.csv")
    columns = {name: np.array([*rows, *[np.nan] * (4 - len(rows))]) for name, rows in ROWS.items()}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    check(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", ["npy", *ROW_FORMATS])
def test_long_files_are_read_in_parts(tmp_path, monkeypatch, kind):
    for name, size in {
        "files.CHUNK_ROWS": 7,
        "assignment.CHUNK_ROWS": 5,
        "files.CHUNK_BYTES": 50,
        "files.CSV_ROWS": 6,
    }.items():
        monkeypatch.setattr(f"molstream.shards.splits.{name}", size)
    draw = random.Random(3)
    names = [draw.choice(["train", "train", "val", "test", ""]) for _ in range(300)]
    rows = {name: draw.sample(found, len(found)) for name in NAMES if (found := [r for r, n in enumerate(names) if n == name])}
    expect = [NAMES.index(name) if name else NO_SPLIT for name in names]
    seen = tuple(dict.fromkeys(name for name in names if name))
    if kind == "npy":
        check(write(tmp_path / "a.npy", names), 300, seen, [seen.index(name) if name else NO_SPLIT for name in names])
        return
    check(write(tmp_path / f"a.{kind}", rows), 300, NAMES, expect)
    if kind in ("csv", "csv.gz", "parquet"):
        order = draw.sample([r for r in range(300) if names[r]], 200)
        path = write(tmp_path / f"b.{kind}", {"row": order, "split": [names[r] for r in order]})
        found = read_split_file(path, num_rows=300)
        assert [r for r in range(300) if found.assignment[r] != NO_SPLIT] == sorted(order)
        assert all(found.names[found.assignment[r]] == names[r] for r in order)


@given(names=st.lists(st.sampled_from([*NAMES, "a", "B_2"]), min_size=1, max_size=30), data=st.data())
@settings(deadline=None, max_examples=40)
def test_all_formats_say_the_same(tmp_path_factory, names, data):
    folder = tmp_path_factory.mktemp("splits")
    rows: dict[str, list[int]] = {"train": [0]}
    for row in data.draw(st.permutations(range(1, len(names)))):
        rows.setdefault(names[row], []).append(row)
    found = [read_split_file(write(folder / f"a.{kind}", rows), num_rows=len(names)) for kind in ROW_FORMATS]
    for split in found:
        assert split.names == tuple(rows)
        assert all(np.flatnonzero(split.assignment == k).tolist() == sorted(rows[name]) for k, name in enumerate(rows))


def test_the_split_of_pm6_in_small(tmp_path):
    # as Graphium cuts it: int(n * 0.01) each for val and test, from the end of the shuffled rows
    order = python_shuffle(1000, seed=42)
    path = write(
        tmp_path / "pm6_random_splits.pt",
        {"train": order[:980].tolist(), "val": order[980:990].tolist(), "test": order[990:].tolist()},
    )
    found = read_split_file(path, num_rows=1000)
    assert np.bincount(found.assignment).tolist() == [980, 10, 10]
    assert (found.assignment[order[980:990]] == 1).all()


# names, indexes and kinds of text that tables come with


@pytest.mark.parametrize("kind", ROW_FORMATS)
def test_names_may_have_dots_hyphens_and_digits(tmp_path, kind):
    rows = {"train": [0, 1], "test-dev": [2], "test-challenge": [3], "v1.2_x": [4], "0": [5]}
    found = read_split_file(write(tmp_path / f"a.{kind}", rows), num_rows=6)
    assert found.names == found.given == tuple(rows)
    assert found.assignment.tolist() == [0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ROW_FORMATS)
def test_splits_are_renamed_and_several_may_become_one(tmp_path, kind):
    rows = {"0": [0, 1], "1": [2], "hold out": [3], "valid": [4], "rest": [5]}
    renames = {"0": "train", "1": "train", "hold out": "test", "rest": "val"}
    path = write(tmp_path / f"a.{kind}", rows)
    assert refusal(path, 6).startswith("got 'hold out' for the name of a split")
    found = read_split_file(path, num_rows=6, renames=renames)
    assert (found.names, found.given) == (("train", "test", "val"), tuple(rows))
    assert found.assignment.tolist() == [0, 0, 0, 1, 2, 2]


def test_what_is_to_be_renamed_is_parsed_and_what_cannot_be_is_refused():
    assert parse_renames(["hold out=test", "a=b=train", " 0 = val "]) == (("hold out", "test"), ("a=b", "train"), ("0", "val"))
    for wrong in (["test"], ["=test"], ["a="], ["a=b c"], ["a=.b"], ["a=x", "a=y"]):
        with pytest.raises(InputError, match=f"--rename-split {re.escape(wrong[-1])}: expected OLD=NEW"):
            parse_renames(wrong)


def test_without_a_split_called_train_the_option_that_renames_is_named(tmp_path):
    path = write(tmp_path / "a.json", {"val": [1], "other": [0]})
    assert refusal(path) == "no split is called train; found val, other; rename it with --rename-split NAME=train"
    path = write(tmp_path / "a.json", {"val": [1], "training": [0]})
    expected = "no split is called train; found val, training; rename it with --rename-split training=train"
    assert refusal(path) == expected
    assert read_split_file(path, num_rows=10, needs_train=False).names == ("val", "training")
    assert read_split_file(path, num_rows=10, renames={"training": "train"}).names == ("val", "train")


@pytest.mark.parametrize("index", ["", "Unnamed: 0", "__index_level_0__", "index"])
def test_an_index_that_pandas_wrote_is_left_out_if_it_counts_the_rows(tmp_path, index):
    names = ["train", "val", "train", "test"]
    (tmp_path / "a.csv").write_text(f"{index},split\n" + "".join(f"{k},{name}\n" for k, name in enumerate(names)))
    pq.write_table(pa.table({"split": names, index: range(4)}), tmp_path / "a.parquet")
    for kind in ("csv", "parquet"):
        assert read_split_file(str(tmp_path / f"a.{kind}"), num_rows=4).assignment.tolist() == [0, 1, 0, 2]
    # beside row numbers it says nothing, whatever it is
    (tmp_path / "a.csv").write_text(f"{index},row,split\n7,0,train\n3,1,val\n")
    assert read_split_file(str(tmp_path / "a.csv"), num_rows=2).assignment.tolist() == [0, 1]
    if index != "index":
        (tmp_path / "a.csv").write_text(f"{index},train,val\n0,3,2\n1,1,\n2,0,\n")
        assert read_split_file(str(tmp_path / "a.csv"), num_rows=4).assignment.tolist() == [0, 0, 1, 0]


TEXT = {
    "string": pa.array(["train", None, "val", "train"]),
    "large_string": pa.array(["train", None, "val", "train"], pa.large_string()),
    "dictionary": pa.array(["train", None, "val", "train"]).dictionary_encode(),
    "binary": pa.array([b"train", None, b"val", b"train"]),
}
# what this version of pyarrow has
if hasattr(pa, "string_view"):
    TEXT["string_view"] = pa.array(["train", None, "val", "train"], pa.string_view())
if hasattr(pa, "json_"):
    TEXT["json"] = pa.array(["train", None, "val", "train"], pa.json_())


@pytest.mark.parametrize("column", TEXT.values(), ids=TEXT)
def test_names_of_splits_are_read_from_every_kind_of_text(tmp_path, column):
    pq.write_table(pa.table({"split": column}), tmp_path / "a.parquet")
    assert read_split_file(str(tmp_path / "a.parquet"), num_rows=4).assignment.tolist() == [0, NO_SPLIT, 1, 0]


# what is refused


@pytest.mark.parametrize("kind", ROW_FORMATS)
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"train": [0, 5], "val": [1], "test": [5]}, "row 5 is in two splits, train and test; splits must not overlap"),
        ({"train": [0, 5, 1, 5], "val": [2]}, "split train: row 5 is there twice"),
        ({"train": [0], "val": [1, 10]}, "split val: row number 10 is not one of the 10 rows of the data set, which are 0 to 9"),
        ({"train": [0, -3]}, "split train: row number -3 is not one of the 10 rows of the data set, which are 0 to 9"),
        ({"train": [0, 2**62]}, f"split train: row number {2**62} is not one of the 10 rows of the data set, which are 0 to 9"),
        ({"val": [0], "Train": [1]}, "no split is called train; found val, Train"),
        ({"train": np.empty(0, np.int64), "val": [1]}, "split train has no rows"),
        ({"train": [0], "valid": [1], "val": [2]}, "two names for split val, such as valid and val"),
        (
            {"train": [0], "a b": [1]},
            "got 'a b' for the name of a split, expected a letter or digit, then up to 31 letters, digits, dots, _ or -; "
            "rename it with --rename-split 'a b=NEW'",
        ),
        ({"train": [0], ".a": [1]}, "got '.a' for the name of a split, expected a letter"),
        ({"train": [0], "-a": [1]}, "got '-a' for the name of a split, expected a letter"),
        ({"train": [0], "a/b": [1]}, "got 'a/b' for the name of a split, expected a letter"),
        ({"train": [0], "test": [1], "Test": [2]}, "the names of splits test and Test differ only in case; rename it with"),
        ({"train": [0], "_a": [1]}, "got '_a' for the name of a split, expected a letter"),
        ({"train": [0], "é": [1]}, "got 'é' for the name of a split, expected a letter"),
        ({"train": [0], "a" * 33: [1]}, f"got {'a' * 33!r} for the name of a split, expected a letter"),
    ],
    ids="overlap twice beyond negative huge no_train empty alias space dot hyphen slash case underscore accent long".split(),
)
def test_a_split_that_contradicts_itself_or_the_data_is_refused(tmp_path, kind, rows, message):
    rows = rows if kind in ("npz", "pt") else {name: list(map(int, numbers)) for name, numbers in rows.items()}
    if kind.startswith("csv") and 2**62 in rows.get("train", []):
        message = f"split train: '{2**62}' is not a whole number, so no row number"
    assert refusal(write(tmp_path / f"a.{kind}", rows)).startswith(message)


@pytest.mark.parametrize("kind", ROW_FORMATS)
def test_what_is_no_whole_number_is_refused(tmp_path, kind):
    values = [1.5, 2.0]
    message = {
        "pt": "split val: 1.5 is not a whole number, so no row number",
        "npz": "split val: 1.5 is not a whole number, so no row number",
        "json": "split val: 1.5 is not a whole number, so no row number",
        "parquet": "split val: 1.5 is not a whole number, so no row number",
    }
    assert refusal(write(tmp_path / f"a.{kind}", {"train": [0, 1], "val": values})) == message.get(
        kind, "split val: '1.5' is not a whole number, so no row number"
    )


@pytest.mark.parametrize("kind", ROW_FORMATS)
def test_too_many_splits_are_refused(tmp_path, kind):
    rows = {"train": [0], **{f"s{k}": [k] for k in range(1, 254)}}
    found = read_split_file(write(tmp_path / f"a.{kind}", rows), num_rows=254)
    assert found.assignment.tolist() == list(range(254))
    assert refusal(write(tmp_path / f"a.{kind}", rows | {"s254": [254]}), 255) == "more than 254 splits: train, s1, s2, ..."


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "holds a value of type list, expected a dict of split names and row numbers"),
        ((1, 2), "holds a value of type tuple, expected a dict"),
        ({"train": 5}, "split train: a value of type int, expected row numbers"),
        ({"train": {"a": [1]}}, "split train: a value of type dict, expected row numbers"),
        ({"train": [True, False]}, "split train: True is not a whole number"),
        ({"train": ["1"]}, "split train: '1' is not a whole number"),
        ({"train": [[1], [2]]}, "split train: a list is not a whole number"),
        ({"train": [np.uint64(2**64 - 1)]}, f"split train: row number {2**64 - 1} is not one of the 10 rows"),
        ({"train": [2**64, 1]}, f"split train: row number {2**64} is not one of the 10 rows"),
        ({"train": [-(2**64)]}, f"split train: row number {-(2**64)} is not one of the 10 rows"),
        ({"train": np.array([[1], [2]])}, r"split train: an array of shape (2, 1), expected one dimension of row numbers"),
        ({"train": np.array(3)}, r"split train: an array of shape (), expected one dimension of row numbers"),
        ({"train": np.ones(10, bool)}, "split train: values of type bool, expected row numbers: whole numbers, as integers"),
        (
            {"train": np.ones(1, np.float32)},
            "split train: values of type float32, expected row numbers: whole numbers, as integers",
        ),
        ({"train": np.array([1, np.nan])}, "split train: nan is not a whole number"),
        ({"train": np.array([1, np.inf])}, "split train: inf is not a whole number"),
        ({"train": np.array([1e300])}, "split train: row number 1e+300 is not one of the 10 rows"),
        ({"train": np.array([2**64 - 1], np.uint64)}, f"split train: row number {2**64 - 1} is not one of the 10 rows"),
        ({5: [1]}, "got 5 for the name of a split; if that is an index pandas wrote, leave it out: index=False"),
        ({" ": [1]}, "got ' ' for the name of a split; if"),
    ],
)
def test_a_pt_of_anything_else_is_refused(tmp_path, value, message):
    assert refusal(write(tmp_path / "a.pt", value)).startswith(message)


class Call:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pt_that_runs_something_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"train": Call()}, "a.pt")
    with pytest.raises(SchemaError, match=r"^a\.pt: holds posix\.mkdir, an object, and nothing in a file is run"):
        read_split_file("a.pt", num_rows=10)
    assert os.listdir() == ["a.pt"]


def test_arrays_of_objects_are_refused(tmp_path):
    objects = np.array(["train", None], object)
    np.save(tmp_path / "a.npy", objects)
    np.savez(tmp_path / "a.npz", train=objects)
    for name in ("a.npy", "a.npz"):
        assert refusal(tmp_path / name, 2) == (
            "an array of Python objects, which could run anything; save it as numbers or text, for example array.astype(str)"
        )


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(9, int), "names a split for 9 rows, the data set has 10"),
        (np.zeros(11, int), "names a split for 11 rows, the data set has 10"),
        (np.zeros((10, 1), int), "an array of shape (10, 1), expected one dimension of 10 rows"),
        (np.array(1), "an array of shape (), expected one dimension of 10 rows"),
        (np.array([0] * 8 + [3, 0]), "row 8: split number 3, expected 0, 1 or 2 for train, val, test"),
        (np.array([0] * 8 + [-1, 0]), "row 8: split number -1, expected 0, 1 or 2 for train, val, test"),
        (np.zeros(10), "values of type float64, expected for each row the name of its split, or 0, 1, 2 for train, val, test"),
        (np.zeros(10, bool), "values of type bool, expected for each row the name of its split"),
        (np.zeros(10, [("a", "i4")]), "not an array of numbers or text in the .npy format"),
        (np.ones(10, int), "split train has no rows"),
        (np.array(["val"] * 10), "no split is called train; found val"),
        (np.array([""] * 10), "no split is called train; found none"),
        (np.array(["train"] * 9 + ["a+b"]), "got 'a+b' for the name of a split, expected a letter"),
        (np.array(["train"] * 9 + ["x" * 2000]), "values of type <U2000, expected for each row the name of its split"),
    ],
)
def test_an_npy_of_anything_else_is_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    assert refusal(tmp_path / "a.npy").startswith(message)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((2, 2), int),
            "split train: an array int64 of shape (2, 2), expected one dimension of at most 10 row numbers: whole",
        ),
        (np.zeros(11, int), "split train: an array int64 of shape (11,), expected one dimension of at most 10 row numbers"),
        (np.ones(10, bool), "split train: an array bool of shape (10,), expected one dimension"),
        (np.array(["a"]), "split train: an array <U1 of shape (1,), expected one dimension"),
        (np.ones(1, np.float32), "split train: values of type float32, expected row numbers"),
    ],
)
def test_an_npz_of_anything_else_is_refused(tmp_path, array, message):
    np.savez_compressed(tmp_path / "a.npz", train=array)
    assert refusal(tmp_path / "a.npz").startswith(message)


def npy(header: bytes, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an array of numbers or text in the .npy format"),
        (b"PK\x03\x04abcdefgh", "not an array of numbers or text in the .npy format"),
        (
            npy(b"{'descr': '<i8', 'fortran_order': False, 'shape': (10,), }", bytes(79)),
            "breaks off 1 bytes before the end of an array",
        ),
        (
            npy(b"{'descr': '<i8', 'fortran_order': False, 'shape': (10000000000,), }"),
            "names a split for 10000000000 rows, the data",
        ),
        (npy(b"{'descr': '<U99999999', 'fortran_order': False, 'shape': (10,), }"), "values of type <U99999999, expected"),
        (npy(b"{'descr': '<U0', 'fortran_order': False, 'shape': (10,), }"), "values of type <U0, expected"),
        (
            npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (10,), }"),
            "an array of Python objects, which could run anything",
        ),
        (npy(b"{'descr': '<U1', 'fortran_order': False, 'shape': (10,), }", b"\xff" * 40), "names of characters that are none"),
        (npy(b"{" * 5000), "not an array of numbers or text in the .npy format"),
        (npy(b"{}" + b" " * 20_000), "not an array of numbers or text in the .npy format"),
        (npy(b"{'descr': '<i3', 'fortran_order': False, 'shape': (10,), }"), "values of type <i3, which NumPy does not have"),
        (npy(b"{[]: 1}"), "not an array of numbers or text in the .npy format"),
    ],
)
def test_a_damaged_npy_is_refused(tmp_path, content, message):
    (tmp_path / "a.npy").write_bytes(content)
    assert refusal(tmp_path / "a.npy").startswith(message)


def test_a_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK")
    assert refusal(path) == "not a readable .npz file: File is not a zip file"
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (10,), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.npy", npy(header, bytes(72)))
    assert refusal(path) == "breaks off 8 bytes before the end of an array"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.npy", npy(header.replace(b"(10,)", b"(-5,)")))
    assert refusal(path) == "not an array of numbers or text in the .npy format"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("train.npy", npy(header, bytes(80)))
    assert refusal(path) == "split train: compressed in a way that NumPy does not"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.npy", npy(header.replace(b"10", b"1"), bytes(8)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("train.npy", b"")
    assert refusal(path) == "split train is there twice"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no split is called train; found none"),
        ("train\n", "split train has no rows"),
        (
            ",train\n1,1\n",
            "column '', an index that pandas wrote, is '1' in row 0, expected 0, 1, 2, ...; if it gives the rows, call",
        ),
        (
            ",split\n0,train\n2,train\n",
            "column '', an index that pandas wrote, is '2' in row 1, expected 0, 1, 2, ...; if it gives",
        ),
        (",split\n" + "".join(f"{k},train\n" for k in range(9)), "names a split for 9 rows, the data set has 10"),
        (",Unnamed: 0,split\n0,0,train\n", "columns , Unnamed: 0, split: beside a column split there may be one called row"),
        ("train,train\n0,1\n", "split train is there twice"),
        ("train,val\n0,1\n2\n", "line 3: 1 fields, expected 2: train, val"),
        ("train,val\n0,1,2\n", "line 2: 3 fields, expected 2: train, val"),
        ("train\n0\nx\n", "split train: 'x' is not a whole number, so no row number"),
        ("train\n1_0\n", "split train: '1_0' is not a whole number"),
        ("train\n１\n", "split train: '１' is not a whole number"),
        ("train\n1e3\n", "split train: '1e3' is not a whole number"),
        ("train\n1.5\n", "split train: '1.5' is not a whole number"),
        ("train\n1234567890123456789\n", "split train: '1234567890123456789' is not a whole number"),
        ("train\n123456789012345678\n", "split train: row number 123456789012345678 is not one of the 10 rows"),
        ("train\n-0\n0\n", "split train: row 0 is there twice"),
        ('train\n"0\n', "line 2: longer than 1048576 characters, or a quote that is not closed"),
        ("train\n" + "0" * (1 << 20), "line 2: longer than 1048576 characters"),
        ("train\n" + "0" * 200_000, "not a readable .csv file: field larger than field limit (131072)"),
        ('train\n"0"1\n', "not a readable .csv file: ',' expected after '\"'"),
        ("train\n\ud800", "not a readable .csv file: 'utf-8' codec can't decode"),
        ("split\n" + "train\n" * 9, "names a split for 9 rows, the data set has 10"),
        ("split\n" + "train\n" * 11, "names splits for more than the 10 rows of the data set"),
        ("split\n" + "train\n" * 9 + "x y\n", "got 'x y' for the name of a split"),
        ("split\n" + "val\n" * 10, "no split is called train; found val"),
        ("split,smiles\ntrain,C\n", "columns split, smiles: beside a column split there may be one called row, and no other"),
        ("split,train\ntrain,1\n", "columns split, train: beside a column split there may be one called row, and no other"),
        ("split,split\ntrain,val\n", "columns split, split: beside a column split there may be one called row"),
        ("row,split\n0,train\n,val\n", "a row whose number is blank"),
        ("row,split\n0,train\n10,val\n", "split val: row number 10 is not one of the 10 rows"),
        ("row,split\n0,train\n0,val\n", "row 0 is in two splits, train and val; splits must not overlap"),
        ("row,split\n0,train\n1,train\n0,train\n", "split train: row 0 is there twice"),
        ("row,split\n0,train\n0,\n", "no split: row 0 is there twice"),
        ("row,split\n0,train\nx,train\n", "split train: 'x' is not a whole number"),
        ("row,split\n0,valid\n1,val\n2,train\n", "two names for split val, such as valid and val"),
    ],
)
def test_a_csv_of_anything_else_is_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert refusal(tmp_path / "a.csv").startswith(message)


def test_a_damaged_gzip_is_refused(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(b"train\n1\n")
    assert refusal(path).startswith("not a readable .csv.gz file: Not a gzipped file")
    packed = gzip.compress(("train\n" + "".join(f"{k}\n" for k in range(1000))).encode())
    path.write_bytes(packed[: len(packed) // 2])
    assert refusal(path, 1000).startswith("not a readable .csv.gz file: Compressed file ended before the end-of-stream marker")
    path.write_bytes(packed[:40] + b"\xff" * 20 + packed[60:])
    assert refusal(path, 1000).startswith("not a readable .csv.gz file: Error -3 while decompressing")
    path.write_bytes(bz2.compress(b"train\n1\n"))
    assert refusal(path).startswith("not a readable .csv.gz file: Not a gzipped file")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"train": ["a"]}, "column train is of type string, expected whole numbers"),
        ({"train": [[1]]}, "column train is of type list<element: int64>, expected whole numbers"),
        ({"train": [True]}, "column train is of type bool, expected whole numbers"),
        ({"train": pa.array([1.0], pa.float32())}, "column train is of type float, expected whole numbers"),
        ({"train": pa.nulls(3)}, "split train has no rows"),
        ({"split": [1]}, "column split is of type int64, expected names"),
        ({"split": ["train"], "row": ["1"]}, "column row is of type string, expected whole numbers"),
        ({"split": ["train"], "row": [None]}, "a row whose number is null"),
        ({"split": ["train"], "smiles": ["C"]}, "columns split, smiles: beside a column split there may be one called row"),
        ({"split": ["train"]}, "names a split for 1 rows, the data set has 10"),
        ({"split": ["train"] * 11}, "names splits for more than the 10 rows"),
        ({"train": [1], "__index_level_0__": [3]}, "column '__index_level_0__', an index that pandas wrote, is '3' in row 0"),
        ({"split": ["train"], "__index_level_0__": ["a"]}, "column '__index_level_0__', an index that pandas wrote, is 'a' in"),
    ],
)
def test_a_parquet_of_anything_else_is_refused(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert refusal(tmp_path / "a.parquet").startswith(message)


def test_a_damaged_parquet_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    assert refusal(path).startswith("not a readable .parquet file: ")
    pq.write_table(pa.table({"train": list(range(1000))}), path)
    damaged = bytearray(path.read_bytes())
    damaged[4:40] = b"\xff" * 36
    path.write_bytes(damaged)
    assert refusal(path, 1000).startswith("not a readable .parquet file: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable .json file: Expecting value"),
        ("[1]", "holds a value of type list, expected a dict of split names and row numbers"),
        ('{"train": [1], "train": [2]}', "split train is there twice"),
        ('{"train": [NaN]}', "split train: nan is not a whole number"),
        ('{"train": [null]}', "split train: None is not a whole number"),
        ('{"train": [1], "val": "x"}', "split val: a value of type str, expected row numbers"),
        ("[" * 100_000, "not a readable .json file: "),
        ('{"train": [' + "9" * 5000 + "]}", "not a readable .json file: Exceeds the limit"),
        ("\ud800", "not a readable .json file: "),
    ],
)
def test_a_json_of_anything_else_is_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert refusal(tmp_path / "a.json").startswith(message)


def test_a_json_that_would_fill_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("molstream.shards.splits.files.MAX_JSON_BYTES", 20 << 20)
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate((20 << 20) + 1)
    assert refusal(tmp_path / "a.json") == "more than 20 MiB of JSON, which takes far more to read; save it as .npz or .parquet"


def test_files_that_are_not_there_or_of_no_known_kind_are_refused(tmp_path):
    for kind in ("npy", *ROW_FORMATS):
        with pytest.raises(InputError, match=rf"^{tmp_path}/b\.{kind}: no such file$"):
            read_split_file(f"{tmp_path}/b.{kind}", num_rows=10)
    for name in ("a.pkl", "a.txt", "a", "pt", "a.parquet.gz"):
        with pytest.raises(InputError, match=r"not a kind of split file that is known; expected one of .pt .npz .npy .json .csv"):
            read_split_file(str(tmp_path / name), num_rows=10)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match=r"folder\.npz: a folder, expected a split file$"):
        read_split_file(str(tmp_path / "folder.npz"), num_rows=10)
    with pytest.raises(InputError, match=r"^nowhere://b/a\.pt: Protocol not known: nowhere"):
        read_split_file("nowhere://b/a.pt", num_rows=10)


@given(data=st.data(), kind=st.sampled_from(["npy", *ROW_FORMATS]))
@settings(deadline=None, max_examples=150)
def test_any_changed_bytes_are_a_split_or_a_refusal(tmp_path_factory, data, kind):
    path = tmp_path_factory.mktemp("splits") / f"a.{kind}"
    write(path, IN_ORDER if kind == "npy" else ROWS)
    content = bytearray(path.read_bytes())
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=3)):
        content[at] = byte
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        found = read_split_file(str(path), num_rows=10)
    except SchemaError:
        return
    assert "train" in found.names
    assert set(found.assignment.tolist()) <= {*range(len(found.names)), NO_SPLIT}


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_npy_format_is_read(tmp_path, version):
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, np.array([0, 2, 0, 0]), version=version)
    check(tmp_path / "a.npy", 4, NAMES, [0, 2, 0, 0])


def test_an_npy_header_that_python_2_wrote_is_read(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (4L,), }   \n", bytes([0, 2, 0, 0])))
    check(tmp_path / "a.npy", 4, NAMES, [0, 2, 0, 0])
