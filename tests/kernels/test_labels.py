"""Sparse labels come back as they were, and nothing that contradicts itself is scattered into memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import reference
from kernels._numba import BITMAP, DENSE, ROWS
from kernels.labels import SparseLabels, densify_labels, sparsify_labels


@st.composite
def dense_labels(draw):
    """(labels, ptr): one value a molecule or a ragged number, tasks from full to empty, NaN for absent."""
    num_molecules, num_tasks = draw(st.integers(0, 150)), draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    widths = np.ones(num_molecules, int) if draw(st.booleans()) else rng.integers(0, 9, num_molecules)
    ptr = np.concatenate([[0], np.cumsum(widths)])
    labels = rng.normal(size=(ptr[-1], num_tasks)).astype(np.float32)
    labels[rng.random(labels.shape) < 0.02] = draw(st.sampled_from([np.inf, 0.0, -0.0]))
    for t in range(num_tasks):
        share = draw(st.sampled_from([0, 0.01, 0.02, 0.04, 0.5, 1]))
        labels[np.repeat(rng.random(num_molecules) >= share, widths), t] = np.nan
    # single atoms without a label inside a molecule that has others
    labels[rng.random(labels.shape) < draw(st.sampled_from([0, 0.05]))] = np.nan
    return labels, ptr


def three_encodings():
    """100 molecules of 0, 1, 2 or 3 atoms: a dense, a bitmap, a rows and an empty task. Returns (sparse, ptr, labels)."""
    widths = np.arange(100) % 4
    widths[0] = 4
    ptr = np.concatenate([[0], np.cumsum(np.maximum(widths, 1))])
    labels = np.arange(4 * ptr[-1], dtype=np.float32).reshape(ptr[-1], 4)
    for t, present in enumerate([range(100), range(0, 100, 3), [7, 41], []]):
        labels[~np.isin(np.repeat(np.arange(100), np.diff(ptr)), list(present)), t] = np.nan
    return sparsify_labels(labels, ptr), ptr, labels


@given(dense_labels())
@settings(deadline=None, max_examples=100)
def test_sparse_labels_come_back_bit_for_bit(case):
    labels, ptr = case
    sparse = sparsify_labels(labels, ptr)
    back = densify_labels(sparse, ptr)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, labels)
    np.testing.assert_array_equal(np.signbit(back[~np.isnan(back)]), np.signbit(labels[~np.isnan(labels)]))
    np.testing.assert_array_equal(back, reference.densify_labels(sparse, ptr))
    assert sparse.values.size == sum(reference.measure_labels(sparse, ptr))


@given(dense_labels())
@settings(deadline=None, max_examples=50)
def test_a_molecule_is_present_where_any_of_its_entries_is_real(case):
    labels, ptr = case
    sparse = sparsify_labels(labels, ptr)
    for t, present in enumerate(reference.molecules_of_tasks(sparse, len(ptr) - 1)):
        assert present == [i for i in range(len(ptr) - 1) if not np.isnan(labels[ptr[i] : ptr[i + 1], t]).all()]


def test_each_task_takes_the_encoding_of_fewest_bytes():
    sparse, ptr, labels = three_encodings()
    assert sparse.encoding.tolist() == [DENSE, BITMAP, ROWS, ROWS]
    assert sparse.count.tolist() == [100, 34, 2, 0]
    assert sparse.rows.tolist() == [7, 41]
    assert sparse.bitmap.size == 13
    assert sparse.bitmap[:2].tolist() == [0b01001001, 0b10010010]
    assert [array.dtype.name for array in sparse] == ["uint8", "uint32", "uint8", "uint32", "float32"]
    np.testing.assert_array_equal(densify_labels(sparse, ptr), labels)
    for count in range(101):
        labels = np.where(np.arange(100) < count, 1.0, np.nan)[:, None].astype(np.float32)
        sparse = sparsify_labels(labels, np.arange(101))
        if count < 100:
            assert sparse.rows.nbytes + sparse.bitmap.nbytes == min(4 * count, 13) or count == 3


def test_labels_are_written_into_the_array_that_is_given():
    sparse, ptr, labels = three_encodings()
    wide = np.zeros((len(labels), 6), np.float32)
    out = wide[:, 1:5]
    assert densify_labels(sparse, ptr, out) is out
    np.testing.assert_array_equal(out, labels)
    assert not wide[:, [0, 5]].any()


def change(name, place, value):
    """A function that returns an array list with one element changed."""

    def edit(sparse):
        array = getattr(sparse, name).copy()
        array[place] = value
        return sparse._replace(**{name: array})

    return edit


def resize(name, by):
    def edit(sparse):
        array = getattr(sparse, name)
        return sparse._replace(**{name: array[:by] if by < 0 else np.concatenate([array, np.zeros(by, array.dtype)])})

    return edit


def retype(name, dtype):
    return lambda sparse: sparse._replace(**{name: getattr(sparse, name).astype(dtype)})


INCONSISTENT = {
    "bitmap too short": (resize("bitmap", -1), "presence bitmaps hold 12 bytes, expected 13"),
    "bitmap too long": (resize("bitmap", 1), "presence bitmaps hold 14 bytes, expected 13"),
    "too few rows": (resize("rows", -1), "row lists hold 1 rows, expected 2"),
    "too many rows": (resize("rows", 5), "row lists hold 7 rows, expected 2"),
    "too few values": (resize("values", -1), "label values, expected"),
    "too many values": (resize("values", 1), "label values, expected"),
    "one task less": (resize("count", -1), "4 encodings but 3 counts"),
    "count of a dense task": (change("count", 0, 99), "contradicts its count"),
    "count of a bitmap": (change("count", 1, 35), "contradicts its count"),
    "count of rows": (change("count", 2, 2**32 - 1), "row lists hold 2 rows, expected 4294967295"),
    "a bit more": (change("bitmap", 0, 0b01001011), "contradicts its count"),
    "a bit less": (change("bitmap", 0, 0b00001001), "contradicts its count"),
    "rows out of order": (change("rows", slice(None), (41, 7)), "contradicts its count"),
    "a row twice": (change("rows", 1, 7), "contradicts its count"),
    "a row out of range": (change("rows", 1, 100), "contradicts its count"),
    "a row far out of range": (change("rows", 1, 2**32 - 1), "contradicts its count"),
    "unknown encoding": (change("encoding", 1, 3), "unknown label encoding 3"),
    "bitmap said to be dense": (change("encoding", 1, DENSE), "presence bitmaps hold"),
    "dense said to be rows": (change("encoding", 0, ROWS), "row lists hold"),
    "encoding of floats": (
        lambda s: s._replace(encoding=np.array([0, 1, 1.5, np.nan], np.float32), rows=s.rows[:0]),
        "array encoding is float32, expected uint8",
    ),
    "counts that wrap around": (
        lambda s: s._replace(encoding=np.full(4, ROWS, np.uint8), count=np.full(4, 2**63, np.uint64), rows=s.rows[:0]),
        "count is uint64, expected uint32",
    ),
    "signed counts": (retype("count", np.int32), "count is int32, expected uint32"),
    "bitmap of floats": (retype("bitmap", np.float32), "bitmap is float32, expected uint8"),
    "rows of 64 bits": (retype("rows", np.uint64), "rows is uint64, expected uint32"),
    "values of 64 bits": (retype("values", np.float64), "values is float64, expected float32"),
}


@pytest.mark.parametrize("name", INCONSISTENT)
def test_labels_that_contradict_themselves_are_refused(name):
    edit, message = INCONSISTENT[name]
    sparse, ptr, _ = three_encodings()
    with pytest.raises(ValueError, match=message):
        densify_labels(edit(sparse), ptr)


@pytest.mark.parametrize("ptr", [[], [1, 2], [0, 5, 3], [0, -1, 3], [0, 2**62, 3]])
def test_offsets_that_do_not_rise_from_zero_are_refused(ptr):
    has_both = SparseLabels(
        np.array([BITMAP], np.uint8),
        np.array([2], np.uint32),
        np.array([3], np.uint8),
        np.empty(0, np.uint32),
        np.ones(3, np.float32),
    )
    with pytest.raises(ValueError, match="offsets of labels do not rise from 0"):
        densify_labels(has_both, np.array(ptr, np.int64))


@pytest.mark.parametrize(("shape", "dtype"), [((10, 4), np.float32), ((197, 3), np.float32), ((197, 4), np.float64)])
def test_a_place_of_another_shape_or_dtype_is_refused(shape, dtype):
    sparse, ptr, _ = three_encodings()
    with pytest.raises(ValueError, match=r"expected float32 \(\d+, 4\)"):
        densify_labels(sparse, ptr, np.empty(shape, dtype))


@given(dense_labels(), st.data())
@settings(deadline=None, max_examples=150)
def test_arbitrary_damage_is_refused_or_changes_values_only_where_it_may(case, data):
    labels, ptr = case
    sparse = sparsify_labels(labels, ptr)
    arrays = {name: array.copy() for name, array in sparse._asdict().items()}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(SparseLabels._fields))
        array = arrays[name]
        if array.size and data.draw(st.booleans()):
            place = data.draw(st.integers(0, array.size - 1))
            array[place] = data.draw(st.sampled_from([0, 1, 2, 3, 7, 100, 255]))
        else:
            arrays[name] = array[: data.draw(st.integers(0, array.size))]
    damaged = SparseLabels(**arrays)
    try:
        expect = reference.densify_labels(damaged, ptr)
        good = damaged.values.size == sum(reference.measure_labels(damaged, ptr)) and damaged.encoding.max(initial=0) <= ROWS
    except (ValueError, StopIteration):
        good = False
    if good:
        np.testing.assert_array_equal(densify_labels(damaged, ptr), expect)
    else:
        with pytest.raises(ValueError, match=r"encoding|bitmap|row|values"):
            densify_labels(damaged, ptr)
