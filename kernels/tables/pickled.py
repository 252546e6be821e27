"""Whole numbers out of the opcodes of a pickle, without a Python integer for each."""

import numpy as np

from molstream.kernels.compiled import kernel, part


def read_pickled_ints(data: np.ndarray, *, at: int) -> tuple[np.ndarray, int]:
    """The whole numbers that the opcodes from `at` on append to a list, int64 (n), and where the last append of them ends.

    `data` is a whole pickle, uint8 and contiguous, `at` a place in it where an opcode begins. Looked for are `MARK numbers
    APPENDS` and `number APPEND`, any number of times, FRAMEs in between; reading stops after the last that is complete and whose
    numbers all fit 64 bits, so n may be 0. Allocates at most four times the bytes it reads.
    """
    num, end = _count(data, at)
    out = np.empty(num, np.int64)
    _read(data, at, out)
    return out, end


MARK, APPEND, APPENDS, FRAME = ord("("), ord("a"), ord("e"), 0x95
BININT, BININT1, BININT2, LONG1 = ord("J"), ord("K"), ord("M"), 0x8A


@part
def _int_bytes(data, at):
    """Bytes of the pickled whole number at `at`, its opcode with it; 0 if there is none that fits 64 bits.

    It may end beyond `data`: then nothing in there appends it to a list, and it is never read.
    """
    opcode = data[at]
    size: int | np.int64 = 0
    if opcode == BININT:
        size = 5
    elif opcode == BININT1:
        size = 2
    elif opcode == BININT2:
        size = 3
    elif opcode == LONG1 and at + 1 < data.size and data[at + 1] <= 8:
        size = 2 + np.int64(data[at + 1])
    return size


@kernel()
def _count(data, at):
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
            size = _int_bytes(data, at)
            if size == 0 or (pending and not marked):
                break
            pending += 1
            at += size
    return num, end


@kernel()
def _read(data, at, out):
    """The whole numbers that `count_pickled_ints` counted; `out` has as many places."""
    k = 0
    while k < out.size:
        opcode = data[at]
        if opcode == FRAME:
            at += 9
        elif opcode in (MARK, APPENDS, APPEND):
            at += 1
        else:
            size = _int_bytes(data, at)
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
