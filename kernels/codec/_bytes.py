"""Compiled byte planes and rows laid out of them. Rules as in `rng/_hashing.py`."""

import numpy as np

from molstream.kernels.compiled import kernel, part


@kernel("u1[:], i8, u1[:]")
def shuffle_bytes(data, item_size, out):
    n = data.size // item_size
    for k in range(item_size):
        for i in range(n):
            out[k * n + i] = data[i * item_size + k]


@kernel("const u1[:], i8, u1[:]")
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


TILE = 64


@part
def place_rows(first, size, m, ptr, starts, width, place):
    """place[i] = where row first + i begins in a flat array of rows of `width`, if molecule m's rows begin at row starts[m].

    `m` is the molecule of a row before; returns that of the last one. `ptr` are the offsets of the rows as they are read.
    """
    for i in range(size):
        while first + i >= ptr[m + 1]:
            m += 1
        place[i] = np.uint64((starts[m] + first + i - ptr[m]) * width)
    return m


@part
def scatter_rows(rows, size, width, place, out):
    """out[place[i] : place[i] + width] = row i of `rows`; both are flat. Rows that go to consecutive places go together."""
    i = 0
    while i < size:
        run = 1
        while i + run < size and place[i + run] == place[i] + np.uint64(run * width):
            run += 1
        source = rows[i * width : (i + run) * width]
        target = out[place[i] : place[i] + np.uint64(run * width)]
        for k in range(source.size):
            target[k] = source[k]
        i += run


@kernel()
def transpose(columns, ptr, starts, out):
    """Row r of molecule m, which is columns[:, r], goes to row starts[m] + r - ptr[m] of `out`, which is flat."""
    num_columns, num_rows = columns.shape
    place = np.empty(TILE, np.uint64)
    rows = np.empty(TILE * num_columns, columns.dtype)
    m = np.int64(0)
    for first in range(0, num_rows, TILE):
        size = min(TILE, num_rows - first)
        m = place_rows(first, size, m, ptr, starts, num_columns, place)
        for k in range(num_columns):
            tile = columns[k, first : first + size]
            for i in range(size):
                rows[np.uint64(i * num_columns + k)] = tile[i]
        scatter_rows(rows, size, num_columns, place, out)
