"""Columns of every kind that Arrow has and Parquet keeps."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.errors import SchemaError
from molstream.shards.inputs.arrow import plain, to_lists, to_texts
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.inputs.tables import TableReader, check_input, cut_ranges, iter_smiles


def spread(dtype):
    return pa.array(["C", None, "CO"], dtype)


TEXTS = {
    "string": spread(pa.string()),
    "large_string": spread(pa.large_string()),
    "dictionary": spread(pa.string()).dictionary_encode(),
    "large dictionary": spread(pa.large_string()).dictionary_encode(),
    "binary": pa.array([b"C", None, b"CO"], pa.binary()),
    "large_binary": pa.array([b"C", None, b"CO"], pa.large_binary()),
}
VALUES = [[0.5, None], None, [1.5, float("nan")], []]
LISTS = {
    "list": pa.array(VALUES, pa.list_(pa.float64())),
    "large_list": pa.array(VALUES, pa.large_list(pa.float32())),
    "half": pa.array(
        [None if v is None else [None if x is None else np.float16(x) for x in v] for v in VALUES], pa.list_(pa.float16())
    ),
    "dictionary inside": pa.array(VALUES, pa.list_(pa.dictionary(pa.int8(), pa.float64()))),
    "text": pa.array(["[0.5, null]", None, "[1.5, NaN]", "[]"]),
    "dictionary of text": pa.array(["[0.5, null]", None, "[1.5, NaN]", "[]"]).dictionary_encode(),
    "binary": pa.array([b"[0.5, null]", None, b"[1.5, NaN]", b"[]"]),
}
if hasattr(pa, "string_view"):
    TEXTS |= {"string_view": spread(pa.string_view()), "binary_view": pa.array([b"C", None, b"CO"], pa.binary_view())}
    LISTS |= {
        "list_view": pa.array(VALUES, pa.list_view(pa.float64())),
        "large_list_view": pa.array(VALUES, pa.large_list_view(pa.float64())),
        "text_view": pa.array(["[0.5, null]", None, "[1.5, NaN]", "[]"], pa.string_view()),
    }
if hasattr(pa, "json_"):
    # as DuckDB writes its type JSON
    TEXTS["json"] = spread(pa.json_())
    LISTS["json"] = pa.array(["[0.5, null]", None, "[1.5, NaN]", "[]"], pa.json_())
    LISTS["json view"] = pa.array(["[0.5, null]", None, "[1.5, NaN]", "[]"], pa.json_(pa.string_view()))


@pytest.mark.parametrize("kind", TEXTS)
def test_smiles_of_every_kind_of_text_that_arrow_has_are_the_same(tmp_path, kind):
    pq.write_table(pa.table({"smiles": TEXTS[kind], "y": [1, 2, 3]}), tmp_path / "a.parquet")
    found, dataset = check_input(str(tmp_path / "a.parquet"), TableSpec(dataset="table", id_column="", graph_columns=("y",)))
    with TableReader((dataset,), batch_rows=2) as reader:
        rows = [rows for part in cut_ranges([found]) for rows in reader.iter_rows(found, part)]
    assert [s for r in rows for s in r.smiles] == ["C", None, "CO"]
    assert [s for part in iter_smiles(str(tmp_path / "a.parquet"), batch_rows=2) for s in part] == ["C", None, "CO"]


@pytest.mark.parametrize("batch_rows", [1, 2, 4])
@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_every_kind_that_arrow_has_are_the_same(tmp_path, kind, batch_rows):
    pq.write_table(pa.table({"smiles": ["CO"] * 4, "q": LISTS[kind]}), tmp_path / "a.parquet")
    found, dataset = check_input(str(tmp_path / "a.parquet"), TableSpec(dataset="table", atom_columns=("q",)))
    with TableReader((dataset,), batch_rows=batch_rows) as reader:
        lists = [r.lists["atom"][0] for part in cut_ranges([found]) for r in reader.iter_rows(found, part)]
    assert [n for x in lists for n in np.diff(x.ptr).tolist()] == [2, 0, 2, 0]
    values = np.concatenate([x.values for x in lists])
    assert np.array_equal(values, np.array([0.5, np.nan, 1.5, np.nan], np.float32), equal_nan=True)


has_views = pytest.mark.skipif(not hasattr(pa, "string_view"), reason="pyarrow before 16 has no views")


@has_views
def test_no_value_of_a_list_view_is_lost_whatever_is_cut_from_it():
    # pyarrow 26 loses the last list when it casts one that follows a null
    draw = random.Random(seed := 7)
    for _ in range(200):
        values = [draw.choice([None, [], [1.0], [2.0, None], [float(draw.random()) for _ in range(5)]]) for _ in range(9)]
        start, length = draw.randrange(9), draw.randrange(9)
        for dtype in (pa.list_view(pa.float64()), pa.large_list_view(pa.float64()), pa.list_(pa.float64())):
            inner, sizes = to_lists(pa.array(values, dtype).slice(start, length))
            kept = values[start : start + length]
            assert sizes.tolist() == [len(v or []) for v in kept], f"seed {seed}"
            assert inner.to_pylist() == [x for v in kept if v for x in v], f"seed {seed}"


@has_views
def test_categories_are_decoded_whatever_they_are_of():
    text = pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.int8()), pa.array(["C", "CO"], pa.string_view()))
    assert to_texts(text) == ["CO", None, "C"]
    ends = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["C", "CO"]))
    assert to_texts(ends) == ["C", "C", "CO"]
    assert plain(pa.array([3, None, 3]).dictionary_encode()).to_pylist() == [3, None, 3]


def test_a_column_of_another_type_is_no_smiles_where_embeddings_are_asked_for(tmp_path):
    pq.write_table(pa.table({"smiles": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match="column smiles is of type int64, expected text"):
        list(iter_smiles(str(tmp_path / "a.parquet")))
