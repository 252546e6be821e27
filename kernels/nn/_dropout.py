"""Compiled code of `kernels.nn.dropout`; rules as in `rng/_hashing.py`. Loops are over ranges of rows, which run side by side."""

import numpy as np

from molstream.kernels.compiled import inline, kernel
from molstream.kernels.rng._hashing import GOLDEN, mix64

LANES = 4
"""Decisions of 16 bits from one hash."""


@inline
def draw_row(seed, i, bits):
    """Fill a row of uint16 from (seed, row, column): a counter, so that no row depends on another."""
    groups = bits.size // LANES
    first = np.uint64(i) * np.uint64(groups)
    for q in range(groups):
        z = mix64(seed + (first + np.uint64(q)) * GOLDEN)
        for lane in range(LANES):
            bits[LANES * q + lane] = np.uint16((z >> np.uint64(16 * lane)) & np.uint64(0xFFFF))


@kernel("f4[:, :], u8, i8, f4, i8, i8, f4[:, :]")
def drop(x, seed, threshold, scale, first, last, out):
    """out = x times scale where the draw is at least threshold, else 0; rows first to last - 1. Its own gradient."""
    zero = out.dtype.type(0)
    bits = np.empty((x.shape[1] + LANES - 1) // LANES * LANES, np.uint16)
    for i in range(first, last):
        draw_row(seed, i, bits)
        row = x[i]
        to = out[i]
        for h in range(row.size):
            to[h] = row[h] * scale if bits[h] >= threshold else zero


@kernel("f4[:, :], f4[:, :], b1[:], u8, i8, f4, i8, i8, f4[:, :]")
def add_dropped(old, new, is_row, seed, threshold, scale, first, last, out):
    """out = old + dropped new, 0 in rows that are padding."""
    zero = out.dtype.type(0)
    bits = np.zeros((old.shape[1] + LANES - 1) // LANES * LANES, np.uint16)
    for i in range(first, last):
        to = out[i]
        if not is_row[i]:
            to[:] = zero
            continue
        if threshold > 0:
            draw_row(seed, i, bits)
        a = old[i]
        b = new[i]
        for h in range(to.size):
            to[h] = a[h] + (b[h] * scale if bits[h] >= threshold else zero)


@kernel("f4[:, :], b1[:], u8, i8, f4, i8, i8, f4[:, :], f4[:, :]")
def add_dropped_gradients(grad, is_row, seed, threshold, scale, first, last, grad_old, grad_new):
    """Gradients of `add_dropped` by old and by new."""
    zero = grad.dtype.type(0)
    bits = np.zeros((grad.shape[1] + LANES - 1) // LANES * LANES, np.uint16)
    for i in range(first, last):
        to_old = grad_old[i]
        to_new = grad_new[i]
        if not is_row[i]:
            to_old[:] = zero
            to_new[:] = zero
            continue
        if threshold > 0:
            draw_row(seed, i, bits)
        back = grad[i]
        for h in range(back.size):
            to_old[h] = back[h]
            to_new[h] = back[h] * scale if bits[h] >= threshold else zero
