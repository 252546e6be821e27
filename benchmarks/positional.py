"""Positional encodings: compute them in the loader, or store them in 8 bits? Rates and bytes of both, side by side.

    python benchmarks/positional.py [PARQUET...] [--runs 9]

Input: the embedded sample, or tables in PM6_83M's columns, built into one split. Rates are of one thread. "Dense NumPy" is what a
few lines give: matrix powers, and `eigh` of D - A with no rule for signs. A stored form is the array feature by feature, bytes
shuffled where an item has several, one zstd-9 frame a block; reading it is decompression, transposition and scaling to float32.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from molstream.kernels.chemistry import positional
from molstream.kernels.codec.bytes import shuffle_bytes, unshuffle_bytes
from molstream.shards.build.build import BuildOptions, build
from molstream.shards.format.arrays import compress, decompress
from molstream.shards.format.reader import ShardSet
from molstream.shards.sample import sample_path
from molstream.shards.splits.rules import SplitFractions

DENSE_MOLECULES = 300
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def read_structure(inputs: list[str]) -> Arrays:
    """atom_ptr, bond_ptr, bond_atoms of all molecules."""
    atom_ptr, bond_ptr, bond_atoms = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], []
    with tempfile.TemporaryDirectory() as folder:
        build(inputs, Path(folder) / "set", BuildOptions(split_fractions=SplitFractions(1.0, 0.0, 0.0)))
        for block in ShardSet(Path(folder) / "set").iter_blocks("train"):
            atom_ptr.append(atom_ptr[-1][-1] + block.atom_ptr[1:])
            bond_ptr.append(bond_ptr[-1][-1] + block.bond_ptr[1:])
            bond_atoms.append(block.bond_atoms)
    return np.concatenate(atom_ptr), np.concatenate(bond_ptr), np.concatenate(bond_atoms)


def dense_numpy(arrays: Arrays, walks: bool, eigenvectors: bool) -> None:
    atom_ptr, bond_ptr, bond_atoms = arrays
    for (a, b), (c, d) in zip(pairwise(atom_ptr), pairwise(bond_ptr)):
        weights = np.zeros((b - a, b - a))
        u, v = bond_atoms[c:d].T
        weights[u, v] = weights[v, u] = 1
        degree = weights.sum(axis=1)
        if walks:
            power = steps = weights / np.maximum(degree, 1)[:, None]
            out = np.empty((b - a, 16), np.float32)
            for k in range(16):
                out[:, k] = np.diag(power)
                power = power @ steps
        if eigenvectors:
            np.linalg.eigh(np.diag(degree) - weights)


def first(arrays: Arrays, number: int) -> Arrays:
    atom_ptr, bond_ptr, bond_atoms = arrays
    return atom_ptr[: number + 1], bond_ptr[: number + 1], bond_atoms[: bond_ptr[number]]


def encode_columns(x: np.ndarray) -> bytes:
    flat = np.ascontiguousarray(x.T).reshape(-1)
    return compress((shuffle_bytes(flat) if x.itemsize > 1 else flat).tobytes())


def decode_columns(data: bytes, like: np.ndarray) -> np.ndarray:
    flat = np.frombuffer(decompress(data), np.uint8)
    flat = unshuffle_bytes(flat, like.dtype) if like.itemsize > 1 else flat.view(like.dtype)
    return np.ascontiguousarray(flat.reshape(like.shape[1], -1).T)


def time_side_by_side(work: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median seconds of each, one after the other in every round; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(runs + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t[1:]) for name, t in times.items()}


def stored_forms(
    walk: np.ndarray, vectors: np.ndarray, values: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """{name: (codes, exact, decoded)}."""
    f16 = np.float16
    rw = positional.quantize_walk(walk)
    flat = np.rint(walk * np.float32(255)).astype(np.uint8)
    root = np.rint(np.sqrt(walk) * 255).astype(np.uint8)
    # difference to two steps before: the return probabilities of even, and of odd, steps fall slowly
    step = rw.copy()
    step[:, 2:] -= rw[:, :-2]
    codes, half = positional.quantize_laplacian(vectors, values)
    decoded, eigenvalues = positional.dequantize_laplacian(codes, half)
    lap_root = np.rint(np.sqrt(np.abs(vectors)) * np.sign(vectors) * 127).astype(np.int8)
    back = (lap_root / np.float32(127)) ** 2 * np.sign(lap_root)
    return {
        "rw16 f32": (walk, walk, walk),
        "rw16 f16": (walk.astype(f16), walk, walk.astype(f16).astype(np.float32)),
        "rw16 u8, 1/255": (flat, walk, flat / np.float32(255)),
        "rw16 u8, square root": (root, walk, (root / np.float32(255)) ** 2),
        "rw16 u8 (quantize_walk)": (rw, walk, positional.dequantize_walk(rw)),
        "the same, less two steps before": (step, walk, positional.dequantize_walk(rw)),
        "lap8 f32": (vectors, vectors, vectors),
        "lap8 f16": (vectors.astype(f16), vectors, vectors.astype(f16).astype(np.float32)),
        "lap8 i8, square root": (lap_root, vectors, back),
        "lap8 i8 (quantize_laplacian)": (codes, vectors, decoded),
        "eigenvalues f32": (values, values, values),
        "eigenvalues f16 (quantize_...)": (half, values, eigenvalues),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", nargs="*", default=[str(sample_path())])
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    arrays = read_structure(args.inputs)
    atom_ptr = arrays[0]
    n = len(atom_ptr) - 1
    few = first(arrays, min(n, DENSE_MOLECULES))
    print(f"{n:,} molecules, {atom_ptr[-1] / n:.1f} atoms and {len(arrays[2]) / n:.1f} bonds each, medians of {args.runs}\n")
    walk = positional.random_walk(*arrays)
    vectors, values = positional.laplacian(*arrays)
    codes = (positional.quantize_walk(walk), *positional.quantize_laplacian(vectors, values))

    print(f"{'stored form':34} {'B, 1024':>8} {'B, 4096':>8} {'max err':>9} {'max/std':>8} {'mean/std':>9}")
    for name, (stored, exact, decoded) in stored_forms(walk, vectors, values).items():
        sizes = []
        for block in (1024, 4096):
            used = n // block * block or n
            cuts = [*range(0, used, block), used]
            sizes.append(sum(len(encode_columns(stored[atom_ptr[a] : atom_ptr[b]])) for a, b in pairwise(cuts)) / used)
        error = np.abs(decoded - exact)
        spread = exact.std(axis=0)
        # the constant vector has next to no spread, and a column of zeros none
        kept = (spread > 0) & ((np.arange(len(spread)) > 0) | (exact is not vectors))
        maximum, mean = (error.max(axis=0)[kept] / spread[kept]).max(), (error.mean(axis=0)[kept] / spread[kept]).max()
        print(f"{name:34} {sizes[0]:8.1f} {sizes[1]:8.1f} {error.max():9.5f} {maximum:8.3f} {mean:9.4f}")

    block = min(n, 4096)
    rows = slice(0, atom_ptr[block])
    frames = [(encode_columns(c[rows]), c[rows]) for c in codes]

    def read_walk() -> None:
        positional.dequantize_walk(decode_columns(*frames[0]))

    def read_laplacian() -> None:
        positional.dequantize_laplacian(*(decode_columns(*f) for f in frames[1:]))

    def read_codes() -> None:
        for f in frames:
            decode_columns(*f)

    whole = {
        "compute rw16": (lambda: positional.random_walk(*arrays), n),
        "compute lap8": (lambda: positional.laplacian(*arrays), n),
        "compute both": (lambda: (positional.random_walk(*arrays), positional.laplacian(*arrays)), n),
        "dense NumPy rw16": (lambda: dense_numpy(few, True, False), len(few[0]) - 1),
        "dense NumPy lap8": (lambda: dense_numpy(few, False, True), len(few[0]) - 1),
        "dense NumPy both": (lambda: dense_numpy(few, True, True), len(few[0]) - 1),
        "read stored rw16": (read_walk, block),
        "read stored lap8": (read_laplacian, block),
        "read stored both": (lambda: (read_walk(), read_laplacian()), block),
        "read codes only, scaled later": (read_codes, block),
    }
    print(f"\n{'one thread':34} {'molecules/s':>12} {'us each':>8}")
    for name, seconds in time_side_by_side({k: run for k, (run, _) in whole.items()}, args.runs).items():
        print(f"{name:34} {whole[name][1] / seconds:12,.0f} {seconds / whole[name][1] * 1e6:8.2f}")


if __name__ == "__main__":
    main()
