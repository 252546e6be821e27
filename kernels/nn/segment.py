"""Gather rows and reduce them by segment: the moves of message passing and pooling.

Native operations, chosen by measurement on CPU (benchmarks/segment.md): the gradient of plain `x[index]` costs four times as
much, and so does `segment_reduce` over sorted rows. On CPU sums add in a fixed order, so two runs give the same bits; summed
messages are compiled there (`kernels.nn.messages`), with the bits of the native operations in a fifth of their time.

Shape suffixes: A atoms, E directed edges, C bond codes, H hidden.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from molstream.kernels.nn import messages


class Edges(NamedTuple):
    """Directed edges in pairs, as in a batch: edge e ^ 1 is the reverse of edge e."""

    source_E: Tensor
    """int64, like the next two."""
    target_E: Tensor
    code_E: Tensor
    """Bond codes."""
    order_E: Tensor
    """int32: edges by target, rising inside an atom."""
    ptr_A: Tensor
    """int32 (A + 1): edges into atom a are order_E[ptr_A[a]:ptr_A[a + 1]]."""

    @classmethod
    def sort(cls, source_E: Tensor, target_E: Tensor, code_E: Tensor, *, num_atoms: int) -> "Edges":
        """With the order of the edges and their offsets."""
        ptr_A = torch.zeros(num_atoms + 1, dtype=torch.int32, device=target_E.device)
        ptr_A[1:] = torch.bincount(target_E, minlength=num_atoms).cumsum(0)
        return cls(source_E, target_E, code_E, target_E.argsort(stable=True).int(), ptr_A)


_scatter: Any = None
"""torch-scatter, where it is the backend."""


def use_backend(name: str) -> None:
    """Choose who sums, for the rest of the process: `native` (the default: torch, and on CPUs `kernels.nn.messages`) or `scatter`
    (torch-scatter, peer and yardstick: the same values, no faster on a CPU).

    Raises ValueError for any other name, and where torch-scatter is not installed.
    """
    global _scatter  # noqa: PLW0603
    if name not in ("native", "scatter"):
        raise ValueError(f"backend {name!r}: expected native or scatter")
    if name == "native":
        _scatter = None
        return
    try:
        import torch_scatter
    except (ImportError, OSError) as error:
        raise ValueError("backend scatter: torch-scatter is not installed here: pip install 'molstream[scatter]'") from error
    _scatter = torch_scatter


def gather(x: Tensor, index: Tensor) -> Tensor:
    """x[index]: rows of `x` (N, ...) at `index` int64 (M). The gradient is a segment sum."""
    return x.index_select(0, index)


def segment_sum(values: Tensor, index: Tensor, *, num_segments: int) -> Tensor:
    """Sum of the rows of `values` (M, ...) that share an `index` int64 (M): (num_segments, ...). The gradient is a gather."""
    if _scatter is not None:
        return _scatter.scatter(values, index, 0, dim_size=num_segments, reduce="sum")
    return values.new_zeros((num_segments, *values.shape[1:])).index_add(0, index, values)


def segment_mean(values: Tensor, index: Tensor, *, num_segments: int) -> Tensor:
    """Mean of the rows of `values` (M, ...) that share an `index` int64 (M): (num_segments, ...); 0 where there are none."""
    if _scatter is not None:
        return _scatter.scatter(values, index, 0, dim_size=num_segments, reduce="mean")
    ones = values.new_ones((len(index), *[1] * (values.dim() - 1)))
    count = segment_sum(ones, index, num_segments=num_segments)
    return segment_sum(values, index, num_segments=num_segments) / count.clamp(min=1)


def segment_max(values: Tensor, index: Tensor, *, num_segments: int) -> Tensor:
    """Largest of the rows of `values` (M, ...) that share an `index` int64 (M), column by column: (num_segments, ...); 0 where
    there are none. Rows that tie share the gradient evenly. Native always: torch-scatter's takes NaN and -inf for no rows."""
    rows = index.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    zeros = values.new_zeros((num_segments, *values.shape[1:]))
    return zeros.scatter_reduce(0, rows, values, "amax", include_self=False)


def sum_messages(x_AH: Tensor, edges: Edges, table_CH: Tensor | None = None) -> Tensor:
    """Sum over edges e = j -> i of relu(x_j + table[code of e]), or of x_j where there is no table, for every atom i: (A, H).

    On a CPU in float32 or float64 this is one loop over atoms each way, on `torch.get_num_threads()` threads, with the same bits
    on any number of them; it raises ValueError for edges that are not as `Edges` says. Elsewhere it is native operations, which
    read neither the order of the edges nor that they are pairs. Gradients of gradients: without a table only.
    """
    if _scatter is not None:
        # sorted, for the one of its sums that is compiled
        order_E = edges.order_E.long()
        message = _messages(x_AH, edges.source_E[order_E], edges.code_E[order_E], table_CH)
        return _scatter.segment_csr(message, edges.ptr_A.long(), reduce="sum")
    # a compiler fuses native operations itself, and cannot look into a loop of ours
    if x_AH.device.type == "cpu" and x_AH.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling():
        if table_CH is None:
            return _SumNeighbours.apply(x_AH, edges)
        if table_CH.dtype == x_AH.dtype:
            return _SumMessages.apply(x_AH, table_CH, edges)
    message = _messages(x_AH, edges.source_E, edges.code_E, table_CH)
    return segment_sum(message, edges.target_E, num_segments=len(x_AH))


def _messages(x_AH: Tensor, source_E: Tensor, code_E: Tensor, table_CH: Tensor | None) -> Tensor:
    """(E, H)."""
    message = gather(x_AH, source_E)
    return message if table_CH is None else torch.relu(message + gather(table_CH, code_E))


class _SumNeighbours(torch.autograd.Function):
    """(A, H) -> (A, H). Edges come in pairs, so the gradient is the same sum."""

    @staticmethod
    def forward(ctx: Any, x_AH: Tensor, edges: Edges) -> Tensor:
        ctx.edges, out_AH = edges, _empty(x_AH)
        x, out = _arrays(x_AH, out_AH)
        messages.sum_messages(x, _arrays(*edges), num_threads=torch.get_num_threads(), out=out)
        return out_AH

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _SumNeighbours.apply(grads[0], ctx.edges), None


class _SumMessages(torch.autograd.Function):
    """(A, H), (C, H) -> (A, H)."""

    @staticmethod
    def forward(ctx: Any, x_AH: Tensor, table_CH: Tensor, edges: Edges) -> Tensor:
        ctx.save_for_backward(x_AH, table_CH)
        ctx.arrays, out_AH = _arrays(*edges), _empty(x_AH)
        x, table, out = _arrays(x_AH, table_CH, out_AH)
        messages.sum_messages(x, ctx.arrays, table, num_threads=torch.get_num_threads(), out=out)
        return out_AH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_AH: Tensor) -> tuple[Tensor | None, ...]:
        grads = tuple(map(_empty, ctx.saved_tensors))
        grad, x, table = _arrays(grad_AH, *ctx.saved_tensors)
        messages.message_gradients(grad, x, ctx.arrays, table, num_threads=torch.get_num_threads(), out=_arrays(*grads))
        return *grads, None


def _empty(like: Tensor) -> Tensor:
    """Torch's memory: NumPy's, which asks for huge pages, made the backward loop half as slow again (benchmarks/segment.md)."""
    return torch.empty(like.shape, dtype=like.dtype)


def _arrays(*tensors: Tensor) -> Any:
    """The same memory, or a copy where it is not contiguous."""
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)
