"""Streaming metrics against NumPy on everything at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.metrics import RegressionMetrics, summarize


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(2, 300), parts=st.integers(1, 7), shift=st.sampled_from([0.0, 3.0, 100.0]))
def test_metrics_equal_those_of_all_predictions_at_once(seed, rows, parts, shift):
    rng = np.random.default_rng(seed)
    target = rng.normal(shift, 1, (rows, 3)).astype(np.float32)
    prediction = (0.5 * target + rng.normal(0, 1, (rows, 3))).astype(np.float32)
    mask = rng.random((rows, 3)) < 0.7
    metrics = RegressionMetrics(3)
    for part in np.array_split(np.arange(rows), parts):
        metrics.add(torch.from_numpy(prediction[part]), torch.from_numpy(target[part]), torch.from_numpy(mask[part]))
    for t, task in enumerate(metrics.tasks(("a", "b", "c"))):
        p, y = (x[mask[:, t], t].astype(np.float64) for x in (prediction, target))
        assert task.count == len(y)
        if len(y) == 0:
            assert (task.mae, task.pearson, task.r2) == (None, None, None)
            continue
        assert task.mae == pytest.approx(np.abs(p - y).mean(), rel=1e-6)
        assert task.mean_mae == pytest.approx(np.abs(y).mean(), rel=1e-6)
        if len(y) > 2:
            assert task.pearson == pytest.approx(np.corrcoef(p, y)[0, 1], rel=1e-6, abs=1e-6)
            assert task.r2 == pytest.approx(1 - ((p - y) ** 2).sum() / ((y - y.mean()) ** 2).sum(), rel=1e-6, abs=1e-6)


def test_metrics_that_labels_do_not_define_are_undefined_not_zero():
    metrics = RegressionMetrics(4)
    target = torch.tensor([[1.0, 2.0, 3.0, 0.0], [1.0, 5.0, 4.0, 0.0], [1.0, 7.0, 9.0, 0.0]])
    prediction = torch.tensor([[1.0, 2.0, 1.0, 0.0], [2.0, 2.0, 2.0, 0.0], [3.0, 2.0, 3.0, 0.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, False, False], [True, True, False, False]])
    constant, flat, single, none = metrics_of = (metrics.add(prediction, target, mask), metrics.tasks(tuple("abcd")))[1]
    assert (constant.pearson, constant.r2) == (None, None)
    assert flat.pearson is None
    assert flat.r2 is not None
    assert (single.pearson, single.r2, single.count) == (None, None, 1)
    assert (none.mae, none.mean_mae) == (None, None)
    assert summarize(metrics_of)["r2"] == flat.r2


def test_masked_entries_may_be_anything():
    metrics = RegressionMetrics(1)
    metrics.add(torch.tensor([[1.0], [float("nan")]]), torch.tensor([[2.0], [float("inf")]]), torch.tensor([[True], [False]]))
    assert metrics.tasks(("a",))[0].mae == 1.0
