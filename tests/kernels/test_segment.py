"""Segment sums and gather: values equal the twins, gradients equal those of plain indexing and of finite differences."""

import sys

import numpy as np
import pytest
import torch
import twins.segment
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.kernels.nn.segment import gather, segment_max, segment_mean, segment_sum, use_backend


@pytest.fixture(params=["native", "scatter"], scope="module", autouse=True)
def backend(request):
    """Every test with each."""
    if request.param == "scatter":
        pytest.importorskip("torch_scatter")
    use_backend(request.param)
    yield request.param
    use_backend("native")


@st.composite
def segments(draw):
    """(values, index, num_segments): rows of any number of dimensions; some segments empty."""
    num_segments, num_rows = draw(st.integers(1, 6)), draw(st.integers(0, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.normal(size=(num_rows, *draw(st.sampled_from([(), (3,), (2, 2), (0,)]))))
    return values, rng.integers(0, num_segments, num_rows), num_segments


@given(segments())
@settings(deadline=None, max_examples=60)
def test_segment_operations_equal_their_twins(case):
    values, index, num_segments = case
    x, i = torch.from_numpy(values), torch.from_numpy(index)
    total = twins.segment.segment_sum(values, index, num_segments=num_segments)
    np.testing.assert_allclose(segment_sum(x, i, num_segments=num_segments), total, atol=1e-12)
    np.testing.assert_array_equal(gather(torch.from_numpy(total), i), twins.segment.gather(total, index))
    mean = twins.segment.segment_mean(values, index, num_segments=num_segments)
    np.testing.assert_allclose(segment_mean(x, i, num_segments=num_segments), mean, atol=1e-12)
    largest = twins.segment.segment_max(values, index, num_segments=num_segments)
    np.testing.assert_array_equal(segment_max(x, i, num_segments=num_segments), largest)


@given(segments())
@settings(deadline=None, max_examples=40)
def test_gradients_equal_those_of_plain_torch_and_of_the_twins(case):
    values, index, num_segments = case
    i = torch.from_numpy(index)
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(num_segments, *values.shape[1:]))).requires_grad_()
    weights = torch.from_numpy(rng.normal(size=values.shape))
    (got,) = torch.autograd.grad((gather(rows, i) * weights).sum(), rows)
    (expect,) = torch.autograd.grad((rows[i] * weights).sum(), rows)
    torch.testing.assert_close(got, expect)
    np.testing.assert_allclose(got, twins.segment.segment_sum(weights.numpy(), index, num_segments=num_segments), atol=1e-12)

    x = torch.from_numpy(values).requires_grad_()
    weights = torch.from_numpy(rng.normal(size=rows.shape))
    (got,) = torch.autograd.grad((segment_sum(x, i, num_segments=num_segments) * weights).sum(), x)
    (expect,) = torch.autograd.grad((torch.zeros_like(rows).index_add(0, i, x) * weights).sum(), x)
    torch.testing.assert_close(got, expect)
    np.testing.assert_array_equal(got, twins.segment.gather(weights.numpy(), index))


def operations(index, num_segments):
    """Each operation as a function of one tensor, and the number of rows of that tensor."""
    return {
        "gather": (lambda x: gather(x, index), num_segments),
        "segment_sum": (lambda x: segment_sum(x, index, num_segments=num_segments), len(index)),
        "segment_mean": (lambda x: segment_mean(x, index, num_segments=num_segments), len(index)),
        "segment_max": (lambda x: segment_max(x, index, num_segments=num_segments), len(index)),
    }


OPERATIONS = ["gather", "segment_sum", "segment_mean", "segment_max"]


@pytest.mark.parametrize("name", ["gather", "segment_sum"])
def test_gradients_of_gradients_equal_finite_differences(name):
    operation, num_rows = operations(torch.tensor([3, 0, 0, 4, 3, 3, 1]), 6)[name]
    x = torch.randn(num_rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: operation(x) ** 2, (x,))


@pytest.mark.parametrize("name", OPERATIONS)
def test_values_and_gradients_are_the_same_bits_every_time(name):
    generator = torch.Generator().manual_seed(0)
    operation, num_rows = operations(torch.randint(0, 500, (4000,), generator=generator), 500)[name]
    x = torch.randn(num_rows, 32, generator=generator, requires_grad=True)

    def values_and_gradients():
        values = operation(x)
        return values, *torch.autograd.grad((values**2).sum(), x)

    first = values_and_gradients()
    for _ in range(5):
        assert all(map(torch.equal, values_and_gradients(), first))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_keep_the_dtype(dtype):
    for name, (operation, num_rows) in operations(torch.tensor([1, 1, 0]), 2).items():
        assert operation(torch.ones(num_rows, 2, dtype=dtype)).dtype == dtype, name


def test_an_empty_segment_sums_and_averages_to_zero():
    values, index = torch.full((2, 3), 5.0), torch.tensor([2, 2])
    for reduce in (segment_sum, segment_mean, segment_max):
        assert reduce(values, index, num_segments=4)[[0, 1, 3]].abs().sum() == 0
        assert reduce(-values, index, num_segments=4)[2].max() < 0


@pytest.mark.parametrize("missing", [np.nan, -np.inf])
def test_a_row_that_is_no_number_stays_one(missing):
    values = torch.tensor([[missing], [1.0], [missing], [2.0]])
    for reduce, expect in ((segment_sum, [missing, 3.0]), (segment_mean, [missing, 1.5]), (segment_max, [missing, 2.0])):
        got = reduce(values, torch.tensor([0, 1, 0, 1]), num_segments=2)
        np.testing.assert_array_equal(got.flatten(), expect, err_msg=reduce.__name__)


def test_rows_that_tie_for_the_largest_share_the_gradient():
    values = torch.tensor([1.0, 1.0, 0.0, -1.0], requires_grad=True)
    segment_max(values, torch.tensor([0, 0, 0, 1]), num_segments=2).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.5, 0.0, 1.0]


def test_the_backend_that_was_chosen_sums(backend, monkeypatch):
    sums = []
    if backend == "scatter":
        import torch_scatter

        original = torch_scatter.scatter
        monkeypatch.setattr(torch_scatter, "scatter", lambda *args, **how: sums.append(how["reduce"]) or original(*args, **how))
    for reduce in (segment_sum, segment_mean):
        reduce(torch.ones(2, 1), torch.tensor([1, 1]), num_segments=2)
    assert sums == (["sum", "mean"] if backend == "scatter" else [])


def test_a_backend_that_is_not_there_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="backend 'triton': expected native or scatter"):
        use_backend("triton")
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    with pytest.raises(ValueError, match=r"not installed here: pip install 'molstream\[scatter\]'"):
        use_backend("scatter")
