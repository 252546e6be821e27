"""Compiled code of `kernels.codec.labels`; rules as in `rng/_hashing.py`."""

import numpy as np

from molstream.kernels.codec._bytes import TILE, place_rows, scatter_rows
from molstream.kernels.compiled import kernel, part
from molstream.kernels.rng._hashing import mix64

DENSE, BITMAP, ROWS = 0, 1, 2
_SPARSE = "const u1[:], const u4[:], const u1[:], const u1[:], const u4[:], const u1[:], const u4[:]"
"""The first seven arrays of `SparseLabels`, as they are read."""


@part
def same_bytes(one, other, size):
    """The first `size` of both are equal."""
    differ = np.uint8(0)
    for i in range(size):
        differ |= one[i] ^ other[i]
    return differ == 0


@kernel("const u1[:], const u4[:], const u1[:], const u4[:], i8[:], i8[:]")
def measure_labels(presence, count, bitmap, rows, ptr, num_values):
    """Number of values each task must hold; returns False when a bitmap or row list contradicts its count or order."""
    n = ptr.size - 1
    row_bytes = (n + 7) // 8
    at_bitmap = 0
    at_row = 0
    seen = 0
    seen_values = 0
    for t in range(presence.size):
        total = 0
        if presence[t] == DENSE:
            if count[t] != n:
                return False
            total = ptr[n]
        elif presence[t] == BITMAP:
            # tasks of one state are mostly there together
            if at_bitmap == 0 or not same_bytes(bitmap[at_bitmap - row_bytes :], bitmap[at_bitmap:], row_bytes):
                seen = 0
                seen_values = 0
                for i in range(n):
                    if (bitmap[at_bitmap + (i >> 3)] >> (i & 7)) & 1:
                        seen += 1
                        seen_values += ptr[i + 1] - ptr[i]
            if seen != count[t]:
                return False
            total = seen_values
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


@part
def largest(counts):
    """The largest of some counts, 0 of none: NumPy's `max` takes ten times as long to compile."""
    most = np.int64(0)
    for k in range(counts.size):
        most = max(most, counts[k])
    return most


RAW, TABLE, DELTA = 0, 1, 2
MAX_TABLE = 256
MAX_REACH = 64
NUM_PROBES = 64


@kernel("const u1[:], const u4[:], b1[:]")
def follow_deltas(coding, argument, needed):
    """Mark the tasks that a needed one is a difference to, and those that these are."""
    for t in range(coding.size - 1, -1, -1):
        if needed[t] and coding[t] == DELTA:
            needed[argument[t]] = True


@kernel("const u1[:], i8[:], i8[:, :]")
def place_planes(planes, num_values, plane_at):
    """Where each byte plane begins: byte 0 of every task's numbers, then byte 1 of those that have one, ...; returns the end."""
    at = 0
    for k in range(plane_at.shape[1]):
        for t in range(planes.size):
            plane_at[t, k] = at
            if k < planes[t]:
                at += num_values[t]
    return at


@part
def join_planes(data, plane_at, num_planes, out):
    """out[i] = the number whose byte k is data[plane_at[k] + i]. Slices, as an index that may be negative is not vectorised."""
    n = out.size
    byte_0 = data[plane_at[0] : plane_at[0] + n]
    byte_1 = data[plane_at[1] : plane_at[1] + n] if num_planes > 1 else byte_0
    byte_2 = data[plane_at[2] : plane_at[2] + n] if num_planes > 2 else byte_0
    byte_3 = data[plane_at[3] : plane_at[3] + n] if num_planes > 3 else byte_0
    if num_planes == 0:
        out[:] = 0
    elif num_planes == 1:
        for i in range(n):
            out[i] = byte_0[i]
    elif num_planes == 2:
        for i in range(n):
            out[i] = np.uint32(byte_0[i]) | np.uint32(np.uint32(byte_1[i]) << np.uint32(8))
    else:
        for i in range(n):
            low = np.uint32(byte_0[i]) | np.uint32(np.uint32(byte_1[i]) << np.uint32(8))
            out[i] = low | np.uint32(np.uint32(byte_2[i]) << np.uint32(16))
        if num_planes > 3:
            for i in range(n):
                out[i] |= np.uint32(np.uint32(byte_3[i]) << np.uint32(24))


@part
def find_runs(bits, ptr, runs):
    """Rows where each run of present molecules begins and ends; returns the number of runs."""
    n = ptr.size - 1
    num_runs = 0
    i = 0
    while i < n:
        if (bits[i >> 3] >> (i & 7)) & 1:
            runs[num_runs, 0] = ptr[i]
            while i < n and (bits[i >> 3] >> (i & 7)) & 1:
                i += 1
            runs[num_runs, 1] = ptr[i]
            num_runs += 1
        i += 1
    return num_runs


@kernel(
    f"b1[:], {_SPARSE}, i4[:], const u1[:], i8[:], i8[:], i8[:, :], i8, i8, i4[:, :]",
    f"b1[:], {_SPARSE}, i2[:], const u1[:], i8[:], i8[:], i8[:, :], i8, i8, i2[:, :]",
)
def expand_labels(
    needed,
    presence,
    count,
    coding,
    planes,
    argument,
    bitmap,
    rows,
    table,
    values,
    ptr,
    num_values,
    plane_at,
    sign_bit,
    absent,
    keys,
):
    """keys[t, r] = key of the label of row r in task t, `absent` where there is none; False when a number is outside its table.

    Only the tasks that are `needed` are written.
    A key is the pattern of a float as a signed integer that rises with the value; `keys` is int16 or int32 and wraps around.
    """
    n = ptr.size - 1
    row_bytes = (n + 7) // 8
    mask = np.int32((1 << sign_bit) - 1)
    shift = np.int32(31 - sign_bit)
    number = np.empty(largest(num_values), np.int32)
    # where each run of present molecules begins and ends, as rows, and the offset of the bitmap that says so
    runs = np.empty((n + 1, 2), np.int64)
    num_runs = 0
    runs_of = -1
    at_bitmap = 0
    at_row = 0
    at_table = 0
    for t in range(presence.size):
        if not needed[t]:
            if presence[t] == BITMAP:
                at_bitmap += row_bytes
            elif presence[t] == ROWS:
                at_row += count[t]
            if coding[t] == TABLE:
                at_table += argument[t]
            continue
        size = num_values[t]
        x = number[:size]
        join_planes(values, plane_at[t], planes[t], x.view(np.uint32))
        if coding[t] == RAW:
            for i in range(size):
                pattern = np.int32(np.int32(x[i] << shift) >> shift)
                x[i] = pattern ^ (np.int32(pattern >> np.int32(31)) & mask)
        elif coding[t] == DELTA:
            for i in range(size):
                x[i] = np.int32(np.uint32(x[i]) >> np.uint32(1)) ^ np.int32(-(x[i] & np.int32(1)))
        else:
            highest = np.int32(0)
            for i in range(size):
                highest = max(highest, x[i])
            if size > 0 and highest >= argument[t]:
                return False
            entries = table[at_table : at_table + argument[t]]
            for i in range(size):
                x[i] = entries[np.uint8(x[i])]
            at_table += argument[t]

        if presence[t] == DENSE:
            runs[0, 0] = 0
            runs[0, 1] = ptr[n]
            num_runs = 1
            runs_of = -1
        elif presence[t] == BITMAP:
            if runs_of < 0 or not same_bytes(bitmap[runs_of:], bitmap[at_bitmap:], row_bytes):
                num_runs = find_runs(bitmap[at_bitmap : at_bitmap + row_bytes], ptr, runs)
            runs_of = at_bitmap
            at_bitmap += row_bytes
        else:
            num_runs = 0
            for k in range(at_row, at_row + count[t]):
                runs[num_runs, 0] = ptr[rows[k]]
                runs[num_runs, 1] = ptr[rows[k] + 1]
                num_runs += 1
            at_row += count[t]
            runs_of = -1

        if presence[t] != DENSE:
            keys[t, :] = absent
        base = keys[argument[t] if coding[t] == DELTA else t]
        at = 0
        for k in range(num_runs):
            here = keys[t, runs[k, 0] : runs[k, 1]]
            source = x[at : at + here.size]
            at += here.size
            if coding[t] == DELTA:
                there = base[runs[k, 0] : runs[k, 1]]
                for r in range(here.size):
                    here[r] = np.int32(source[r] + there[r])
            else:
                for r in range(here.size):
                    here[r] = source[r]
    return True


@kernel("i4[:, :], i8[:], i8[:], i8[:], i4[:]")
def write_singles(keys, columns, ptr, starts, out):
    """Patterns of the float32 whose keys are keys[columns[k], r], row r of molecule m at row starts[m] + r - ptr[m] of `out`.

    `out` is flat, with a row of columns.size. A tile of rows is put together in cache, then each goes to its place in one piece.
    """
    width = columns.size
    place = np.empty(TILE, np.uint64)
    rows = np.empty(TILE * width, np.int32)
    m = np.int64(0)
    for first in range(0, keys.shape[1], TILE):
        size = min(TILE, keys.shape[1] - first)
        m = place_rows(first, size, m, ptr, starts, columns.size, place)
        for k in range(columns.size):
            tile = keys[columns[k], first : first + size]
            for i in range(size):
                rows[np.uint64(i * width + k)] = tile[i] ^ (np.int32(tile[i] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        scatter_rows(rows, size, width, place, out)


@kernel("i2[:, :], i8[:], i8[:], i8[:], f4[:]")
def write_halves(keys, columns, ptr, starts, out):
    """The same of float16 keys, as float32."""
    width = columns.size
    place = np.empty(TILE, np.uint64)
    rows = np.empty(TILE * width, np.float32)
    bits = np.empty(TILE, np.int32)
    single = bits.view(np.float32)
    m = np.int64(0)
    for first in range(0, keys.shape[1], TILE):
        size = min(TILE, keys.shape[1] - first)
        m = place_rows(first, size, m, ptr, starts, columns.size, place)
        for k in range(columns.size):
            tile = keys[columns[k], first : first + size]
            for r in range(tile.size):
                key = np.int32(tile[r])
                pattern = np.int32(key ^ (np.int32(key >> np.int32(31)) & np.int32(0x7FFF)))
                size_bits = np.int32(pattern & np.int32(0x7FFF))
                # float32 has 13 more bits of fraction and an exponent larger by 112; that of infinity and NaN by twice as much
                more = np.int32(224 << 23) if size_bits >= np.int32(0x7C00) else np.int32(112 << 23)
                more = np.int32(0) if size_bits == np.int32(0) else more
                sign = np.int32((pattern & np.int32(-0x8000)) << np.int32(16))
                bits[r] = sign | np.int32(np.int32(size_bits << np.int32(13)) + more)
            for r in range(tile.size):
                # what is denormal in float16 is not in float32
                key = np.int32(tile[r])
                size_bits = np.int32(key ^ np.int32(key >> np.int32(31)))
                value = np.float32(size_bits) * np.float32(2.0**-24)
                value = -value if key < np.int32(0) else value
                single[r] = value if (size_bits < np.int32(0x400)) else single[r]
            for i in range(size):
                rows[np.uint64(i * width + k)] = single[i]
        scatter_rows(rows, size, width, place, out)


@kernel("f4[:, :], i8[:], b1[:, :]")
def find_present(labels, ptr, present):
    """present[t, i]: molecule i has at least one label of task t that is not NaN. `present` comes as all False."""
    for i in range(ptr.size - 1):
        for r in range(ptr[i], ptr[i + 1]):
            for t in range(labels.shape[1]):
                if labels[r, t] == labels[r, t]:
                    present[t, i] = True


@kernel("i4[:, :], b1[:, :], i8, i8, i4[:, :]")
def order_patterns(patterns, missing, sign_bit, absent, keys):
    """keys[t, r] = key of the float pattern patterns[r, t], `absent` where it is missing."""
    mask = (1 << sign_bit) - 1
    num_tasks, num_rows = keys.shape
    for first in range(0, num_rows, 16):
        last = min(num_rows, first + 16)
        for t in range(num_tasks):
            for r in range(first, last):
                pattern = np.int32(patterns[r, t])
                keys[t, r] = absent if missing[r, t] else pattern ^ ((pattern >> np.int32(31)) & np.int32(mask))


@part
def log2_fixed(x):
    """256 * log2(x) for x >= 1, the fraction interpolated: integers only, so that every machine makes the same choices."""
    whole = 0
    while x >> (whole + 1):
        whole += 1
    return 256 * whole + ((x - (1 << whole)) << 8 >> whole)


@part
def plane_cost(numbers, num_planes):
    """Bits (times 256) of the byte planes of `numbers`, each under a code for its own distribution of bytes, and 32 a plane."""
    histogram = np.zeros((4, 256), np.int64)
    for i in range(numbers.size):
        x = numbers[i]
        for k in range(num_planes):
            histogram[k, x & 255] += 1
            x >>= 8
    whole = log2_fixed(max(1, numbers.size))
    cost = 256 * 32 * num_planes
    for k in range(num_planes):
        for v in range(256):
            if histogram[k, v]:
                cost += histogram[k, v] * (whole - log2_fixed(histogram[k, v]))
    return cost


@part
def zigzag(x, bits):
    """The difference of two keys, wrapped to `bits` bits, as a number that is small when it is near 0."""
    x = (x << (64 - bits)) >> (64 - bits)
    return ((x << 1) ^ (x >> 63)) & ((1 << bits) - 1)


@kernel("i4[:, :], b1[:, :], i8[:], i8, u1[:], u1[:], u4[:], i8[:], i4[:], u4[:]")
def code_labels(keys, present, ptr, bits, coding, planes, argument, num_values, table, numbers):
    """Choose how to store the present labels of each task and turn them into numbers; see `labels.sparsify_labels`.

    Task t has num_values[t] of them, one task after another in `numbers`. Returns the entries of all tables.
    """
    n = ptr.size - 1
    mask = np.int64((1 << (bits - 1)) - 1)
    most = largest(num_values)
    row = np.empty(most, np.int64)
    trial = np.empty(most, np.int64)
    slot_key = np.empty(4 * MAX_TABLE, np.int64)
    slot_entry = np.empty(4 * MAX_TABLE, np.int64)
    at = 0
    num_entries = 0
    for t in range(coding.size):
        key = keys[t]
        size = 0
        for i in range(n):
            if present[t, i]:
                for r in range(ptr[i], ptr[i + 1]):
                    row[size] = r
                    size += 1
        out = numbers[at : at + size]
        at += size
        coding[t] = RAW
        planes[t] = bits // 8
        argument[t] = 0
        for i in range(size):
            x = np.int64(key[row[i]])
            out[i] = (x ^ ((x >> 63) & mask)) & ((1 << bits) - 1)
        if size == 0:
            continue
        plain = plane_cost(out, bits // 8)
        # worth its while when it saves a sixteenth
        least = plain - plain // 16

        # few distinct values: a table of them, in order of first use
        slot_entry[:] = -1
        distinct = 0
        for i in range(size):
            x = np.int64(key[row[i]])
            s = np.int64(mix64(np.uint64(x)) % np.uint64(slot_entry.size))
            while slot_entry[s] >= 0 and slot_key[s] != x:
                s = (s + 1) % slot_entry.size
            if slot_entry[s] < 0:
                if distinct == MAX_TABLE:
                    distinct += 1
                    break
                slot_entry[s] = distinct
                slot_key[s] = x
                table[num_entries + distinct] = x
                distinct += 1
            trial[i] = slot_entry[s]
        if distinct <= MAX_TABLE:
            # it also reads fastest, so no saving is too small; entries share their bytes
            cost = plane_cost(trial[:size], 1 if distinct > 1 else 0) + 256 * bits * distinct // 2
            if cost < plain:
                least = min(least, cost - cost // 16)
                coding[t] = TABLE
                planes[t] = 1 if distinct > 1 else 0
                argument[t] = distinct
                for i in range(size):
                    out[i] = trial[i]

        # near to an earlier task: the difference to it
        base = -1
        nearest = np.int64(0)
        for b in range(max(0, t - MAX_REACH), t):
            far = np.int64(0)
            for probe in range(min(NUM_PROBES, size)):
                r = row[probe * size // min(NUM_PROBES, size)]
                far += log2_fixed(zigzag(np.int64(key[r]) - np.int64(keys[b, r]), bits) + 1)
            if base < 0 or far < nearest:
                base, nearest = b, far
        if base >= 0:
            highest = np.int64(0)
            for i in range(size):
                trial[i] = zigzag(np.int64(key[row[i]]) - np.int64(keys[base, row[i]]), bits)
                highest = max(highest, trial[i])
            need = 0
            while highest >> (8 * need):
                need += 1
            if plane_cost(trial[:size], need) < least:
                coding[t] = DELTA
                planes[t] = need
                argument[t] = base
                for i in range(size):
                    out[i] = trial[i]
        if coding[t] == TABLE:
            num_entries += distinct
    return num_entries


@kernel("u4[:], i8[:], const u1[:], i8[:, :], u1[:]")
def split_planes(numbers, num_values, planes, plane_at, out):
    """Write every byte plane of every task to its place."""
    at = 0
    for t in range(planes.size):
        for k in range(planes[t]):
            for i in range(num_values[t]):
                out[plane_at[t, k] + i] = (numbers[at + i] >> (8 * k)) & 255
        at += num_values[t]
