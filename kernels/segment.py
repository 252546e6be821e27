"""Gather rows and sum them by segment: the two moves of message passing, each the other's gradient.

Native operations, chosen by measurement on CPU (benchmarks/segment.md): the gradient of plain `x[index]` costs four times as
much, and so does `segment_reduce` over sorted rows. On CPU both add in a fixed order, so two runs give the same bits.
"""

from torch import Tensor


def gather(x: Tensor, index: Tensor) -> Tensor:
    """x[index]: rows of `x` (N, ...) at `index` int64 (M). The gradient is a segment sum."""
    return x.index_select(0, index)


def segment_sum(values: Tensor, index: Tensor, *, num_segments: int) -> Tensor:
    """Sum of the rows of `values` (M, ...) that share an `index` int64 (M): (num_segments, ...). The gradient is a gather."""
    return values.new_zeros((num_segments, *values.shape[1:])).index_add(0, index, values)
