"""Packing, molecule by molecule."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

from molstream.kernels.packing.packs import WIDEST, Capacity

SHARES = (1, 2, 4, 8, 16)


def rounds_of(sizes: Sequence[int], packs: int) -> list[list[int]]:
    """Largest first, as many to a round as there are packs; the last one is filled up with nothing."""
    ordered = sorted(sizes, reverse=True)
    ordered += [0] * (-len(ordered) % packs)
    return [ordered[k : k + packs] for k in range(0, len(ordered), packs)]


def most_dealt(sizes: Sequence[int], packs: int, folds: bool) -> int:
    """Most that one pack can get of what is dealt in rounds, the last with the first where it folds."""
    rounds = rounds_of(sizes, packs)
    if folds and len(rounds) > 1:
        first, *rounds, last = rounds
        return max(a + b for a, b in zip(first, reversed(last), strict=True)) + sum(r[0] for r in rounds)
    return sum(r[0] for r in rounds)


def num_packs(
    sizes: Sequence[int],
    bonds: Sequence[int],
    labels: Sequence[int] | None = None,
    *,
    capacity: Capacity,
    blocks: Sequence[Sequence[int]] | None = None,
) -> int:
    """Least P for which one variant of dealing exceeds nothing, found by trying 1, 2, 3, ...

    None of the molecules is larger than a pack. `blocks`: which of them are in which block (default: one block); how many of a
    block have many edges is guessed from their sum.
    """
    blocks = [range(len(sizes))] if blocks is None else blocks
    counts = [0] * len(sizes) if labels is None else labels
    pairs = [n * (n + 1) // 2 for n in sizes]

    def alone_of(share: int) -> tuple[int, list[int]]:
        if share == 1:
            return 0, list(range(len(sizes)))
        small = [
            m
            for m in range(len(sizes))
            if sizes[m] * share <= capacity.atoms and (capacity.pairs is None or pairs[m] * share <= capacity.pairs)
        ]
        alone, bound = len(sizes) - len(small), capacity.edges // share // 2
        for block in blocks:
            if block and max(bonds[m] for m in block) > bound:
                alone += min(len(block), sum(bonds[m] for m in block) // (bound + 1))
        if capacity.labels is not None:
            alone += sum(n * share > capacity.labels for n in counts)
        return alone, small

    def fits(packs: int, share: int, folds: bool) -> bool:
        alone, rest = alone_of(share)
        if packs < alone:
            return False
        packs -= alone
        if not rest:
            return True
        if not packs:
            return False
        num_rounds, edges = -(-len(rest) // packs), 2 * sum(bonds)
        most = min(2 * max(bonds), capacity.edges // 2 * 2, capacity.edges // share)
        spread = most * (2 if folds else 1)
        load = min(Fraction(edges), Fraction(num_rounds * most), Fraction(edges + spread * (packs - 1), packs))
        top = sorted((min(n, (capacity.labels or 0) // share) for n in counts), reverse=True)[:num_rounds]
        return (
            num_rounds <= capacity.graphs
            and load // 1 <= capacity.edges
            and most_dealt([sizes[m] for m in rest], packs, folds) <= capacity.atoms
            and (capacity.pairs is None or most_dealt([pairs[m] for m in rest], packs, folds) <= capacity.pairs)
            and (capacity.labels is None or sum(top) <= capacity.labels)
        )

    variants = [(share, folds) for share in SHARES for folds in (False, True)]
    return next((p for p in range(1, len(sizes)) if any(fits(p, *variant) for variant in variants)), len(sizes))


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
            inside = [molecule for b in order[start:end] for molecule in blocks[b]]
            places = iter(range(len(inside)))
            members = [[next(places) for _ in blocks[b]] for b in order[start:end]]
            packs = num_packs([a for a, _ in inside], [b for _, b in inside], capacity=capacity, blocks=members)
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


def pack_dealt(
    sizes: Sequence[int],
    bonds: Sequence[int],
    order: Sequence[int],
    *,
    num_packs: int,
    capacity: Capacity,
    labels: Sequence[int] | None = None,
    share: int = 1,
    folds: bool = False,
) -> list[list[int]] | None:
    """Those alone first, then round by round: within one, most edges to fewest. None when a pack exceeds something."""
    place = {m: k for k, m in enumerate(order)}
    counts = {m: (sizes[m], 2 * bonds[m], 0 if labels is None else labels[m]) for m in order}
    limits = (capacity.atoms, capacity.edges, 0 if labels is None else capacity.labels)
    ordered = sorted(order, key=lambda m: (-sizes[m], place[m]))
    alone = [m for m in ordered if share > 1 and any(n * share > limit for n, limit in zip(counts[m], limits, strict=True))]
    rest = [m for m in ordered if m not in alone]
    if len(alone) > num_packs or (len(alone) == num_packs and rest):
        return None
    single, packs = [[m] for m in alone], [[] for _ in range(num_packs - len(alone))]
    rounds = [rest[k : k + len(packs)] for k in range(0, len(rest), max(1, len(packs)))]
    if folds and len(rounds) > 1:
        first, *rounds, last = rounds
        packs = [[m] for m in first]
        for m, pack in zip(last, reversed(packs), strict=False):
            pack.append(m)
    for members in rounds:
        fewest = sorted(packs, key=lambda pack: sum(bonds[m] for m in pack))
        for m, pack in zip(sorted(members, key=lambda m: -bonds[m]), fewest, strict=False):
            pack.append(m)
    for pack in (packs := single + packs):
        if len(pack) > capacity.graphs or any(sum(counts[m][k] for m in pack) > limit for k, limit in enumerate(limits)):
            return None
    return [sorted(members, key=place.__getitem__) for members in packs]


def pack_molecules(*case, **arguments) -> list[list[int]] | None:
    """The first way that finds a place for all."""
    ways = [pack_emptiest(*case, **arguments)]
    ways += [pack_dealt(*case, **arguments, share=share, folds=folds) for share in SHARES for folds in (False, True)]
    return next((packs for packs in ways if packs is not None), None)
