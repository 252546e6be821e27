"""Sums over segments of rows and their inverse, gather: the two moves of message passing, each the other's gradient.

Written as autograd functions because the stock gradient of `x[index]` is several times slower on CPU than `scatter_add`
(benchmarks/segment.md), and because both directions then add in a fixed order on CPU: two runs give the same bits.
"""

import torch
from torch import Tensor


def _scatter(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    out = values.new_zeros((num_segments, *values.shape[1:]))
    return out.scatter_add_(0, index.view(-1, *[1] * (values.dim() - 1)).expand_as(values), values)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_rows = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (index,) = ctx.saved_tensors
        return _scatter(grad, index, ctx.num_rows), None


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, index: Tensor, num_segments: int) -> Tensor:
        ctx.save_for_backward(index)
        return _scatter(values, index, num_segments)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (index,) = ctx.saved_tensors
        return grad.index_select(0, index), None, None


def gather(x: Tensor, index: Tensor) -> Tensor:
    """x[index]: rows of `x` (N, ...) at `index` int64 (M). The gradient is a segment sum."""
    return _Gather.apply(x, index)


def segment_sum(values: Tensor, index: Tensor, *, num_segments: int) -> Tensor:
    """Sum of the rows of `values` (M, ...) that share an `index` int64 (M): (num_segments, ...). The gradient is a gather."""
    return _SegmentSum.apply(values, index, num_segments)


def segment_sum_sorted(values: Tensor, order: Tensor, ptr: Tensor) -> Tensor:
    """Sum of values[order[ptr[s]:ptr[s + 1]]] for each segment s: (len(ptr) - 1, ...), one writer a segment, on any device.

    `order`, `ptr` as collation makes them (`edge_order`, `edge_ptr`).
    """
    sorted_values = gather(values, order.long())
    return torch.segment_reduce(sorted_values, "sum", offsets=ptr.long(), axis=0, initial=0)
