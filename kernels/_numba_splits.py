"""Compiled passes behind published splits: Python's shuffle, pickled whole numbers, rows to splits. Rules as in `_numba.py`."""

import numpy as np
from numba import njit

NUM_WORDS, MIDDLE = 624, 397
MARK, APPEND, APPENDS, FRAME = ord("("), ord("a"), ord("e"), 0x95
BININT, BININT1, BININT2, LONG1 = ord("J"), ord("K"), ord("M"), 0x8A


@njit(cache=True, nogil=True)
def twist(words, drawn):
    """The next 624 words of MT19937 (Matsumoto, Nishimura 1998), in place, and what is drawn from them."""
    for i in range(NUM_WORDS):
        y = (words[i] & np.uint32(0x80000000)) | (words[(i + 1) % NUM_WORDS] & np.uint32(0x7FFFFFFF))
        x = words[(i + MIDDLE) % NUM_WORDS] ^ (y >> np.uint32(1))
        if y & np.uint32(1):
            x ^= np.uint32(0x9908B0DF)
        words[i] = x
    temper(words, drawn)


@njit(cache=True, nogil=True)
def temper(words, drawn):
    for i in range(NUM_WORDS):
        y = words[i]
        y ^= y >> np.uint32(11)
        y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
        y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
        drawn[i] = y ^ (y >> np.uint32(18))


@njit(cache=True, nogil=True)
def python_shuffle(words, at, drawn, out):
    """out = range(n), shuffled as `random.shuffle` does; `at` of the 624 words are used up, and `words` goes on as it would."""
    for i in range(out.size):
        out[i] = i
    temper(words, drawn)
    shift, floor = 0, np.int64(1) << 31
    for i in range(out.size - 1, 0, -1):
        # as many bits as i + 1 has, drawn until they are at most i
        while floor > i + 1:
            floor >>= 1
            shift += 1
        j = np.int64(i + 1)
        while j > i:
            if at == NUM_WORDS:
                twist(words, drawn)
                at = 0
            j = np.int64(drawn[at] >> np.uint32(shift))
            at += 1
        swap = out[i]
        out[i] = out[j]
        out[j] = swap


@njit(cache=True, nogil=True)
def int_bytes(data, at):
    """Bytes of the pickled whole number at `at`, its opcode with it; 0 if there is none that fits 64 bits.

    It may end beyond `data`: then nothing in there appends it to a list, and it is never read.
    """
    opcode = data[at]
    size = 0
    if opcode == BININT:
        size = 5
    elif opcode == BININT1:
        size = 2
    elif opcode == BININT2:
        size = 3
    elif opcode == LONG1 and at + 1 < data.size and data[at + 1] <= 8:
        size = 2 + np.int64(data[at + 1])
    return size


@njit(cache=True, nogil=True)
def count_pickled_ints(data, at):
    """How many whole numbers are appended to a list by the opcodes from `at` on, and where the last of these ends."""
    num, end, pending, marked = 0, at, 0, False
    while at < data.size:
        opcode = data[at]
        if opcode == FRAME:
            at += 9
        elif opcode == MARK:
            if marked or pending:
                break
            marked = True
            at += 1
        elif opcode in (APPENDS, APPEND):
            if marked != (opcode == APPENDS) or (opcode == APPEND and pending != 1):
                break
            num += pending
            pending, marked = 0, False
            at += 1
            end = at
        else:
            size = int_bytes(data, at)
            if size == 0 or (pending and not marked):
                break
            pending += 1
            at += size
    return num, end


@njit(cache=True, nogil=True)
def read_pickled_ints(data, at, out):
    """The whole numbers that `count_pickled_ints` counted; `out` has as many places."""
    k = 0
    while k < out.size:
        opcode = data[at]
        if opcode == FRAME:
            at += 9
        elif opcode in (MARK, APPENDS, APPEND):
            at += 1
        else:
            size = int_bytes(data, at)
            first = at + 2 if opcode == LONG1 else at + 1
            at += size
            x = np.uint64(0)
            for i in range(at - first):
                x |= np.uint64(data[first + i]) << np.uint64(8 * i)
            if opcode in (BININT, LONG1) and at > first and data[at - 1] >= 128:
                bits = 8 * (at - first)
                if bits < 64:
                    x |= np.uint64(0xFFFFFFFFFFFFFFFF) << np.uint64(bits)
            out[k] = np.int64(x)
            k += 1


@njit(cache=True, nogil=True)
def assign_rows(rows, codes, free, assignment):
    """assignment[rows[k]] = codes[k] for every k up to the first whose row is not `free`: that k, or -1."""
    for k in range(rows.size):
        if assignment[rows[k]] != free:
            return k
        assignment[rows[k]] = codes[k]
    return -1
