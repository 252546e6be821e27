"""How fast are windows cut and molecules packed, and how full are packs over a whole epoch?

    molstream bench packing [--json]

Made-up sizes like PM6's (22 atoms on average, 10 to 27 and one in a hundred up to 40), like MOSES' (21.7 +- 2.5), and with heavy
tails (10 to 300); 1,048,576 molecules in uneven blocks of about 4,096, budgets as `molstream inspect` suggests them. Fill is real
atoms over usable atom slots of all planned packs, remainders of windows included; some windows are really packed, none may fail.
"""

import argparse
import json
import statistics
import time
from itertools import pairwise

import numpy as np

from molstream.kernels.packing.packs import cut_windows, num_packs, pack_molecules
from molstream.kernels.rng.permutation import shuffled
from molstream.shards.build.reduce import block_ends
from molstream.streamer.config import Budget

MOLECULES = 1 << 20
ROUNDS = 7


def pm6_like(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    atoms = np.clip(np.rint(rng.normal(22, 3.5, MOLECULES)), 10, 27).astype(np.int64)
    large = rng.random(MOLECULES) < 0.01
    atoms[large] = rng.integers(28, 41, large.sum())
    return atoms, atoms - 1 + rng.binomial(5, 0.5, MOLECULES)


def moses_like(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    atoms = np.clip(np.rint(rng.normal(21.7, 2.5, MOLECULES)), 8, 27).astype(np.int64)
    return atoms, atoms - 1 + rng.binomial(5, 0.5, MOLECULES)


def heavy_tailed(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    atoms = np.minimum(10 + (rng.pareto(1.5, MOLECULES) * 8).astype(np.int64), 300)
    return atoms, atoms - 1 + rng.binomial(atoms, 0.1)


SHAPES = {"PM6-like": pm6_like, "MOSES-like": moses_like, "heavy-tailed": heavy_tailed}


def median_s(work) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(name: str, budget_atoms: int) -> dict:
    rng = np.random.default_rng(0)
    atoms, bonds = SHAPES[name](rng)
    ends = np.concatenate([block_ends(49_152, 4096, first=k) + 49_152 * k for k in range(-(-MOLECULES // 49_152))])
    ptr = np.unique(np.concatenate([[0], np.minimum(ends, MOLECULES)]))
    budget = Budget.fit(
        atoms=budget_atoms,
        num_molecules=MOLECULES,
        num_atoms=int(atoms.sum()),
        num_bonds=int(bonds.sum()),
        max_atoms=int(atoms.max()),
        max_bonds=int(bonds.max()),
    )
    counts = [np.unique(atoms[a:b], return_counts=True) for a, b in pairwise(ptr)]
    histogram = (
        np.concatenate([[0], np.cumsum([len(sizes) for sizes, _ in counts])]),
        np.concatenate([sizes for sizes, _ in counts]),
        np.concatenate([number for _, number in counts]),
    )
    order = rng.permutation(len(ptr) - 1)
    limits = {"capacity": budget.capacity, "window_molecules": 12_288}
    arguments = (order, np.diff(ptr), np.add.reduceat(bonds, ptr[:-1]), np.maximum.reduceat(bonds, ptr[:-1]), histogram)
    window_ptr, packs = cut_windows(*arguments, **limits)
    cut_s = median_s(lambda: cut_windows(*arguments, **limits))
    windows = []
    for w in range(min(8, len(packs))):
        members = np.concatenate([np.arange(ptr[b], ptr[b + 1]) for b in order[window_ptr[w] : window_ptr[w + 1]]])
        windows.append((atoms[members], bonds[members], shuffled(len(members), key=w), int(packs[w])))
        assert packs[w] == num_packs(*windows[-1][:2], capacity=budget.capacity)

    def pack() -> None:
        for sizes, edges, shuffle, number in windows:
            pack_molecules(sizes, edges, shuffle, num_packs=number, capacity=budget.capacity)

    packed = sum(len(w[0]) for w in windows)
    fill = float(atoms.sum() / (packs.sum() * budget.capacity.atoms))
    return {
        "sizes": name,
        "budget": str(budget),
        "atom_fill_fraction": round(fill, 5),
        "windows": len(packs),
        "packs_a_window": round(float(packs.mean()), 1),
        "packed_molecules_per_s": round(packed / median_s(pack)),
        "cut_blocks_per_s": round(len(order) / cut_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = [measure(name, atoms) for name in SHAPES for atoms in (1024, 8192, 16384)]
    print(f"{'sizes':14}{'budget':>20}{'fill':>9}{'packs a window':>16}{'M molecules/s packed':>22}{'M blocks/s cut':>16}")
    for r in results:
        print(
            f"{r['sizes']:14}{r['budget']:>20}{r['atom_fill_fraction']:>9.2%}{r['packs_a_window']:>16}"
            f"{r['packed_molecules_per_s'] / 1e6:>22.1f}{r['cut_blocks_per_s'] / 1e6:>16.2f}"
        )
    if args.json:
        print(json.dumps({"benchmark": "packing", "results": results}))


if __name__ == "__main__":
    main()
