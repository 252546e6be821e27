"""The slow, obvious twin of every kernel: Python integers, lists and dicts, one molecule at a time. Read these first.

One decision: a twin says what a kernel computes, by another route where there is one, and never how it is made fast. The price:
a thousand times slower; only tests call them.
"""

import math
import pickletools
import random
import re
import struct
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import count

import numpy as np

from kernels.collate import Columns
from kernels.labels import SparseLabels
from kernels.packing import WIDEST, Capacity
from kernels.tokens import Tokens
from kernels.triples import LabelRows

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


def scaffold_atoms(in_ring: Sequence[bool], bonds: Sequence[tuple[int, int, int]]) -> set[int]:
    """`bonds`: (atom, atom, type). Strike out ends of chains until none is left, then take back what hangs on double bonds."""
    core = set(range(len(in_ring)))
    while True:
        ends = [i for u, v, _ in bonds if u in core and v in core for i in (u, v)]
        struck = {i for i in core if not in_ring[i] and ends.count(i) <= 1}
        if not struck:
            break
        core -= struck
    return core | {a for u, v, kind in bonds if kind == 1 for a, b in ((u, v), (v, u)) if b in core}


def smallest_ring(bond: int, ring_bonds: dict[int, tuple[int, int]]) -> int:
    """Number of bonds of the smallest ring through one of `ring_bonds`, 17 for any larger: walk from end to end without it."""
    start, goal = ring_bonds[bond]
    reached = {start}
    for size in range(1, 17):
        if goal in reached:
            return size
        steps = [pair for b, pair in ring_bonds.items() if b != bond]
        reached |= {v for u, v in steps if u in reached} | {u for u, v in steps if v in reached}
    return 17


def hash_scaffolds(
    atom_ptr: Sequence[int],
    bond_ptr: Sequence[int],
    atom_codes: np.ndarray,
    bond_atoms: np.ndarray,
    bond_codes: np.ndarray,
    *,
    num_stereo: int,
    key: int = 0,
) -> list[int]:
    """Each molecule alone: its skeleton if nothing is in a ring, or colours of scaffold atoms refined over labelled bonds."""
    hashes = []
    for m in range(len(atom_ptr) - 1):
        atoms = atom_codes[atom_ptr[m] : atom_ptr[m + 1]].tolist()
        pairs, codes = (x[bond_ptr[m] : bond_ptr[m + 1]].tolist() for x in (bond_atoms, bond_codes))
        if not any(ring for *_, ring in atoms):
            elements = [atom[0] for atom in atoms]
            hashes += hash_skeletons([0, len(atoms)], [0, len(pairs)], elements, np.array(pairs).reshape(-1, 2), key=key)
            continue
        kinds = [code // 2 // num_stereo for code in codes]
        kept = scaffold_atoms([bool(ring) for *_, ring in atoms], [(u, v, kind) for (u, v), kind in zip(pairs, kinds)])
        inside = [b for b, (u, v) in enumerate(pairs) if u in kept and v in kept]
        ring_bonds = {b: tuple(pairs[b]) for b in inside if codes[b] % 2}
        neighbours: dict[int, list[tuple[int, int]]] = {i: [] for i in kept}
        for b in inside:
            label = mix64(256 * kinds[b] + (smallest_ring(b, ring_bonds) if b in ring_bonds else 0))
            u, v = pairs[b]
            neighbours[u].append((v, label))
            neighbours[v].append((u, label))
        color = {}
        for i in kept:
            element, _, charge, radicals, _, aromatic, _ = atoms[i]
            color[i] = mix64(mix64(key) ^ int.from_bytes([element, charge, radicals, aromatic], "big"))
        for _ in range(16):
            around = {i: sum(mix64(color[j] ^ label) for j, label in neighbours[i]) & MASK for i in kept}
            color = {i: mix64(color[i] ^ mix64(around[i])) for i in kept}
        hashes.append(mix64(sum(mix64(c) for c in color.values()) & MASK ^ mix64(len(kept))))
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


def python_shuffle(n: int, *, seed: int) -> list[int]:
    """Python itself."""
    numbers = list(range(n))
    random.Random(seed).shuffle(numbers)
    return numbers


# splits


def read_pickled_ints(data: bytes, *, at: int) -> tuple[list[int], int]:
    """The standard library's reading of the opcodes, a number held back until something appends it."""
    numbers: list[int] = []
    pending: list[int] = []
    marked, end = False, at
    try:
        for opcode, value, place in pickletools.genops(data[at:]):
            if opcode.name in ("BININT", "BININT1", "BININT2", "LONG1") and (marked or not pending):
                pending.append(int(value or 0))
                if not -(2**63) <= pending[-1] < 2**63:
                    break
            elif opcode.name == "MARK" and not marked and not pending:
                marked = True
            elif (opcode.name == "APPENDS" and marked) or (opcode.name == "APPEND" and not marked and pending):
                numbers, pending, marked, end = numbers + pending, [], False, at + int(place or 0) + 1
            elif opcode.name != "FRAME":
                break
    except ValueError:
        pass  # an opcode that is none, or breaks off
    return numbers, end


def assign_rows(assignment: list[int], *, rows: Sequence[int], codes: Sequence[int], free: int) -> int:
    """One at a time."""
    for k, (row, code) in enumerate(zip(rows, codes, strict=True)):
        if assignment[row] != free:
            return k
        assignment[row] = code
    return -1


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
    """Number by number, in Python integers. Raises ValueError where arrays do not agree."""
    width, num_tasks = sparse.table.itemsize, len(sparse.encoding)
    half, pattern = 2 ** (8 * width - 1), {2: np.uint16, 4: np.uint32}[width]
    coding, planes, argument = (x.tolist() for x in (sparse.coding, sparse.planes, sparse.argument))
    table, data = sparse.table.view(pattern).tolist(), sparse.values.tolist()
    for _, c, p, _ in zip(sparse.encoding, coding, planes, argument, strict=True):
        if p not in {0: [width], 1: [0, 1], 2: range(width + 1)}[c]:
            raise ValueError("number of planes")

    def flip(x: int) -> int:
        # bits of a negative float to its key, from -1 for -0.0 down; or back
        return x if 0 <= x < half else half - 1 - x

    present = molecules_of_tasks(sparse, len(ptr) - 1)
    rows = [[r for i in has for r in range(ptr[i], ptr[i + 1])] for has in present]
    numbers = [[0] * len(r) for r in rows]
    for k in range(width):
        for t in range(num_tasks):
            if k < planes[t]:
                own, data = data[: len(rows[t])], data[len(rows[t]) :]
                numbers[t] = [x + 256**k * byte for x, byte in zip(numbers[t], own, strict=True)]
    keys = np.full((int(ptr[-1]), num_tasks), int(np.array(np.nan, sparse.table.dtype).view(pattern)), np.int64)
    for t in range(num_tasks):
        if coding[t] == 1:
            own, table = table[: argument[t]], table[argument[t] :]
            if len(own) < argument[t] or argument[t] > 256 or max(numbers[t], default=-1) >= argument[t]:
                raise ValueError("a table is too short or too long")
            numbers[t] = [own[x] for x in numbers[t]]
        if coding[t] == 2 and argument[t] >= t:
            raise ValueError("no earlier task")
        for r, x in zip(rows[t], numbers[t], strict=True):
            if coding[t] == 2:
                key = int(keys[r, argument[t]]) + (-(x // 2) - 1 if x % 2 else x // 2)
                keys[r, t] = (key + half) % (2 * half) - half
            else:
                keys[r, t] = flip(x)
    if table or data:
        raise ValueError("entries or bytes left over")
    bits = np.array([[flip(int(key)) for key in row] for row in keys], pattern).reshape(keys.shape)
    return bits.view(sparse.table.dtype).astype(np.float32)


# tokens


def decode_tokens(coded: Tokens, num_atoms: Sequence[int], num_bonds: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read token by token. Raises ValueError where a molecule does not come out with its numbers of atoms and bonds."""
    tokens = iter(coded.tokens.tolist())
    codes, ends, kinds = [], [], []
    for n, m in zip(num_atoms, num_bonds, strict=True):
        own_codes, own_ends = [], []
        for _ in range(n + m):
            token = next(tokens)
            if token < len(coded.atom_rows):
                own_codes.append(coded.atom_rows[token])
            elif token < len(coded.atom_rows) + len(coded.bond_steps):
                last, kind = len(own_codes) - 1, token - len(coded.atom_rows)
                own_ends.append((last - int(coded.bond_steps[kind]), last))
                kinds.append(coded.bond_kinds[kind])
            else:
                raise ValueError("unknown token")
        if (len(own_codes), len(own_ends)) != (n, m) or not all(0 <= low < high for low, high in own_ends):
            raise ValueError("atoms and bonds")
        codes += own_codes
        ends += own_ends
    if next(tokens, None) is not None:
        raise ValueError("tokens left over")
    return (
        np.array(codes, np.uint8).reshape(-1, coded.atom_rows.shape[1]),
        np.array(ends, np.uint16).reshape(-1, 2),
        np.array(kinds, np.uint8),
    )


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


def collate_pairs(molecules: Sequence[int], atom_ptr: Sequence[int], *, atoms: int, pairs: int) -> list[list[int]]:
    """Look at every pair of a molecule's slots, larger one first, then padding up to the shape."""
    low, high, first = [], [], 0
    for m in molecules:
        slots = range(first, first + int(atom_ptr[m + 1]) - int(atom_ptr[m]))
        both = [(i, j) for j in slots for i in slots if i <= j]
        low += [i for i, _ in both]
        high += [j for _, j in both]
        first += len(slots)
    padding = (pairs - len(low)) * [atoms - 1]
    return [low + padding, high + padding]


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


def segment_mean(values: np.ndarray, index: Sequence[int], *, num_segments: int) -> np.ndarray:
    """Average the rows of each segment."""
    out = np.zeros((num_segments, *values.shape[1:]), values.dtype)
    for segment in range(num_segments):
        rows = [row for row, s in zip(values, index, strict=True) if s == segment]
        if rows:
            out[segment] = sum(rows) / len(rows)
    return out


def segment_max(values: np.ndarray, index: Sequence[int], *, num_segments: int) -> np.ndarray:
    """Largest of each segment, column by column."""
    out = np.zeros((num_segments, *values.shape[1:]), values.dtype)
    for segment in range(num_segments):
        rows = [row for row, s in zip(values, index, strict=True) if s == segment]
        if rows:
            out[segment] = np.max(rows, axis=0)
    return out


def sum_messages(
    x: np.ndarray, source: Sequence[int], target: Sequence[int], code: Sequence[int], table: np.ndarray | None = None
) -> np.ndarray:
    """Send edge by edge."""
    out = np.zeros_like(x)
    for j, i, c in zip(source, target, code, strict=True):
        for h in range(x.shape[1]):
            out[i, h] += x[j, h] if table is None else relu(x[j, h] + table[c, h])
    return out


def message_gradients(
    grad: np.ndarray, x: np.ndarray, source: Sequence[int], target: Sequence[int], code: Sequence[int], table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Go back edge by edge, along the edges themselves: where a message was cut off nothing comes back."""
    grad_x, grad_table = np.zeros_like(x), np.zeros_like(table)
    for j, i, c in zip(source, target, code, strict=True):
        for h in range(x.shape[1]):
            if relu(x[j, h] + table[c, h]) != 0:
                grad_x[j, h] += grad[i, h]
                grad_table[c, h] += grad[i, h]
    return grad_x, grad_table


def relu(value: float) -> float:
    """NaN stays NaN."""
    return value if math.isnan(value) else max(value, 0.0)


# structures (texts before RDKit, what it wrote after)

BRACKET = r"\[(?!\d*H(?![a-z]))[!-9;-Z\\^-~]*(?::\d{1,9})?\]"
TOKEN = re.compile(BRACKET + r"|Cl|Br|[BCFINOPSbcnops*]|[$/<>\\~#%()\-.:=0-9]", re.ASCII)
PLAIN_TOKEN = re.compile(r"\[\d*(?:Cl|Br|[CFINOPScnops](?![a-z]))[^@]*\]|Cl|Br|[CFINOPScnops]|[#%()\-.:=0-9]", re.ASCII)


def scan_smiles(text: str) -> tuple[str, str, list[int]]:
    """(kind, text without atom maps, map of each atom or -1). Brackets may hold anything but an explicit hydrogen."""
    tokens = TOKEN.findall(text)
    if not text or "".join(tokens) != text:
        return "general", "", []
    maps = []
    for token in tokens:
        found = re.search(r":(\d+)\]", token)
        if found:
            maps.append(int(found[1]))
        elif token[0] in "[BCFINOPSbcnops*":
            maps.append(-1)
    plain = all(PLAIN_TOKEN.fullmatch(token) for token in tokens)
    return "plain" if plain else "full", "".join(re.sub(r":\d+\]", "]", token) for token in tokens), maps


class _Reader:
    def __init__(self, data: bytes):
        self.data = data

    def take(self, kind: str) -> int:
        """The next number; raises ValueError at the end."""
        size = struct.calcsize("<" + kind)
        if len(self.data) < size:
            raise ValueError("too short")
        (value,) = struct.unpack("<" + kind, self.data[:size])
        self.data = self.data[size:]
        return value


def _expect(truth: bool) -> None:
    if not truth:
        raise ValueError("not understood")


def decode_molecule(
    form: bytes, order_text: str, maps: list[int], *, limits: tuple[int, int, int, int, int], max_atoms: int
) -> dict[str, list] | None:
    """One of RDKit's binary molecules, field by field, or a canonical SMILES; None for anything unexpected.

    `maps` is empty if there are none.
    """
    try:
        _expect(re.fullmatch(r"\[(\d{1,9},)*\d{1,9},?\]", order_text, re.ASCII) is not None)
        order = [int(k) for k in re.findall(r"\d+", order_text)]
        if form[:1] < b"\x80":
            atoms, bonds, hydrogens = _read_shorthand(form.decode("latin-1"), max_atoms)
            _expect(sorted(order) == list(range(len(atoms))))
            # in the text atom k stands at place k
            place = list(range(len(atoms)))
        else:
            atoms, bonds, hydrogens = _read_binary(_Reader(form), limits[4], max_atoms)
            _expect(sorted(order) == list(range(len(atoms))))
            place = [order.index(i) for i in range(len(atoms))]
        _expect(not maps or len(maps) == len(atoms))
    except ValueError:
        return None
    return _columns(atoms, bonds, hydrogens, place, order, maps, limits)


Atoms = list[list[int]]
"""[element, degree, charge, radicals, valence, aromatic, ring] of each."""
Bonds = list[tuple[tuple[int, int], list[int]]]
"""((atom, atom), [type, stereo, ring]) of each."""


def _read_binary(r: _Reader, num_stereo: int, max_atoms: int) -> tuple[Atoms, Bonds, int]:
    size = len(r.data)
    _expect([r.take("I"), r.take("i"), r.take("i")] == [0xDEADBEEF, 0, 16])
    r.take("i"), r.take("i")  # minor version, patch
    n, m = r.take("i"), r.take("i")
    _expect(0 < n <= max_atoms and m >= 0 and 6 * n + 3 * m <= size)
    number = "i" if n > 255 else "B"
    _expect(r.take("B") == 0x80)

    atoms: Atoms = []
    hydrogens = 0
    _expect(r.take("B") == 1)
    for _ in range(n):
        element, flags, fields = r.take("B"), r.take("B"), r.take("i")
        _expect(2 <= element <= 118 and flags in (0, 0x20, 0x40, 0x60) and 0 <= fields < 512 and fields % 2 == 0)
        present = [bit for bit in range(1, 9) if fields >> bit & 1]
        values = {bit: r.take("b" if bit == 1 else "I" if bit == 8 else "B") for bit in present}
        charge, explicit_hs, explicit, implicit, radicals = (values.get(bit, 0) for bit in (1, 4, 5, 6, 7))
        _expect(max(explicit_hs, explicit, implicit, radicals) <= 100)
        hydrogens += explicit_hs + (0 if flags & 0x20 else implicit)
        atoms.append([element, 0, charge, radicals, explicit + implicit, flags // 0x40, 0])

    pairs: Bonds = []
    _expect(r.take("B") == 11)
    for _ in range(m):
        u, v, flags = r.take(number), r.take(number), r.take("B")
        _expect(0 <= u < n and 0 <= v < n and u != v and flags & 0x91 == 0)
        kind = r.take("B") if flags & 8 else 1
        if flags & 4:
            r.take("B")
        stereo = r.take("B") if flags & 2 else 0
        for _ in range(r.take("B") if flags & 2 else 0):
            r.take(number)
        pairs.append(((u, v), [{1: 0, 2: 1, 3: 2, 12: 3}.get(kind, 4), min(stereo, num_stereo - 1), 0]))
        atoms[u][1] += 1
        atoms[v][1] += 1
    _expect(all(atom[1] <= 20 for atom in atoms))

    _expect(r.take("B") == 66)
    num_rings = r.take("i")
    _expect(num_rings >= 0)
    for _ in range(num_rings):
        length = r.take(number)
        _expect(3 <= length <= n)
        ring = [r.take(number) for _ in range(length)]
        _expect(all(0 <= u < n for u in ring))
        for u, v in zip(ring, ring[1:] + ring[:1]):
            across = [code for pair, code in pairs if set(pair) == {u, v}]
            _expect(bool(across))
            atoms[u][6] = 1
            for code in across:
                code[2] = 1
    _expect(r.take("B") == 22 and not r.data)
    return atoms, pairs, hydrogens


SHORTHAND = re.compile(r"\[nH\]|\[[Nn]\+\]|\[O-\]|Cl|Br|[CNOSFIcnos]|[-=#().0-9]", re.ASCII)
ELEMENTS = {"C": 6, "N": 7, "O": 8, "F": 9, "S": 16, "Cl": 17, "Br": 35, "I": 53}
NORMAL_VALENCES = {"C": [4], "N": [3], "O": [2], "F": [1], "S": [2, 4, 6], "Cl": [1], "Br": [1], "I": [1]}
KNOWN_VALENCES = {
    # (atom, aromatic bonds, order of the others): (valence, hydrogens)
    ("[N+]", 0, 4): (4, 0),
    ("[O-]", 0, 1): (1, 0),
    ("c", 2, 0): (4, 1),
    ("c", 2, 1): (4, 0),
    ("c", 2, 2): (4, 0),
    ("c", 3, 0): (4, 0),
    ("n", 2, 0): (3, 0),
    ("n", 2, 1): (3, 0),
    ("n", 3, 0): (3, 0),
    ("[nH]", 2, 0): (3, 1),
    ("[n+]", 2, 1): (4, 0),
    ("[n+]", 3, 0): (4, 0),
    ("o", 2, 0): (2, 0),
    ("s", 2, 0): (2, 0),
}


def _read_shorthand(text: str, max_atoms: int) -> tuple[Atoms, Bonds, int]:
    tokens = SHORTHAND.findall(text)
    _expect("".join(tokens) == text)
    names: list[str] = []
    found: list[tuple[int, int, str]] = []
    branches: list[int] = []
    rings: dict[str, tuple[int, str]] = {}
    parts: list[int] = []
    last, symbol, part = -1, "", 0
    for token in tokens:
        if token == "(":
            _expect(last >= 0 and not symbol)
            branches.append(last)
        elif token == ")":
            _expect(bool(branches) and not symbol)
            last = branches.pop()
        elif token == ".":
            _expect(last >= 0 and not symbol and not branches)
            last, part = -1, part + 1
        elif token in "-=#":
            _expect(last >= 0 and not symbol)
            symbol = token
        elif token.isdigit():
            _expect(last >= 0)
            if token in rings:
                other, earlier = rings.pop(token)
                _expect(other != last and (not symbol or not earlier or symbol == earlier))
                # a number may not join two fragments
                _expect(parts[other] == parts[last])
                found.append((other, last, symbol or earlier))
            else:
                rings[token] = last, symbol
            symbol = ""
        else:
            if last >= 0:
                found.append((last, len(names), symbol))
            last, symbol = len(names), ""
            names.append(token)
            parts.append(part)
    _expect(last >= 0 and len(names) <= max_atoms and not symbol and not branches and not rings)

    def connected(u: int, v: int, without: int) -> bool:
        seen = {u}
        for _ in names:
            for k, (a, b, _) in enumerate(found):
                if k != without and (a in seen or b in seen):
                    seen |= {a, b}
        return v in seen

    lower = [name.strip("[]H+-").islower() for name in names]
    atoms, bonds, hydrogens = [], [], 0
    for k, (u, v, symbol) in enumerate(found):
        kind = 3 if not symbol and lower[u] and lower[v] else {"": 0, "-": 0, "=": 1, "#": 2}[symbol]
        bonds.append(((u, v), [kind, 0, int(connected(u, v, without=k))]))
    for i, name in enumerate(names):
        mine = [code for pair, code in bonds if i in pair]
        aromatic = sum(kind == 3 for kind, _, _ in mine)
        order = sum(kind + 1 for kind, _, _ in mine if kind != 3)
        if name in NORMAL_VALENCES:
            enough = [v for v in NORMAL_VALENCES[name] if v >= order]
            _expect(bool(enough) and not aromatic)
            valence, more = enough[0], enough[0] - order
        else:
            _expect((name, aromatic, order) in KNOWN_VALENCES)
            valence, more = KNOWN_VALENCES[name, aromatic, order]
        hydrogens += more
        element = ELEMENTS[name.strip("[]H+-").title()]
        charge = {"+": 1, "-": -1}.get(name.strip("[]")[-1], 0)
        atoms.append([element, len(mine), charge, 0, valence, int(lower[i]), int(any(ring for _, _, ring in mine))])
    return atoms, bonds, hydrogens


def _columns(
    atoms: Atoms, bonds: Bonds, hydrogens: int, place: list[int], order: list[int], maps: list[int], limits: tuple[int, ...]
) -> dict[str, list]:
    """Stored order, codes, and the entry of an atom list for each atom."""
    max_degree, max_charge, max_radicals, max_valence, num_stereo = limits
    n = len(atoms)
    codes = n * [[0]]
    for i, (element, degree, charge, radicals, valence, aromatic, ring) in enumerate(atoms):
        codes[place[i]] = [
            element,
            min(degree, max_degree + 1),
            charge + max_charge if abs(charge) <= max_charge else 2 * max_charge + 1,
            min(radicals, max_radicals + 1),
            min(valence, max_valence + 1),
            aromatic,
            ring,
        ]
    table = []
    for (u, v), (kind, stereo, in_ring) in bonds:
        small, large = sorted((place[u], place[v]))
        table.append((large, small, (kind * num_stereo + stereo) * 2 + in_ring))
    table.sort(key=lambda bond: bond[:2])
    index: list[int] | None = order
    if maps:
        if maps.count(-1) == 1 and 0 not in maps:
            maps = [0 if number < 0 else number for number in maps]
        index = [maps[i] for i in order] if sorted(maps) == list(range(n)) else None
    return {
        "atom_codes": codes,
        "bond_atoms": [[small, large] for large, small, _ in table],
        "bond_codes": [code for _, _, code in table],
        "label_index": index if index is not None else n * [-1],
        "known": [index is not None],
        "num_hydrogens": [hydrogens],
    }


# positional encodings


def adjacency(num_atoms: int, bonds: Sequence[Sequence[int]]) -> np.ndarray:
    """How often each pair is listed; a bond of an atom with itself is left out."""
    matrix = np.zeros((num_atoms, num_atoms))
    for u, v in bonds:
        if u != v:
            matrix[u, v] += 1
            matrix[v, u] += 1
    return matrix


def random_walk(num_atoms: int, bonds: Sequence[Sequence[int]], *, num_steps: int) -> np.ndarray:
    """Diagonals of the powers of the walk's matrix, of one molecule."""
    weights = adjacency(num_atoms, bonds)
    steps = np.array([row / max(row.sum(), 1) for row in weights]).reshape(num_atoms, num_atoms)
    powers = [np.linalg.matrix_power(steps, k + 1) for k in range(num_steps)]
    return np.array([np.diag(p) for p in powers]).reshape(num_steps, num_atoms).T


def components(matrix: np.ndarray) -> list[list[int]]:
    """Sets of atoms that are joined, by lowest atom."""
    reach = np.eye(len(matrix), dtype=bool) | (matrix > 0)
    for _ in range(len(matrix).bit_length()):
        reach = (reach.astype(float) @ reach.astype(float)) > 0
    return [list(atoms) for atoms in sorted({tuple(np.nonzero(row)[0].tolist()) for row in reach})]


def canonical_basis(space: np.ndarray) -> np.ndarray:
    """The rule of `positional.laplacian` for an orthonormal basis `space` (n, m) of an eigenspace, by its projector."""
    left = space @ space.T
    basis = []
    for _ in range(space.shape[1]):
        lengths = np.linalg.norm(left, axis=0)
        chosen = next(i for i, length in enumerate(lengths) if length >= 0.9999 * max(lengths))
        basis.append(left[:, chosen] / lengths[chosen])
        left = left - np.outer(basis[-1], basis[-1])
    return np.array(basis).T


def laplacian(num_atoms: int, bonds: Sequence[Sequence[int]], *, num_vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest eigenpairs of D - A of each component of one molecule, by LAPACK, with bases by the rule."""
    weights = adjacency(num_atoms, bonds)
    vectors, values = np.zeros((num_atoms, num_vectors)), np.zeros((num_atoms, num_vectors))
    for atoms in components(weights):
        part = weights[np.ix_(atoms, atoms)]
        found, basis = np.linalg.eigh(np.diag(part.sum(axis=1)) - part)
        found[0] = 0.0
        start = 0
        for k in range(1, len(atoms) + 1):
            if k == len(atoms) or found[k] - found[k - 1] > 1e-6 * found[k]:
                basis[:, start:k] = canonical_basis(basis[:, start:k])
                start = k
        take = min(num_vectors, len(atoms))
        vectors[np.ix_(atoms, range(take))] = basis[:, :take]
        values[np.ix_(atoms, range(take))] = found[:take]
    return vectors, values


def align_lists(lists, *, atom_ptr, label_index, readable, num_heavy, num_all):
    """Twin of `align.align_lists`: molecule by molecule, task by task."""
    num_molecules = len(atom_ptr) - 1
    out = np.full((int(atom_ptr[-1]), len(lists)), np.nan, np.float32)
    status = np.zeros((num_molecules, 2), np.int64)
    for m in range(num_molecules):
        for t, (values, start, size) in enumerate(lists):
            entries = values[start[m] : start[m] + size[m]]
            if np.isnan(entries).all():
                continue
            if not readable[m]:
                status[m, 0] = 1
                break
            if len(entries) not in (num_heavy[m], num_all[m]):
                status[m] = 2, len(entries)
                break
            for a in range(atom_ptr[m], atom_ptr[m + 1]):
                if 0 <= label_index[a] < len(entries):
                    out[a, t] = entries[label_index[a]]
    return out, status


def align_bonds(lists, *, bond_ptr, bond_index, is_reversed):
    """Twin of `align.align_bonds`: bond by bond, as a dictionary of directed edges."""
    num_molecules = len(bond_ptr) - 1
    out = np.full((int(bond_ptr[-1]), len(lists), 2), np.nan, np.float32)
    status = np.zeros((num_molecules, 2), np.int64)
    for m in range(num_molecules):
        bonds = [b for b in range(bond_ptr[m], bond_ptr[m + 1]) if bond_index[b] >= 0]
        for t, (values, start, size) in enumerate(lists):
            entries = values[start[m] : start[m] + size[m]]
            if np.isnan(entries).all():
                continue
            if len(entries) not in (len(bonds), 2 * len(bonds)):
                status[m] = 2, len(entries)
                break
            for b in bonds:
                if len(entries) == len(bonds):
                    out[b, t, 0] = entries[bond_index[b]]
                else:
                    ways = {"begin to end": entries[2 * bond_index[b]], "end to begin": entries[2 * bond_index[b] + 1]}
                    # stored bonds go from the smaller atom to the larger
                    smaller_first = "end to begin" if is_reversed[b] else "begin to end"
                    out[b, t, 0] = ways.pop(smaller_first)
                    (out[b, t, 1],) = ways.values()
    return out, status


def align_pairs(lists, *, atom_ptr, pair_ptr, label_index, readable, num_heavy):
    """Twin of `align.align_pairs`: by a full matrix a molecule."""
    num_molecules = len(atom_ptr) - 1
    out = np.full((int(pair_ptr[-1]), len(lists), 2), np.nan, np.float32)
    status = np.zeros((num_molecules, 2), np.int64)
    for m in range(num_molecules):
        n, atoms = int(num_heavy[m]), label_index[atom_ptr[m] : atom_ptr[m + 1]]
        for t, (values, start, size) in enumerate(lists):
            entries = values[start[m] : start[m] + size[m]]
            if np.isnan(entries).all():
                continue
            if len(entries) not in (n * n, n * (n - 1) // 2):
                status[m] = 2, len(entries)
                break
            if not readable[m]:
                status[m, 0] = 1
                break
            matrix = np.full((n, n), np.nan, np.float32)
            if len(entries) == n * n:
                matrix[:] = entries.reshape(n, n)
            else:
                matrix[np.triu_indices(n, 1)] = entries
            for j in range(len(atoms)):
                for i in range(j + 1):
                    row, known = pair_ptr[m] + j * (j + 1) // 2 + i, 0 <= atoms[i] < n and 0 <= atoms[j] < n
                    if known and len(entries) == n * n:
                        out[row, t, 0] = matrix[atoms[i], atoms[j]]
                        out[row, t, 1] = matrix[atoms[j], atoms[i]] if i < j else np.nan
                    elif known and i < j:
                        out[row, t, 0] = matrix[min(atoms[i], atoms[j]), max(atoms[i], atoms[j])]
    return out, status


def measure_columns(values):
    """Twin of `moments.measure_columns`: by the definitions."""
    out = []
    for column in values.T.astype(np.float64):
        real = [x for x in column.tolist() if not math.isnan(x)]
        mean = math.fsum(real) / max(1, len(real))
        out.append(
            (len(real), mean, math.fsum((x - mean) ** 2 for x in real), min(real, default=np.inf), max(real, default=-np.inf))
        )
    return tuple(np.array(x) for x in zip(*out, strict=True))


# labels as triples


def list_labels(sparse: SparseLabels, num_molecules: int, *, tasks: Sequence[int] | None = None) -> list[list[tuple[int, float]]]:
    """(place in `tasks`, value) of the labels of each molecule: what is no NaN in its row of the dense twin."""
    dense = densify_labels(sparse, range(num_molecules + 1))
    if tasks is not None:
        dense = dense[:, list(tasks)]
    return [[(p, value) for p, value in enumerate(row.tolist()) if not math.isnan(value)] for row in dense]


def collate_triples(
    molecules: Sequence[int], rows: LabelRows, *, capacity: int, graphs: int, num_tasks: int
) -> tuple[list[int], list[int], list[float], list[int]]:
    """Append label by label, then padding up to the capacity; count by looking."""
    graph, task, value = [], [], []
    for g, m in enumerate(molecules):
        for k in range(rows.ptr[m], rows.ptr[m + 1]):
            graph.append(g)
            task.append(int(rows.task[k]))
            value.append(float(rows.value[k]))
    real = [t for t, x in zip(task, value) if not math.isnan(x)]
    padding = capacity - len(graph)
    counts = [real.count(t) for t in range(num_tasks)]
    return graph + padding * [graphs - 1], task + padding * [0], value + padding * [math.nan], counts


def draw_dropped(seed: int, threshold: int, rows: int, columns: int) -> np.ndarray:
    """Twin of the draws in `kernels._numba_dropout`: bool (rows, columns), True where a number is dropped."""
    mask64 = 2**64 - 1

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & mask64
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask64
        return x ^ (x >> 31)

    groups = -(-columns // 4)
    out = np.zeros((rows, columns), bool)
    for row in range(rows):
        for column in range(columns):
            z = mix((seed + (row * groups + column // 4) * 0x9E3779B97F4A7C15) & mask64)
            out[row, column] = (z >> (16 * (column % 4))) & 0xFFFF < threshold
    return out
