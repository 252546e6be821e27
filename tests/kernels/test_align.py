import numpy as np
import pytest
import twins.align
import twins.moments
from hypothesis import given
from hypothesis import strategies as st

from molstream.kernels.tables.align import FITS, MISFITS, UNREADABLE, FlatLists, align_bonds, align_lists, align_pairs
from molstream.kernels.tables.moments import measure_columns, measure_f16_errors


def flat_lists(rng, *, usual: list[np.ndarray], most: int) -> FlatLists:
    """A task's lists, in any order in the flat values: of one of the usual sizes (N each), or of any up to `most`."""
    n = len(usual[0])
    size = np.where(rng.random(n) < 0.8, np.stack(usual)[rng.integers(0, len(usual), n), np.arange(n)], rng.integers(0, most, n))
    order = rng.permutation(n)
    start = np.empty(n, np.int64)
    start[order] = np.cumsum(size[order]) - size[order]
    values = rng.normal(size=int(size.sum())).astype(np.float32)
    values[rng.random(values.size) < 0.3] = np.nan
    for m in np.flatnonzero(rng.random(n) < 0.1):
        values[start[m] : start[m] + size[m]] = np.nan
    return FlatLists(values, start, size)


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
    lists = [flat_lists(rng, usual=[num_heavy, num_all], most=9) for _ in range(num_tasks)]
    readable = rng.random(n) < 0.8
    return lists, {
        "atom_ptr": atom_ptr,
        "label_index": label_index,
        "readable": readable,
        "num_heavy": num_heavy,
        "num_all": num_all,
    }


@st.composite
def bond_batches(draw):
    """Molecules of 0 to 5 bonds with one or two entries a bond, or another number; bonds in any order and direction."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, num_tasks = draw(st.integers(0, 6)), draw(st.integers(0, 3))
    bonds = rng.integers(0, 6, n)
    lists = [flat_lists(rng, usual=[bonds, 2 * bonds], most=12) for _ in range(num_tasks)]
    return lists, {
        "bond_ptr": np.concatenate([[0], np.cumsum(bonds)]).astype(np.int64),
        "bond_index": np.concatenate([np.empty(0, np.int64), *(rng.permutation(k) for k in bonds)]).astype(np.int32),
        "is_reversed": rng.random(int(bonds.sum())) < 0.5,
    }


@st.composite
def pair_batches(draw):
    """Molecules with lists of n * n and n * (n - 1) / 2 entries, or another number; an entry belongs to one atom or to none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, num_tasks = draw(st.integers(0, 6)), draw(st.integers(0, 3))
    num_heavy = rng.integers(0, 6, n)
    atoms = num_heavy + rng.integers(0, 2, n)
    atom_ptr = np.concatenate([[0], np.cumsum(atoms)]).astype(np.int64)
    usual = [num_heavy**2, num_heavy * (num_heavy - 1) // 2]
    lists = [flat_lists(rng, usual=usual, most=18) for _ in range(num_tasks)]
    # each entry once, in some order, and none for hydrogens; some of no list's entries
    index = [rng.permutation(k) for k in num_heavy]
    label_index = np.concatenate(
        [np.empty(0, np.int64), *(np.r_[i, [-1] * (k - len(i))] for i, k in zip(index, atoms, strict=True))]
    )
    label_index[rng.random(label_index.size) < 0.1] = rng.choice([-1, 6, 99])
    return lists, {
        "atom_ptr": atom_ptr,
        "pair_ptr": np.concatenate([[0], np.cumsum(atoms * (atoms + 1) // 2)]).astype(np.int64),
        "label_index": label_index.astype(np.int32),
        "readable": rng.random(n) < 0.8,
        "num_heavy": num_heavy,
    }


@given(batches())
def test_lists_are_laid_out_as_by_the_twin(batch):
    lists, molecules = batch
    out, status = align_lists(lists, **molecules)
    expected, expected_status = twins.align.align_lists(lists, **molecules)
    assert np.array_equal(status, expected_status)
    # what a molecule that is rejected holds does not matter
    fits = np.repeat(status[:, 0] == FITS, np.diff(molecules["atom_ptr"]))
    assert np.array_equal(out[fits], expected[fits], equal_nan=True)
    assert out.dtype == np.float32


def assert_as_the_twin(found, expected, ptr):
    (out, status), (twin, twin_status) = found, expected
    assert np.array_equal(status, twin_status)
    assert (out.dtype, out.shape) == (np.float32, twin.shape)
    fits = np.repeat(status[:, 0] == FITS, np.diff(ptr))
    assert np.array_equal(out[fits], twin[fits], equal_nan=True)


@given(bond_batches())
def test_lists_of_bonds_are_laid_out_as_by_the_twin(batch):
    lists, bonds = batch
    assert_as_the_twin(align_bonds(lists, **bonds), twins.align.align_bonds(lists, **bonds), bonds["bond_ptr"])


@given(pair_batches())
def test_lists_of_pairs_are_laid_out_as_by_the_twin(batch):
    lists, atoms = batch
    assert_as_the_twin(align_pairs(lists, **atoms), twins.align.align_pairs(lists, **atoms), atoms["pair_ptr"])


NAN = np.nan


def one_list(*values: float) -> FlatLists:
    """Of a molecule that is alone."""
    return FlatLists(np.array(values, np.float32), np.array([0]), np.array([len(values)]))


def test_labels_of_bonds_lie_on_their_bonds_whichever_way_round_these_are():
    # the text has O-C, C-N, C-F; the stored atoms are N C O F, so stored are N-C (1, reversed), C-O (0, reversed), C-F (2)
    bonds = {"bond_ptr": np.array([0, 3]), "bond_index": np.array([1, 0, 2]), "is_reversed": np.array([True, True, False])}
    out, status = align_bonds([one_list(10, 20, 30), one_list(1, 2, 3, NAN, 5, 6), one_list(NAN, NAN)], **bonds)
    assert status.tolist() == [[FITS, 0]]
    # one label a bond; from the smaller atom to the larger and back; none
    assert np.array_equal(out[:, 0], [[20, NAN], [10, NAN], [30, NAN]], equal_nan=True)
    assert np.array_equal(out[:, 1], [[NAN, 3], [2, 1], [5, 6]], equal_nan=True)
    assert np.isnan(out[:, 2]).all()
    for size in (1, 2, 4, 5, 7, 12):
        # the first that does not fit is named
        _, status = align_bonds([one_list(10, 20, 30), one_list(*range(size)), one_list(8)], **bonds)
        assert status.tolist() == [[MISFITS, size]]


def test_labels_of_pairs_lie_on_their_pairs_from_either_atom_to_the_other():
    # three heavy atoms, stored are the list's atoms 2, 0, 1 and a hydrogen, which lists do not have
    atoms = {
        "atom_ptr": np.array([0, 4]),
        "pair_ptr": np.array([0, 10]),
        "label_index": np.array([2, 0, 1, -1]),
        "readable": np.array([True]),
        "num_heavy": np.array([3]),
    }
    # a to b is 10 a + b; the pairs a < b are 01, 02, 12
    full, half = one_list(*(10 * a + b for a in range(3) for b in range(3))), one_list(1, 2, 12)
    out, status = align_pairs([full, half, one_list(*[NAN] * 5)], **atoms)
    assert status.tolist() == [[FITS, 0]]
    # stored pairs (0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2), then those of the hydrogen
    assert np.array_equal(out[:6, 0], [[22, NAN], [20, 2], [0, NAN], [21, 12], [1, 10], [11, NAN]], equal_nan=True)
    assert np.array_equal(out[:6, 1], [[NAN, NAN], [2, NAN], [NAN, NAN], [12, NAN], [1, NAN], [NAN, NAN]], equal_nan=True)
    assert np.isnan(out[6:]).all()
    assert np.isnan(out[:, 2]).all()
    assert align_pairs([half], **atoms | {"readable": np.array([False])})[1].tolist() == [[UNREADABLE, 0]]
    # a list without a number belongs to nobody, and one of another length fits nowhere whether maps can be read or not
    assert align_pairs([one_list(NAN)], **atoms | {"readable": np.array([False])})[1].tolist() == [[FITS, 0]]
    for readable in (True, False):
        for size in (1, 2, 4, 6, 8, 10):
            _, status = align_pairs([one_list(*range(size))], **atoms | {"readable": np.array([readable])})
            assert status.tolist() == [[MISFITS, size]]


@pytest.mark.parametrize(
    ("bond_ptr", "bond_index"), [([0, 2], [0, 2]), ([0, 2], [-1, 1]), ([0, 1, 2], [0, 1]), ([0, 1, 3], [1, 0, 0])]
)
def test_bonds_outside_their_molecule_are_refused_before_any_kernel_sees_them(bond_ptr, bond_index):
    n = len(bond_ptr) - 1
    lists = [FlatLists(np.zeros(2 * n, np.float32), np.arange(n) * 2, np.full(n, 2))]
    with pytest.raises(ValueError, match="a bond's number lies outside its molecule"):
        align_bonds(
            lists,
            bond_ptr=np.array(bond_ptr),
            bond_index=np.array(bond_index),
            is_reversed=np.zeros(len(bond_index), bool),
        )


def test_the_three_outcomes():
    lists = [FlatLists(np.array([1, 2, 3, np.nan, 5, 6], np.float32), np.array([0, 3, 4]), np.array([3, 1, 2]))]
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
    lists = [FlatLists(np.zeros(6, np.float32), np.array(start), np.array(size))]
    atoms = {"atom_ptr": np.array([0, 2, 4]), "label_index": np.zeros(4, np.int32), "readable": np.ones(2, bool)}
    two = np.array([2, 2])
    calls = [
        lambda: align_lists(lists, num_heavy=two, num_all=two, **atoms),
        lambda: align_pairs(lists, num_heavy=two, pair_ptr=np.array([0, 3, 6]), **atoms),
        lambda: align_bonds(
            lists, bond_ptr=np.array([0, 2, 4]), bond_index=np.array([0, 1, 0, 1]), is_reversed=np.zeros(4, bool)
        ),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=reason):
            call()


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 4))
def test_moments_are_those_of_the_definition(seed, num_rows, num_tasks):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(num_rows, num_tasks)) * 10.0 ** rng.integers(-3, 6, num_tasks)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    found, expected = measure_columns(values), twins.moments.measure_columns(values)
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
