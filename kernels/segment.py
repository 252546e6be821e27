"""Gather rows and reduce them by segment: the moves of message passing and pooling.

Native operations, chosen by measurement on CPU (benchmarks/segment.md): the gradient of plain `x[index]` costs four times as
much, and so does `segment_reduce` over sorted rows. On CPU sums add in a fixed order, so two runs give the same bits.
"""

from torch import Tensor


def gather(x: Tensor, index: Tensor) -> Tensor:
    """x[index]: rows of `x` (N, ...) at `index` int64 (M). The gradient is a segment sum."""
    return x.index_select(0, index)


def segment_sum(values: Tensor, index: Tensor, *, num_segments: int) -> Tensor:
    """Sum of the rows of `values` (M, ...) that share an `index` int64 (M): (num_segments, ...). The gradient is a gather."""
    return values.new_zeros((num_segments, *values.shape[1:])).index_add(0, index, values)


def segment_mean(values: Tensor, index: Tensor, *, num_segments: int) -> Tensor:
    """Mean of the rows of `values` (M, ...) that share an `index` int64 (M): (num_segments, ...); 0 where there are none."""
    ones = values.new_ones((len(index), *[1] * (values.dim() - 1)))
    count = segment_sum(ones, index, num_segments=num_segments)
    return segment_sum(values, index, num_segments=num_segments) / count.clamp(min=1)


def segment_max(values: Tensor, index: Tensor, *, num_segments: int) -> Tensor:
    """Largest of the rows of `values` (M, ...) that share an `index` int64 (M), column by column: (num_segments, ...); 0 where
    there are none. Rows that tie share the gradient evenly."""
    rows = index.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    zeros = values.new_zeros((num_segments, *values.shape[1:]))
    return zeros.scatter_reduce(0, rows, values, "amax", include_self=False)
