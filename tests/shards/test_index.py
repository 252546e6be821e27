import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import FormatError, index
from shards.format import GROUP_ARRAYS, GROUPS, encode_block

SOME = ("sizes", "structure", "graph_labels", "atom_labels", "ids", "smiles")


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
        "histogram_size": [8, 12],
        "histogram_count": [1, 2],
        **{f"{g}_{f}": v for g in groups for f, v in (("offset", 512 + block), ("bytes", 2**33), ("crc32", 2**32 - 1))},
        "content_sha256": bytes([block]) * 32,
    }


def test_rows_come_back_as_they_were():
    rows = [a_row(0), a_row(1) | {"split": "val", "histogram_size": [], "histogram_count": []}, a_row(2)]
    data = index.encode_index(rows)
    found = index.Index.parse(data)
    assert len(found) == 3
    assert found.split.tolist() == ["train", "val", "train"]
    assert found.counts["num_atoms"].tolist() == [30, 31, 32]
    assert found.counts["max_atoms_id"].tolist() == [2**63, 2**63 + 1, 2**63 + 2]
    assert found.hist_ptr.tolist() == [0, 2, 2, 4]
    assert found.hist_size.tolist() == [8, 12, 8, 12]
    assert found.hist_count.tolist() == [1, 2, 1, 2]
    assert found.members["smiles_offset"].tolist() == [512, 513, 514]
    assert found.members["sizes_bytes"].tolist() == [2**33] * 3
    assert found.members["ids_crc32"].tolist() == [2**32 - 1] * 3
    assert found.content_sha256 == [bytes([k]) * 32 for k in range(3)]
    assert found.sums().tolist() == [[3, 30, 29], [3, 31, 29], [3, 32, 29]]
    assert index.encode_index(rows) == data


@pytest.mark.parametrize("groups", [GROUPS, SOME, tuple(GROUP_ARRAYS)], ids=len)
def test_an_index_has_columns_for_the_members_there_are(groups):
    found = index.Index.parse(index.encode_index([a_row(k, groups) for k in range(2)]))
    assert set(found.members) == {f"{g}_{f}" for g in groups for f in ("offset", "bytes", "crc32")}
    assert found.members[f"{groups[-1]}_offset"].tolist() == [512, 513]


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
        histogram = dict(zip(row["histogram_size"], row["histogram_count"], strict=True))
        assert histogram == {n: sizes.count(n) for n in set(sizes)}
        assert all(sample_set.index.counts[k][number] == v for k, v in row.items() if not k.startswith("histogram"))


def test_the_content_hash_tells_apart_what_moved_between_members(sample_set):
    contents = encode_block(sample_set.read_block(0))
    assert index.hash_contents(contents) == sample_set.index.content_sha256[0]
    moved = contents | {"ids": contents["ids"] + b"x", "smiles": contents["smiles"][1:]}
    assert len({index.hash_contents(c) for c in (contents, moved, contents | {"ids": b""})}) == 3


@given(st.binary(max_size=100))
def test_what_is_no_parquet_is_refused(data):
    with pytest.raises(FormatError, match=r"index\.parquet: not readable as Parquet"):
        index.Index.parse(data)


def test_other_columns_are_refused():
    sink = io.BytesIO()
    pq.write_table(pa.table({"split": ["train"]}), sink)
    with pytest.raises(FormatError, match=r"index\.parquet: columns \['split'\], expected"):
        index.Index.parse(sink.getvalue())
