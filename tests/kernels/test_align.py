import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import reference
from kernels.align import FITS, MISFITS, UNREADABLE, align_lists
from kernels.moments import measure_columns, measure_f16_errors


@st.composite
def batches(draw):
    """Molecules with lists of right and wrong lengths, in any order in the flat values, and label indices of any kind."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n, num_tasks = draw(st.integers(0, 6)), draw(st.integers(0, 3))
    num_heavy = rng.integers(1, 5, n)
    num_all = num_heavy + rng.integers(0, 4, n)
    atoms = num_heavy + rng.integers(0, 2, n)
    atom_ptr = np.concatenate([[0], np.cumsum(atoms)]).astype(np.int64)
    label_index = rng.integers(-1, 9, atom_ptr[-1]).astype(np.int32)
    lists = []
    for _ in range(num_tasks):
        size = np.where(rng.random(n) < 0.4, num_heavy, np.where(rng.random(n) < 0.5, num_all, rng.integers(0, 9, n)))
        order = rng.permutation(n)
        start = np.empty(n, np.int64)
        start[order] = np.cumsum(size[order]) - size[order]
        values = rng.normal(size=int(size.sum())).astype(np.float32)
        values[rng.random(values.size) < 0.3] = np.nan
        lists.append((values, start, size))
    readable = rng.random(n) < 0.8
    return lists, {
        "atom_ptr": atom_ptr,
        "label_index": label_index,
        "readable": readable,
        "num_heavy": num_heavy,
        "num_all": num_all,
    }


@given(batches())
def test_lists_are_laid_out_as_by_the_twin(batch):
    lists, molecules = batch
    out, status = align_lists(lists, **molecules)
    expected, expected_status = reference.align_lists(lists, **molecules)
    assert np.array_equal(status, expected_status)
    # what a molecule that is rejected holds does not matter
    fits = np.repeat(status[:, 0] == FITS, np.diff(molecules["atom_ptr"]))
    assert np.array_equal(out[fits], expected[fits], equal_nan=True)
    assert out.dtype == np.float32


def test_the_three_outcomes():
    lists = [(np.array([1, 2, 3, np.nan, 5, 6], np.float32), np.array([0, 3, 4]), np.array([3, 1, 2]))]
    out, status = align_lists(
        lists,
        atom_ptr=np.array([0, 2, 4, 6]),
        label_index=np.array([1, 0, 0, 1, 1, -1]),
        readable=np.array([True, False, True]),
        num_heavy=np.array([2, 1, 2]),
        num_all=np.array([5, 1, 2]),
    )
    # the second has no number, so that nobody knows whose it is does not matter
    assert status.tolist() == [[MISFITS, 3], [FITS, 0], [FITS, 0]]
    assert np.array_equal(out[2:, 0], [np.nan, np.nan, 6, np.nan], equal_nan=True)
    lists[0][0][3] = 4
    assert align_lists(
        lists,
        atom_ptr=np.array([0, 2, 4, 6]),
        label_index=np.zeros(6, np.int32),
        readable=np.array([True, False, True]),
        num_heavy=np.array([2, 1, 2]),
        num_all=np.array([5, 1, 2]),
    )[1].tolist() == [[MISFITS, 3], [UNREADABLE, 0], [FITS, 0]]


@pytest.mark.parametrize(
    ("start", "size", "reason"),
    [([0, 5], [2, 2], "lies outside its 6 values"), ([-1, 0], [2, 2], "lies outside"), ([0], [2], "has 1 lists, expected 2")],
)
def test_lists_outside_their_values_are_refused_before_any_kernel_sees_them(start, size, reason):
    with pytest.raises(ValueError, match=reason):
        align_lists(
            [(np.zeros(6, np.float32), np.array(start), np.array(size))],
            atom_ptr=np.array([0, 2, 4]),
            label_index=np.zeros(4, np.int32),
            readable=np.ones(2, bool),
            num_heavy=np.array([2, 2]),
            num_all=np.array([2, 2]),
        )


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 4))
def test_moments_are_those_of_the_definition(seed, num_rows, num_tasks):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(num_rows, num_tasks)) * 10.0 ** rng.integers(-3, 6, num_tasks)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    found, expected = measure_columns(values), reference.measure_columns(values)
    for k in (0, 3, 4):
        assert np.array_equal(found[k], expected[k])
    scale = np.nanmax(np.abs(values), axis=0, initial=1.0)
    assert np.allclose(found[1], expected[1], rtol=1e-13, atol=1e-13 * scale.max())
    assert np.allclose(found[2], expected[2], rtol=1e-10, atol=1e-12 * scale.max() ** 2)


@given(st.lists(st.floats(width=32) | st.floats(-1, 1, width=32) | st.integers(-999, 999).map(lambda k: k * 1.1e-8), max_size=40))
def test_rounding_errors_are_those_of_numpys_float16(numbers):
    values = np.array([*numbers, 65504, 65519.996, 2**-14, 2**-24, 2**-25, 1 + 2**-11, 1 + 3 * 2**-11, -0.0, np.nan], np.float32)
    values = values[~np.isinf(values)]
    with np.errstate(over="ignore"):
        expected = np.abs(values.astype(np.float64) - values.astype(np.float16))
    # a column of one each, so that nothing is summed
    assert np.array_equal(measure_f16_errors(values[None]), np.nan_to_num(expected, nan=0.0, posinf=np.inf))
    assert measure_f16_errors(values[:, None])[0] == pytest.approx(np.nansum(expected), rel=1e-12)
    assert measure_f16_errors(np.array([[65520.0]], np.float32)).tolist() == [np.inf]
