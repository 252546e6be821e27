"""Seeded pseudo-random permutations that cost nothing to hold: a Feistel network with cycle walking, and a shuffle."""

import numpy as np

from kernels import _numba


def permutation(n: int, *, key: int, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Images of `start` .. `stop` under the permutation of [0, n) that `key` selects. int64.

    Any slice is computed alone, in time of its length: six Feistel rounds on the smallest even number of bits that holds n - 1,
    repeated until the image falls below n (on average fewer than four times).
    """
    stop = n if stop is None else stop
    if not 0 <= start <= stop <= n:
        raise ValueError(f"permutation: slice {start}:{stop} is not inside [0, {n})")
    half_bits = max(1, ((max(n - 1, 1)).bit_length() + 1) // 2)
    out = np.empty(stop - start, np.int64)
    _numba.permute(np.uint64(key), n, half_bits, start, out)
    return out


def shuffled(n: int, *, key: int) -> np.ndarray:
    """A Fisher-Yates shuffle of range(n) drawn from `key`. int64."""
    out = np.empty(n, np.int64)
    _numba.shuffle_order(np.uint64(key), out)
    return out
