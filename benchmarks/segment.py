"""What gathers rows, adds rows by index, and sums messages along edges fastest, forward and backward, on this device?

    python benchmarks/segment.py [--device cuda] [--threads 1 2]

The shapes of message passing: E edges of H channels into A atoms; messages along the edges of graphs shaped like molecules.
`ours` is `kernels.nn.segment`; torch-scatter takes part where it is installed.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import torch

from molstream.kernels.nn.segment import Edges, gather, segment_sum, sum_messages, use_backend

SHAPES = [(1024, 128), (8192, 256)]
"""Atoms, channels."""
NUM_CODES, USED_CODES = 70, 6
"""Rows of the table of bonds, and how many of them molecules have."""


class _Sum(torch.autograd.Function):
    """What was here first: scatter_add, with its gradient written out as index_select."""

    @staticmethod
    def forward(ctx, values, index, num):
        ctx.save_for_backward(index)
        return values.new_zeros(num, values.shape[1]).scatter_add_(0, index[:, None].expand_as(values), values)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


def sums(values: torch.Tensor, index: torch.Tensor, num: int) -> dict[str, Callable[[], torch.Tensor]]:
    order = torch.argsort(index, stable=True)
    ptr = torch.searchsorted(index[order], torch.arange(num + 1, device=index.device))
    hidden = values.shape[1]
    return {
        "ours": lambda: segment_sum(values, index, num_segments=num),
        "scatter_add": lambda: values.new_zeros(num, hidden).scatter_add(0, index[:, None].expand_as(values), values),
        "own autograd function": lambda: _Sum.apply(values, index, num),
        "segment_reduce, sorted": lambda: torch.segment_reduce(values.index_select(0, order), "sum", offsets=ptr, initial=0),
    }


def gathers(rows: torch.Tensor, index: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    return {
        "ours": lambda: gather(rows, index),
        "x[index]": lambda: rows[index],
        "torch.gather": lambda: rows.gather(0, index[:, None].expand(-1, rows.shape[1])),
    }


def molecules(atoms: int) -> Edges:
    """Molecules of 22 atoms and 23 bonds: each atom bonded to one of the three before it, and two bonds that close rings."""
    generator = torch.Generator().manual_seed(0)
    bonds = []
    for first in range(0, atoms, 22):
        size = min(22, atoms - first)
        bonds += [(first + max(0, k - 1 - int(torch.randint(3, (), generator=generator))), first + k) for k in range(1, size)]
        bonds += [
            (first + k, first + k + 5)
            for k in torch.randint(max(1, size - 5), (2,), generator=generator).tolist()
            if k + 5 < size
        ]
    ends = torch.tensor(bonds)
    code = torch.randint(USED_CODES, (len(bonds),), generator=generator).repeat_interleave(2)
    return Edges.sort(ends.flatten(), ends.flip(1).flatten(), code, num_atoms=atoms)


def message_sums(x: torch.Tensor, edges: Edges, table: torch.Tensor | None) -> dict[str, Callable[[], torch.Tensor]]:
    """Each with an array of messages but ours."""

    def messages() -> torch.Tensor:
        message = gather(x, edges.source_E)
        return message if table is None else torch.relu(message + gather(table, edges.code_E))

    runs = {
        "ours": lambda: sum_messages(x, edges, table),
        "native": lambda: segment_sum(messages(), edges.target_E, num_segments=len(x)),
    }
    if importlib.util.find_spec("torch_scatter"):
        import torch_scatter

        def sorted_sum() -> torch.Tensor:
            use_backend("scatter")
            try:
                return sum_messages(x, edges, table)
            finally:
                use_backend("native")

        runs["torch-scatter, scatter"] = lambda: torch_scatter.scatter(messages(), edges.target_E, 0, dim_size=len(x))
        runs["torch-scatter, segment_csr"] = sorted_sum
    return runs


def measure_bandwidth(x: torch.Tensor, edges: Edges, table: torch.Tensor, num_runs: int) -> None:
    """Bytes that the forward sum reads and writes at least (a row an edge, a row an atom), against a copy of as many bytes."""
    num_rows = len(edges.source_E) + len(x)
    other = torch.randn(num_rows // 2, x.shape[1])
    times: dict[str, list[float]] = {"ours, forward": [], "a copy of as many bytes": []}
    with torch.no_grad():
        for _ in range(num_runs + 2):
            for name, run in zip(times, (lambda: sum_messages(x, edges, table), other.clone), strict=True):
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        print(f"  {name:28} {num_rows * x.shape[1] * x.element_size() / statistics.median(seconds[2:]) / 1e9:7.1f} GB/s")


def compare(
    title: str, runs: dict[str, Callable[[], torch.Tensor]], inputs: list[torch.Tensor], grad: torch.Tensor, num_runs: int, sync
) -> None:
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    for _ in range(num_runs + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            out = run()
            sync()
            middle = time.perf_counter()
            torch.autograd.grad(out, inputs, grad)
            sync()
            times[name][0].append(middle - start)
            times[name][1].append(time.perf_counter() - middle)
    print(f"\n{title}: forward, backward, relative to ours")
    medians = {name: [1e3 * statistics.median(t[2:]) for t in both] for name, both in times.items()}
    ours = sum(next(iter(medians.values())))
    for name, (forward, backward) in medians.items():
        print(f"  {name:28} {forward:7.3f} {backward:7.3f} {(forward + backward) / ours:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--deterministic", action="store_true")
    args = parser.parse_args()
    torch.use_deterministic_algorithms(args.deterministic)
    sync = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    device = torch.device(args.device)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, requires_grad=True)

    for num_threads in args.threads:
        torch.set_num_threads(num_threads)
        print(f"\ntorch {torch.__version__}, {args.device}, {num_threads} threads, medians of {args.runs}, milliseconds")
        for atoms, hidden in SHAPES:
            torch.manual_seed(0)
            edges = Edges(*(t.to(device) for t in molecules(atoms)))
            num_edges = len(edges.source_E)
            index = torch.randint(0, atoms, (num_edges,), device=device)
            rows, values, table = randn(atoms, hidden), randn(num_edges, hidden), randn(NUM_CODES, hidden)
            to_atoms, to_edges = torch.randn_like(rows), torch.randn_like(values)
            shape = f"{num_edges} edges of {hidden} into {atoms} atoms"
            compare(shape, sums(values, index, atoms), [values], to_atoms, args.runs, sync)
            compare(f"{atoms} atoms of {hidden} to {num_edges} edges", gathers(rows, index), [rows], to_edges, args.runs, sync)
            compare(f"neighbours, {shape}", message_sums(rows, edges, None), [rows], to_atoms, args.runs, sync)
            compare(f"messages, {shape}", message_sums(rows, edges, table), [rows, table], to_atoms, args.runs, sync)
            if args.device == "cpu":
                measure_bandwidth(rows, edges, table, args.runs)


if __name__ == "__main__":
    main()
