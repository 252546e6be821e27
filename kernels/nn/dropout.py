"""Dropout, alone and with the sum and the padding that follow it: one pass over memory, random bits from a counter.

On a CPU PyTorch draws a Mersenne twister number for each state, one after another on one thread: a sixth of a training step
(benchmarks/train.md). Here a draw is a hash of (seed, row, column), so rows are independent, nothing is stored for the gradient,
and no bit depends on the number of threads. The seed is a number of PyTorch's generator; a probability is a multiple of 2^-16.

Shape suffixes: N rows, H channels.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from molstream.kernels.nn import _dropout
from molstream.kernels.nn.threads import run_parts

_ONE = 2**16
_NUMBERS_A_THREAD = 2**16


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each number with probability `p` and divide the others by 1 - p; any shape."""
    if p == 0:
        return x
    if not _is_ours(x):
        return F.dropout(x, p)
    return _Dropout.apply(x, _draw_seed(), _threshold(p))


def add_dropped(old_NH: Tensor, new_NH: Tensor, p: float, is_row_N1: Tensor | None = None) -> Tensor:
    """old + dropout(new), and 0 in the rows where `is_row_N1` (bool) is False."""
    if not (_is_ours(old_NH) and new_NH.dtype == old_NH.dtype and old_NH.dim() == 2):
        total = old_NH + (F.dropout(new_NH, p) if p else new_NH)
        return total if is_row_N1 is None else total * is_row_N1
    if is_row_N1 is None:
        is_row_N1 = torch.ones(len(old_NH), 1, dtype=torch.bool)
    return _AddDropped.apply(old_NH, new_NH, is_row_N1, _draw_seed() if p else 0, _threshold(p))


def _is_ours(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()


def _draw_seed() -> int:
    return int(torch.randint(2**62, ()))


def _threshold(p: float) -> int:
    """Of 2^16 draws, how many are dropped: at least one, for p above 0."""
    return min(_ONE - 1, max(1, round(p * _ONE))) if p else 0


def _run(function: Any, arrays: tuple, numbers: tuple, outs: tuple) -> None:
    """A loop over rows, on torch's number of threads where that gains something."""
    rows = len(outs[0])
    threads = max(1, min(torch.get_num_threads(), outs[0].size // _NUMBERS_A_THREAD))
    run_parts(function, [(*arrays, *numbers, rows * t // threads, rows * (t + 1) // threads, *outs) for t in range(threads)])


def _numbers(seed: int, threshold: int, dtype: np.dtype) -> tuple:
    # of the same kind as the states, so that the loop is in one precision
    return np.uint64(seed), np.int64(threshold), dtype.type(_ONE / (_ONE - threshold))


class _Dropout(torch.autograd.Function):
    """Any shape; the gradient is the same loop."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: int, threshold: int) -> Tensor:
        ctx.draw = seed, threshold
        rows = x.detach().contiguous().view(-1, x.shape[-1])
        # torch's memory: NumPy's, which asks for huge pages, is slower (benchmarks/segment.md)
        out = torch.empty(rows.shape, dtype=rows.dtype)
        arrays = rows.numpy(), out.numpy()
        _run(_dropout.drop, arrays[:1], _numbers(seed, threshold, arrays[0].dtype), arrays[1:])
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Dropout.apply(grads[0], *ctx.draw), None, None


class _AddDropped(torch.autograd.Function):
    """(N, H), (N, H), (N, 1) -> (N, H)."""

    @staticmethod
    def forward(ctx: Any, old: Tensor, new: Tensor, is_row: Tensor, seed: int, threshold: int) -> Tensor:
        ctx.draw, ctx.is_row = (seed, threshold), is_row
        a, b = (t.detach().contiguous().numpy() for t in (old, new))
        out = torch.empty(old.shape, dtype=old.dtype)
        _run(_dropout.add_dropped, (a, b, is_row.view(-1).numpy()), _numbers(seed, threshold, a.dtype), (out.numpy(),))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        array = grad.contiguous().numpy()
        outs = torch.empty(grad.shape, dtype=grad.dtype), torch.empty(grad.shape, dtype=grad.dtype)
        seed, threshold = ctx.draw
        numbers = _numbers(seed, threshold, array.dtype)
        _run(_dropout.add_dropped_gradients, (array, ctx.is_row.view(-1).numpy()), numbers, tuple(t.numpy() for t in outs))
        return *outs, None, None, None
