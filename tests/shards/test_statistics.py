import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shards.statistics import Moments

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
    moments = Moments.empty(3)
    for part in parts:
        moments.merge(Moments.measure(part))
    whole = np.concatenate(parts)
    count, mean, std = plain(whole)
    assert moments.count.tolist() == count.tolist()
    scale = float(np.nanmax(np.abs(whole), initial=1))
    assert moments.mean == pytest.approx(mean, abs=1e-12 * scale)
    variance = moments.m2 / np.maximum(count, 1)
    assert variance == pytest.approx(np.where(count > 0, std, 0) ** 2 * (variance > 0), rel=1e-9, abs=1e-12 * scale**2)


@given(st.floats(-1e6, 1e6, width=32), st.lists(st.integers(0, 50), min_size=1, max_size=5))
def test_equal_labels_have_no_spread_at_all(value, sizes):
    moments = Moments.empty(1)
    for size in sizes:
        moments.merge(Moments.measure(np.full((size, 1), value, np.float32)))
    assert moments.std.tolist() == [1]
    assert moments.mean.tolist() == [value if sum(sizes) else 0]


def test_a_large_offset_does_not_eat_the_spread():
    values = np.random.default_rng(0).normal(1e4, 0.25, (10_000, 1)).astype(np.float32)
    moments = Moments.empty(1)
    for part in np.array_split(values, 17):
        moments.merge(Moments.measure(part))
    assert moments.std[0] == pytest.approx(values.astype(np.float64).std(), rel=1e-12)


def test_a_task_without_labels_or_without_spread_has_std_one():
    moments = Moments.empty(3)
    moments.merge(Moments.measure(np.array([[np.nan, 5, 1], [np.nan, 5, 3]], np.float32)))
    assert moments.count.tolist() == [0, 2, 2]
    assert moments.mean.tolist() == [0, 5, 2]
    assert moments.std.tolist() == [1, 1, 1]
    assert moments.m2.tolist() == [0, 0, 2]


def test_a_block_counts_graph_tasks_first_and_atom_tasks_after():
    moments = Moments.empty(3)
    moments.merge(Moments.measure(np.array([[1, np.nan]], np.float32), np.array([[4], [6], [np.nan]], np.float32)))
    assert moments.count.tolist() == [1, 0, 2]
    assert moments.mean.tolist() == [1, 0, 5]
    assert moments.std.tolist() == [1, 1, 1]


def test_the_largest_floats_do_not_overflow():
    moments = Moments.empty(1)
    moments.merge(Moments.measure(np.array([[3.4e38], [-3.4e38]], np.float32)))
    assert np.isfinite(moments.std).all()
