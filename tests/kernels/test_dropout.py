"""Dropout: the draws of the twin, unbiased and independent, its own gradient, the same bits on any number of threads."""

import numpy as np
import pytest
import torch
import twins.dropout
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.kernels.nn.dropout import add_dropped, dropout

P = 0.3
THRESHOLD = round(P * 2**16)
SCALE = 2**16 / (2**16 - THRESHOLD)


def seed_of(seed: int) -> int:
    """What dropout draws from PyTorch's generator after this seed."""
    torch.manual_seed(seed)
    drawn = int(torch.randint(2**62, ()))
    torch.manual_seed(seed)
    return drawn


@given(
    st.integers(0, 2**40), st.integers(0, 9), st.sampled_from([1, 3, 4, 8, 17]), st.sampled_from([torch.float32, torch.float64])
)
@settings(max_examples=40)
def test_what_is_dropped_is_what_the_twin_says(seed, rows, columns, dtype):
    rng = np.random.default_rng(seed)
    old, new, weights = (torch.from_numpy(rng.normal(size=(rows, columns))).to(dtype).requires_grad_() for _ in range(3))
    is_row = torch.from_numpy(rng.random((rows, 1)) < 0.7)
    dropped = torch.from_numpy(twins.dropout.draw_dropped(seed_of(seed), THRESHOLD, rows, columns))
    kept = torch.where(dropped, 0.0, SCALE).to(dtype)

    got, expected = add_dropped(old, new, P, is_row), (old + new * kept) * is_row
    torch.testing.assert_close(got, expected)
    grads = [torch.autograd.grad((y * weights.detach()).sum(), (old, new)) for y in (got, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)

    torch.manual_seed(seed)
    got = dropout(new, P)
    torch.testing.assert_close(got, new * kept)
    (a,) = torch.autograd.grad((got * weights.detach()).sum(), new)
    torch.testing.assert_close(a, kept * weights.detach())


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
def test_as_many_as_asked_for_are_dropped_and_the_mean_stays(p):
    torch.manual_seed(0)
    x = torch.ones(4000, 256)
    y = dropout(x, p)
    number = x.numel()
    # five standard deviations
    assert abs(float((y == 0).double().mean()) - p) < 5 * (p * (1 - p) / number) ** 0.5 + 2**-16
    assert float(y.double().mean()) == pytest.approx(1, abs=5 * (p / (1 - p) / number) ** 0.5)
    assert y.unique().numel() == 2


@pytest.mark.parametrize("shift", [(0, 1), (0, 4), (1, 0), (1, 1), (64, 0)])
def test_neighbours_are_dropped_independently(shift):
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(3000, 64), 0.5) == 0).double() - 0.5
    rows, columns = shift
    a, b = dropped[rows:, columns:], dropped[: len(dropped) - rows, : 64 - columns]
    assert abs(float((4 * a * b).mean())) < 5 / a.numel() ** 0.5


def test_each_call_draws_anew_and_a_seed_draws_the_same():
    x = torch.ones(50, 64)
    torch.manual_seed(3)
    first, second = dropout(x, P), dropout(x, P)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, P), first)
    assert torch.equal(dropout(x.view(10, 5, 64), P), second.view(10, 5, 64))


def test_no_bit_depends_on_the_number_of_threads():
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(5)
            old, new = (torch.randn(3001, 130, requires_grad=True) for _ in range(2))
            is_row = torch.rand(3001, 1) < 0.9
            y = add_dropped(old, new, P, is_row)
            results.append([y.detach(), *torch.autograd.grad((y**2).sum(), (old, new)), dropout(old, P).detach()])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_without_dropout_it_is_a_sum_and_nothing_is_drawn():
    old, new = torch.randn(2, 40, 8, requires_grad=True).unbind()
    is_row = torch.rand(40, 1) < 0.5
    state = torch.get_rng_state()
    assert torch.equal(add_dropped(old, new, 0.0, is_row), (old + new) * is_row)
    assert torch.equal(add_dropped(old, new, 0.0), old + new)
    assert dropout(old, 0.0) is old
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_pytorchs(dtype):
    old, new = torch.randn(2, 40, 8).to(dtype).unbind()
    torch.manual_seed(0)
    got = add_dropped(old, new, 0.5)
    torch.manual_seed(0)
    assert torch.equal(got, old + torch.nn.functional.dropout(new, 0.5))


def test_what_is_not_finite_is_seen_unless_it_is_dropped():
    x = torch.tensor([[float("nan"), float("inf"), 1.0, 2.0]]).repeat(200, 1)
    torch.manual_seed(0)
    y = dropout(x, P)
    assert torch.isnan(y[:, 0]).any()
    assert torch.isinf(y[:, 1]).any()
    assert torch.isfinite(y[:, 2:]).all()
