"""Labels as triples are the dense labels that are no NaN, at a cost that knows nothing of the dense form."""

import tracemalloc

import numpy as np
import pytest
import twins.triples
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.kernels.codec._labels import BITMAP, DELTA, DENSE, RAW, ROWS, TABLE
from molstream.kernels.codec.labels import SparseLabels, densify_labels, sparsify_labels
from molstream.kernels.packing.collate import collate_rows, count_labels
from molstream.kernels.packing.triples import LabelRows, collate_triples, concat_rows, list_labels

DTYPES = [np.float32, np.float16]
SHARES = [0, 0.01, 0.02, 0.04, 0.3, 1]


def expected_rows(dense):
    """LabelRows by NumPy alone."""
    real = ~np.isnan(dense)
    return LabelRows(np.concatenate([[0], np.cumsum(real.sum(axis=1))]), np.nonzero(real)[1].astype(np.int32), dense[real])


def assert_same_rows(got, expect):
    assert [array.dtype for array in got] == [np.int64, np.int32, np.float32]
    np.testing.assert_array_equal(got.ptr, expect.ptr)
    np.testing.assert_array_equal(got.task, expect.task)
    np.testing.assert_array_equal(got.value.view(np.uint32), expect.value.view(np.uint32))


@st.composite
def dense_labels(draw):
    """Labels (N, T) that data sets have, so that `sparsify_labels` takes every presence and coding."""
    num_molecules, num_tasks = draw(st.sampled_from([0, 1, 7, 8, 9, 64, 300])), draw(st.integers(0, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.normal(size=(num_molecules, num_tasks)).astype(np.float32)
    for t in range(num_tasks):
        kind = draw(st.sampled_from(["normal", "binary", "constant", "copy", "near", "special"]))
        if kind == "binary":
            labels[:, t] = rng.integers(0, 2, num_molecules)
        elif kind == "constant":
            labels[:, t] = rng.normal()
        elif kind == "copy" and t:
            labels[:, t] = labels[:, rng.integers(0, t)]
        elif kind == "near" and t:
            labels[:, t] = labels[:, rng.integers(0, t)] * (1 + rng.normal(size=num_molecules) / 500)
        elif kind == "special":
            labels[:, t] = rng.choice(
                np.array([0, -0.0, np.inf, -np.inf, 65504, 6e-8, -6.1e-5, 1e-45], np.float32), num_molecules
            )
        if t and draw(st.booleans()):
            labels[np.isnan(labels[:, t - 1]), t] = np.nan
        else:
            labels[rng.random(num_molecules) >= draw(st.sampled_from(SHARES)), t] = np.nan
    # what float16 can hold
    return np.where(np.isinf(labels), labels, labels.clip(-65504, 65504))


def make_labels(rng, num_molecules, num_tasks, dtype):
    """Well-formed labels as nobody writes them: any presence of any presence, any coding, any numbers, NaN among the values."""
    width, places = np.dtype(dtype).itemsize, np.arange(num_molecules)
    presence, coding = rng.integers(0, 3, num_tasks), rng.integers(0, 3, num_tasks)
    coding[:1] = coding[:1] % DELTA
    planes, argument, bitmap, rows, numbers = [], [], [], [], []
    for t in range(num_tasks):
        present = rng.random(num_molecules) < rng.choice(SHARES)
        if presence[t] == DENSE:
            present[:] = True
        elif presence[t] == BITMAP:
            own = np.packbits(present, bitorder="little")
            if bitmap and rng.random() < 0.3:
                own = bitmap[rng.integers(0, len(bitmap))]
                present = np.unpackbits(own, bitorder="little")[:num_molecules].astype(bool)
            elif num_molecules % 8:
                own[-1] |= rng.integers(0, 256) << num_molecules % 8 & 255
            bitmap.append(own)
        else:
            rows.append(places[present])
        planes.append({RAW: width, TABLE: rng.integers(0, 2), DELTA: rng.integers(0, width + 1)}[coding[t]])
        argument.append({RAW: 0, TABLE: rng.choice([1, 2, 256]), DELTA: rng.integers(0, max(1, t))}[coding[t]])
        limit = argument[t] if coding[t] == TABLE else 256
        numbers.append(rng.integers(0, limit, (planes[t], present.sum())))
        presence[t] += 4 * present.sum()
    table = rng.integers(0, 256, (int(np.array(argument)[coding == TABLE].sum()) if num_tasks else 0) * width, np.uint8)
    return SparseLabels(
        presence=(presence % 4).astype(np.uint8),
        count=(presence // 4).astype(np.uint32),
        coding=coding.astype(np.uint8),
        planes=np.array(planes, np.uint8),
        argument=np.array(argument, np.uint32),
        bitmap=np.concatenate([np.empty(0), *bitmap]).astype(np.uint8),
        rows=np.concatenate([np.empty(0), *rows]).astype(np.uint32),
        table=table.view(dtype),
        values=np.concatenate([np.empty(0), *(x[k] for k in range(width) for x in numbers if k < len(x))]).astype(np.uint8),
    )


@st.composite
def made_labels(draw):
    """(sparse, number of molecules), see `make_labels`."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_molecules = draw(st.sampled_from([0, 1, 5, 8, 30, 100]))
    return make_labels(rng, num_molecules, draw(st.integers(0, 8)), draw(st.sampled_from(DTYPES))), num_molecules


def draw_tasks(draw, num_tasks):
    """Some columns in any order."""
    return np.array(draw(st.permutations(range(num_tasks)))[: draw(st.integers(0, num_tasks))], np.int64)


@given(dense_labels(), st.sampled_from(DTYPES), st.data())
@settings(deadline=None, max_examples=200)
def test_listed_labels_are_the_dense_ones_that_are_no_nan(labels, dtype, data):
    sparse = sparsify_labels(labels, np.arange(len(labels) + 1), dtype=dtype)
    dense = labels.astype(dtype).astype(np.float32)
    assert_same_rows(list_labels(sparse, len(labels)), expected_rows(dense))
    tasks = draw_tasks(data.draw, labels.shape[1])
    assert_same_rows(list_labels(sparse, len(labels), tasks=tasks), expected_rows(dense[:, tasks]))


@given(made_labels(), st.booleans(), st.data())
@settings(deadline=None, max_examples=200)
def test_listed_labels_equal_their_twin_and_what_the_dense_form_reads(case, selects, data):
    sparse, num_molecules = case
    tasks = draw_tasks(data.draw, sparse.presence.size) if selects else None
    got, expect = list_labels(sparse, num_molecules, tasks=tasks), twins.triples.list_labels(sparse, num_molecules, tasks=tasks)
    dense = densify_labels(sparse, np.arange(num_molecules + 1))
    assert_same_rows(got, expected_rows(dense if tasks is None else dense[:, tasks]))
    assert np.diff(got.ptr).tolist() == [len(own) for own in expect]
    assert list(zip(got.task.tolist(), got.value.tolist(), strict=True)) == [label for own in expect for label in own]


@pytest.mark.parametrize("num_molecules", [0, 3])
@pytest.mark.parametrize("num_tasks", [0, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_at_all_gives_empty_rows(num_molecules, num_tasks, dtype):
    labels = np.full((num_molecules, num_tasks), np.nan, np.float32)
    got = list_labels(sparsify_labels(labels, np.arange(num_molecules + 1), dtype=dtype), num_molecules)
    assert_same_rows(got, LabelRows(np.zeros(num_molecules + 1), np.empty(0), np.empty(0, np.float32)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_float_there_is_is_listed_and_nan_is_not(dtype):
    pattern = np.uint16 if dtype == np.float16 else np.uint32
    patterns = np.arange(2**16, dtype=np.uint16) if dtype == np.float16 else np.arange(0, 2**32, 99991, dtype=np.uint32)
    patterns = np.concatenate([patterns, np.array([np.inf, -np.inf, np.nan, -np.nan, -0.0], dtype).view(pattern)])
    sparse = SparseLabels(
        *(
            np.array([x], d)
            for x, d in zip([DENSE, patterns.size, RAW, np.dtype(dtype).itemsize, 0], ["u1", "u4", "u1", "u1", "u4"])
        ),
        *(np.empty(0, d) for d in ("u1", "u4", dtype)),
        patterns.view(np.uint8).reshape(-1, np.dtype(dtype).itemsize).T.reshape(-1),
    )
    with np.errstate(invalid="ignore"):
        dense = patterns.view(dtype).astype(np.float32)[:, None]
    assert_same_rows(list_labels(sparse, patterns.size), expected_rows(dense))


def chained_labels():
    """Task 1 is a difference to task 0 where that is absent, task 2 to task 1: rows and keys small enough to write out."""
    patterns = np.array([1.0, 2.0], np.float32).view(np.uint8).reshape(2, 4).T
    return SparseLabels(
        presence=np.array([ROWS, ROWS, BITMAP], np.uint8),
        count=np.array([2, 2, 2], np.uint32),
        coding=np.array([RAW, DELTA, DELTA], np.uint8),
        planes=np.array([4, 1, 1], np.uint8),
        argument=np.array([0, 0, 1], np.uint32),
        bitmap=np.array([0b101], np.uint8),
        rows=np.array([0, 2, 1, 2], np.uint32),
        table=np.empty(0, np.float32),
        values=np.array([*patterns[0], 2, 4, 1, 6, *patterns[1:].reshape(-1)], np.uint8),
    )


def test_a_difference_is_to_the_label_of_the_same_molecule_or_to_nan():
    def after(x, steps):
        return (np.float32(x).view(np.int32) + np.int32(steps)).view(np.float32)

    sparse = chained_labels()
    # 1 above NaN is NaN; 2 above 2.0; -1 from NaN is the NaN below; 3 above that of task 1
    got = list_labels(sparse, 3)
    assert got.ptr.tolist() == [0, 1, 1, 4]
    assert got.task.tolist() == [0, 0, 1, 2]
    assert got.value.tolist() == [1.0, 2.0, after(2, 2), after(2, 5)]
    last = list_labels(sparse, 3, tasks=np.array([2]))
    assert (last.ptr.tolist(), last.task.tolist(), last.value.tolist()) == ([0, 0, 0, 1], [0], [after(2, 5)])
    assert_same_rows(got, expected_rows(densify_labels(sparse, np.arange(4))))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([0, 3], "selected tasks 0 to 3 of labels of 3 tasks"),
        ([-1], "selected tasks -1 to -1 of labels of 3 tasks"),
        (np.array([2**64 - 1], np.uint64), "of labels of 3 tasks"),
        ([1, 0, 1], "3 selected tasks, only 2 of them distinct"),
        ([0.5], "selected tasks are float64"),
        ([True, False, True], "selected tasks are bool"),
        ([[0]], r"selected tasks are int64 \(1, 1\), expected a list"),
    ],
)
def test_tasks_that_are_not_there_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        list_labels(chained_labels(), 3, tasks=np.array(tasks))


def test_a_negative_number_of_molecules_is_refused():
    with pytest.raises(ValueError, match="labels of -1 molecules"):
        list_labels(chained_labels(), -1)


# damage


def outcome(function, *args, **kwargs):
    """What a function returns, or its complaint."""
    try:
        return function(*args, **kwargs), None
    except ValueError as error:
        return None, str(error)


DAMAGE = {
    "unknown presence": ("presence", 2, 3, "unknown label presence 3"),
    "unknown coding": ("coding", 2, 3, "unknown label coding 3"),
    "a count more": ("count", 2, 3, "contradicts its count"),
    "a count of rows far out": ("count", 0, 2**32 - 1, "row lists hold 4 rows, expected 4294967297"),
    "a bit more": ("bitmap", 0, 0b111, "contradicts its count"),
    "rows out of order": ("rows", slice(2), (2, 0), "contradicts its count"),
    "a row twice": ("rows", 0, 2, "contradicts its count"),
    "a row out of range": ("rows", 1, 3, "contradicts its count"),
    "a row far out of range": ("rows", 3, 2**32 - 1, "contradicts its count"),
    "a difference to itself": ("argument", 1, 1, "does not come before"),
    "a difference to a later task": ("argument", 1, 2, "does not come before"),
    "a difference to a task far out": ("argument", 1, 2**32 - 1, "does not come before"),
    "too many bytes of a number": ("planes", 1, 5, "label values of 5 bytes"),
    "a byte of a number more": ("planes", 1, 2, r"\d+ bytes of label values, expected \d+"),
    "a table that is not there": ("coding", 1, TABLE, "label tables hold 0 entries"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_labels_that_contradict_themselves_are_refused(name):
    field, place, value, message = DAMAGE[name]
    sparse = chained_labels()
    array = getattr(sparse, field).copy()
    array[place] = value
    damaged = sparse._replace(**{field: array}) if name != "a table that is not there" else sparse._replace(
        coding=array, argument=np.array([0, 2, 1], np.uint32)
    )  # fmt: skip
    for tasks in (None, np.array([0])):
        with pytest.raises(ValueError, match=message):
            list_labels(damaged, 3, tasks=tasks)


@pytest.mark.parametrize("planes", [0, 1])
@pytest.mark.parametrize("tasks", [None, [1], [0]])
def test_a_value_outside_its_table_is_refused_whether_selected_or_not(planes, tasks):
    sparse = SparseLabels(
        presence=np.array([ROWS, DENSE], np.uint8),
        count=np.array([1, 2], np.uint32),
        coding=np.array([TABLE, TABLE], np.uint8),
        planes=np.array([planes, 1], np.uint8),
        argument=np.array([planes, 2], np.uint32),
        bitmap=np.empty(0, np.uint8),
        rows=np.array([1], np.uint32),
        table=np.array([5, 6, 7][1 - planes :], np.float32),
        values=np.array([1, 0, 1][1 - planes :], np.uint8),
    )
    # a number beyond a table of one, or 0 in a table of none; both are no number of the other table
    tasks = None if tasks is None else np.array(tasks)
    with pytest.raises(ValueError, match="a label value lies outside its table"):
        list_labels(sparse, 2, tasks=tasks)
    with pytest.raises(ValueError, match="a label value lies outside its table"):
        densify_labels(sparse, np.arange(3))
    if planes:
        good = sparse._replace(values=np.array([0, 0, 1], np.uint8))
        expect = [[(1, 6.0)], [(0, 5.0), (1, 7.0)]]
        assert twins.triples.list_labels(good, 2) == expect
        assert list_labels(good, 2).value.tolist() == [6, 5, 7]


@given(made_labels(), st.data())
@settings(deadline=None, max_examples=400)
def test_arbitrary_damage_is_refused_where_the_dense_form_refuses_it_and_read_alike_elsewhere(case, data):
    sparse, num_molecules = case
    arrays = {name: array.copy() for name, array in sparse._asdict().items()}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(SparseLabels._fields))
        array = arrays[name]
        if array.size and data.draw(st.booleans()):
            place = data.draw(st.integers(0, array.size - 1))
            array[place] = data.draw(st.sampled_from([0, 1, 2, 3, 4, 7, 29, 100, 255]))
        else:
            arrays[name] = array[: data.draw(st.integers(0, array.size))]
    damaged = SparseLabels(**arrays)
    dense, complaint = outcome(densify_labels, damaged, np.arange(num_molecules + 1))
    tasks = draw_tasks(data.draw, damaged.presence.size) if data.draw(st.booleans()) else np.arange(damaged.presence.size)
    got, own_complaint = outcome(list_labels, damaged, num_molecules, tasks=tasks)
    assert own_complaint == complaint
    if complaint is None:
        assert_same_rows(got, expected_rows(dense[:, tasks]))


# cost


def thin_labels(num_molecules, num_tasks):
    """A task that every molecule has, then tasks of one molecule each, a difference to the first."""
    rest = num_tasks - 1
    rows = (np.arange(rest) * 7919) % num_molecules
    return SparseLabels(
        presence=np.array([DENSE, *rest * [ROWS]], np.uint8),
        count=np.array([num_molecules, *rest * [1]], np.uint32),
        coding=np.array([RAW, *rest * [DELTA]], np.uint8),
        planes=np.array([4, *rest * [1]], np.uint8),
        argument=np.zeros(num_tasks, np.uint32),
        bitmap=np.empty(0, np.uint8),
        rows=rows.astype(np.uint32),
        table=np.empty(0, np.float32),
        values=np.concatenate(
            [np.zeros(num_molecules, np.uint8), np.full(rest, 2, np.uint8), np.zeros(3 * num_molecules, np.uint8)]
        ),
    )


def test_thousands_of_tasks_of_one_label_cost_by_the_label():
    num_molecules, num_tasks = 2_000_000, 50_000
    sparse = thin_labels(num_molecules, num_tasks)
    list_labels(thin_labels(10, 3), 10)  # compiles
    tracemalloc.start()
    got = list_labels(sparse, num_molecules)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    num_labels = num_molecules + num_tasks - 1
    assert got.value.size == num_labels
    assert (got.value != 0).sum() == num_tasks - 1
    # molecules times tasks are 100 billion, or 400 GB
    assert peak < 48 * (num_labels + num_tasks)


# batches


@st.composite
def label_rows(draw):
    """(rows, dense): rows of labels of some molecules."""
    num_molecules, num_tasks = draw(st.integers(0, 20)), draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dense = rng.normal(size=(num_molecules, num_tasks)).astype(np.float32)
    dense[rng.random(dense.shape) >= draw(st.sampled_from([0, 0.2, 1]))] = np.nan
    return expected_rows(dense), dense


@given(label_rows(), st.data())
@settings(deadline=None, max_examples=150)
def test_triples_of_a_pack_are_its_dense_labels_scattered(case, data):
    rows, dense = case
    members = np.array(data.draw(st.permutations(range(len(dense)))), np.int64)[: data.draw(st.integers(0, len(dense)))]
    graphs = len(members) + 1 + data.draw(st.sampled_from([0, 1, 7]))
    capacity = int(np.diff(rows.ptr)[members].sum()) + data.draw(st.sampled_from([0, 1, 7]))
    shape = {"capacity": capacity, "graphs": graphs, "num_tasks": dense.shape[1]}
    graph, task, value, counts = collate_triples(members, rows, **shape)
    place = np.empty((graphs, dense.shape[1]), np.float32)
    expect = collate_rows(members, np.arange(len(dense) + 1), dense, out=place, pad=np.nan)
    counts_expected = count_labels(expect)
    real = ~np.isnan(value)
    scattered = np.full((graphs, dense.shape[1]), np.nan, np.float32)
    scattered[graph[real], task[real]] = value[real]
    np.testing.assert_array_equal(scattered, expect)
    np.testing.assert_array_equal(counts, counts_expected)
    assert real.sum() == counts.sum()
    assert (np.diff(graph) >= 0).all()
    twin = twins.triples.collate_triples(members, rows, **shape)
    for array, expected in zip((graph, task, value, counts), twin, strict=True):
        np.testing.assert_array_equal(array, np.array(expected, array.dtype))
    assert [array.dtype for array in (graph, task, value, counts)] == [np.int32, np.int32, np.float32, np.int32]


ROWS_OF_THREE = LabelRows(np.array([0, 2, 2, 3]), np.array([0, 2, 1], np.int32), np.array([5, np.nan, 7], np.float32))
"""Molecule 0: task 0 and a NaN of task 2; 1: nothing; 2: task 1."""


def test_padding_is_of_the_last_graph_and_a_nan_is_not_counted():
    graph, task, value, counts = collate_triples(np.array([2, 1, 0]), ROWS_OF_THREE, capacity=5, graphs=8, num_tasks=4)
    assert graph.tolist() == [0, 2, 2, 7, 7]
    assert task.tolist() == [1, 0, 2, 0, 0]
    np.testing.assert_array_equal(value, [7, 5, np.nan, np.nan, np.nan])
    assert counts.tolist() == [1, 1, 0, 0]


def test_an_empty_pack_of_triples_is_all_padding():
    graph, task, value, counts = collate_triples(np.empty(0, np.int64), ROWS_OF_THREE, capacity=3, graphs=2, num_tasks=0)
    assert (graph.tolist(), task.tolist(), np.isnan(value).all(), counts.size) == ([1, 1, 1], [0, 0, 0], True, 0)


def test_triples_that_do_not_fit_are_refused():
    shape = {"capacity": 3, "graphs": 4, "num_tasks": 3}
    assert collate_triples(np.arange(3), ROWS_OF_THREE, **shape)[0].tolist() == [0, 0, 2]
    with pytest.raises(ValueError, match="3 graphs, 3 labels do not fit a pack of 3, 2 usable slots"):
        collate_triples(np.arange(3), ROWS_OF_THREE, **shape | {"capacity": 2})
    with pytest.raises(ValueError, match="3 graphs, 3 labels do not fit a pack of 2, 3 usable slots"):
        collate_triples(np.arange(3), ROWS_OF_THREE, **shape | {"graphs": 3})


def test_molecules_and_tasks_that_are_not_there_are_refused():
    shape = {"capacity": 9, "graphs": 9, "num_tasks": 3}
    with pytest.raises(ValueError, match="molecule -1, there"):
        collate_triples(np.array([-1]), ROWS_OF_THREE, **shape)
    for member in (3, 2**40):
        with pytest.raises(ValueError, match=r"molecule \d+, there are 0 to"):
            collate_triples(np.array([0, member]), ROWS_OF_THREE, **shape)
    with pytest.raises(ValueError, match="labels of tasks 0 to 2, expected tasks of 2"):
        collate_triples(np.array([0]), ROWS_OF_THREE, **shape | {"num_tasks": 2})
    below = ROWS_OF_THREE._replace(task=np.array([-1, 2, 1], np.int32))
    with pytest.raises(ValueError, match="labels of tasks -1 to 2, expected tasks of 3"):
        collate_triples(np.array([0]), below, **shape)


@given(st.lists(label_rows(), max_size=4))
@settings(deadline=None, max_examples=50)
def test_parts_are_put_one_after_the_other(cases):
    parts = [rows for rows, _ in cases]
    got = concat_rows(parts)
    own = [rows.value[a:b].tolist() for rows in parts for a, b in zip(rows.ptr, rows.ptr[1:])]
    assert [got.value[a:b].tolist() for a, b in zip(got.ptr, got.ptr[1:])] == own
    assert got.task.tolist() == [t for rows in parts for t in rows.task.tolist()]
    assert [array.dtype for array in got] == [np.int64, np.int32, np.float32]
    assert got.ptr[0] == 0
