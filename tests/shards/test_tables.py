import gzip
import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molstream.shards.errors import InputError, SchemaError
from molstream.shards.inputs.datasets import TableSpec, preset_dataset
from molstream.shards.inputs.tables import TableReader, check_input, cut_ranges, iter_smiles, natural_key, resolve_inputs

PM6 = preset_dataset("pm6")
SPEC = TableSpec(dataset="pm6")
GRAPH, ATOM = ([t.name for t in PM6.tasks if t.level == level] for level in ("graph", "atom"))
MULLIKEN = "node_S0_charges_mulliken"


def read_rows(path, batch_rows=1000):
    found, dataset = check_input(str(path), SPEC)
    with TableReader((dataset,), batch_rows=batch_rows) as reader:
        return [rows for part in cut_ranges([found]) for rows in reader.iter_rows(found, part)]


def test_pm6_has_62_graph_and_7_atom_tasks_of_which_40_and_7_belong_to_a_state():
    graph, atom = GRAPH, ATOM
    assert (len(graph), len(atom), len(set(graph + atom))) == (62, 7, 69)
    states = ("S0", "T0", "cation", "anion")
    assert [sum(n.startswith(f"graph_{s}_") for n in graph) for s in states] == [10] * 4
    assert [sum(n.startswith(f"node_{s}_") for n in atom) for s in states] == [1, 2, 2, 2]
    assert "graph_n_aliphatic_heterocyles" in graph
    assert [t.name for t in PM6.tasks] == graph + atom
    assert [s.tasks for s in PM6.task_sets] == [tuple(graph), tuple(atom)]


@pytest.mark.parametrize("group_rows", [300, 70])
@pytest.mark.parametrize("batch_rows", [7, 64, 1000])
def test_ranges_hold_the_same_rows_in_whatever_order_they_are_read(tmp_path, sample_table, monkeypatch, group_rows, batch_rows):
    pq.write_table(pq.read_table(sample_table), tmp_path / "a.parquet", row_group_size=group_rows)
    monkeypatch.setattr("molstream.shards.inputs.tables.RANGE_ROWS", 40)
    monkeypatch.setattr("molstream.shards.inputs.tables.MIN_RANGE_ROWS", 40)
    found, dataset = check_input(str(tmp_path / "a.parquet"), SPEC)
    ranges = cut_ranges([found])
    assert len(ranges) == {300: 8, 70: 9}[group_rows]
    smiles = pq.read_table(sample_table)["ordered_smiles"].to_pylist()
    draw, opened = random.Random(batch_rows), []
    with TableReader((dataset,), batch_rows=batch_rows) as reader:
        seek = reader._seek
        monkeypatch.setattr(reader, "_seek", lambda *a: (seek(*a), opened.append(reader._batches)))
        for order in (ranges, draw.sample(ranges, len(ranges)), ranges[::2], ranges[::-1]):
            for part in order:
                rows = list(reader.iter_rows(found, part))
                assert [r.first_row for r in rows][:1] == [part.first_row]
                assert [s for r in rows for s in r.smiles] == smiles[part.first_row : part.first_row + part.num_rows]
        if group_rows == 300:
            # in rising order the file is opened once
            assert len({id(f) for f in opened[: len(ranges)]}) == 1


def test_rows_carry_nan_for_null_and_an_empty_list_for_a_null_list(pm6_table):
    path = pm6_table(
        [
            {"ordered_smiles": "CO", "graph_mw": 32.0, MULLIKEN: [0.5, None]},
            {"ordered_smiles": None, "graph_mw": float("nan"), MULLIKEN: []},
            {"ordered_smiles": "C", "graph_qed": 0.25, MULLIKEN: None, "node_T0_spin": [1.0]},
        ]
    )
    (rows,) = read_rows(path)
    assert rows.first_row == 0
    assert rows.smiles == ["CO", None, "C"]
    assert rows.graph.shape == (3, 62)
    mw = GRAPH.index("graph_mw")
    assert np.array_equal(rows.graph[:, mw], [32, np.nan, np.nan], equal_nan=True)
    assert (~np.isnan(rows.graph)).sum() == 2
    assert rows.lists["atom"][0].ptr.tolist() == [0, 2, 2, 2]
    assert np.array_equal(rows.lists["atom"][0].values, [0.5, np.nan], equal_nan=True)
    spin = ATOM.index("node_T0_spin")
    assert rows.lists["atom"][spin].ptr.tolist() == [0, 0, 0, 1]


def test_batches_cut_the_rows_but_change_none(sample_table):
    (whole,) = read_rows(sample_table)
    parts = read_rows(sample_table, batch_rows=37)
    assert [p.first_row for p in parts] == list(range(0, 300, 37))
    assert [s for p in parts for s in p.smiles] == whole.smiles
    assert np.array_equal(np.concatenate([p.graph for p in parts]), whole.graph, equal_nan=True)
    for t, lists in enumerate(whole.lists["atom"]):
        assert np.array_equal(np.concatenate([p.lists["atom"][t].values for p in parts]), lists.values, equal_nan=True)
        assert np.concatenate([np.diff(p.lists["atom"][t].ptr) for p in parts]).tolist() == np.diff(lists.ptr).tolist()


@pytest.mark.parametrize(
    ("column", "dtype", "value"),
    [
        ("ordered_smiles", pa.large_string(), "C"),
        ("graph_mw", pa.float64(), 16.0),
        ("graph_mw", pa.int64(), 16),
        ("graph_mw", pa.uint8(), 16),
        ("graph_mw", pa.float16(), np.float16(16)),
        ("graph_mw", pa.null(), None),
        (MULLIKEN, pa.list_(pa.float64()), [0.0]),
        (MULLIKEN, pa.large_list(pa.float32()), [0.0]),
        pytest.param(
            MULLIKEN,
            pa.list_(pa.float32(), 1),
            [0.0],
            marks=pytest.mark.skipif(
                int(pa.__version__.split(".")[0]) < 26, reason="pyarrow before 26 cannot read a null in a fixed-size list"
            ),
        ),
        (MULLIKEN, pa.list_(pa.int32()), [0]),
        (MULLIKEN, pa.list_(pa.null()), []),
    ],
)
def test_numbers_and_lists_of_any_width_are_read(pm6_table, column, dtype, value):
    path = pm6_table([{"ordered_smiles": "C", column: value}, {"ordered_smiles": "C"}], dtypes={column: dtype})
    (rows,) = read_rows(path)
    assert rows.smiles == ["C", "C"]
    if column == "graph_mw" and value is not None:
        assert rows.graph[0, GRAPH.index(column)] == 16
    assert np.isnan(rows.graph[1]).all()
    assert rows.lists["atom"][0].ptr[2] == rows.lists["atom"][0].ptr[1]


def test_a_checked_file_has_its_size_rows_and_hash(sample_table):
    seen = []
    found, _ = check_input(str(sample_table), SPEC, on_bytes=seen.append)
    assert (found.num_rows, found.num_bytes, found.name) == (300, sample_table.stat().st_size, "sample.parquet")
    assert sum(seen) == found.num_bytes
    assert len(found.sha256) == 64


def test_what_cannot_be_opened_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match=r"absent\.parquet: no such file"):
        check_input(str(tmp_path / "absent.parquet"), SPEC)
    with pytest.raises(InputError, match="a folder, expected a table"):
        check_input(str(tmp_path), SPEC)
    with pytest.raises(InputError, match=r"x\.parquet: cannot be read: Not a directory"):
        check_input(str(tmp_path / "file" / "x.parquet"), SPEC)
    with pytest.raises(InputError, match=r"nosuch://x\.parquet: Protocol not known"):
        resolve_inputs(["nosuch://x.parquet"])


def test_what_is_no_parquet_is_a_schema_error(tmp_path, sample_table):
    data = sample_table.read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"smiles,mw\nC,16\n" * 10,
        "head": data[: len(data) // 2],
        "tail": data[len(data) // 2 :],
        "short": data[:-1],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SchemaError, match=r"not a readable Parquet file|unreadable at or after row 0"):
            read_rows(tmp_path / name)


def test_damage_anywhere_in_a_parquet_file_is_a_schema_error_or_goes_unseen(tmp_path, sample_table):
    data, draw = sample_table.read_bytes(), random.Random(0)
    footer = int.from_bytes(data[-8:-4], "little") + 8
    path, refused = tmp_path / "damaged.parquet", 0
    for k in range(120):
        damaged = bytearray(data)
        # half of them in the footer, where each bit counts
        start = draw.randrange(len(data) - footer, len(data) - 16) if k % 2 else draw.randrange(len(data) - footer)
        for at in range(start, start + draw.choice((1, 16))):
            damaged[at] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            read_rows(path)
        except SchemaError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
    assert refused > 30


def test_smiles_that_are_no_utf8_are_a_schema_error(pm6_table, tmp_path):
    names = pq.read_schema(pm6_table([{"ordered_smiles": "C"}]))
    table = pa.Table.from_pylist([{"ordered_smiles": b"C\xff"}], schema=pa.schema([pa.field("ordered_smiles", pa.binary())]))
    for name in names.names[1:]:
        table = table.append_column(names.field(name), pa.nulls(1, names.field(name).type))
    # the bytes of a string column are not looked at when it is made
    column = pa.Array.from_buffers(pa.string(), 1, table["ordered_smiles"].chunk(0).buffers())
    pq.write_table(table.set_column(0, "ordered_smiles", column), tmp_path / "bytes.parquet")
    with pytest.raises(SchemaError, match="unreadable at or after row 0: 'utf-8' codec"):
        read_rows(tmp_path / "bytes.parquet")


def test_inputs_come_in_natural_order_within_a_glob_and_as_named_otherwise(tmp_path):
    for k in (10, 2, 1):
        (tmp_path / f"part_{k}.parquet").touch()
    names = [p.rsplit("/", 1)[1] for p in resolve_inputs([f"{tmp_path}/part_*.parquet"])]
    assert names == ["part_1.parquet", "part_2.parquet", "part_10.parquet"]
    given_order = [f"{tmp_path}/part_10.parquet", f"{tmp_path}/part_1.parquet"]
    assert resolve_inputs(given_order) == given_order


def test_globs_without_a_match_and_inputs_named_twice_are_refused(tmp_path):
    (tmp_path / "a.parquet").touch()
    with pytest.raises(InputError, match=r"b\*: no file matches"):
        resolve_inputs([f"{tmp_path}/b*"])
    with pytest.raises(InputError, match=r"a\.parquet: named twice"):
        resolve_inputs([f"{tmp_path}/a.parquet", f"{tmp_path}/*.parquet"])


def test_a_file_url_and_a_glob_of_urls_are_resolved(tmp_path, sample_table):
    url = sample_table.as_uri()
    assert resolve_inputs([url]) == [url]
    (found,) = resolve_inputs([url.replace("sample.parquet", "samp*.parquet")])
    assert check_input(found, SPEC)[0].num_rows == 300
    with pytest.raises(InputError, match="no file matches"):
        resolve_inputs([f"{tmp_path.as_uri()}/*.parquet"])


@given(st.lists(st.text(max_size=8) | st.text("a0129²٣", max_size=6), max_size=6))
def test_any_names_can_be_sorted(names):
    keys = [natural_key(name) for name in sorted(names, key=natural_key)]
    assert all(a <= b for a, b in pairwise(keys))


TABLES = {
    "a.csv": b"id,smiles\n1,C\n2,\n3,CO\n",
    "a.tsv": b"smiles\tid\nC\t1\n\t2\nCO\t3\n",
    "a.smi": b"C\n\nCO",
    "a.txt": b"C\r\n\r\nCO\r\n",
}


@pytest.mark.parametrize("name", [*TABLES, *(f"{n}.gz" for n in TABLES)])
def test_smiles_are_read_from_text_tables_with_blank_rows_as_rows(tmp_path, name):
    content = TABLES[name.removesuffix(".gz")]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(iter_smiles(str(tmp_path / name), batch_rows=2)) == [["C", ""], ["CO"]]


def test_smiles_are_read_from_parquet_with_nulls_as_rows(tmp_path):
    pq.write_table(pa.table({"canonical_smiles": ["C", None], "other": ["N", "O"]}), tmp_path / "a.parquet")
    assert list(iter_smiles(str(tmp_path / "a.parquet"))) == [["C", None]]
    assert list(iter_smiles(str(tmp_path / "a.parquet"), column="other")) == [["N", "O"]]


@pytest.mark.parametrize(
    ("name", "content", "error", "reason"),
    [
        ("a.csv", b"", InputError, "no column smiles or ordered_smiles"),
        ("a.csv", b"x,y\n1,2\n", InputError, "no column smiles .*found x, y; name it with --smiles-column"),
        ("a.csv", b"smiles\nC\xff\n", SchemaError, "unreadable"),
        ("a.smi", b"C\xff\n", SchemaError, "unreadable"),
        ("a.smi.gz", b"no gzip", SchemaError, "unreadable"),
        ("a.smi.gz", gzip.compress(b"CCO\n" * 1000, mtime=0)[:-12], SchemaError, "unreadable"),
        ("a.csv", b'smiles\n"' + b"C" * 200_000, SchemaError, "unreadable: unexpected end"),
        ("a.parquet", b"text", SchemaError, "unreadable"),
        ("a.docx", b"", InputError, "expected a shard set, or a table ending in"),
    ],
)
def test_tables_without_readable_smiles_are_refused(tmp_path, name, content, error, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=reason):
        list(iter_smiles(str(tmp_path / name)))


def test_byte_order_marks_are_no_part_of_a_table(tmp_path):
    for name, text in (("a.csv", "smiles,x\nCCO,1\n"), ("a.smi", "CCO\n")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert list(iter_smiles(str(tmp_path / name))) == [["CCO"]]


def test_an_unterminated_quote_swallows_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text('id,smiles\n1,"CCO\n2,CCN\n3,CCC')
    with pytest.raises(SchemaError, match="unreadable"):
        list(iter_smiles(str(tmp_path / "a.csv")))


def test_a_text_file_has_no_columns_to_name(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\n")
    with pytest.raises(InputError, match="leave out --smiles-column"):
        list(iter_smiles(str(tmp_path / "a.smi"), column="x"))


def rows_of(path, quoting=""):
    spec = TableSpec(dataset="table", graph_columns=("y",), quoting=quoting)
    source, dataset = check_input(str(path), spec)
    with TableReader((dataset,), batch_rows=2) as reader:
        parts = [rows for part in cut_ranges([source]) for rows in reader.iter_rows(source, part)]
    return [(s, y) for rows in parts for s, y in zip(rows.smiles, rows.graph[:, 0].tolist(), strict=True)]


def test_quotes_in_a_tsv_are_refused_until_the_call_says_what_they_are(tmp_path):
    lines = ["smiles\ty\tname", "C\t1\ta", 'CC\t2\t"b', "CCC\t3\tc", 'CCCC\t4\td"']
    path = tmp_path / "a.tsv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(SchemaError, match=r'line 3: a field begins with a quote: "b; .*--quoting csv .*--quoting none'):
        rows_of(path)
    assert rows_of(path, "none") == [("C", 1.0), ("CC", 2.0), ("CCC", 3.0), ("CCCC", 4.0)]
    path.write_text('smiles\ty\tname\nC\t1\t"a\tb"\n')
    assert rows_of(path, "csv") == [("C", 1.0)]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_bare_line_break_in_a_row_is_named_and_invents_no_row(tmp_path, name, end):
    path = tmp_path / name
    path.write_bytes(f"smiles,y,name\nCO,1,x\nCC,2,a{end}C\n".replace(",", "\t" if name == "a.tsv" else ",").encode())
    with pytest.raises(SchemaError, match=r"line 4: 1 field, the header has 3"):
        rows_of(path)


@pytest.mark.parametrize("name", ["a.tab", "a.sdf", "a.sdf.gz"])
def test_an_ending_of_another_format_is_called_so(tmp_path, name):
    (tmp_path / name).write_text("smiles\ty\n")
    with pytest.raises(InputError, match=r"is not an ending of a table that can be read; expected \.parquet"):
        check_input(str(tmp_path / name), TableSpec())
