"""Seeded pseudo-random permutations: a Feistel network with cycle walking, which costs nothing to hold; two shuffles."""

import operator
import random

import numpy as np

from molstream.kernels.rng import _permutation


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
    _permutation.permute(np.uint64(key), n, half_bits, start, out)
    return out


def shuffled(n: int, *, key: int) -> np.ndarray:
    """A Fisher-Yates shuffle of range(n) drawn from `key`. int64."""
    out = np.empty(n, np.int64)
    _permutation.shuffle_order(np.uint64(key), out)
    return out


def python_shuffle(n: int, *, seed: int) -> np.ndarray:
    """What `x = list(range(n)); random.seed(seed); random.shuffle(x)` makes of x, number by number. uint32 (n), n below 2**32.

    The order that splits published by Python programs were cut from: PM6_83M's is seed 42 over its 83,746,835 rows, the first
    82,071,899 for train, then 837,468 each for val and test. CPython has drawn these numbers in this way since 3.2: the Mersenne
    Twister, and for each place from the last to the second as many bits as it takes, again if they are too many.
    """
    if not 0 <= n < 2**32:
        raise ValueError(f"python_shuffle: got n = {n}, expected 0 <= n < 2**32, what uint32 counts")
    state = random.Random(operator.index(seed)).getstate()[1]
    out = np.empty(n, np.uint32)
    _permutation.python_shuffle(np.array(state[:-1], np.uint32), state[-1], np.empty(624, np.uint32), out)
    return out
