"""Which native operations gather rows and add rows by index fastest, forward and backward, on this device?

    python benchmarks/segment.py [--device cuda]

The shapes of message passing: E edges of H channels into A atoms. `ours` is `kernels.segment`.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from kernels.segment import gather, segment_sum


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


def compare(title: str, runs: dict[str, Callable[[], torch.Tensor]], grad: torch.Tensor, num_runs: int, sync) -> None:
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    for _ in range(num_runs + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            out = run()
            sync()
            middle = time.perf_counter()
            out.backward(grad)
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
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--deterministic", action="store_true")
    args = parser.parse_args()
    torch.use_deterministic_algorithms(args.deterministic)
    sync = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, medians of {args.runs}, milliseconds")
    for atoms, edges, hidden in [(1024, 2304, 128), (8192, 18432, 256)]:
        torch.manual_seed(0)
        index = torch.randint(0, atoms, (edges,), device=args.device)
        values = torch.randn(edges, hidden, device=args.device, requires_grad=True)
        compare(
            f"{edges} edges of {hidden} into {atoms} atoms",
            sums(values, index, atoms),
            torch.randn(atoms, hidden, device=args.device),
            args.runs,
            sync,
        )
        rows = torch.randn(atoms, hidden, device=args.device, requires_grad=True)
        compare(f"{atoms} atoms of {hidden} to {edges} edges", gathers(rows, index), torch.randn_like(values), args.runs, sync)


if __name__ == "__main__":
    main()
