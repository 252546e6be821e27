"""Packing: how many packs a window needs, from the index alone, and which molecule goes into which.

The invariant everything rests on: the number of packs P is a function of counts in the index, so it is known before a byte of
payload is read; and packing then succeeds with exactly that number, whatever the molecules are and in every dimension.

Two ways of packing are tried. The fast one, each molecule into the emptiest pack (list scheduling, Graham 1969), nearly always
does. The other one is proven, and P is planned from its proof:

    sort by atoms     | 41 40 38 | 31 30 30 | 28 28 27 | 25 22 |      rounds of P molecules, the last one with fewer
    a round           one molecule to each pack, most edges to the pack with fewest edges so far

- Graphs: a pack has at most R = ceil(N / P).
- Atoms, and pairs of atoms, which grow with them: at most the sum over rounds of the largest molecule, exact from the histogram.
- Edges: if loads x <= y get items a >= b, then y + b - (x + a) is at most y - x and at least b - a. So two loads never differ by
  more than two molecules can, D edges, and no load exceeds the mean by more than D (P - 1) / P. Nor do R molecules have more than
  R times the most of one.
- Labels: at most those of the R molecules with most labels, from the histogram of their counts.

Two variants have bounds of their own, and P is the least number for which one of all is within the budget everywhere. The last
round may be dealt together with the first, the smallest to the largest: both count as one whose atoms are exact from the
histogram, and D doubles. Molecules of more than 1/2, 1/4, 1/8 or 1/16 of a pack may have a pack of their own, and the bounds hold
for the others (the index does not know how many have many edges, but no more can have n than there are n in all edges).
Molecules taken away or packs added make none of the bounds larger. With as many packs as molecules each has its own.
"""

from typing import NamedTuple

import numpy as np

from molstream.kernels.packing import _packs

MAX_ATOMS, MAX_EDGES = 1 << (63 - _packs.EDGE_BITS - _packs.PACK_BITS), 1 << _packs.EDGE_BITS
"""A pack holds fewer: its load is one integer."""


WIDEST = 3
"""Largest window, in least ones: the more ends there are to choose from, the fuller are packs, and the more memory it takes."""


class Capacity(NamedTuple):
    """Usable room of a pack (the padding slot of graphs and atoms is already taken off)."""

    graphs: int
    atoms: int
    edges: int
    """Directed edges: two a bond."""
    labels: int | None = None
    """Graph-level labels, where they are listed; None: they are no matter of packing."""
    pairs: int | None = None
    """Pairs of atoms i <= j of one molecule, instead of labels: n (n + 1) / 2 of a molecule of n atoms; None: the same."""


class PackingError(ValueError):
    """The molecules of a window do not fit into its planned packs."""


def num_packs(sizes: np.ndarray, bonds: np.ndarray, *, capacity: Capacity) -> int:
    """Packs that molecules with these atom and bond counts are planned into; labels, if the capacity limits them, are none."""
    if len(sizes) == 0:
        return 0
    bonds = np.asarray(bonds, np.int64)
    values, counts = np.unique(sizes, return_counts=True)
    number, total, most = (np.array([n], np.int32) for n in (len(sizes), bonds.sum(), bonds.max()))
    histogram = (np.array([0, len(values)], np.int64), values.astype(np.uint16), counts.astype(np.int32))
    _, packs = cut_windows(np.zeros(1, np.int64), number, total, most, histogram, capacity=capacity, window_molecules=1)
    return int(packs[0])


def cut_windows(
    order: np.ndarray,
    molecules: np.ndarray,
    bonds: np.ndarray,
    max_bonds: np.ndarray,
    histogram: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    capacity: Capacity,
    window_molecules: int,
    labels: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    max_labels: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut blocks in epoch order into windows of `window_molecules` to WIDEST times as many, so that all take fewest packs.

    `order`: blocks in epoch order (K); `molecules`, `bonds`, `max_bonds`: of each block, the last of its one molecule with most
    (num_blocks); `histogram`: (ptr, size, count), how many molecules of which size block b has at ptr[b]:ptr[b + 1];
    `labels`: the same for numbers of graph-level labels above 0, where the capacity limits these, of which at most
    `max_labels` of a molecule are listed. Molecules of more atoms or pairs than a pack are not counted: they are left out. Of
    cuts that take equally many packs it is that with the earliest ends. A window is larger where its last block, or a
    remainder smaller than `window_molecules`, makes it so. Where a window is of many blocks, it ends at every 64th part of
    its least size, or so. Every window has a pack.
    Returns (window_ptr (W + 1) into `order`, packs of each window (W)), both int64.
    """
    window_end, window_packs = np.empty(order.size, np.int64), np.empty(order.size, np.int64)
    if labels is None:
        labels = np.zeros(len(molecules) + 1, np.int64), np.empty(0, np.uint16), np.empty(0, np.uint16)
    limits = [-1 if limit is None else limit for limit in capacity]
    count = _packs.cut_windows(
        np.ascontiguousarray(order, np.int64),
        molecules,
        bonds,
        max_bonds,
        *histogram,
        *labels,
        max_labels,
        np.array(limits, np.int64),
        window_molecules,
        WIDEST * window_molecules,
        window_end,
        window_packs,
    )
    return np.concatenate([[0], window_end[:count]]), window_packs[:count].copy()


def count_larger(blocks: np.ndarray, histogram: tuple[np.ndarray, np.ndarray, np.ndarray], *, atoms: int) -> int:
    """Molecules of more than `atoms` atoms in some blocks; arguments as in `cut_windows`."""
    return int(_packs.count_larger(np.ascontiguousarray(blocks, np.int64), *histogram, atoms))


def deal_to_lanes(sizes: np.ndarray, *, num_lanes: int, load: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Each item in order to the lane with least of `sizes` so far, the lowest of several.

    `load` (num_lanes): what the lanes hold before. Returns the lane of each item and the loads after all, int64.
    """
    load = np.zeros(num_lanes, np.int64) if load is None else load.astype(np.int64)
    lanes = np.empty(len(sizes), np.int64)
    _packs.deal(np.ascontiguousarray(sizes, np.int64), load, lanes)
    return lanes, load


def count_whole(sizes: np.ndarray, *, num_lanes: int) -> int:
    """How many items, a multiple of `num_lanes`, can be dealt whole while no lane gets more than its even share of all."""
    return int(_packs.count_whole(np.ascontiguousarray(sizes, np.int64), num_lanes))


def pack_molecules(
    sizes: np.ndarray,
    bonds: np.ndarray,
    order: np.ndarray,
    *,
    num_packs: int,
    capacity: Capacity,
    labels: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Balance molecules into exactly `num_packs` packs.

    `sizes`, `bonds`, `labels`: atoms, bonds and, where capacity has a limit of these, graph-level labels of each molecule (N);
    pairs of atoms follow from sizes; `order`: the molecules to pack, each once, which breaks ties and orders each pack inside.
    Returns (pack_ptr (num_packs + 1), molecules): pack p holds molecules[pack_ptr[p]:pack_ptr[p + 1]]. Raises PackingError when a
    molecule finds no place.
    """
    if not len(sizes) == len(bonds) >= len(order):
        raise ValueError(f"{len(sizes)} sizes, {len(bonds)} bond counts, {len(order)} places do not agree")
    if num_packs >= 1 << _packs.PACK_BITS:
        raise PackingError(f"{num_packs} packs in a window, at most {(1 << _packs.PACK_BITS) - 1}: take smaller windows")
    if capacity.atoms >= MAX_ATOMS or capacity.edges >= MAX_EDGES:
        raise ValueError(f"packs of {capacity.atoms} atoms, {capacity.edges} edges: at most {MAX_ATOMS - 1}, {MAX_EDGES - 1}")
    sizes, edges = np.ascontiguousarray(sizes, np.int64), 2 * np.ascontiguousarray(bonds, np.int64)
    # of the kernels' four dimensions one is for either of these
    if capacity.pairs is not None:
        if capacity.labels is not None:
            raise ValueError(f"packs of {capacity.labels} labels and {capacity.pairs} pairs: one of both at most")
        spare, limit, counts = "pairs", capacity.pairs, sizes * (sizes + 1) // 2
    elif labels is not None and capacity.labels is not None:
        spare, limit, counts = "labels", capacity.labels, np.ascontiguousarray(labels, np.int64)
    else:
        spare, limit, counts = "", 0, np.empty(0, np.int64)
    order = np.ascontiguousarray(order, np.int64)
    if order.size and not 0 <= order.min() <= order.max() < len(sizes):
        raise ValueError(f"molecules {order.min()} to {order.max()} of {len(sizes)}")
    limits = np.array([capacity.graphs, capacity.atoms, capacity.edges, limit], np.int64)
    pack_ptr, molecules = np.zeros(num_packs + 1, np.int64), np.empty(order.size, np.int64)
    arguments = (sizes, edges, counts, order, limits, pack_ptr, molecules)
    left = -1
    if not num_packs:
        left = int(order[0]) if order.size else -1
    else:
        left = _packs.pack_emptiest(*arguments)
        ways = ((share, folds) for share in _packs.SHARES for folds in (False, True))
        while left >= 0 and (way := next(ways, None)):
            left = _packs.pack_dealt(*arguments[:5], *way, pack_ptr, molecules)
    if left >= 0:
        in_all = f", {limit} {spare}" if spare else ""
        with_spare = f", {counts[left]} {spare}" if spare else ""
        raise PackingError(
            f"a molecule of {sizes[left]} atoms and {edges[left]} directed edges{with_spare} "
            f"finds no room in {num_packs} packs of "
            f"{capacity.graphs} graphs, {capacity.atoms} atoms, {capacity.edges} edges{in_all}"
        )
    return pack_ptr, molecules
