"""Present labels, task by task on disk, molecule by molecule in memory. Rules as in `rng/_hashing.py`.

One decision: no loop runs over molecules times tasks. Everything is a walk over the present labels of a task, `members[at : at +
count]` in rising order, and where two tasks meet, the walk through the longer one jumps. The price: a label's molecule is looked
up instead of being its place.
"""

import numpy as np

from molstream.kernels.codec._labels import DELTA, DENSE, RAW, ROWS, TABLE, same_bytes
from molstream.kernels.compiled import inline, kernel, part


@kernel()
def find_members(presence, num_values, bitmap, needed, num_molecules, num_rows, members, member_at):
    """Where in `members` the molecules of each task begin; those of a needed bitmap are written there.

    `members` holds the row lists (`num_rows` entries) and the numbers of all molecules, then has room for the needed bitmaps and
    one entry more.
    """
    row_bytes = (num_molecules + 7) // 8
    at_row = 0
    at_bitmap = 0
    at = num_rows + num_molecules
    before = -1
    for t in range(presence.size):
        if presence[t] == ROWS:
            member_at[t] = at_row
            at_row += num_values[t]
        elif presence[t] == DENSE:
            member_at[t] = num_rows
        else:
            bits = bitmap[at_bitmap : at_bitmap + row_bytes]
            at_bitmap += row_bytes
            if not needed[t]:
                continue
            if before >= 0 and same_bytes(bitmap[before:], bits, row_bytes):
                member_at[t] = at - num_values[t]
                continue
            before = at_bitmap - row_bytes
            member_at[t] = at
            # written first and kept where the bit is set: no branch to be mispredicted
            for b in range(num_molecules // 8):
                byte = np.int64(bits[b])
                if byte:
                    for k in range(8):
                        members[at] = 8 * b + k
                        at += (byte >> k) & 1
            # bits after the last molecule may be anything
            for i in range(num_molecules // 8 * 8, num_molecules):
                members[at] = i
                at += np.int64(bits[i >> 3] >> (i & 7)) & 1


@part
def find_member(members, first, end, molecule):
    """The first place from `first` on, before `end`, whose molecule is not before `molecule`: double the step, then halve it."""
    step = 1
    while first + step <= end and members[first + step - 1] < molecule:
        first += step
        step *= 2
    while step > 1:
        step //= 2
        if first + step <= end and members[first + step - 1] < molecule:
            first += step
    return first


@kernel()
def read_keys(
    coding, planes, argument, num_values, needed, table, values, plane_at, members, member_at, key_at, sign_bit, absent, keys
):
    """keys[key_at[t] + i] = key of present label i of each needed task t; False when a number is outside its table.

    The tables of the other tasks are checked as well, so that damage is found whatever is needed.
    """
    shift = 63 - sign_bit
    mask = np.int64((1 << sign_bit) - 1)
    at_table = 0
    for t in range(coding.size):
        size = num_values[t]
        out = keys[key_at[t] : key_at[t] + size] if needed[t] else keys[:0]
        if coding[t] == TABLE:
            entries = table[at_table : at_table + argument[t]]
            at_table += argument[t]
            if planes[t] == 0:
                if size > 0 and entries.size == 0:
                    return False
                for i in range(out.size):
                    out[i] = entries[0]
                continue
            numbers = values[plane_at[t, 0] : plane_at[t, 0] + size]
            largest = np.uint8(0)
            for i in range(size):
                largest = max(largest, numbers[i])
            if size > 0 and largest >= entries.size:
                return False
            for i in range(out.size):
                out[i] = entries[numbers[i]]
            continue

        base = np.int64(argument[t])
        place = member_at[base] if coding[t] == DELTA else np.int64(0)
        end = place + num_values[base] if coding[t] == DELTA else np.int64(0)
        for i in range(out.size):
            x = np.int64(0)
            for k in range(planes[t]):
                x |= np.int64(values[plane_at[t, k] + i]) << (8 * k)
            if coding[t] == RAW:
                x = (x << shift) >> shift
                x ^= (x >> 63) & mask
            else:
                molecule = members[member_at[t] + i]
                place = find_member(members, place, end, molecule)
                near = np.int64(absent)
                if place < end and members[place] == molecule:
                    near = np.int64(keys[key_at[base] + place - member_at[base]])
                x = ((near + ((x >> 1) ^ -(x & 1))) << shift) >> shift
            out[i] = x
    return True


@inline
def is_number(key, infinity):
    """Of both signs, what has larger keys than infinity is NaN."""
    return (key ^ (key >> np.int32(31))) <= infinity


@kernel()
def count_rows(tasks, num_values, members, member_at, keys, key_at, infinity, ptr):
    """Offsets of each molecule's labels of `tasks` that are numbers."""
    ptr[:] = 0
    for t in tasks:
        for i in range(num_values[t]):
            if is_number(keys[key_at[t] + i], infinity):
                ptr[np.int64(members[member_at[t] + i]) + 1] += 1
    for m in range(ptr.size - 1):
        ptr[m + 1] += ptr[m]


@kernel()
def write_rows(tasks, num_values, members, member_at, keys, key_at, infinity, sign_bit, cursor, row_task, row_pattern):
    """Place in `tasks` and float pattern of what `count_rows` counts, each at its molecule's `cursor`, which moves on."""
    mask = np.int64((1 << sign_bit) - 1)
    for p in range(tasks.size):
        t = tasks[p]
        for i in range(num_values[t]):
            key = keys[key_at[t] + i]
            if is_number(key, infinity):
                m = members[member_at[t] + i]
                row_task[cursor[m]] = p
                row_pattern[cursor[m]] = key ^ ((key >> np.int32(31)) & mask)
                cursor[m] += 1


@kernel()
def collate_rows(molecules, ptr, row_task, row_value, padding, graph, task, value, num_labels):
    """Copy the labels of each molecule, pad, count what is real per task; False when there is no such task."""
    num_labels[:] = 0
    at = 0
    for g in range(molecules.size):
        for k in range(ptr[molecules[g]], ptr[molecules[g] + 1]):
            t = row_task[k]
            if t < 0 or t >= num_labels.size:
                return False
            graph[at] = g
            task[at] = t
            value[at] = row_value[k]
            if not np.isnan(row_value[k]):
                num_labels[t] += 1
            at += 1
    for k in range(at, graph.size):
        graph[k] = padding
        task[k] = 0
        value[k] = np.nan
    return True
