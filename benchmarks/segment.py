"""Which native operation adds rows by index fastest, forward and backward, on this device?

    python benchmarks/segment.py [--device cuda]

The shapes of message passing: E edges of H channels into A atoms. `ours` is `kernels.segment.segment_sum`.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from kernels.segment import segment_sum, segment_sum_sorted


def candidates(values: torch.Tensor, index: torch.Tensor, num: int) -> dict[str, Callable[[], torch.Tensor]]:
    order = torch.argsort(index, stable=True)
    ptr = torch.searchsorted(index[order], torch.arange(num + 1, device=index.device))
    hidden = values.shape[1]
    return {
        "ours (scatter_add, gather)": lambda: segment_sum(values, index, num_segments=num),
        "scatter_add": lambda: values.new_zeros(num, hidden).scatter_add(0, index[:, None].expand_as(values), values),
        "index_add": lambda: values.new_zeros(num, hidden).index_add(0, index, values),
        "segment_reduce, sorted": lambda: segment_sum_sorted(values, order, ptr),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    sync = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, medians of {args.runs}, milliseconds")
    for atoms, edges, hidden in [(1024, 2304, 128), (8192, 18432, 256)]:
        torch.manual_seed(0)
        index = torch.randint(0, atoms, (edges,), device=args.device)
        values = torch.randn(edges, hidden, device=args.device, requires_grad=True)
        grad = torch.randn(atoms, hidden, device=args.device)
        runs = candidates(values, index, atoms)
        times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
        for _ in range(args.runs + 2):
            for name, run in runs.items():
                start = time.perf_counter()
                out = run()
                sync()
                middle = time.perf_counter()
                out.backward(grad)
                sync()
                times[name][0].append(middle - start)
                times[name][1].append(time.perf_counter() - middle)
        print(f"\n{edges} edges of {hidden} into {atoms} atoms: forward, backward, relative to ours")
        medians = {name: [1e3 * statistics.median(t[2:]) for t in both] for name, both in times.items()}
        ours = sum(next(iter(medians.values())))
        for name, (forward, backward) in medians.items():
            print(f"  {name:28} {forward:7.3f} {backward:7.3f} {(forward + backward) / ours:6.2f}")


if __name__ == "__main__":
    main()
