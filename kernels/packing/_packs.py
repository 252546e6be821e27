"""Compiled code of `kernels.packing.packs` and `kernels.rng.permutation.shuffled`; rules as in `rng/_hashing.py`."""

import numpy as np

from molstream.kernels.compiled import kernel, part

MAX_CUTS = 64
"""Places in a window of least size where another may begin."""


SHARES = (1, 2, 4, 8, 16)
"""Molecules of more than 1/share of a pack in any dimension get one of their own, where that takes fewest packs; 1: none does."""


@part
def weigh(atoms, as_pairs):
    """Atoms of a molecule, or its pairs i <= j."""
    return atoms * (atoms + 1) // 2 if as_pairs else atoms


@part
def dealt_atoms(histogram, largest, molecules, packs, as_pairs):
    """Most atoms (or pairs) that one pack gets of molecules of up to `largest` atoms: those of the largest of every round.

    Returned twice: as it is, and with the first round and the last, the smallest to the largest, as one.
    """
    total, placed, next_leader = np.int64(0), np.int64(0), np.int64(0)
    last_leader = largest
    for v in range(largest, 0, -1):
        placed += histogram[v]
        if placed > next_leader:
            rounds = (placed - next_leader + packs - 1) // packs
            next_leader += rounds * packs
            total += rounds * weigh(v, as_pairs)
            last_leader = v
    if molecules <= packs:
        return total, total
    # down the first round and up the last, whose empty places come first
    high, low = largest, 0
    high_left, low_left = histogram[largest], -molecules % packs
    most, place = np.int64(0), np.int64(0)
    while place < packs:
        while high_left == 0:
            high -= 1
            high_left = histogram[high]
        while low_left == 0:
            low += 1
            low_left = histogram[low]
        most = max(most, weigh(high, as_pairs) + weigh(low, as_pairs))
        step = min(high_left, low_left)
        high_left -= step
        low_left -= step
        place += step
    return total, total - weigh(largest, as_pairs) - weigh(last_leader, as_pairs) + most


@part
def excess_of(histogram, largest, molecules, edges, most_edges, label_counts, most_labels, capacity, packs):
    """How many atoms dealing into so many packs may exceed a pack by: at most 0 where it provably exceeds nothing (see
    `pack_dealt`), which then holds for any larger number too."""
    rounds = (molecules + packs - 1) // packs
    if rounds > capacity[0]:
        return np.int64(1)
    if capacity[3] >= 0:
        # a pack has one molecule of each round; at worst those with most labels
        left, labels = rounds, np.int64(0)
        for n in range(label_counts.size - 1, 0, -1):
            taken = min(left, label_counts[n])
            labels += taken * min(n, most_labels)
            left -= taken
            if not left:
                break
        if labels > capacity[3]:
            return np.int64(1)
    plain, folded = dealt_atoms(histogram, largest, molecules, packs, False)
    plain_pairs, folded_pairs = np.int64(-1), np.int64(-1)
    if capacity[4] >= 0:
        plain_pairs, folded_pairs = dealt_atoms(histogram, largest, molecules, packs, True)
    least = max(np.int64(1), plain - capacity[1])
    for spread, atoms, pairs in ((most_edges, plain, plain_pairs), (2 * most_edges, folded, folded_pairs)):
        bound = min(edges, rounds * most_edges, (edges + spread * (packs - 1)) // packs)
        if bound <= capacity[2] and pairs <= capacity[4]:
            least = min(least, atoms - capacity[1])
    return least


@part
def least_packs(histogram, largest, molecules, atoms, edges, most_edges, label_counts, most_labels, capacity, least, most):
    """The least number, from `least` to `most`, that dealing is proven for; `most` if there is none below."""
    packs, up, down = least, np.int64(1), np.int64(1)
    while least < most:
        excess = excess_of(histogram, largest, molecules, edges, most_edges, label_counts, most_labels, capacity, packs)
        if excess > 0:
            least = packs + 1
            # the load of the fullest pack exceeds the mean by about as much for one pack more
            room = atoms // packs - excess
            guess = (atoms + room - 1) // room if room > 0 else least
            packs = max(guess, packs + up) if down == 1 else (least + most) // 2
            up *= 2
        else:
            most = packs
            packs = most - down if up == 1 or down < 4 else (least + most) // 2
            down *= 2
        packs = max(least, min(packs, most - 1))
    return most


@part
def count_needed(histogram, largest, molecules, atoms, edges, most_edges, crowded, label_counts, capacity):
    """Packs for one window: the least number that dealing is proven for.

    `histogram`: of molecules none of which is larger than a pack, `atoms` in all; `most_edges`: of one molecule; crowded[k]: how
    many molecules at most have more than 1/SHARES[k] of a pack's edges; label_counts[n]: how many have n labels.
    """
    # as many packs as molecules are always enough
    best = molecules
    for k in range(len(SHARES)):
        share = SHARES[k]
        alone, rest, rest_atoms, v = np.int64(0), molecules, atoms, largest
        if k:
            while v > 0 and (v * share > capacity[1] or (capacity[4] >= 0 and weigh(v, True) * share > capacity[4])):
                alone += histogram[v]
                rest_atoms -= v * histogram[v]
                v -= 1
            rest -= alone
            alone += crowded[k]
            if capacity[3] >= 0:
                for n in range(capacity[3] // share + 1, label_counts.size):
                    alone += label_counts[n]
            if alone == 0:
                continue
        while v > 0 and histogram[v] == 0:
            v -= 1
        least = max(fewest_packs(rest, rest_atoms, capacity), (edges + capacity[2] - 1) // capacity[2] if k == 0 else 0)
        if alone + least >= best:
            if k:
                continue
            break
        packs = least_packs(
            histogram,
            v,
            rest,
            rest_atoms,
            edges,
            min(most_edges, capacity[2] // share),
            label_counts,
            capacity[3] // share,
            capacity,
            max(least, 1),
            min(rest, best - alone),
        )
        best = min(best, alone + packs)
    return best


@part
def fewest_packs(molecules, atoms, capacity):
    """No fewer packs have room for these."""
    return max((atoms + capacity[1] - 1) // capacity[1], (molecules + capacity[0] - 1) // capacity[0])


@kernel("i8[:], const i4[:], const i4[:], const i4[:], i8[:], u2[:], u2[:], i8[:], u2[:], u2[:], i8, i8[:], i8, i8, i8[:], i8[:]")
def cut_windows(
    order,
    molecules_of,
    bonds_of,
    most_of,
    hist_ptr,
    hist_size,
    hist_count,
    label_ptr,
    label_size,
    label_count,
    max_labels,
    capacity,
    least,
    most,
    window_end,
    window_packs,
):
    """Cut blocks in epoch order into windows; see `packing.cut_windows`. Returns the number of windows.

    From the last block to the first: the least number of packs that the rest of the epoch takes if a window begins here.
    """
    max_size = 0
    for k in range(hist_size.size):
        max_size = max(max_size, np.int64(hist_size[k]))
    histogram = np.zeros(max_size + 1, np.int64)
    # what has more labels than fit a pack is left out too, where it is not refused
    top_labels = np.int64(0)
    for k in range(label_size.size):
        top_labels = max(top_labels, min(np.int64(label_size[k]), max_labels, capacity[3]))
    label_counts = np.zeros(top_labels + 1, np.int64)
    crowded = np.zeros(len(SHARES), np.int64)
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
        label_counts[:] = 0
        crowded[:] = 0
        # whole numbers, not the constant 0, which `count_needed` would be compiled for once more
        largest = np.int64(0)
        in_blocks = 0
        molecules = np.int64(0)
        atoms = np.int64(0)
        bonds = np.int64(0)
        most_bonds = np.int64(0)
        end_of[start] = -1
        for place in range(start, num_places):
            for b in order[place * stride : (place + 1) * stride]:
                for k in range(hist_ptr[b], hist_ptr[b + 1]):
                    size = np.int64(hist_size[k])
                    # what is larger than a pack is left out, where it is not refused
                    if size <= capacity[1] and (capacity[4] < 0 or weigh(size, True) <= capacity[4]):
                        histogram[size] += hist_count[k]
                        molecules += hist_count[k]
                        atoms += size * hist_count[k]
                        largest = max(largest, size)
                if capacity[3] >= 0:
                    for k in range(label_ptr[b], label_ptr[b + 1]):
                        label_counts[min(np.int64(label_size[k]), top_labels)] += label_count[k]
                in_blocks += molecules_of[b]
                bonds += bonds_of[b]
                # if the molecule with most is left out, the next one may be as large as a pack
                most_bonds = max(most_bonds, min(np.int64(most_of[b]), capacity[2] // 2))
                for k in range(len(SHARES)):
                    bound = capacity[2] // SHARES[k] // 2
                    if most_of[b] > bound:
                        # more of them would have more bonds than all have
                        crowded[k] += min(np.int64(molecules_of[b]), bonds_of[b] // (bound + 1))
            if end_of[start] >= 0 and in_blocks > most:
                break
            # no window is too small, nor what is left for the next
            if in_blocks < left and (in_blocks < least or left - in_blocks < least):
                continue
            if end_of[start] >= 0 and fewest_packs(molecules, atoms, capacity) + fewest[place + 1] >= fewest[start]:
                continue
            edges, most_edges = 2 * bonds, 2 * most_bonds
            packs = count_needed(histogram, largest, molecules, atoms, edges, most_edges, crowded, label_counts, capacity)
            # a window of which all is left out has one too
            packs = max(np.int64(1), packs)
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
    """How many items, in full rounds, can be dealt before a lane holds more than its even share of all, rounded down."""
    load = np.zeros(num_lanes, np.int64)
    total = np.int64(0)
    for k in range(sizes.size):
        total += sizes[k]
    # rounded up, too many lanes might have it
    share = total // num_lanes
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
    most the mean load so far, so no load exceeds (atoms placed before) / packs + (own atoms). The packs are a binary heap of
    (atoms, edges, number) in one integer.
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
def is_alone(atoms, edges, labels, i, limits, share):
    """Whether molecule i takes more than 1/share of a pack; for share 1 none counts as such."""
    if share == 1:
        return False
    if atoms[i] * share > limits[1] or edges[i] * share > limits[2]:
        return True
    return labels.size > 0 and labels[i] * share > limits[3]


@kernel()
def pack_dealt(atoms, edges, labels, order, limits, share, folds, pack_ptr, pack_molecules):
    """The way of packing whose loads are known before: see `kernels.packing.packs`. Arguments and result as `pack_emptiest`.

    Molecules of more than 1/share of a pack get one each. The others are dealt largest first, one to each pack in every round;
    within a round most edges go to the pack with fewest edges so far. If it `folds`, the first round is dealt by atoms and the
    last one right after it, the smallest to the largest.
    """
    num_packs = pack_ptr.size - 1
    by_size = np.empty(order.size, np.int64)
    largest_first(atoms, order, by_size)
    # places in `order`, of those alone first
    dealt = np.empty(order.size, np.int64)
    alone = 0
    for k in by_size:
        if is_alone(atoms, edges, labels, order[k], limits, share):
            dealt[alone] = k
            alone += 1
    count = alone
    for k in by_size:
        if not is_alone(atoms, edges, labels, order[k], limits, share):
            dealt[count] = k
            count += 1
    packs = num_packs - alone
    if packs < 0 or (packs == 0 and count > alone):
        return order[dealt[num_packs]]
    rounds = (count - alone + packs - 1) // packs if packs else 0
    folds = folds and rounds > 1
    load = np.zeros((num_packs, 4), np.int64)
    pack_of = np.empty(order.size, np.int64)
    # before the first round are those alone
    for turn in range(-1, rounds):
        start = alone + turn * packs
        if folds and turn > 0:
            start = alone + (rounds - 1 if turn == 1 else turn - 1) * packs
        members = dealt[:alone] if turn < 0 else dealt[start : min(count, start + packs)]
        if turn < 0:
            for j, k in enumerate(members):
                pack_of[k] = j
        elif folds and turn < 2:
            for j, k in enumerate(members):
                pack_of[k] = alone + (packs - 1 - j if turn else j)
        else:
            fewest = np.argsort(load[alone:, 2], kind="mergesort")
            for j, n in enumerate(np.argsort(-edges[order[members]], kind="mergesort")):
                pack_of[members[n]] = alone + fewest[j]
        for k in members:
            p, i = pack_of[k], order[k]
            load[p, 0] += 1
            load[p, 1] += atoms[i]
            load[p, 2] += edges[i]
            if labels.size:
                load[p, 3] += labels[i]
            if load[p, 0] > limits[0] or load[p, 1] > limits[1] or load[p, 2] > limits[2]:
                return i
            if labels.size and load[p, 3] > limits[3]:
                return i
    fill_packs(order, load[:, 0].copy(), pack_of, pack_ptr, pack_molecules)
    return -1
