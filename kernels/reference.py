"""The slow, obvious twin of every kernel: Python integers, lists and dicts, one molecule at a time. Read these first.

One decision: a twin says what a kernel computes, by another route where there is one, and never how it is made fast. The price:
a thousand times slower; only tests call them.
"""

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from itertools import count

import numpy as np

from kernels.collate import Columns
from kernels.labels import SparseLabels
from kernels.packing import Capacity

MASK = 2**64 - 1
BITMAP, ROWS = 1, 2

# hashes


def mix64(x: int) -> int:
    """One step of SplitMix64 (Steele, Lea, Flood 2014): add the golden ratio, then the finalizer of Stafford's variant 13."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ x // 2**shift) * factor % 2**64
    return x ^ x // 2**31


def hash_u64(key: int, values: Sequence[int]) -> list[int]:
    """mix(key ^ mix(value)) of each value; a negative value is its two's complement."""
    return [mix64(key ^ mix64(int(value) & MASK)) for value in values]


def mix_key(*parts: int) -> int:
    """Fold integers into one key, the first part deepest."""
    key = 0
    for part in parts:
        (key,) = hash_u64(key, [part])
    return key


def hash_skeletons(
    atom_ptr: Sequence[int], bond_ptr: Sequence[int], elements: Sequence[int], bond_atoms: np.ndarray, *, key: int = 0
) -> list[int]:
    """Each molecule alone: strike out the hydrogens (unless there is nothing else), then refine colours over neighbour lists."""
    hashes = []
    for m in range(len(atom_ptr) - 1):
        symbols = [int(z) for z in elements[atom_ptr[m] : atom_ptr[m + 1]]]
        num_heavy = sum(z != 1 for z in symbols)
        kept = [i for i, z in enumerate(symbols) if z != 1 or num_heavy == 0]
        neighbours: dict[int, list[int]] = {i: [] for i in kept}
        for u, v in bond_atoms[bond_ptr[m] : bond_ptr[m + 1]].tolist():
            if u in neighbours and v in neighbours:
                neighbours[u].append(v)
                neighbours[v].append(u)
        color = {i: mix64(key ^ symbols[i]) for i in kept}
        for _ in range(8):
            around = {i: sum(mix64(color[j]) for j in neighbours[i]) for i in kept}
            color = {i: mix64((color[i] + around[i] * 0xBF58476D1CE4E5B9) & MASK) for i in kept}
        hashes.append(mix64(sum(mix64(c) for c in color.values()) & MASK ^ mix64(num_heavy)))
    return hashes


# permutations


def feistel(x: int, *, half: int, key: int) -> int:
    """Six Feistel rounds (Luby, Rackoff 1988) on [0, half * half): right goes left, left is masked with a hash of right."""
    left, right = divmod(x, half)
    for r in range(6):
        left, right = right, left ^ mix64(right ^ mix64((key + r) & MASK)) % half
    return left * half + right


def permutation(n: int, *, key: int) -> list[int]:
    """The whole permutation: tabulate the network on the least power of four, then strike the numbers from n on from each cycle.

    Walking a cycle until the image is below n is the same as striking the others from it.
    """
    half = 2
    while half * half < n:
        half *= 2
    network = [feistel(x, half=half, key=key) for x in range(half * half)]
    image: dict[int, int] = {}
    seen: set[int] = set()
    for first in range(half * half):
        cycle, x = [], first
        while x not in seen:
            seen.add(x)
            cycle.append(x)
            x = network[x]
        cycle = [x for x in cycle if x < n]
        image |= zip(cycle, cycle[1:] + cycle[:1])
    return [image[x] for x in range(n)]


def shuffled(n: int, *, key: int) -> list[int]:
    """Draw from a bag for the last place, then the one before, ...; the last in the bag takes the place of the one drawn."""
    bag, drawn = list(range(n)), []
    for i in range(n - 1, 0, -1):
        j = mix64(key ^ mix64(i)) % len(bag)
        drawn.append(bag[j])
        bag[j] = bag[-1]
        bag.pop()
    return bag + drawn[::-1]


# bytes


def shuffle_bytes(data: bytes, item_size: int) -> bytes:
    """Byte 0 of every item, then byte 1 of every item, ..."""
    return b"".join(data[k::item_size] for k in range(item_size))


def unshuffle_bytes(data: bytes, item_size: int) -> bytes:
    """Byte i of every plane makes item i."""
    return b"".join(data[i :: len(data) // item_size] for i in range(len(data) // item_size))


# labels


def molecules_of_tasks(sparse: SparseLabels, num_molecules: int) -> list[list[int]]:
    """Which molecules have each task, written out. Raises ValueError where counts, bitmaps and row lists do not agree."""
    bitmap, rows, present = sparse.bitmap.tobytes(), sparse.rows.tolist(), []
    for encoding, number in zip(sparse.encoding.tolist(), sparse.count.tolist(), strict=True):
        if encoding == BITMAP:
            own, bitmap = bitmap[: -(-num_molecules // 8)], bitmap[-(-num_molecules // 8) :]
            if len(own) < -(-num_molecules // 8):
                raise ValueError("a bitmap is too short")
            has = [i for i in range(num_molecules) if own[i // 8] // 2 ** (i % 8) % 2]
        elif encoding == ROWS:
            has, rows = rows[:number], rows[number:]
            if has != sorted({i for i in has if i < num_molecules}):
                raise ValueError("rows out of order or out of range")
        else:
            has = list(range(num_molecules))
        if len(has) != number:
            raise ValueError("a count is wrong")
        present.append(has)
    if bitmap or rows:
        raise ValueError("bytes or rows left over")
    return present


def measure_labels(sparse: SparseLabels, ptr: Sequence[int]) -> list[int]:
    """Number of values of each task."""
    return [sum(int(ptr[i + 1] - ptr[i]) for i in has) for has in molecules_of_tasks(sparse, len(ptr) - 1)]


def densify_labels(sparse: SparseLabels, ptr: Sequence[int]) -> np.ndarray:
    """One value after another to the next row of the next molecule that has the task."""
    out, values = np.full((int(ptr[-1]), len(sparse.encoding)), np.nan, np.float32), iter(sparse.values)
    for t, has in enumerate(molecules_of_tasks(sparse, len(ptr) - 1)):
        for i in has:
            for r in range(ptr[i], ptr[i + 1]):
                out[r, t] = next(values)
    return out


# packing


def count_packs(sizes: Sequence[int], capacity: int) -> int:
    """Least P that holds at every size v, found by trying 1, 2, 3, ...

    It holds if (sum of all sizes >= v, less v) / P + v <= capacity, or if all of these have a pack of their own. `sizes` are
    at least 1 and at most `capacity`.
    """

    def holds(packs: int, v: int) -> bool:
        not_smaller = [s for s in sizes if s >= v]
        return packs >= len(not_smaller) or Fraction(sum(not_smaller) - v, packs) + v <= capacity

    return next(packs for packs in count(1) if all(holds(packs, v) for v in set(sizes))) if sizes else 0


def num_packs(sizes: Sequence[int], bonds: Sequence[int], *, capacity: Capacity, max_bonds: int) -> int:
    """Least P that is enough for atoms and keeps the mean of graphs and of edges one largest molecule below the limit.

    As many packs as molecules are enough for edges in any case. Where a molecule takes more than an eighth of a pack, two packs
    and a sixteenth more, but no more packs than molecules.
    """
    graphs, edges = max(1, capacity.graphs - 1), max(1, capacity.edges - 2 * max_bonds)

    def holds(packs: int) -> bool:
        return packs * graphs >= len(sizes) and (packs >= len(sizes) or packs * edges >= 2 * sum(bonds))

    packs = next(packs for packs in count(count_packs(sizes, capacity.atoms)) if holds(packs))
    return min(len(sizes), packs + 2 + packs // 16) if 8 * max(sizes) > capacity.atoms else packs


def cut_windows(
    order: Sequence[int],
    blocks: Sequence[Sequence[tuple[int, int]]],
    *,
    capacity: Capacity,
    max_bonds: int,
    window_molecules: int,
) -> tuple[list[int], list[int]]:
    """`blocks`: (atoms, bonds) of each molecule of each block. Of all ends a window may have, take the one of fullest packs.

    An end is allowed if the window has at least `window_molecules` and so have the blocks after it, or there are none. Of those
    the ones within 1.5 times as many count, or the first if none is; the earliest of equals.
    """
    window_ptr, packs = [0], []
    while window_ptr[-1] < len(order):
        start, ends = window_ptr[-1], []
        for end in range(start + 1, len(order) + 1):
            inside = [molecule for b in order[start:end] for molecule in blocks[b]]
            after = sum(len(blocks[b]) for b in order[end:])
            if after == 0 or min(len(inside), after) >= window_molecules:
                ends.append((end, inside))
        small = [e for e in ends if len(e[1]) <= window_molecules + window_molecules // 2]
        best = None
        for end, inside in small or ends[:1]:
            atoms, bonds = zip(*inside)
            need = num_packs(atoms, bonds, capacity=capacity, max_bonds=max_bonds)
            fill = Fraction(sum(atoms), need)
            if best is None or fill > best[0]:
                best = fill, end, need
        assert best is not None
        window_ptr.append(best[1])
        packs.append(best[2])
    return window_ptr, packs


def pack_molecules(
    sizes: Sequence[int], bonds: Sequence[int], order: Sequence[int], *, num_packs: int, capacity: Capacity
) -> list[list[int]] | None:
    """Members of each pack in the order of `order`, or None when a molecule finds no place.

    Largest first. Of the packs with room, those no fuller of atoms than the mean come first, by the larger of their shares of
    edges and graphs; then the others, by atoms.
    """
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    place = {m: k for k, m in enumerate(order)}
    placed = 0
    for m in sorted(place, key=lambda m: (-sizes[m], place[m])):
        choices = []
        for p, members in enumerate(packs):
            atoms, edges = sum(sizes[i] for i in members), sum(2 * bonds[i] for i in members)
            fits = (
                len(members) + 1 <= capacity.graphs
                and atoms + sizes[m] <= capacity.atoms
                and edges + 2 * bonds[m] <= capacity.edges
            )
            if fits and atoms <= Fraction(placed, num_packs):
                share = max(Fraction(edges, max(1, capacity.edges)), Fraction(len(members), capacity.graphs))
                choices.append((0, share, p))
            elif fits:
                choices.append((1, Fraction(atoms), p))
        if not choices:
            return None
        packs[min(choices)[2]].append(m)
        placed += sizes[m]
    return [sorted(members, key=place.__getitem__) for members in packs]


def pack_window_jointly(
    sizes: Sequence[int], bonds: Sequence[int], order: Sequence[int], *, num_packs: int, capacity: Capacity
) -> list[list[int]] | None:
    """Hardest first, to where the fullest dimension stays least full; None if a molecule finds no place."""
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    cost = {m: (sizes[m] / capacity.atoms, 2 * bonds[m] / capacity.edges, 1 / capacity.graphs) for m in order}

    def fullness(members: list[int]) -> float:
        return max(
            sum(sizes[m] for m in members) / capacity.atoms,
            sum(2 * bonds[m] for m in members) / capacity.edges,
            len(members) / capacity.graphs,
        )

    for m in sorted(order, key=lambda m: -max(cost[m])):
        fullest = [(fullness([*members, m]), p) for p, members in enumerate(packs)]
        if not fullest or min(fullest)[0] > 1:
            return None
        packs[min(fullest)[1]].append(m)
    place = {m: k for k, m in enumerate(order)}
    return [sorted(members, key=place.__getitem__) for members in packs]


# collation


def collate_pack(molecules: Sequence[int], columns: Columns, *, graphs: int, atoms: int, edges: int) -> dict[str, list]:
    """Lists of what is there, then padding up to the shape; edges by destination with a stable sort."""
    codes: list[list[int]] = []
    sources, targets, edge_codes, graph_of_atom, atom_ptr = [], [], [], [], []
    for g, m in enumerate(molecules):
        first = len(codes)
        atom_ptr.append(first)
        for a in range(columns.atom_ptr[m], columns.atom_ptr[m + 1]):
            codes.append(columns.atom_codes[a].tolist())
            graph_of_atom.append(g)
        for b in range(columns.bond_ptr[m], columns.bond_ptr[m + 1]):
            u, v = (first + int(i) for i in columns.bond_atoms[b])
            sources += [u, v]
            targets += [v, u]
            edge_codes += 2 * [int(columns.bond_codes[b])]
    num_atoms, num_edges = len(codes), len(sources)
    sources += (edges - num_edges) * [atoms - 1]
    targets += (edges - num_edges) * [atoms - 1]
    edge_order = sorted(range(edges), key=targets.__getitem__)
    return {
        "atom_codes": codes + (atoms - num_atoms) * [columns.atom_codes.shape[1] * [0]],
        "edge_index": [sources, targets],
        "edge_codes": edge_codes + (edges - num_edges) * [0],
        "edge_order": edge_order,
        "edge_ptr": [bisect_left([targets[e] for e in edge_order], a) for a in range(atoms + 1)],
        "graph_of_atom": graph_of_atom + (atoms - num_atoms) * [graphs - 1],
        "atom_ptr": atom_ptr + (graphs - len(atom_ptr)) * [num_atoms] + [atoms],
        "graph_mask": [g < len(atom_ptr) for g in range(graphs)],
        "atom_mask": [a < num_atoms for a in range(atoms)],
        "edge_mask": [e < num_edges for e in range(edges)],
    }


def collate_labels(
    molecules: Sequence[int], ptr: Sequence[int], labels: np.ndarray, *, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Stack the molecules' rows and rows of NaN; count what is not NaN."""
    parts = [labels[ptr[m] : ptr[m + 1]] for m in molecules]
    real = np.concatenate([np.empty((0, labels.shape[1]), np.float32), *parts])
    out = np.concatenate([real, np.full((rows - len(real), labels.shape[1]), np.nan)]).astype(np.float32)
    return out, np.sum(~np.isnan(out), axis=0)


# segments (NumPy; the kernels are torch)


def gather(x: np.ndarray, index: Sequence[int]) -> np.ndarray:
    """Row by row."""
    return np.array([x[i] for i in index], x.dtype).reshape(len(index), *x.shape[1:])


def segment_sum(values: np.ndarray, index: Sequence[int], *, num_segments: int) -> np.ndarray:
    """Add row by row."""
    out = np.zeros((num_segments, *values.shape[1:]), values.dtype)
    for row, segment in zip(values, index, strict=True):
        out[segment] += row
    return out
