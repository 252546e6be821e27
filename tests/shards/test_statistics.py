import math
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from molstream.shards.format.statistics import (
    HISTOGRAMS,
    PROBABILITIES,
    LabelMoments,
    ValueCounts,
    _bins_of,
    count_structure,
    flat_labels,
    merge_histograms,
)
from molstream.shards.molecules import Molecules
from molstream.shards.schema import BOND_TYPES, encode_bond

LABELS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 12), st.just(3)),
    elements=st.floats(-1e6, 1e6, width=32) | st.just(float("nan")),
)


def plain(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and std of each column by the definition."""
    columns = [c[~np.isnan(c)].astype(np.float64) for c in labels.T]
    std = [c.std() if c.size and c.std() > 0 else 1.0 for c in columns]
    return np.array([c.size for c in columns]), np.array([c.mean() if c.size else 0.0 for c in columns]), np.array(std)


@given(st.lists(LABELS, min_size=1, max_size=5))
def test_parts_merged_in_order_have_the_moments_of_the_whole(parts):
    moments = LabelMoments.empty(3)
    for part in parts:
        moments.merge(LabelMoments.measure(part))
    whole = np.concatenate(parts)
    count, mean, std = plain(whole)
    assert moments.count.tolist() == count.tolist()
    scale = float(np.nanmax(np.abs(whole), initial=1))
    assert moments.mean == pytest.approx(mean, abs=1e-12 * scale)
    variance = moments.m2 / np.maximum(count, 1)
    assert variance == pytest.approx(np.where(count > 0, std, 0) ** 2 * (variance > 0), rel=1e-9, abs=1e-12 * scale**2)
    for k, column in enumerate(whole.T):
        real = column[~np.isnan(column)]
        assert (moments.low[k], moments.high[k]) == ((real.min(), real.max()) if real.size else (np.inf, -np.inf))
    again = LabelMoments.decode(moments.encode())
    assert all(np.array_equal(getattr(again, f.name), getattr(moments, f.name)) for f in fields(LabelMoments))


@given(st.floats(-1e6, 1e6, width=32), st.lists(st.integers(0, 50), min_size=1, max_size=5))
def test_equal_labels_have_no_spread_at_all(value, sizes):
    moments = LabelMoments.empty(1)
    for size in sizes:
        moments.merge(LabelMoments.measure(np.full((size, 1), value, np.float32)))
    assert moments.std.tolist() == [1]
    assert moments.mean.tolist() == [value if sum(sizes) else 0]


def test_a_large_offset_does_not_eat_the_spread():
    values = np.random.default_rng(0).normal(1e4, 0.25, (10_000, 1)).astype(np.float32)
    moments = LabelMoments.empty(1)
    for part in np.array_split(values, 17):
        moments.merge(LabelMoments.measure(part))
    assert moments.std[0] == pytest.approx(values.astype(np.float64).std(), rel=1e-12)


def test_a_task_without_labels_or_without_spread_has_std_one():
    moments = LabelMoments.empty(3)
    moments.merge(LabelMoments.measure(np.array([[np.nan, 5, 1], [np.nan, 5, 3]], np.float32)))
    assert moments.count.tolist() == [0, 2, 2]
    assert moments.mean.tolist() == [0, 5, 2]
    assert moments.std.tolist() == [1, 1, 1]
    assert moments.m2.tolist() == [0, 0, 2]


def test_a_block_counts_graph_tasks_first_and_atom_tasks_after():
    moments = LabelMoments.empty(3)
    moments.merge(LabelMoments.measure(np.array([[1, np.nan]], np.float32), np.array([[4], [6], [np.nan]], np.float32)))
    assert moments.count.tolist() == [1, 0, 2]
    assert moments.mean.tolist() == [1, 0, 5]
    assert moments.std.tolist() == [1, 1, 1]


def two_molecules() -> Molecules:
    """C=O and a lone nitrogen, with labels of every level."""
    nan = np.nan
    return Molecules(
        atom_ptr=np.array([0, 2, 3]),
        bond_ptr=np.array([0, 1, 1]),
        atom_codes=np.array([[6, *[0] * 6], [8, *[0] * 6], [7, *[0] * 6]], np.uint8),
        bond_codes=np.array([encode_bond(1, 2, 0)], np.uint8),
        graph_labels=np.array([[1], [nan]], np.float32),
        atom_labels=np.array([[2, nan], [4, nan], [nan, 6]], np.float32),
        # of one label both ways, and of one each way
        bond_labels=np.array([[[5, nan], [8, -8]]], np.float32),
        pair_labels=np.array([[[nan, nan]], [[3, 9]], [[nan, nan]], [[0, nan]]], np.float32),
    )


def test_tasks_are_counted_level_by_level_and_both_directions_of_a_bond_or_pair():
    num_tasks = {"graph": 1, "atom": 2, "bond": 2, "pair": 1}
    moments = LabelMoments.of(two_molecules(), num_tasks)
    assert moments.count.tolist() == [1, 2, 1, 1, 2, 3]
    assert moments.mean.tolist() == [1, 3, 6, 5, 0, 4]
    assert moments.std.tolist() == [1, 1, 1, 1, 8, pytest.approx(np.std([3, 9, 0]))]
    assert moments.low.tolist() == [1, 2, 6, 5, -8, 0]
    assert moments.high.tolist() == [1, 4, 6, 5, 8, 9]
    # a level whose column is not there has its tasks all the same
    molecules = two_molecules().replace(atom_labels=None, pair_labels=None)
    assert LabelMoments.of(molecules, num_tasks).count.tolist() == [1, 0, 0, 1, 2, 0]
    assert [x.shape for x in flat_labels(molecules, num_tasks)] == [(2, 1), (0, 2), (2, 2), (0, 1)]


def test_moments_of_one_table_are_put_among_those_of_all():
    part = LabelMoments.measure(np.array([[1, 5], [3, 5]], np.float32))
    whole = LabelMoments.scatter(part, np.array([3, 1]), 4)
    assert whole.count.tolist() == [0, 2, 0, 2]
    assert whole.mean.tolist() == [0, 5, 0, 2]
    assert whole.std.tolist() == [1, 1, 1, 1]
    assert whole.low.tolist() == [np.inf, 5, np.inf, 1]
    assert whole.high.tolist() == [-np.inf, 5, -np.inf, 3]


def test_histograms_are_counts_that_add_up_in_one_order():
    one = count_structure(two_molecules())
    assert one == {
        "atoms": {"1": 1, "2": 1},
        "bonds": {"0": 1, "1": 1},
        "elements": {"6": 1, "7": 1, "8": 1},
        "bond_types": {"double": 1},
    }
    other = {
        "atoms": {"10": 2, "2": 1},
        "bonds": {"9": 3},
        "elements": {"17": 4, "6": 26},
        "bond_types": {"single": 20, "other": 1},
    }
    for parts in ([one, other], [other, one], [merge_histograms([one]), merge_histograms([other])]):
        both = merge_histograms(parts)
        assert tuple(both) == HISTOGRAMS
        assert list(both["atoms"].items()) == [("1", 1), ("2", 2), ("10", 2)]
        assert list(both["bonds"].items()) == [("0", 1), ("1", 1), ("9", 3)]
        assert list(both["elements"].items()) == [("6", 27), ("7", 1), ("8", 1), ("17", 4)]
        assert list(both["bond_types"]) == [t for t in BOND_TYPES if t in ("single", "double", "other")]
        assert both["bond_types"] == {"single": 20, "double": 1, "other": 1}


def test_the_largest_floats_do_not_overflow():
    moments = LabelMoments.empty(1)
    moments.merge(LabelMoments.measure(np.array([[3.4e38], [-3.4e38]], np.float32)))
    assert np.isfinite(moments.std).all()


# quantiles


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=30), min_size=1, max_size=6))
def test_quantiles_are_those_of_all_labels_up_to_their_eight_leading_bits_however_counts_are_merged(parts):
    arrays = [np.array(part, np.float32) for part in parts]
    counts = []
    for values in arrays:
        part = ValueCounts(2)
        if values.size:
            part._add(1, *np.unique(_bins_of(values), return_counts=True))
        counts.append(part)
    whole, backwards = ValueCounts(2), ValueCounts(2)
    for part in counts:
        whole.merge(ValueCounts.decode(part.encode(), 2))
    for part in reversed(counts):
        backwards.merge(part)
    values = np.sort(np.concatenate(arrays))
    assert whole.quantiles(0, low=np.inf, high=-np.inf) == {}
    if not values.size:
        assert whole.quantiles(1, low=np.inf, high=-np.inf) == {}
        return
    found = whole.quantiles(1, low=float(values[0]), high=float(values[-1]))
    assert found == backwards.quantiles(1, low=float(values[0]), high=float(values[-1]))
    assert list(found) == [f"{p:g}" for p in PROBABILITIES]
    for p, value in zip(PROBABILITIES, found.values(), strict=True):
        exact = float(values[math.ceil(Fraction(str(p)) * len(values)) - 1])
        assert abs(value - exact) <= abs(exact) / 128 + 1e-38
        assert values[0] <= value <= values[-1]


def test_a_quantile_is_the_least_value_that_its_share_of_the_labels_does_not_exceed():
    counts = ValueCounts(1)
    counts._add(0, *np.unique(_bins_of(np.arange(1, 101, dtype=np.float32)), return_counts=True))
    found = counts.quantiles(0, low=1.0, high=100.0)
    assert (found["0.55"], found["0.35"], found["0.7"]) == (55.0, 35.0, 70.0)


def test_quantiles_of_whole_numbers_are_exact():
    counts = ValueCounts(1)
    counts._add(0, *np.unique(_bins_of(np.arange(-256, 257, dtype=np.float32)), return_counts=True))
    found = counts.quantiles(0, low=-256.0, high=256.0)
    assert (found["0.5"], found["0.05"], found["0.9"], found["0.001"]) == (0.0, -231.0, 205.0, -256.0)
