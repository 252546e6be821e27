"""Packing: how many packs a window needs, from size counts alone, and which molecule goes into which.

The invariant everything rests on: the number of packs is a function of the counts of molecule sizes, so it is known from the
index before a byte of payload is read; and the packing then succeeds with exactly that number.

Why it does (list scheduling, Graham 1969): molecules are placed largest first, each into a pack whose load does not exceed the
mean load so far. A pack's load after receiving a molecule of v atoms is then at most (S_v - v) / P + v, where S_v is the sum of
all molecules of v atoms and more. `num_packs` is the least P for which this stays within the budget at every v, or is the
number of molecules of v atoms and more (then each finds an empty pack). Edges and graphs have room to spare by choice of the
budget; P also leaves, in each of them, room for one largest molecule above the mean, and is raised by two and a sixteenth where a
molecule takes more than an eighth of a pack. That part is measured, not proven: of 100,000 sets made to break it, one does.
"""

from typing import NamedTuple

import numpy as np

from kernels import _numba


class Capacity(NamedTuple):
    """Usable room of a pack (the padding slot of graphs and atoms is already taken off)."""

    graphs: int
    atoms: int
    edges: int
    """Directed edges: two a bond."""


class PackingError(ValueError):
    """The molecules of a window do not fit into its planned packs."""


def num_packs(sizes: np.ndarray, bonds: np.ndarray, *, capacity: Capacity, max_bonds: int | None = None) -> int:
    """Packs that molecules with these atom and bond counts are planned into.

    `max_bonds`: bonds of the largest molecule of the whole set (default: of these), the slack kept in edges.
    """
    if len(sizes) == 0:
        return 0
    histogram = np.bincount(np.asarray(sizes, np.int64))
    most = 2 * int(np.max(bonds) if max_bonds is None else max_bonds)
    limits = np.array([*capacity, most], np.int64)
    return int(_numba.needed_packs(histogram, len(sizes), int(np.sum(bonds, dtype=np.int64)), limits))


def cut_windows(
    order: np.ndarray,
    sums: np.ndarray,
    hist_ptr: np.ndarray,
    hist_size: np.ndarray,
    hist_count: np.ndarray,
    *,
    capacity: Capacity,
    max_bonds: int,
    window_molecules: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut blocks in epoch order into windows of `window_molecules` to 1.5 times as many, each ending where its packs are fullest.

    `order`: blocks in epoch order (K); `sums`: molecules, atoms, bonds of each block (num_blocks, 3); `hist_*`: size counts of
    block b at hist_ptr[b]:hist_ptr[b + 1]. A remainder smaller than `window_molecules` joins the window before it.
    Returns (window_ptr (W + 1) into `order`, packs of each window (W)), both int64.
    """
    window_end, window_packs = np.empty(order.size, np.int64), np.empty(order.size, np.int64)
    count = _numba.cut_windows(
        np.ascontiguousarray(order, np.int64),
        np.ascontiguousarray(sums, np.int64),
        np.ascontiguousarray(hist_ptr, np.int64),
        np.ascontiguousarray(hist_size, np.int64),
        np.ascontiguousarray(hist_count, np.int64),
        np.array([*capacity, 2 * max_bonds], np.int64),
        int(hist_size.max()) if hist_size.size else 0,
        window_molecules,
        window_molecules + window_molecules // 2,
        window_end,
        window_packs,
    )
    return np.concatenate([[0], window_end[:count]]), window_packs[:count].copy()


def pack_molecules(
    sizes: np.ndarray, bonds: np.ndarray, order: np.ndarray, *, num_packs: int, capacity: Capacity
) -> tuple[np.ndarray, np.ndarray]:
    """Balance molecules into exactly `num_packs` packs.

    `sizes`, `bonds`: atoms and bonds of each molecule (N); `order`: a permutation of range(N) that breaks ties and orders each
    pack inside. Returns (pack_ptr (num_packs + 1), molecules (N)): pack p holds molecules[pack_ptr[p]:pack_ptr[p + 1]].
    Raises PackingError when a molecule finds no place.
    """
    pack_ptr, molecules = np.empty(num_packs + 1, np.int64), np.empty(len(sizes), np.int64)
    if not len(sizes) == len(bonds) == len(order):
        raise ValueError(f"{len(sizes)} sizes, {len(bonds)} bond counts, {len(order)} places do not agree")
    sizes, bonds = np.ascontiguousarray(sizes, np.int64), np.ascontiguousarray(bonds, np.int64)
    order = np.ascontiguousarray(order, np.int64)
    left = _numba.pack_window(sizes, bonds, order, num_packs, *capacity, pack_ptr, molecules)
    if left >= 0:
        # edges or graphs were in the way, where there is no proof: weigh all three
        left = _numba.pack_window_jointly(sizes, bonds, order, num_packs, *capacity, pack_ptr, molecules)
    if left >= 0:
        raise PackingError(
            f"a molecule of {sizes[left]} atoms and {2 * bonds[left]} directed edges finds no room in {num_packs} packs of "
            f"{capacity.graphs} graphs, {capacity.atoms} atoms, {capacity.edges} edges: raise the budget of edges or graphs"
        )
    return pack_ptr, molecules
