"""All compiled code of the project, away from import hooks and from anything that is not a number.

One decision: every function is `nogil` and works on arrays its caller allocated and checked, so that threads run them side by
side. The price: nothing in here raises; a caller that passes an index out of range corrupts memory. Callers check first.
"""

import numpy as np
from numba import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
NUM_FEISTEL_ROUNDS = 6
NUM_SKELETON_ROUNDS = 8


@njit(cache=True, nogil=True, inline="always")
def mix64(x):
    x = np.uint64(x) + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * MIX_1
    x = (x ^ (x >> np.uint64(27))) * MIX_2
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def hash_u64(key, values, out):
    for i in range(values.size):
        out[i] = mix64(key ^ mix64(values[i]))


@njit(cache=True, nogil=True)
def permute(key, n, half_bits, start, out):
    """out[k] = image of start + k under a keyed permutation of [0, n): Feistel rounds on 2 * half_bits bits, cycle-walked."""
    shift = np.uint64(half_bits)
    mask = (np.uint64(1) << shift) - np.uint64(1)
    size = np.uint64(n)
    for k in range(out.size):
        x = np.uint64(start + k)
        while True:
            left = x >> shift
            right = x & mask
            for r in range(NUM_FEISTEL_ROUNDS):
                left, right = right, left ^ (mix64(right ^ mix64(key + np.uint64(r))) & mask)
            x = (left << shift) | right
            if x < size:
                break
        out[k] = x


@njit(cache=True, nogil=True)
def hash_skeletons(atom_ptr, bond_ptr, elements, bond_atoms, key, out):
    """Weisfeiler-Lehman hash of each molecule's heavy atoms; hydrogens count only in a molecule that has nothing else."""
    max_atoms = 0
    for m in range(out.size):
        max_atoms = max(max_atoms, atom_ptr[m + 1] - atom_ptr[m])
    color = np.empty(max_atoms, np.uint64)
    gathered = np.empty(max_atoms, np.uint64)
    for m in range(out.size):
        first = atom_ptr[m]
        n = atom_ptr[m + 1] - first
        num_heavy = 0
        for i in range(n):
            if elements[first + i] != 1:
                num_heavy += 1
        for i in range(n):
            color[i] = mix64(key ^ np.uint64(elements[first + i]))
        for _ in range(NUM_SKELETON_ROUNDS):
            for i in range(n):
                gathered[i] = np.uint64(0)
            for b in range(bond_ptr[m], bond_ptr[m + 1]):
                u = bond_atoms[b, 0]
                v = bond_atoms[b, 1]
                if num_heavy == 0 or (elements[first + u] != 1 and elements[first + v] != 1):
                    gathered[u] += mix64(color[v])
                    gathered[v] += mix64(color[u])
            for i in range(n):
                color[i] = mix64(color[i] + gathered[i] * MIX_1)
        total = np.uint64(0)
        for i in range(n):
            if num_heavy == 0 or elements[first + i] != 1:
                total += mix64(color[i])
        out[m] = mix64(total ^ mix64(np.uint64(num_heavy)))


@njit(cache=True, nogil=True)
def shuffle_bytes(data, item_size, out):
    n = data.size // item_size
    for k in range(item_size):
        for i in range(n):
            out[k * n + i] = data[i * item_size + k]


@njit(cache=True, nogil=True)
def unshuffle_bytes(data, item_size, out):
    n = data.size // item_size
    if item_size == 4:
        for i in range(n):
            out[4 * i] = data[i]
            out[4 * i + 1] = data[n + i]
            out[4 * i + 2] = data[2 * n + i]
            out[4 * i + 3] = data[3 * n + i]
    else:
        for k in range(item_size):
            for i in range(n):
                out[i * item_size + k] = data[k * n + i]


DENSE, BITMAP, ROWS = 0, 1, 2


@njit(cache=True, nogil=True)
def measure_labels(encoding, count, bitmap, rows, ptr, num_values):
    """Number of values each task must hold; returns False when a bitmap or row list contradicts its count or order."""
    n = ptr.size - 1
    row_bytes = (n + 7) // 8
    at_bitmap = 0
    at_row = 0
    for t in range(encoding.size):
        total = 0
        if encoding[t] == DENSE:
            if count[t] != n:
                return False
            total = ptr[n]
        elif encoding[t] == BITMAP:
            seen = 0
            for i in range(n):
                if (bitmap[at_bitmap + (i >> 3)] >> (i & 7)) & 1:
                    seen += 1
                    total += ptr[i + 1] - ptr[i]
            if seen != count[t]:
                return False
            at_bitmap += row_bytes
        else:
            before = -1
            for k in range(at_row, at_row + count[t]):
                i = np.int64(rows[k])
                if i <= before or i >= n:
                    return False
                before = i
                total += ptr[i + 1] - ptr[i]
            at_row += count[t]
        num_values[t] = total
    return True


@njit(cache=True, nogil=True)
def scatter_labels(encoding, count, bitmap, rows, values, ptr, out):
    """Write present values into the dense `out` (ptr[-1], num_tasks), which the caller filled with NaN."""
    n = ptr.size - 1
    row_bytes = (n + 7) // 8
    at_bitmap = 0
    at_row = 0
    at_value = 0
    for t in range(encoding.size):
        if encoding[t] == DENSE:
            for r in range(ptr[n]):
                out[r, t] = values[at_value + r]
            at_value += ptr[n]
        elif encoding[t] == BITMAP:
            for i in range(n):
                if (bitmap[at_bitmap + (i >> 3)] >> (i & 7)) & 1:
                    for r in range(ptr[i], ptr[i + 1]):
                        out[r, t] = values[at_value]
                        at_value += 1
            at_bitmap += row_bytes
        else:
            for k in range(at_row, at_row + count[t]):
                i = np.int64(rows[k])
                for r in range(ptr[i], ptr[i + 1]):
                    out[r, t] = values[at_value]
                    at_value += 1
            at_row += count[t]


@njit(cache=True, nogil=True)
def count_packs(histogram, capacity):
    """Least P with (sum of all sizes >= v, less v) / P + v <= capacity, or a pack for each of these, at every size v."""
    number = 0
    cumulative = 0
    packs = 0
    for v in range(histogram.size - 1, 0, -1):
        if histogram[v] == 0:
            continue
        number += histogram[v]
        cumulative += histogram[v] * v
        room = capacity - v
        # with a pack for each molecule so far there is an empty one for the next
        need = number
        if room > 0:
            need = min(number, max(1, (cumulative - v + room - 1) // room))
        packs = max(packs, need)
    return packs


@njit(cache=True, nogil=True)
def needed_packs(histogram, molecules, bonds, capacity):
    """Packs for one window; capacity is (graphs, atoms, edges, most edges of one molecule)."""
    packs = count_packs(histogram, capacity[1])
    # in the two slack dimensions the mean load plus the largest item must fit, or each molecule has its own pack
    room = max(1, capacity[0] - 1)
    packs = max(packs, (molecules + room - 1) // room)
    room = max(1, capacity[2] - capacity[3])
    packs = max(packs, min(molecules, (2 * bonds + room - 1) // room))
    largest = histogram.size - 1
    while largest > 0 and histogram[largest] == 0:
        largest -= 1
    if 8 * largest > capacity[1]:
        # a few molecules fill much of a pack but few of its graph slots, and the dimensions get in each other's way
        packs = min(molecules, packs + 2 + packs // 16)
    return packs


@njit(cache=True, nogil=True)
def cut_windows(order, sums, hist_ptr, hist_size, hist_count, capacity, max_size, least, most, window_end, window_packs):
    """Cut blocks in epoch order into windows; see `packing.cut_windows`. Returns the number of windows."""
    num_blocks = order.size
    histogram = np.zeros(max_size + 1, np.int64)
    left = 0
    for k in range(num_blocks):
        left += sums[order[k], 0]
    start = 0
    num_windows = 0
    while start < num_blocks:
        histogram[:] = 0
        molecules = 0
        atoms = 0
        bonds = 0
        best_end = -1
        best_packs = 0
        best_atoms = 0
        best_molecules = 0
        for end in range(start, num_blocks):
            b = order[end]
            for k in range(hist_ptr[b], hist_ptr[b + 1]):
                histogram[hist_size[k]] += hist_count[k]
            molecules += sums[b, 0]
            atoms += sums[b, 1]
            bonds += sums[b, 2]
            if molecules < least and molecules < left:
                continue
            if best_end >= 0 and molecules > most:
                break
            if 0 < left - molecules < least:
                # stopping here would leave a remainder too small to be a window
                continue
            packs = needed_packs(histogram, molecules, bonds, capacity)
            if best_end < 0 or atoms * best_packs > best_atoms * packs:
                best_end, best_packs, best_atoms, best_molecules = end + 1, packs, atoms, molecules
            if molecules >= most:
                break
        left -= best_molecules
        window_end[num_windows] = best_end
        window_packs[num_windows] = best_packs
        num_windows += 1
        start = best_end
    return num_windows


@njit(cache=True, nogil=True)
def shuffle_order(key, out):
    """Fisher-Yates with a counter-based generator."""
    for i in range(out.size):
        out[i] = i
    for i in range(out.size - 1, 0, -1):
        j = np.int64(mix64(key ^ mix64(np.uint64(i))) % np.uint64(i + 1))
        swap = out[i]
        out[i] = out[j]
        out[j] = swap


@njit(cache=True, nogil=True)
def fill_packs(order, load, pack_of, pack_ptr, pack_molecules):
    """Molecules of each pack, in the given order; load[p, 2] is how many pack p has."""
    pack_ptr[0] = 0
    for p in range(load.shape[0]):
        pack_ptr[p + 1] = pack_ptr[p] + load[p, 2]
    cursor = pack_ptr[:-1].copy()
    for k in range(order.size):
        i = order[k]
        pack_molecules[cursor[pack_of[i]]] = i
        cursor[pack_of[i]] += 1


@njit(cache=True, nogil=True)
def pack_window(atoms, bonds, order, num_packs, max_graphs, max_atoms, max_edges, pack_ptr, pack_molecules):
    """Balance molecules into exactly num_packs packs; returns -1, or the first molecule that found no place.

    Largest first, each into a pack whose atom load is at most the mean load so far: then no load exceeds
    (atoms placed before) / num_packs + (own atoms), the bound that `count_packs` solves for num_packs. Among those packs the
    one with the most room in edges and graphs takes it.
    """
    n = order.size
    largest = 0
    for i in range(n):
        largest = max(largest, atoms[i])
    start = np.zeros(largest + 2, np.int64)
    for i in range(n):
        start[largest - atoms[i] + 1] += 1
    for v in range(largest + 1):
        start[v + 1] += start[v]
    by_size = np.empty(n, np.int64)
    for k in range(n):
        i = order[k]
        by_size[start[largest - atoms[i]]] = i
        start[largest - atoms[i]] += 1

    load = np.zeros((num_packs, 3), np.int64)
    pack_of = np.empty(n, np.int64)
    placed = 0
    for k in range(n):
        i = by_size[k]
        edges = 2 * bonds[i]
        best = -1
        best_score = np.int64(0)
        best_even = False
        for p in range(num_packs):
            if load[p, 0] + atoms[i] > max_atoms or load[p, 1] + edges > max_edges or load[p, 2] + 1 > max_graphs:
                continue
            even = load[p, 0] * num_packs <= placed
            if best >= 0 and best_even and not even:
                continue
            score = max(load[p, 1] * max_graphs, load[p, 2] * max_edges) if even else load[p, 0]
            if best < 0 or (even and not best_even) or score < best_score:
                best, best_score, best_even = p, score, even
        if best < 0:
            return i
        load[best, 0] += atoms[i]
        load[best, 1] += edges
        load[best, 2] += 1
        pack_of[i] = best
        placed += atoms[i]

    fill_packs(order, load, pack_of, pack_ptr, pack_molecules)
    return -1


@njit(cache=True, nogil=True)
def pack_window_jointly(atoms, bonds, order, num_packs, max_graphs, max_atoms, max_edges, pack_ptr, pack_molecules):
    """As `pack_window`, without its bound: hardest to place first, each to where the fullest dimension stays least full."""
    n = order.size
    weight = np.empty(n, np.float64)
    for k in range(n):
        i = order[k]
        weight[k] = -max(atoms[i] / max_atoms, 2 * bonds[i] / max_edges, 1 / max_graphs)
    by_weight = order[np.argsort(weight, kind="mergesort")]
    load = np.zeros((num_packs, 3), np.int64)
    pack_of = np.empty(n, np.int64)
    for k in range(n):
        i = by_weight[k]
        best = -1
        least = np.inf
        for p in range(num_packs):
            fullest = max(
                (load[p, 0] + atoms[i]) / max_atoms,
                (load[p, 1] + 2 * bonds[i]) / max_edges,
                (load[p, 2] + 1) / max_graphs,
            )
            if fullest <= 1.0 and fullest < least:
                best, least = p, fullest
        if best < 0:
            return i
        load[best, 0] += atoms[i]
        load[best, 1] += 2 * bonds[i]
        load[best, 2] += 1
        pack_of[i] = best
    fill_packs(order, load, pack_of, pack_ptr, pack_molecules)
    return -1


@njit(cache=True, nogil=True)
def collate_structure(
    molecules,
    window_atom_ptr,
    window_bond_ptr,
    window_atom_codes,
    window_bond_atoms,
    window_bond_codes,
    atom_codes,
    edge_index,
    edge_codes,
    edge_order,
    edge_ptr,
    graph_of_atom,
    atom_ptr,
    graph_mask,
    atom_mask,
    edge_mask,
):
    """Fill one batch's structure arrays completely, padding included; see `collate.collate_pack`."""
    num_graph_slots = graph_mask.size
    num_atom_slots = atom_mask.size
    num_edge_slots = edge_mask.size
    num_features = atom_codes.shape[1]
    at_atom = 0
    at_edge = 0
    for g in range(molecules.size):
        m = molecules[g]
        atom_ptr[g] = at_atom
        graph_mask[g] = True
        for b in range(window_bond_ptr[m], window_bond_ptr[m + 1]):
            u = at_atom + window_bond_atoms[b, 0]
            v = at_atom + window_bond_atoms[b, 1]
            edge_index[0, at_edge] = u
            edge_index[1, at_edge] = v
            edge_index[0, at_edge + 1] = v
            edge_index[1, at_edge + 1] = u
            edge_codes[at_edge] = window_bond_codes[b]
            edge_codes[at_edge + 1] = window_bond_codes[b]
            at_edge += 2
        for a in range(window_atom_ptr[m], window_atom_ptr[m + 1]):
            for f in range(num_features):
                atom_codes[at_atom, f] = window_atom_codes[a, f]
            graph_of_atom[at_atom] = g
            at_atom += 1
    for g in range(molecules.size, num_graph_slots):
        atom_ptr[g] = at_atom
        graph_mask[g] = False
    # every padded atom belongs to the last graph slot, so the slots between are empty
    atom_ptr[num_graph_slots] = num_atom_slots
    for a in range(num_atom_slots):
        atom_mask[a] = a < at_atom
    for a in range(at_atom, num_atom_slots):
        graph_of_atom[a] = num_graph_slots - 1
        for f in range(num_features):
            atom_codes[a, f] = 0
    for e in range(num_edge_slots):
        edge_mask[e] = e < at_edge
    for e in range(at_edge, num_edge_slots):
        edge_index[0, e] = num_atom_slots - 1
        edge_index[1, e] = num_atom_slots - 1
        edge_codes[e] = 0
    for a in range(num_atom_slots + 1):
        edge_ptr[a] = 0
    for e in range(num_edge_slots):
        edge_ptr[edge_index[1, e] + 1] += 1
    for a in range(num_atom_slots):
        edge_ptr[a + 1] += edge_ptr[a]
    # fill with edge_ptr itself as the cursor, then shift it back by one
    for e in range(num_edge_slots):
        d = edge_index[1, e]
        edge_order[edge_ptr[d]] = e
        edge_ptr[d] += 1
    for a in range(num_atom_slots, 0, -1):
        edge_ptr[a] = edge_ptr[a - 1]
    edge_ptr[0] = 0


@njit(cache=True, nogil=True)
def collate_labels(molecules, ptr, labels, out, num_labels):
    """Copy the label rows of each molecule, pad with NaN, count what is present per task."""
    num_tasks = out.shape[1]
    at = 0
    for t in range(num_tasks):
        num_labels[t] = 0
    for g in range(molecules.size):
        for r in range(ptr[molecules[g]], ptr[molecules[g] + 1]):
            for t in range(num_tasks):
                value = labels[r, t]
                out[at, t] = value
                if not np.isnan(value):
                    num_labels[t] += 1
            at += 1
    for r in range(at, out.shape[0]):
        for t in range(num_tasks):
            out[r, t] = np.nan
