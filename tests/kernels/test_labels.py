"""Sparse labels come back as they were, and nothing that contradicts itself is scattered into memory."""

import numpy as np
import pytest
import twins.labels
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.kernels.codec._labels import BITMAP, DELTA, DENSE, RAW, ROWS, TABLE
from molstream.kernels.codec.labels import SparseLabels, densify_labels, plane_offsets, sparsify_labels

DTYPES = [np.float32, np.float16]
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, 65504, -65504, 6e-8, -6e-8, 6.1e-5, -6.09e-5, 1e-45, -1e-39, 1], np.float32)


def columns(rng, size, num_tasks, kinds):
    """(size, num_tasks) of labels such as data sets have, each of the kind its turn is."""
    labels = np.empty((size, num_tasks), np.float32)
    for t in range(num_tasks):
        before = labels[:, rng.integers(0, t)] if t else np.zeros(size, np.float32)
        labels[:, t] = {
            "normal": lambda: rng.normal(size=size),
            "count": lambda: rng.integers(0, 12, size),
            "many counts": lambda: rng.integers(-200, 200, size),
            "constant": lambda: np.full(size, rng.choice(SPECIAL)),
            "decimal": lambda: rng.integers(0, 10**6, size) / 1000,
            "copy": lambda before=before: before,
            "near": lambda before=before: np.nan_to_num(before, posinf=0, neginf=0) * (1 + rng.normal(size=size) / 500),
            "special": lambda: rng.choice(SPECIAL, size),
            "wide": lambda: rng.normal(size=size) * 2.0 ** rng.integers(-24, 14, size),
        }[kinds[t]]()
    # what float16 can hold
    return np.where(np.isinf(labels), labels, labels.clip(-65504, 65504))


@st.composite
def dense_labels(draw):
    """(labels, ptr): one value a molecule or a ragged number, tasks from full to empty, NaN for absent."""
    num_molecules, num_tasks = draw(st.integers(0, 150)), draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    widths = np.ones(num_molecules, int) if draw(st.booleans()) else rng.integers(0, 9, num_molecules)
    ptr = np.concatenate([[0], np.cumsum(widths)])
    kind = st.sampled_from(["normal", "count", "many counts", "constant", "decimal", "copy", "near", "special", "wide"])
    labels = columns(rng, ptr[-1], num_tasks, [draw(kind) for _ in range(num_tasks)])
    for t in range(num_tasks):
        share = draw(st.sampled_from([0, 0.01, 0.02, 0.04, 0.5, 1]))
        labels[np.repeat(rng.random(num_molecules) >= share, widths), t] = np.nan
    # single atoms without a label inside a molecule that has others
    labels[rng.random(labels.shape) < draw(st.sampled_from([0, 0.05]))] = np.nan
    return labels, ptr


def same_floats(a, b):
    """Equal to the last bit, but for the payload of NaN."""
    real = ~np.isnan(a)
    return np.array_equal(real, ~np.isnan(b)) and np.array_equal(a[real].view(np.uint32), b[real].view(np.uint32))


def three_encodings():
    """100 molecules of 0, 1, 2 or 3 atoms: a dense, a bitmap, a rows and an empty task. Returns (sparse, ptr, labels)."""
    widths = np.arange(100) % 4
    widths[0] = 4
    ptr = np.concatenate([[0], np.cumsum(np.maximum(widths, 1))])
    labels = np.random.default_rng(0).normal(size=(ptr[-1], 4)).astype(np.float32)
    for t, present in enumerate([range(100), range(0, 100, 3), [7, 41], []]):
        labels[~np.isin(np.repeat(np.arange(100), np.diff(ptr)), list(present)), t] = np.nan
    return sparsify_labels(labels, ptr), ptr, labels


def three_codings(dtype=np.float32):
    """50 molecules with one label of each of 4 tasks: normal, near it, a copy of that, 0 to 0.4."""
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(500, 4)).astype(dtype).astype(np.float32)
    labels[:, 1] = (labels[:, 0] * (1 + rng.normal(size=500) / 5000)).astype(dtype)
    labels[:, 2] = labels[:, 1]
    labels[:, 3] = (np.arange(500) % 5 / np.float32(10)).astype(dtype)
    return sparsify_labels(labels, np.arange(501), dtype=dtype), np.arange(501), labels


@given(dense_labels(), st.sampled_from(DTYPES))
@settings(deadline=None, max_examples=200)
def test_sparse_labels_come_back_bit_for_bit(case, dtype):
    labels, ptr = case
    sparse = sparsify_labels(labels, ptr, dtype=dtype)
    back = densify_labels(sparse, ptr)
    assert back.dtype == np.float32
    assert same_floats(back, labels.astype(dtype).astype(np.float32))
    assert same_floats(back, twins.labels.densify_labels(sparse, ptr))
    sizes = np.array(twins.labels.measure_labels(sparse, ptr), int)
    assert sparse.values.size == sizes @ sparse.planes
    again = sparsify_labels(back, ptr, dtype=dtype)
    assert [x.tobytes() for x in again] == [x.tobytes() for x in sparse]
    starts = plane_offsets(sparse, ptr)
    assert len(starts) == sparse.planes.sum()
    assert starts == sorted(starts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_float_there_is_comes_back(dtype):
    patterns = np.arange(2**16, dtype=np.uint16) if dtype == np.float16 else np.arange(0, 2**32, 99991, dtype=np.uint32)
    labels = np.stack([patterns.view(dtype), patterns[::-1].view(dtype)], axis=1).astype(np.float32)
    ptr = np.arange(len(labels) + 1)
    assert same_floats(densify_labels(sparsify_labels(labels, ptr, dtype=dtype), ptr), labels)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_task_takes_the_coding_of_fewest_bytes(dtype):
    sparse, ptr, labels = three_codings(dtype)
    width = np.dtype(dtype).itemsize
    assert sparse.coding.tolist() == [RAW, DELTA, DELTA, TABLE]
    assert sparse.planes.tolist() == [width, sparse.planes[1], 0, 1]
    assert sparse.planes[1] <= 3
    assert sparse.argument.tolist() == [0, 0, 1, 5]
    assert sparse.table.tolist() == labels[:5, 3].tolist()
    assert sparse.table.dtype == dtype
    np.testing.assert_array_equal(densify_labels(sparse, ptr), labels)


def test_the_planes_of_all_tasks_are_stored_byte_by_byte():
    patterns = np.arange(0x3C00, 0x3C00 + 4 * 300, 4, dtype=np.uint16)[:, None] ^ np.array([[0, 0x8003]], np.uint16)
    labels, ptr = patterns.view(np.float16).astype(np.float32), np.arange(301)
    sparse = sparsify_labels(labels[:, [0, 1]], ptr, dtype=np.float16)
    assert sparse.coding.tolist() == [RAW, RAW]
    low, high = patterns & 255, patterns >> 8
    assert sparse.values.tolist() == [*low[:, 0], *low[:, 1], *high[:, 0], *high[:, 1]]
    assert plane_offsets(sparse, ptr) == [0, 300, 600, 900]


def test_a_label_that_half_precision_cannot_hold_is_refused():
    labels = np.array([[1, 2], [3, 65520]], np.float32)
    with pytest.raises(ValueError, match=r"label task 1 holds 65520.0, more than float16 can; store this level in float32"):
        sparsify_labels(labels, np.arange(3), dtype=np.float16)
    labels[1, 1] = np.inf
    assert densify_labels(sparsify_labels(labels, np.arange(3), dtype=np.float16), np.arange(3))[1, 1] == np.inf


def test_each_task_takes_the_encoding_of_fewest_bytes():
    sparse, ptr, labels = three_encodings()
    assert sparse.presence.tolist() == [DENSE, BITMAP, ROWS, ROWS]
    assert sparse.count.tolist() == [100, 34, 2, 0]
    assert sparse.rows.tolist() == [7, 41]
    assert sparse.bitmap.size == 13
    assert sparse.bitmap[:2].tolist() == [0b01001001, 0b10010010]
    names = ["uint8", "uint32", "uint8", "uint8", "uint32", "uint8", "uint32", "float32", "uint8"]
    assert [array.dtype.name for array in sparse] == names
    np.testing.assert_array_equal(densify_labels(sparse, ptr), labels)
    for count in range(101):
        labels = np.where(np.arange(100) < count, 1.0, np.nan)[:, None].astype(np.float32)
        sparse = sparsify_labels(labels, np.arange(101))
        if count < 100:
            assert sparse.rows.nbytes + sparse.bitmap.nbytes == min(4 * count, 13) or count == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_are_written_into_the_array_that_is_given(dtype):
    sparse, ptr, labels = three_codings(dtype)
    tall = np.zeros((len(labels) + 2, 4), np.float32)
    out = tall[1:-1]
    assert densify_labels(sparse, ptr, out) is out
    np.testing.assert_array_equal(out, labels)
    assert not tall[[0, -1]].any()
    for wrong in (np.zeros((len(labels), 6), np.float32)[:, 1:5], tall[:, :3], tall.astype(np.float64), tall[2:-1]):
        with pytest.raises(ValueError, match="place"):
            densify_labels(sparse, ptr, wrong)


@given(st.integers(0, 2**32), st.sampled_from(DTYPES))
@settings(deadline=None, max_examples=60)
def test_labels_go_where_their_molecule_begins_and_only_those_that_are_wanted(seed, dtype):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 9, rng.integers(1, 60))
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    labels = rng.choice([0.0, 1.0, 0.5, -2.25, np.nan], (ptr[-1], 5)).astype(np.float32)
    # columns that refer to others
    labels[:, 3], labels[:, 4] = labels[:, 1] + 0.125, labels[:, 3]
    sparse = sparsify_labels(labels, ptr, dtype=dtype)
    order, tasks = rng.permutation(len(sizes)), rng.permutation(5)[: rng.integers(0, 6)]
    room = 7
    starts = np.empty(len(sizes), np.int64)
    starts[order] = room + np.cumsum(sizes[order]) - sizes[order]
    out = np.full((ptr[-1] + 2 * room, len(tasks)), 99, np.float32)
    densify_labels(sparse, ptr, out, starts=starts, tasks=tasks)
    dense = densify_labels(sparse, ptr)
    expect = np.concatenate([np.empty((0, 5), np.float32), *(dense[ptr[m] : ptr[m + 1]] for m in order)])
    np.testing.assert_array_equal(out[room : room + ptr[-1]], expect[:, tasks])
    assert (out[:room] == 99).all()
    assert (out[room + ptr[-1] :] == 99).all()


@pytest.mark.parametrize("starts", [[-1, 0, 0], [0, 1], [0, 1, 3], [0, 2**63 - 1, 0]])
def test_molecules_that_would_begin_outside_their_place_are_refused(starts):
    ptr, labels = np.array([0, 1, 3, 4]), np.arange(4, dtype=np.float32)[:, None]
    with pytest.raises(ValueError, match="do not lie in a place of 3 rows"):
        densify_labels(sparsify_labels(labels, ptr), ptr, np.empty((3, 1), np.float32), starts=np.array(starts))


@pytest.mark.parametrize("tasks", [[-1], [5], [0, 7]])
def test_columns_that_are_not_there_are_refused(tasks):
    ptr, labels = np.arange(5), np.zeros((4, 5), np.float32)
    with pytest.raises(ValueError, match=r"label columns .*, there are 5"):
        densify_labels(sparsify_labels(labels, ptr), ptr, tasks=np.array(tasks))


class Edit:
    """A function on SparseLabels; `a >> b` does a, then b."""

    def __init__(self, function):
        self.function = function

    def __call__(self, sparse):
        return self.function(sparse)

    def __rshift__(self, other):
        return Edit(lambda sparse: other(self(sparse)))


def change(name, place, value):
    def edit(sparse):
        array = getattr(sparse, name).copy()
        array[place] = value
        return sparse._replace(**{name: array})

    return Edit(edit)


def resize(name, by):
    def edit(sparse):
        array = getattr(sparse, name)
        return sparse._replace(**{name: array[:by] if by < 0 else np.concatenate([array, np.zeros(by, array.dtype)])})

    return Edit(edit)


def retype(name, dtype):
    return Edit(lambda sparse: sparse._replace(**{name: getattr(sparse, name).astype(dtype)}))


INCONSISTENT = {
    "bitmap too short": (resize("bitmap", -1), "presence bitmaps hold 12 bytes, expected 13"),
    "bitmap too long": (resize("bitmap", 1), "presence bitmaps hold 14 bytes, expected 13"),
    "too few rows": (resize("rows", -1), "row lists hold 1 rows, expected 2"),
    "too many rows": (resize("rows", 5), "row lists hold 7 rows, expected 2"),
    "too few values": (resize("values", -1), "bytes of label values, expected"),
    "too many values": (resize("values", 1), "bytes of label values, expected"),
    "one task less": (resize("count", -1), "4 encodings but 3 in count"),
    "one coding less": (resize("coding", -1), "4 encodings but 3 in coding"),
    "one width more": (resize("planes", 1), "4 encodings but 5 in planes"),
    "one argument less": (resize("argument", -1), "4 encodings but 3 in argument"),
    "unknown coding": (change("coding", 1, 3), "unknown label coding 3"),
    "plain values without bytes": (change("planes", 0, 0), "label values of 0 bytes, coding 0, in float32"),
    "plain values of five bytes": (change("planes", 0, 5), "label values of 5 bytes, coding 0, in float32"),
    "plain said to be a difference to itself": (change("coding", 2, DELTA) >> change("argument", 2, 2), "does not come before"),
    "a difference to a later task": (change("coding", 0, DELTA) >> change("argument", 0, 3), "does not come before"),
    "a difference to a task far out": (change("coding", 1, DELTA) >> change("argument", 1, 2**32 - 1), "does not come before"),
    "plain said to be a table": (change("coding", 1, TABLE), "label values of 4 bytes, coding 1"),
    "a table that is not there": (
        change("coding", 3, TABLE) >> change("planes", 3, 1) >> change("argument", 3, 2),
        r"label tables hold \d entries, expected \d",
    ),
    "a table too large": (
        change("coding", 3, TABLE) >> change("planes", 3, 1) >> change("argument", 3, 257) >> resize("table", 257),
        r"label tables hold \d+ entries, expected \d+",
    ),
    "count of a dense task": (change("count", 0, 99), "contradicts its count"),
    "count of a bitmap": (change("count", 1, 35), "contradicts its count"),
    "count of rows": (change("count", 2, 2**32 - 1), "row lists hold 2 rows, expected 4294967295"),
    "a bit more": (change("bitmap", 0, 0b01001011), "contradicts its count"),
    "a bit less": (change("bitmap", 0, 0b00001001), "contradicts its count"),
    "rows out of order": (change("rows", slice(None), (41, 7)), "contradicts its count"),
    "a row twice": (change("rows", 1, 7), "contradicts its count"),
    "a row out of range": (change("rows", 1, 100), "contradicts its count"),
    "a row far out of range": (change("rows", 1, 2**32 - 1), "contradicts its count"),
    "unknown presence": (change("presence", 1, 3), "unknown label presence 3"),
    "bitmap said to be dense": (change("presence", 1, DENSE), "presence bitmaps hold"),
    "dense said to be rows": (change("presence", 0, ROWS), "row lists hold"),
    "presence of floats": (
        lambda s: s._replace(presence=np.array([0, 1, 1.5, np.nan], np.float32), rows=s.rows[:0]),
        "array presence is float32, expected uint8",
    ),
    "counts that wrap around": (
        lambda s: s._replace(presence=np.full(4, ROWS, np.uint8), count=np.full(4, 2**63, np.uint64), rows=s.rows[:0]),
        "count is uint64, expected uint32",
    ),
    "signed counts": (retype("count", np.int32), "count is int32, expected uint32"),
    "bitmap of floats": (retype("bitmap", np.float32), "bitmap is float32, expected uint8"),
    "rows of 64 bits": (retype("rows", np.uint64), "rows is uint64, expected uint32"),
    "values of 64 bits": (retype("values", np.float64), "values is float64, expected uint8"),
    "arguments of 64 bits": (retype("argument", np.int64), "argument is int64, expected uint32"),
    "tables of 64 bits": (retype("table", np.float64), "table is float64, expected float32 or float16"),
    "tables of half the precision": (retype("table", np.float16), "label values of 4 bytes, coding 0, in float16"),
}


@pytest.mark.parametrize("name", INCONSISTENT)
def test_labels_that_contradict_themselves_are_refused(name):
    edit, message = INCONSISTENT[name]
    sparse, ptr, _ = three_encodings()
    with pytest.raises(ValueError, match=message):
        densify_labels(edit(sparse), ptr)


def test_a_value_outside_its_table_is_refused():
    sparse, ptr, _ = three_codings()
    place = plane_offsets(sparse, ptr)[1 + 1]
    assert sparse.values[place : place + 5].tolist() == [0, 1, 2, 3, 4]
    values = sparse.values.copy()
    for bad in (5, 255):
        values[place + 7] = bad
        with pytest.raises(ValueError, match="a label value lies outside its table"):
            densify_labels(sparse._replace(values=values), ptr)


@pytest.mark.parametrize("ptr", [[], [1, 2], [0, 5, 3], [0, -1, 3], [0, 2**62, 3]])
def test_offsets_that_do_not_rise_from_zero_are_refused(ptr):
    sparse, _, _ = three_codings()
    with pytest.raises(ValueError, match="offsets of labels do not rise from 0"):
        densify_labels(sparse, np.array(ptr, np.int64))


@pytest.mark.parametrize(("shape", "dtype"), [((10, 4), np.float32), ((197, 3), np.float32), ((197, 4), np.float64)])
def test_a_place_of_another_shape_or_dtype_is_refused(shape, dtype):
    sparse, ptr, _ = three_encodings()
    with pytest.raises(ValueError, match=r"expected contiguous float32 rows of 4|rows for a place of"):
        densify_labels(sparse, ptr, np.empty(shape, dtype))


@given(dense_labels(), st.sampled_from(DTYPES), st.data())
@settings(deadline=None, max_examples=300)
def test_arbitrary_damage_is_refused_or_changes_values_only_where_it_may(case, dtype, data):
    labels, ptr = case
    sparse = sparsify_labels(labels, ptr, dtype=dtype)
    arrays = {name: array.copy() for name, array in sparse._asdict().items()}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(SparseLabels._fields))
        array = arrays[name]
        if array.size and data.draw(st.booleans()):
            place = data.draw(st.integers(0, array.size - 1))
            array[place] = data.draw(st.sampled_from([0, 1, 2, 3, 4, 7, 100, 255]))
        else:
            arrays[name] = array[: data.draw(st.integers(0, array.size))]
    damaged = SparseLabels(**arrays)
    try:
        expect = twins.labels.densify_labels(damaged, ptr)
        good = damaged.presence.max(initial=0) <= ROWS
    except (ValueError, KeyError):
        good = False
    if good:
        assert same_floats(densify_labels(damaged, ptr), expect)
    else:
        with pytest.raises(ValueError, match=r"presence|coding|bitmap|row|values?|table|task"):
            densify_labels(damaged, ptr)
