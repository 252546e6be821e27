import hashlib
import io
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molstream.shards.columns import COLUMN_GROUPS, groups_of
from molstream.shards.errors import ChecksumError, FormatError
from molstream.shards.format import index
from molstream.shards.format.block import encode_block
from molstream.shards.format.index import GROUP_ROWS, Index
from molstream.shards.molecules import Molecules, offsets
from molstream.shards.store.reading import Folder

ALWAYS = groups_of({})
SOME = ("sizes", "structure", "graph_labels", "atom_labels", "ids", "smiles")
COUNTS = (
    *("shard", "block", "num_molecules", "num_atoms", "num_bonds", "max_atoms", "max_atoms_id", "max_bonds", "max_bonds_id"),
    *("max_graph_labels", "max_graph_labels_id"),
)


def a_row(block: int, groups: tuple[str, ...] = SOME) -> dict:
    return {
        "split": "train",
        "shard": 0,
        "block": block,
        "num_molecules": 3,
        "num_atoms": 30 + block,
        "num_bonds": 29,
        "max_atoms": 12,
        "max_atoms_id": 2**63 + block,
        "max_bonds": 12,
        "max_bonds_id": 7,
        "max_graph_labels": 62,
        "max_graph_labels_id": 2**64 - 1 - block,
        "histogram_size": [8, 12],
        "histogram_count": [1, 2],
        "labels_size": [62],
        "labels_count": [3],
        **{f"{g}_{f}": v for g in groups for f, v in (("offset", 512 + block), ("bytes", 2**33), ("crc32", 2**32 - 1))},
        "content_sha256": bytes([block % 256]) * 32,
    }


def random_table(num_blocks: int, *, seed: int = 0, splits: tuple[str, ...] = ("train", "val", "test")) -> pa.Table:
    """Index rows of made-up numbers, the largest of each type among them; one histogram in five is empty."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, num_blocks) * (rng.random(num_blocks) < 0.8)
    ptr = pa.array(offsets(lengths), pa.int32())
    columns = []
    for field in index.schema_of(SOME):
        if field.name == "split":
            codes = np.sort(rng.integers(0, len(splits), num_blocks))
            columns.append(pa.array([splits[c] for c in codes]).dictionary_encode().cast(field.type))
        elif field.name == "content_sha256":
            columns.append(pa.array([rng.bytes(32) for _ in range(num_blocks)], field.type))
        else:
            dtype = field.type.value_type if pa.types.is_list(field.type) else field.type
            most = {"histogram_count": 2**16 - 1}.get(field.name, np.iinfo(dtype.to_pandas_dtype()).max)
            size = lengths.sum() if pa.types.is_list(field.type) else num_blocks
            values = pa.array(rng.integers(0, most, size, dtype.to_pandas_dtype(), endpoint=True))
            columns.append(pa.ListArray.from_arrays(ptr, values) if pa.types.is_list(field.type) else values)
    return pa.table(columns, index.schema_of(SOME))


def columns_of(found: Index) -> dict[str, list]:
    """Everything an index says, as a naive reader of its file would say it."""
    lists = {
        f"{kind}_{field}": [getattr(histogram, field)[a:b].tolist() for a, b in pairwise(histogram.ptr)]
        for kind, histogram in (("histogram", found.histogram()), ("labels", found.label_histogram()))
        for field in ("size", "count")
    }
    return {
        "split": [found.split_of(b) for b in range(len(found))],
        **{name: column.tolist() for name, column in [*found.counts.items(), *found.members.items()]},
        **lists,
        "content_sha256": [content.tobytes() for content in found.content_sha256],
    }


def chunks_of(data: bytes) -> dict[str, list[slice]]:
    """Where the bytes of each column are: a slice a row group."""
    footer = pq.ParquetFile(io.BytesIO(data)).metadata
    out: dict[str, list[slice]] = {}
    for group in (footer.row_group(k) for k in range(footer.num_row_groups)):
        for chunk in (group.column(k) for k in range(group.num_columns)):
            start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
            where = slice(start, start + chunk.total_compressed_size)
            out.setdefault(chunk.path_in_schema.partition(".")[0], []).append(where)
    return out


def read(found: Index, name: str):
    """One column, however it is asked for."""
    if name.startswith("histogram"):
        return found.histogram()
    if name.startswith("labels"):
        return found.label_histogram()
    if name == "split":
        return found.split_codes
    if name == "content_sha256":
        return found.content_sha256
    return found.counts[name] if name in found.counts else found.members[name]


def write(path: Path, data: bytes) -> Index:
    """The index in a file with these bytes, opened with their hash."""
    path.write_bytes(data)
    return Index.open(Folder(path.parent), path.name, sha256=hashlib.sha256(data).hexdigest())


def test_rows_come_back_as_they_were():
    rows = [a_row(0), a_row(1) | {"split": "val", "histogram_size": [], "histogram_count": []}, a_row(2)]
    data = index.encode_index(rows)
    found = Index.parse(data)
    assert len(found) == 3
    assert found.groups == SOME
    assert found.split_names == ("train", "val")
    assert found.split_codes.tolist() == [0, 1, 0]
    assert found.split_codes.dtype == np.uint8
    assert [found.split_of(b) for b in range(3)] == ["train", "val", "train"]
    assert tuple(found.counts) == COUNTS
    assert found.counts["num_atoms"].tolist() == [30, 31, 32]
    assert found.counts["max_atoms_id"].tolist() == [2**63, 2**63 + 1, 2**63 + 2]
    assert found.counts["max_graph_labels"].tolist() == [62, 62, 62]
    assert found.counts["max_graph_labels_id"].tolist() == [2**64 - 1, 2**64 - 2, 2**64 - 3]
    histogram = found.histogram()
    assert histogram.ptr.tolist() == [0, 2, 2, 4]
    assert histogram.size.tolist() == [8, 12, 8, 12]
    assert histogram.count.tolist() == [1, 2, 1, 2]
    assert [a.dtype for a in (histogram.ptr, histogram.size, histogram.count)] == [np.int64, np.uint16, np.uint16]
    labels = found.label_histogram()
    assert (labels.ptr.tolist(), labels.size.tolist(), labels.count.tolist()) == ([0, 1, 2, 3], [62] * 3, [3] * 3)
    assert found.members["smiles_offset"].tolist() == [512, 513, 514]
    assert found.members["sizes_bytes"].tolist() == [2**33] * 3
    assert found.members["ids_crc32"].tolist() == [2**32 - 1] * 3
    assert [found.content_sha256.dtype, found.content_sha256.shape] == [np.uint8, (3, 32)]
    assert list(found.iter_contents()) == [("train", bytes(32)), ("val", bytes([1]) * 32), ("train", bytes([2]) * 32)]
    assert found.sums().tolist() == [[3, 30, 29], [3, 31, 29], [3, 32, 29]]
    assert found.sums().dtype == np.int64
    assert index.encode_index(rows) == data


@pytest.mark.parametrize("groups", [ALWAYS, SOME, tuple(COLUMN_GROUPS)], ids=len)
def test_an_index_has_columns_for_the_members_there_are(groups):
    found = Index.parse(index.encode_index([a_row(k, groups) for k in range(2)]))
    assert set(found.members) == {f"{g}_{f}" for g in groups for f in ("offset", "bytes", "crc32")}
    assert len(found.members) == 3 * len(groups)
    assert found.members[f"{groups[-1]}_offset"].tolist() == [512, 513]
    assert "num_atoms" in found.counts
    assert "num_atoms" not in found.members
    with pytest.raises(KeyError):
        found.members["num_atoms"]


@pytest.mark.parametrize("num_blocks", [0, 1, 1024, GROUP_ROWS + 5])
def test_any_number_of_row_groups_reads_as_the_file_says(num_blocks, tmp_path):
    table = random_table(num_blocks, seed=num_blocks)
    data = index.encode_table(table)
    footer = pq.ParquetFile(io.BytesIO(data)).metadata
    sizes = [footer.row_group(k).num_rows for k in range(footer.num_row_groups)]
    assert sizes == [GROUP_ROWS] * (num_blocks // GROUP_ROWS) + [num_blocks % GROUP_ROWS] * (num_blocks % GROUP_ROWS > 0)
    for found in (Index.parse(data), write(tmp_path / "index.parquet", data)):
        assert len(found) == num_blocks
        assert columns_of(found) == pq.ParquetFile(io.BytesIO(data)).read(use_threads=False).to_pydict() == table.to_pydict()


def test_bytes_depend_on_rows_alone_not_on_how_they_come():
    table = random_table(GROUP_ROWS + 700, seed=1)
    data = index.encode_table(table)
    cut = [0, 0, 3, 17, 5000, GROUP_ROWS - 1, GROUP_ROWS + 2, len(table)]
    # each part with a dictionary of its own for the splits, and with a column more
    parts = [pa.Table.from_pylist(table.slice(a, b - a).to_pylist(), table.schema) for a, b in pairwise(cut)]
    assert index.encode_table(pa.concat_tables(parts)) == data
    sink = io.BytesIO()
    index.write_index(sink, SOME, (part.append_column("more", pa.nulls(len(part))) for part in parts))
    assert sink.getvalue() == data
    assert index.encode_index(table.to_pylist()) == data
    assert index.encode_table(table.slice(1)) != data


def test_numbers_are_as_wide_as_they_need_be():
    rows = [a_row(k) | {"ids_offset": 2**31 - 1, "smiles_offset": 2**31 - (k == 0)} for k in range(2)]
    found = Index.parse(index.encode_index(rows))
    for name, dtype in (("ids_offset", "i4"), ("smiles_offset", "i8"), ("ids_crc32", "u4")):
        assert found.members[name].dtype == dtype
        assert found.members[name].tolist() == [row[name] for row in rows]
    assert {found.counts[name].dtype for name in COUNTS if not name.endswith("_id")} == {np.dtype(np.int32)}
    with pytest.raises(ValueError, match="read-only"):
        found.counts["num_atoms"][0] = 1


def test_more_splits_than_a_byte_tells_apart_keep_their_names():
    rows = [a_row(0) | {"split": f"fold{k}"} for k in range(257)] + [a_row(0) | {"split": "fold0"}]
    found = Index.parse(index.encode_index(rows))
    assert found.split_codes.dtype == np.int16
    assert [found.split_of(b) for b in range(258)] == [row["split"] for row in rows]
    assert Index.parse(index.encode_index(rows[:256])).split_codes.dtype == np.uint8


def test_a_block_is_described_by_its_molecules(sample_set):
    for number, block in enumerate(sample_set.iter_blocks()):
        row = index.describe_block(block)
        sizes = np.diff(block.atom_ptr).tolist()
        assert row["num_molecules"] == len(sizes)
        assert (row["num_atoms"], row["num_bonds"]) == (sum(sizes), len(block.bond_codes))
        assert row["max_atoms"] == max(sizes)
        assert sizes[block.ids.tolist().index(row["max_atoms_id"])] == max(sizes)
        bonds = np.diff(block.bond_ptr).tolist()
        assert bonds[block.ids.tolist().index(row["max_bonds_id"])] == row["max_bonds"] == max(bonds)
        labels = [sum(not math.isnan(value) for value in molecule) for molecule in block.graph_labels.tolist()]
        assert row["max_graph_labels"] == max(labels)
        assert row["max_graph_labels_id"] == block.ids[labels.index(max(labels))]
        histogram = dict(zip(row["histogram_size"], row["histogram_count"], strict=True))
        assert histogram == {n: sizes.count(n) for n in set(sizes)}
        counted = dict(zip(row["labels_size"], row["labels_count"], strict=True))
        assert counted == {n: labels.count(n) for n in {*labels} - {0}}
        assert all(sample_set.index.counts[k][number] == v for k, v in row.items() if not k.startswith(("histogram", "labels")))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, (0, 7)),
        (np.empty((3, 0)), (0, 7)),
        (np.full((3, 2), np.nan), (0, 7)),
        (np.array([[np.nan, 1], [0, np.nan], [np.nan, np.nan]]), (1, 7)),
        (np.array([[np.nan, 1], [np.inf, 2], [0, 3]]), (2, 5)),
    ],
    ids=["no column", "no tasks", "no labels", "first of two", "second"],
)
def test_the_molecule_with_most_labels_is_the_first_that_has_so_many(labels, expected):
    molecules = Molecules(
        atom_ptr=np.arange(4),
        bond_ptr=np.zeros(4, np.int64),
        ids=np.array([7, 5, 2**63], np.uint64),
        graph_labels=labels if labels is None else labels.astype(np.float32),
    )
    row = index.describe_block(molecules)
    assert (row["max_graph_labels"], row["max_graph_labels_id"]) == expected


def test_the_content_hash_tells_apart_what_moved_between_members(sample_set):
    contents = encode_block(sample_set.read_block(0))
    assert index.hash_contents(contents) == sample_set.index.content_sha256[0].tobytes()
    moved = contents | {"ids": contents["ids"] + b"x", "smiles": contents["smiles"][1:]}
    assert len({index.hash_contents(c) for c in (contents, moved, contents | {"ids": b""})}) == 3


# what is read, and when


@pytest.fixture(scope="module")
def two_groups() -> bytes:
    return index.encode_table(random_table(GROUP_ROWS + 50))


@pytest.mark.parametrize("name", index.schema_of(SOME).names)
def test_a_column_is_read_without_the_bytes_of_any_other(two_groups, tmp_path, name):
    data = two_groups
    whole, damaged = Index.parse(data), bytearray(data)
    kind = name.partition("_")[0]
    wanted = (f"{kind}_size", f"{kind}_count") if kind in ("histogram", "labels") else (name,)
    for other, places in chunks_of(data).items():
        for where in places:
            if other not in wanted:
                damaged[where] = bytes(where.stop - where.start)
    found = write(tmp_path / "index.parquet", bytes(damaged))
    assert len(found) == len(whole)
    if kind in ("histogram", "labels"):
        for field in ("ptr", "size", "count"):
            assert np.array_equal(getattr(read(found, name), field), getattr(read(whole, name), field))
    else:
        assert np.array_equal(read(found, name), read(whole, name))
    for other in set(index.schema_of(SOME).names) - set(wanted):
        with pytest.raises(FormatError, match=r"index\.parquet: not readable as Parquet"):
            read(found, other)


def test_a_column_is_read_once_and_the_histogram_each_time(monkeypatch):
    found, asked = Index.parse(index.encode_table(random_table(5000))), []
    iter_parts = index._File.iter_parts
    monkeypatch.setattr(index._File, "iter_parts", lambda self, *names: asked.append(names) or iter_parts(self, *names))
    with ThreadPoolExecutor(8) as pool:
        columns = list(pool.map(lambda _: found.counts["num_atoms"], range(64)))
        names = list(pool.map(found.split_of, range(64)))
    assert all(column is columns[0] for column in columns)
    assert len(set(names)) == 1
    assert asked == [("num_atoms",), ("split",)]
    found.histogram()
    found.histogram()
    assert asked[2:] == [("histogram_size", "histogram_count")] * 2


def test_memory_holds_arrays_and_no_object_a_block(tmp_path):
    num_blocks = 3 * GROUP_ROWS
    found = write(tmp_path / "index.parquet", index.encode_table(random_table(num_blocks)))
    found.histogram()
    before = sys.getallocatedblocks()
    histogram = found.histogram()
    arrays = [found.split_codes, found.content_sha256, *found.counts.values(), *found.members.values()]
    assert sys.getallocatedblocks() - before < num_blocks // 50
    assert all(array.dtype != object for array in (*arrays, histogram.ptr, histogram.size, histogram.count))


# damage


@given(st.binary(max_size=100))
def test_what_is_no_parquet_is_refused(data):
    with pytest.raises(FormatError, match=r"index\.parquet: not readable as Parquet"):
        Index.parse(data)


def altered(change) -> bytes:
    """A Parquet file of index rows after change(table) -> table, written without our writer."""
    sink = io.BytesIO()
    pq.write_table(change(random_table(300)), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.drop_columns(["max_graph_labels", "max_graph_labels_id"]),
        lambda t: t.append_column("surplus", pa.nulls(len(t), pa.int32())),
        lambda t: t.drop_columns(["ids_bytes"]),
        lambda t: t.select(t.schema.names[::-1]),
        lambda t: t.append_column("block", t["block"]),
    ],
    ids=["draft 3", "one more", "one less", "another order", "twice"],
)
def test_columns_of_another_version_are_refused_when_it_is_opened(change):
    with pytest.raises(FormatError, match=r"index\.parquet: columns \["):
        Index.parse(altered(change))


def replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.names.index(name), name, values)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("shard", pa.int64()), ("num_atoms", pa.float64()), ("ids_crc32", pa.int64()), ("content_sha256", pa.binary())],
)
def test_columns_of_other_types_are_refused_when_it_is_opened(name, dtype):
    with pytest.raises(FormatError, match=rf"index\.parquet: column {name} is {dtype}, expected"):
        Index.parse(altered(lambda t: replaced(t, name, t[name].cast(dtype, safe=False))))


@pytest.mark.parametrize("name", index.schema_of(SOME).names)
def test_a_null_is_refused_when_its_column_is_read(name):
    found = Index.parse(altered(lambda t: replaced(t, name, pa.concat_arrays([*t[name].chunks])[:-1].take([*range(299), None]))))
    with pytest.raises(FormatError, match=rf"index\.parquet: column {name} has a null"):
        read(found, name)


@pytest.mark.parametrize("name", ["histogram_size", "histogram_count"])
def test_a_null_inside_a_histogram_is_refused(name):
    lists = [[1, None] if k == 50 else [1, 2] for k in range(300)]

    def change(table: pa.Table) -> pa.Table:
        for column in ("histogram_size", "histogram_count"):
            table = replaced(table, column, pa.array(lists if column == name else [[1, 2]] * 300, table[column].type))
        return table

    with pytest.raises(FormatError, match=rf"index\.parquet: column {name} has a null"):
        Index.parse(altered(change)).histogram()


@pytest.mark.parametrize("name", ["shard", "num_molecules", "num_atoms", "max_graph_labels", "ids_offset", "smiles_bytes"])
def test_a_negative_number_is_refused_when_its_column_is_read(name):
    found = Index.parse(altered(lambda t: replaced(t, name, pa.array([-1] * 300, t[name].type))))
    with pytest.raises(FormatError, match=rf"index\.parquet: column {name} has a negative number"):
        read(found, name)


def test_a_negative_count_is_refused():
    counts = [[1, -1]] * 300
    found = Index.parse(
        altered(
            lambda t: replaced(
                replaced(t, "histogram_count", pa.array(counts, t["histogram_count"].type)),
                "histogram_size",
                pa.array([[1, 2]] * 300, t["histogram_size"].type),
            )
        )
    )
    with pytest.raises(FormatError, match="column histogram_count has a negative number"):
        found.histogram()


@pytest.mark.parametrize("moved", [0, 1])
def test_histograms_whose_sizes_and_counts_do_not_pair_are_refused(moved):
    # the same number of both in all, but not in each block
    sizes, counts = [[1, 2], [1, 2], [1]] * 100, [[1, 1], [1, 1], [1]] * 100
    if moved:
        counts[0], counts[2] = counts[2], counts[0]
    else:
        counts[-1] = []

    def change(table: pa.Table) -> pa.Table:
        table = replaced(table, "histogram_size", pa.array(sizes, table["histogram_size"].type))
        return replaced(table, "histogram_count", pa.array(counts, table["histogram_count"].type))

    with pytest.raises(FormatError, match="column histogram_count has lists of other lengths"):
        Index.parse(altered(change)).histogram()


def test_names_of_splits_that_are_no_text_are_refused():
    def change(table: pa.Table) -> pa.Table:
        name = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")])
        return replaced(table, "split", pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int16()), name))

    with pytest.raises(FormatError, match=r"index\.parquet: "):
        Index.parse(altered(change)).split_codes  # noqa: B018


def test_another_file_is_refused_by_its_hash(tmp_path):
    path = tmp_path / "index.parquet"
    path.write_bytes(index.encode_index([a_row(0)]))
    with pytest.raises(ChecksumError, match=r"index\.parquet: not the index this manifest was written with; restore both"):
        Index.open(Folder(path.parent), path.name, sha256=hashlib.sha256(index.encode_index([a_row(1)])).hexdigest())


def test_a_column_that_is_cut_out_of_the_file_is_refused_when_it_is_read():
    data = index.encode_table(random_table(40))
    last = chunks_of(data)["content_sha256"][-1]
    for cut in (1, 100, last.stop - last.start):
        # the footer is whole, but what it points at is not there
        found = Index.parse(data[: last.stop - cut] + data[last.stop :])
        with pytest.raises(FormatError, match=r"index\.parquet: not readable as Parquet"):
            found.content_sha256  # noqa: B018


@pytest.mark.parametrize("name", ["split", "num_atoms", "max_atoms_id", "histogram_size", "ids_crc32", "content_sha256"])
def test_a_flipped_bit_in_a_column_is_an_error_when_it_is_read_or_of_no_consequence(name):
    data = index.encode_table(random_table(40))
    whole, caught, places = columns_of(Index.parse(data)), 0, chunks_of(data)[name][0]
    for at in range(places.start, places.stop, 3):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        found = Index.parse(bytes(damaged))
        try:
            read(found, name)
        except FormatError:
            caught += 1
        else:
            assert columns_of(found) == whole
    assert caught > 0.3 * (places.stop - places.start)


@pytest.mark.parametrize("how", ["rewritten", "cut", "gone"])
def test_a_file_that_changed_after_it_was_opened_is_refused(tmp_path, how):
    path = tmp_path / "index.parquet"
    found = write(path, index.encode_table(random_table(40)))
    kept = found.counts["num_atoms"]
    if how == "gone":
        path.unlink()
    else:
        other = index.encode_table(random_table(40, seed=1))
        path.write_bytes(other if how == "rewritten" else other[:-300])
    for name in ("num_bonds", "split", "histogram_size", "content_sha256"):
        with pytest.raises(FormatError, match="missing: no such file" if how == "gone" else "changed since it was opened"):
            read(found, name)
    assert found.counts["num_atoms"] is kept


def test_a_footer_that_counts_other_rows_is_refused_when_a_column_is_read():
    data = index.encode_table(random_table(300))
    # num_rows of the file in compact Thrift: field 3 after field 2, 64 bits, 300 as a zigzag varint
    count, more = b"\x16\xd8\x04", b"\x16\xda\x04"
    first = data.index(count, max(where.stop for places in chunks_of(data).values() for where in places))
    found = Index.parse(data[:first] + more + data[first + 3 :])
    assert len(found) == 301
    for name in ("split", "num_atoms", "histogram_size", "content_sha256"):
        with pytest.raises(FormatError, match=rf"index\.parquet: column {name} has 300 rows, not 301 like the footer"):
            read(found, name)
