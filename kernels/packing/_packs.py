"""Compiled code of `kernels.packing.packs` and `kernels.rng.permutation.shuffled`; rules as in `rng/_hashing.py`."""

import numpy as np

from molstream.kernels.compiled import kernel, part

MAX_CUTS = 64
"""Places in a window of least size where another may begin."""


@part
def count_packs(histogram, largest, capacity):
    """Least P with (sum of all sizes >= v, less v) / P + v <= capacity, or a pack for each of these, at every size v."""
    number = 0
    cumulative = 0
    packs = 0
    for v in range(largest, 0, -1):
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


@kernel()
def needed_packs(histogram, largest, molecules, bonds, most, capacity):
    """Packs for one window; `most` is the most bonds of one molecule, capacity is (graphs, atoms, edges)."""
    while largest > 0 and histogram[largest] == 0:
        largest -= 1
    packs = count_packs(histogram, largest, capacity[1])
    # in the two slack dimensions the mean load plus the largest item must fit, or each molecule has its own pack
    room = max(1, capacity[0] - 1)
    packs = max(packs, (molecules + room - 1) // room)
    room = max(1, capacity[2] - min(2 * most, capacity[2] // 8))
    packs = max(packs, min(molecules, (2 * bonds + room - 1) // room))
    if 8 * largest > capacity[1] or 16 * most > capacity[2]:
        # a few molecules fill much of a pack in one dimension and little in others, and these get in each other's way
        packs = min(molecules, packs + 2 + packs // 16)
    return packs


@kernel("i8[:], const i4[:], const i4[:], i4[:], i8[:], u2[:], u2[:], i8[:], i8, i8, i8[:], i8[:]")
def cut_windows(
    order, molecules_of, bonds_of, most_of, hist_ptr, hist_size, hist_count, capacity, least, most, window_end, window_packs
):
    """Cut blocks in epoch order into windows; see `packing.cut_windows`. Returns the number of windows.

    From the last block to the first: the least number of packs that the rest of the epoch takes if a window begins here.
    """
    max_size = 0
    for k in range(hist_size.size):
        max_size = max(max_size, np.int64(hist_size[k]))
    histogram = np.zeros(max_size + 1, np.int64)
    total = 0
    for b in order:
        total += molecules_of[b]
    # where blocks are small not every one of them may begin a window
    stride = max(1, order.size * least // (max(1, total) * MAX_CUTS))
    num_places = (order.size + stride - 1) // stride
    fewest = np.zeros(num_places + 1, np.int64)
    end_of = np.empty(num_places, np.int64)
    packs_of = np.empty(num_places, np.int64)
    left = 0
    for start in range(num_places - 1, -1, -1):
        for b in order[start * stride : (start + 1) * stride]:
            left += molecules_of[b]
        histogram[:] = 0
        # whole numbers, not the constant 0, which `needed_packs` would be compiled for once more
        largest = np.int64(0)
        in_blocks = 0
        molecules = np.int64(0)
        bonds = np.int64(0)
        most_bonds = np.int64(0)
        end_of[start] = -1
        for place in range(start, num_places):
            for b in order[place * stride : (place + 1) * stride]:
                for k in range(hist_ptr[b], hist_ptr[b + 1]):
                    size = np.int64(hist_size[k])
                    # what is larger than a pack is left out, where it is not refused
                    if size <= capacity[1]:
                        histogram[size] += hist_count[k]
                        molecules += hist_count[k]
                        largest = max(largest, size)
                in_blocks += molecules_of[b]
                bonds += bonds_of[b]
                most_bonds = max(most_bonds, np.int64(most_of[b]))
            if end_of[start] >= 0 and in_blocks > most:
                break
            # no window is too small, nor what is left for the next
            if in_blocks < left and (in_blocks < least or left - in_blocks < least):
                continue
            packs = max(1, needed_packs(histogram, largest, molecules, bonds, most_bonds, capacity))
            if end_of[start] < 0 or packs + fewest[place + 1] < fewest[start]:
                end_of[start] = place + 1
                packs_of[start] = packs
                fewest[start] = packs + fewest[place + 1]
    num_windows = 0
    start = 0
    while start < num_places:
        window_packs[num_windows] = packs_of[start]
        start = end_of[start]
        window_end[num_windows] = min(order.size, start * stride)
        num_windows += 1
    return num_windows


@kernel("i8[:], i8[:], u2[:], u2[:], i8")
def count_larger(blocks, hist_ptr, hist_size, hist_count, limit):
    """Molecules of more than `limit` atoms in some blocks."""
    number = 0
    for b in blocks:
        for k in range(hist_ptr[b], hist_ptr[b + 1]):
            if hist_size[k] > limit:
                number += hist_count[k]
    return number


@kernel("i8[:], i8[:], i8[:]")
def deal(sizes, load, lanes):
    """Each item in order to the least loaded lane, the lowest of several; `load` goes on from what it holds."""
    for k in range(sizes.size):
        best = 0
        for lane in range(1, load.size):
            if load[lane] < load[best]:
                best = lane
        lanes[k] = best
        load[best] += sizes[k]


@kernel("i8[:], i8")
def count_whole(sizes, num_lanes):
    """How many items, in full rounds, can be dealt before a lane holds more than its even share of all."""
    load = np.zeros(num_lanes, np.int64)
    total = np.int64(0)
    for k in range(sizes.size):
        total += sizes[k]
    share = (total + num_lanes - 1) // num_lanes
    whole = 0
    for k in range(sizes.size):
        best = 0
        for lane in range(1, num_lanes):
            if load[lane] < load[best]:
                best = lane
        load[best] += sizes[k]
        if load[best] > share:
            break
        if (k + 1) % num_lanes == 0:
            whole = k + 1
    return whole


@part
def fill_packs(order, num_in_pack, pack_of, pack_ptr, pack_molecules):
    """Molecules of each pack, in the given order; pack_of[k] is the pack of order[k]."""
    pack_ptr[0] = 0
    for p in range(num_in_pack.size):
        pack_ptr[p + 1] = pack_ptr[p] + num_in_pack[p]
    cursor = np.empty(num_in_pack.size, np.int64)
    for p in range(num_in_pack.size):
        cursor[p] = pack_ptr[p]
    for k in range(order.size):
        p = pack_of[k]
        pack_molecules[cursor[p]] = order[k]
        cursor[p] += 1


@part
def largest_first(atoms, order, by_size):
    """by_size: places in `order`, of the molecules with most atoms first, in the given order among equals."""
    largest = 0
    for i in order:
        largest = max(largest, atoms[i])
    start = np.zeros(largest + 2, np.int64)
    for i in order:
        start[largest - atoms[i] + 1] += 1
    for v in range(largest + 1):
        start[v + 1] += start[v]
    for k in range(order.size):
        v = largest - atoms[order[k]]
        by_size[start[v]] = k
        start[v] += 1


EDGE_BITS, PACK_BITS = 22, 20


@kernel("i8[:], i8[:], i8[:], i8[:], i8[:], i8[:], i8[:]")
def pack_emptiest(atoms, edges, labels, order, limits, pack_ptr, pack_molecules):
    """Balance molecules into exactly pack_ptr.size - 1 packs; returns -1, or the first molecule that found no place.

    Largest first, each into the pack that is emptiest of atoms, of equals the emptiest of edges, then the lowest: its load is at
    most the mean load so far, so no load exceeds (atoms placed before) / packs + (own atoms), the bound that `count_packs` solves
    for the number of packs. The packs are a binary heap of (atoms, edges, number) in one integer.
    """
    num_packs = pack_ptr.size - 1
    by_size = np.empty(order.size, np.int64)
    largest_first(atoms, order, by_size)
    heap = np.empty(num_packs, np.int64)
    for p in range(num_packs):
        heap[p] = p
    num_in_pack = np.zeros(num_packs, np.int64)
    labels_in_pack = np.zeros(num_packs, np.int64)
    pack_of = np.empty(order.size, np.int64)
    for j in range(order.size):
        k = by_size[j]
        i = order[k]
        top = heap[0]
        p = top & ((1 << PACK_BITS) - 1)
        new_edges = ((top >> PACK_BITS) & ((1 << EDGE_BITS) - 1)) + edges[i]
        new_atoms = (top >> (PACK_BITS + EDGE_BITS)) + atoms[i]
        if new_atoms > limits[1] or new_edges > limits[2] or num_in_pack[p] >= limits[0]:
            return i
        if labels.size:
            labels_in_pack[p] += labels[i]
            if labels_in_pack[p] > limits[3]:
                return i
        num_in_pack[p] += 1
        pack_of[k] = p
        # sink from the top
        key = (((new_atoms << EDGE_BITS) | new_edges) << PACK_BITS) | p
        at = 0
        while True:
            child = 2 * at + 1
            if child >= num_packs:
                break
            if child + 1 < num_packs and heap[child + 1] < heap[child]:
                child += 1
            if heap[child] >= key:
                break
            heap[at] = heap[child]
            at = child
        heap[at] = key
    fill_packs(order, num_in_pack, pack_of, pack_ptr, pack_molecules)
    return -1


@part
def add_load(load, pack, atoms, edges, labels, i):
    """Add molecule i to a pack; load[p] is what pack p holds: molecules, atoms, edges, labels."""
    load[pack, 0] += 1
    load[pack, 1] += atoms[i]
    load[pack, 2] += edges[i]
    if labels.size:
        load[pack, 3] += labels[i]


@kernel()
def pack_evenly(atoms, edges, labels, order, limits, pack_ptr, pack_molecules):
    """As `pack_emptiest`, with the same bound: of the packs no fuller of atoms than the mean so far, the one with most room in
    edges, graphs and labels; if none has any, the emptiest that has."""
    num_packs = pack_ptr.size - 1
    by_size = np.empty(order.size, np.int64)
    largest_first(atoms, order, by_size)
    load = np.zeros((num_packs, 4), np.int64)
    pack_of = np.empty(order.size, np.int64)
    max_labels = max(1, limits[3])
    placed = 0
    for k in by_size:
        i = order[k]
        best = -1
        best_score = 0.0
        best_even = False
        for p in range(num_packs):
            if load[p, 1] + atoms[i] > limits[1] or load[p, 2] + edges[i] > limits[2] or load[p, 0] + 1 > limits[0]:
                continue
            if labels.size and load[p, 3] + labels[i] > limits[3]:
                continue
            even = load[p, 1] * num_packs <= placed
            if best >= 0 and best_even and not even:
                continue
            score = max(load[p, 2] / limits[2], load[p, 0] / limits[0], load[p, 3] / max_labels) if even else float(load[p, 1])
            if best < 0 or (even and not best_even) or score < best_score:
                best, best_score, best_even = p, score, even
        if best < 0:
            return i
        add_load(load, best, atoms, edges, labels, i)
        pack_of[k] = best
        placed += atoms[i]
    fill_packs(order, load[:, 0], pack_of, pack_ptr, pack_molecules)
    return -1


@kernel()
def pack_jointly(atoms, edges, labels, order, limits, pack_ptr, pack_molecules):
    """As `pack_emptiest`, without its bound: hardest to place first, each to where the fullest dimension stays least full."""
    num_packs = pack_ptr.size - 1
    weight = np.empty(order.size, np.float64)
    for k in range(order.size):
        i = order[k]
        heaviest = max(atoms[i] / limits[1], edges[i] / limits[2], 1 / limits[0])
        weight[k] = -max(heaviest, labels[i] / limits[3]) if labels.size else -heaviest
    load = np.zeros((num_packs, 4), np.int64)
    pack_of = np.empty(order.size, np.int64)
    for k in np.argsort(weight, kind="mergesort"):
        i = order[k]
        best = -1
        least = np.inf
        for p in range(num_packs):
            fullest = max((load[p, 1] + atoms[i]) / limits[1], (load[p, 2] + edges[i]) / limits[2], (load[p, 0] + 1) / limits[0])
            if labels.size:
                fullest = max(fullest, (load[p, 3] + labels[i]) / limits[3])
            if fullest <= 1.0 and fullest < least:
                best, least = p, fullest
        if best < 0:
            return i
        add_load(load, best, atoms, edges, labels, i)
        pack_of[k] = best
    fill_packs(order, load[:, 0], pack_of, pack_ptr, pack_molecules)
    return -1
