"""Collation fills one fixed shape completely: every slot real or padding, edges in pairs, edges by destination."""

import numpy as np
import pytest
import twins.collate
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.kernels.packing.collate import PackColumns, collate_pack, collate_pairs, collate_rows, count_labels

DTYPES = {
    "atom_codes": np.uint8,
    "edge_index": np.int32,
    "edge_codes": np.uint8,
    "edge_order": np.int32,
    "edge_ptr": np.int32,
    "graph_of_atom": np.int32,
    "atom_ptr": np.int32,
    "graph_mask": np.bool_,
    "atom_mask": np.bool_,
    "edge_mask": np.bool_,
}


def random_columns(rng, num_molecules, num_features=3, max_atoms=9):
    """Molecules of 1 to max_atoms atoms with any bonds among them."""
    num_atoms = rng.integers(1, max_atoms + 1, num_molecules)
    num_bonds = np.where(num_atoms > 1, rng.integers(0, 12, num_molecules), 0)
    limit = np.repeat(num_atoms, num_bonds)
    return PackColumns(
        np.concatenate([[0], np.cumsum(num_atoms)]),
        np.concatenate([[0], np.cumsum(num_bonds)]),
        rng.integers(0, 256, (num_atoms.sum(), num_features), np.uint8),
        rng.integers(0, np.stack([limit, limit], axis=1)).astype(np.uint16),
        rng.integers(0, 256, num_bonds.sum(), np.uint8),
    )


def loads(columns, members):
    """Atoms and directed edges of some molecules."""
    return int(np.diff(columns.atom_ptr)[members].sum()), 2 * int(np.diff(columns.bond_ptr)[members].sum())


@st.composite
def packs(draw):
    """(members, columns, (graphs, atoms, edges)): some molecules of a window, any order, with room to spare or none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns = random_columns(rng, draw(st.integers(0, 12)), draw(st.integers(0, 4)))
    num_molecules = len(columns.atom_ptr) - 1
    members = rng.permutation(num_molecules)[: draw(st.integers(0, num_molecules))]
    atoms, edges = loads(columns, members)
    room = st.sampled_from([0, 1, 7])
    return members, columns, (len(members) + 1 + draw(room), atoms + 1 + draw(room), edges + 2 * draw(room))


@given(packs())
@settings(deadline=None, max_examples=100)
def test_a_pack_equals_its_twin_in_every_slot(case):
    members, columns, (graphs, atoms, edges) = case
    got = collate_pack(members, columns, graphs=graphs, atoms=atoms, edges=edges)
    expect = twins.collate.collate_pack(members, columns, graphs=graphs, atoms=atoms, edges=edges)
    assert {name: array.dtype for name, array in got.items()} == DTYPES
    assert list(got) == list(expect)
    for name, array in got.items():
        np.testing.assert_array_equal(array, np.array(expect[name]).reshape(array.shape), err_msg=name)


def test_padding_is_as_documented():
    # molecule 0: C-O with code 5; molecule 1: one N
    columns = PackColumns(
        np.array([0, 2, 3]),
        np.array([0, 1, 1]),
        np.array([[6], [8], [7]], np.uint8),
        np.array([[0, 1]], np.uint16),
        np.array([5], np.uint8),
    )
    got = collate_pack(np.array([1, 0]), columns, graphs=4, atoms=5, edges=4)
    assert {name: array.tolist() for name, array in got.items()} == {
        "atom_codes": [[7], [6], [8], [0], [0]],
        "edge_index": [[1, 2, 4, 4], [2, 1, 4, 4]],
        "edge_codes": [5, 5, 0, 0],
        "edge_order": [1, 0, 2, 3],
        "edge_ptr": [0, 0, 1, 2, 2, 4],
        "graph_of_atom": [0, 1, 1, 3, 3],
        "atom_ptr": [0, 1, 3, 3, 5],
        "graph_mask": [True, True, False, False],
        "atom_mask": [True, True, True, False, False],
        "edge_mask": [True, True, False, False],
    }


def test_a_pack_that_is_full_to_the_last_slot_fits_and_one_slot_less_is_refused():
    columns = random_columns(np.random.default_rng(1), 6)
    members = np.arange(6)
    atoms, edges = loads(columns, members)
    shape = {"graphs": 7, "atoms": atoms + 1, "edges": edges}
    full = collate_pack(members, columns, **shape)
    assert full["graph_mask"].tolist() == [True] * 6 + [False]
    assert full["edge_mask"].all()
    for name, slots in shape.items():
        assert slots > 0
        with pytest.raises(ValueError, match=rf"6 graphs, {atoms} atoms, {edges} edges do not fit a pack"):
            collate_pack(members, columns, **shape | {name: slots - 1})


@given(packs(), st.integers(0, 4), st.booleans())
@settings(deadline=None, max_examples=60)
def test_labels_of_a_pack_equal_their_twin(case, num_tasks, per_atom):
    members, columns, (graphs, atoms, _) = case
    ptr, rows = (columns.atom_ptr, atoms) if per_atom else (np.arange(len(columns.atom_ptr)), graphs)
    rng = np.random.default_rng(len(members))
    labels = rng.normal(size=(ptr[-1], num_tasks)).astype(np.float32)
    labels[rng.random(labels.shape) < 0.5] = np.nan
    out = collate_rows(members, ptr, labels, out=np.empty((rows, num_tasks), np.float32), pad=np.nan)
    num_labels = count_labels(out)
    expect, num_expected = twins.collate.collate_labels(members, ptr, labels, rows=rows)
    np.testing.assert_array_equal(out, expect)
    np.testing.assert_array_equal(num_labels, num_expected)
    assert (out.dtype, num_labels.dtype) == (np.float32, np.int32)


@given(packs(), st.sampled_from([0, 1, 9]))
@settings(deadline=None, max_examples=100)
def test_pairs_of_a_pack_equal_their_twin_and_lie_where_labels_of_pairs_do(case, room):
    members, columns, (graphs, atoms, edges) = case
    sizes = np.diff(columns.atom_ptr)[members].tolist()
    pairs = sum(n * (n + 1) // 2 for n in sizes) + room
    got = collate_pairs(members, columns.atom_ptr, atoms=atoms, pairs=pairs)
    assert (got.dtype, got.shape) == (np.int32, (2, pairs))
    assert got.tolist() == twins.collate.collate_pairs(members.tolist(), columns.atom_ptr.tolist(), atoms=atoms, pairs=pairs)
    at = 0
    for n, first in zip(sizes, collate_pack(members, columns, graphs=graphs, atoms=atoms, edges=edges)["atom_ptr"].tolist()):
        for j in range(n):
            for i in range(j + 1):
                assert got[:, at + j * (j + 1) // 2 + i].tolist() == [first + i, first + j]
        at += n * (n + 1) // 2
    assert (got[:, at:] == atoms - 1).all()


def test_pairs_that_do_not_fit_are_refused_and_none_are_written_outside():
    ptr, members = np.array([0, 2, 5]), np.array([1, 0])
    memory = np.full((2, 11), -7, np.int32)
    full = collate_pairs(members, ptr, atoms=6, pairs=9, out=memory[:, :9])
    assert full.tolist() == [[0, 0, 1, 0, 1, 2, 3, 3, 4], [0, 1, 1, 2, 2, 2, 3, 4, 4]]
    assert (memory[:, 9:] == -7).all()
    for shape in ({"atoms": 5, "pairs": 9}, {"atoms": 6, "pairs": 8}):
        with pytest.raises(ValueError, match=r"5 atoms, 9 pairs of atoms do not fit a pack of"):
            collate_pairs(members, ptr, **shape)
    with pytest.raises(ValueError, match="molecule -1, there are 0 to 1"):
        collate_pairs(np.array([-1]), ptr, atoms=8, pairs=16)
    assert collate_pairs(members[:0], ptr, atoms=8, pairs=8).tolist() == [[7] * 8, [7] * 8]


@given(st.integers(0, 80), st.integers(0, 70), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_labels_of_two_directions_are_counted_together(rows, num_tasks, seed):
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=(rows, num_tasks, 2)).astype(np.float32)
    labels[rng.random(labels.shape) < 0.5] = np.nan
    counts = count_labels(labels)
    assert counts.dtype == np.int32
    assert counts.tolist() == [np.count_nonzero(~np.isnan(labels[:, t])) for t in range(num_tasks)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float16, np.float32])
@pytest.mark.parametrize("pad", [0, 3])
def test_rows_of_any_dtype_keep_their_bits_and_are_padded(dtype, pad):
    rng = np.random.default_rng(5)
    ptr = np.array([0, 2, 2, 5, 9])
    rows = rng.integers(0, 256, (9, 3 * np.dtype(dtype).itemsize), np.uint8).view(dtype)
    out = collate_rows(np.array([3, 0, 1]), ptr, rows, out=np.empty((8, 3), dtype), pad=pad)
    expect = np.concatenate([rows[5:9], rows[0:2], np.full((2, 3), pad, dtype)])
    assert out.tobytes() == expect.tobytes()


def test_rows_that_do_not_fit_are_refused():
    rows, place = np.zeros((5, 2), np.float32), np.empty((5, 2), np.float32)
    assert not collate_rows(np.arange(5), np.arange(6), rows, out=place, pad=np.nan).any()
    for out in (place[:4], np.empty((5, 3), np.float32), np.empty((5, 2), np.float64)):
        with pytest.raises(ValueError, match=r"5 rows of float32 .* do not fit a batch of"):
            collate_rows(np.arange(5), np.arange(6), rows, out=out)


def test_an_odd_number_of_edge_slots_is_refused():
    with pytest.raises(ValueError, match="7 edges, expected an even number"):
        collate_pack(np.empty(0, np.int64), random_columns(np.random.default_rng(0), 1), graphs=8, atoms=8, edges=7)


def test_a_negative_molecule_number_is_refused():
    columns = PackColumns(
        np.array([0, 1]), np.array([0, 0]), np.zeros((1, 2), np.uint8), np.empty((0, 2), np.uint16), np.empty(0, np.uint8)
    )
    with pytest.raises(ValueError, match="molecule -1, there"):
        collate_pack(np.array([-1]), columns, graphs=8, atoms=8, edges=8)
    with pytest.raises(ValueError, match="molecule -1, there"):
        collate_rows(np.array([-1]), np.array([0, 1]), np.zeros((1, 2), np.float32), out=np.empty((8, 2), np.float32))
