"""Packing: how many packs a window needs, from size counts alone, and which molecule goes into which.

The invariant everything rests on: the number of packs is a function of the counts of molecule sizes, so it is known from the
index before a byte of payload is read; and the packing then succeeds with exactly that number.

Why it does (list scheduling, Graham 1969): molecules are placed largest first, each into the emptiest pack, whose load does not
exceed the mean load so far. A pack's load after receiving a molecule of v atoms is then at most (S_v - v) / P + v, where S_v is
the sum of all molecules of v atoms and more. `num_packs` is the least P for which this stays within the budget at every v, or is
the number of molecules of v atoms and more (then each finds an empty pack). Edges and graphs have room to spare by choice of the
budget; P also leaves, in each of them, room for one largest molecule (at most an eighth of a pack) above the mean, and is raised
by two and a sixteenth where a molecule takes more than an eighth of a pack. That part is measured, not proven; where edges,
graphs, labels or pairs are in the way, two slower ways of packing are tried: of the packs below the mean the one with most room
in these; and all dimensions at once.
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
    """Packs that molecules with these atom and bond counts are planned into."""
    if len(sizes) == 0:
        return 0
    histogram, bonds = np.bincount(np.asarray(sizes, np.int64)), np.asarray(bonds, np.int64)
    total, most = int(bonds.sum()), int(bonds.max())
    return int(_packs.needed_packs(histogram, histogram.size - 1, len(sizes), total, most, _limits(capacity)))


def _limits(capacity: Capacity) -> np.ndarray:
    return np.array([capacity.graphs, capacity.atoms, capacity.edges], np.int64)


def cut_windows(
    order: np.ndarray,
    molecules: np.ndarray,
    bonds: np.ndarray,
    max_bonds: np.ndarray,
    histogram: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    capacity: Capacity,
    window_molecules: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut blocks in epoch order into windows of `window_molecules` to WIDEST times as many, so that all take fewest packs.

    `order`: blocks in epoch order (K); `molecules`, `bonds`, `max_bonds`: of each block, the last of its one molecule with most
    (num_blocks); `histogram`: (ptr, size, count), how many molecules of which size block b has at ptr[b]:ptr[b + 1]. Molecules
    of more than `capacity.atoms` atoms are not counted: they are left out. Of cuts that take equally many packs it is that with
    the earliest ends. A window is larger where its last block, or a remainder smaller than `window_molecules`, makes it so. Where
    a window is of many blocks, it ends at every 64th part of its least size, or so. Every window has a pack.
    Returns (window_ptr (W + 1) into `order`, packs of each window (W)), both int64.
    """
    window_end, window_packs = np.empty(order.size, np.int64), np.empty(order.size, np.int64)
    count = _packs.cut_windows(
        np.ascontiguousarray(order, np.int64),
        molecules,
        bonds,
        max_bonds,
        *histogram,
        _limits(capacity),
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
        for pack in (_packs.pack_emptiest, _packs.pack_evenly, _packs.pack_jointly):
            left = pack(*arguments)
            if left < 0:
                break
    if left >= 0:
        in_all = f", {limit} {spare}" if spare else ""
        with_spare = f", {counts[left]} {spare}" if spare else ""
        raise PackingError(
            f"a molecule of {sizes[left]} atoms and {edges[left]} directed edges{with_spare} "
            f"finds no room in {num_packs} packs of "
            f"{capacity.graphs} graphs, {capacity.atoms} atoms, {capacity.edges} edges{in_all}: raise the budget of "
            f"edges{f', {spare}' if spare else ''} or graphs"
        )
    return pack_ptr, molecules
