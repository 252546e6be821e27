"""Packing, molecule by molecule."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import count

from molstream.kernels.packing.packs import WIDEST, Capacity


def count_packs(sizes: Sequence[int], capacity: int) -> int:
    """Least P that holds at every size v, found by trying 1, 2, 3, ...

    It holds if (sum of all sizes >= v, less v) / P + v <= capacity, or if all of these have a pack of their own. `sizes` are
    at least 1 and at most `capacity`.
    """

    def holds(packs: int, v: int) -> bool:
        not_smaller = [s for s in sizes if s >= v]
        return packs >= len(not_smaller) or Fraction(sum(not_smaller) - v, packs) + v <= capacity

    return next(packs for packs in count(1) if all(holds(packs, v) for v in set(sizes))) if sizes else 0


def num_packs(sizes: Sequence[int], bonds: Sequence[int], *, capacity: Capacity) -> int:
    """Least P that is enough for atoms and keeps the mean of graphs and of edges one largest molecule below the limit.

    Of a molecule's edges no more than an eighth of a pack count for that. As many packs as molecules are enough for edges in any
    case. Where a molecule takes more than an eighth of a pack, two packs and a sixteenth more, but no more than molecules.
    """
    most = 2 * max(bonds, default=0)
    graphs, edges = max(1, capacity.graphs - 1), max(1, capacity.edges - min(most, capacity.edges // 8))

    def holds(packs: int) -> bool:
        return packs * graphs >= len(sizes) and (packs >= len(sizes) or packs * edges >= 2 * sum(bonds))

    packs = next(packs for packs in count(count_packs(sizes, capacity.atoms)) if holds(packs))
    large = 8 * max(sizes) > capacity.atoms or 8 * most > capacity.edges
    return min(len(sizes), packs + 2 + packs // 16) if large else packs


def cut_windows(
    order: Sequence[int],
    blocks: Sequence[Sequence[tuple[int, int]]],
    *,
    capacity: Capacity,
    window_molecules: int,
) -> tuple[list[int], list[int]]:
    """`blocks`: (atoms, bonds) of each molecule of each block, all of which fit a pack. Of all ways to cut, the one that takes
    fewest packs, of these that with the earliest ends.

    A window has at least `window_molecules`, as have the blocks after it, or there are none. Of the ends that leave it so, those
    count that leave it within WIDEST times as many, or the first if none does. Blocks are not small, so they may end anywhere.
    """

    @cache
    def best(start: int) -> tuple[int, list[int], list[int]]:
        if start == len(order):
            return 0, [], []
        ends: list[int] = []
        for end in range(start + 1, len(order) + 1):
            inside, after = (sum(len(blocks[b]) for b in part) for part in (order[start:end], order[end:]))
            if (after == 0 or min(inside, after) >= window_molecules) and (not ends or inside <= WIDEST * window_molecules):
                ends.append(end)
        ways = []
        for end in ends:
            atoms, bonds = zip(*(molecule for b in order[start:end] for molecule in blocks[b]))
            packs = num_packs(atoms, bonds, capacity=capacity)
            rest = best(end)
            ways.append((packs + rest[0], [end, *rest[1]], [packs, *rest[2]]))
        return min(ways, key=lambda way: way[:2])

    _, ends, packs = best(0)
    return [0, *ends], packs


def pack_emptiest(
    sizes: Sequence[int], bonds: Sequence[int], order: Sequence[int], *, num_packs: int, capacity: Capacity, labels=None
) -> list[list[int]] | None:
    """Members of each pack in the order of `order`, or None when a molecule finds no place.

    Largest first, each to the pack that is emptiest of atoms, of equals to that with fewest edges.
    """
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    place = {m: k for k, m in enumerate(order)}
    for m in sorted(place, key=lambda m: (-sizes[m], place[m])):
        if not packs:
            return None
        _, p = min(((sum(sizes[i] for i in pack), sum(bonds[i] for i in pack)), p) for p, pack in enumerate(packs))
        packs[p].append(m)
        if (
            len(packs[p]) > capacity.graphs
            or sum(sizes[i] for i in packs[p]) > capacity.atoms
            or sum(2 * bonds[i] for i in packs[p]) > capacity.edges
            or (labels is not None and sum(labels[i] for i in packs[p]) > capacity.labels)
        ):
            return None
    return [sorted(members, key=place.__getitem__) for members in packs]


def pack_evenly(
    sizes: Sequence[int], bonds: Sequence[int], order: Sequence[int], *, num_packs: int, capacity: Capacity, labels=None
) -> list[list[int]] | None:
    """Largest first. Of the packs with room, those no fuller of atoms than the mean come first, by the largest of their shares of
    edges, graphs and labels; then the others, by atoms. None when a molecule finds no place."""
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    place = {m: k for k, m in enumerate(order)}
    placed = 0
    for m in sorted(place, key=lambda m: (-sizes[m], place[m])):
        choices: list[tuple[int, float, int]] = []
        for p, members in enumerate(packs):
            atoms, edges = sum(sizes[i] for i in members), sum(2 * bonds[i] for i in members)
            listed = 0 if labels is None else sum(labels[i] for i in members)
            fits = (
                len(members) + 1 <= capacity.graphs
                and atoms + sizes[m] <= capacity.atoms
                and edges + 2 * bonds[m] <= capacity.edges
                and (labels is None or listed + labels[m] <= capacity.labels)
            )
            if fits and atoms <= Fraction(placed, num_packs):
                share = max(edges / capacity.edges, len(members) / capacity.graphs, listed / (capacity.labels or 1))
                choices.append((0, share, p))
            elif fits:
                choices.append((1, atoms, p))
        if not choices:
            return None
        packs[min(choices)[2]].append(m)
        placed += sizes[m]
    return [sorted(members, key=place.__getitem__) for members in packs]


def pack_molecules(*case, **arguments) -> list[list[int]] | None:
    """The first of the three ways that finds a place for all."""
    ways = (pack(*case, **arguments) for pack in (pack_emptiest, pack_evenly, pack_jointly))
    return next((packs for packs in ways if packs is not None), None)


def pack_jointly(
    sizes: Sequence[int], bonds: Sequence[int], order: Sequence[int], *, num_packs: int, capacity: Capacity, labels=None
) -> list[list[int]] | None:
    """Hardest first, to where the fullest dimension stays least full; None if a molecule finds no place."""
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    cost = {
        m: (
            sizes[m] / capacity.atoms,
            2 * bonds[m] / capacity.edges,
            1 / capacity.graphs,
            0 if labels is None else labels[m] / capacity.labels,
        )
        for m in order
    }

    def fullness(members: list[int]) -> float:
        return max(
            sum(sizes[m] for m in members) / capacity.atoms,
            sum(2 * bonds[m] for m in members) / capacity.edges,
            len(members) / capacity.graphs,
            0 if labels is None else sum(labels[m] for m in members) / capacity.labels,
        )

    for m in sorted(order, key=lambda m: -max(cost[m])):
        fullest = [(fullness([*members, m]), p) for p, members in enumerate(packs)]
        if not fullest or min(fullest)[0] > 1:
            return None
        packs[min(fullest)[1]].append(m)
    place = {m: k for k, m in enumerate(order)}
    return [sorted(members, key=place.__getitem__) for members in packs]
