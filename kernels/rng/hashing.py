"""SplitMix64 hashes of numbers: the only source of order and of splits in a shard set.

Written out here rather than taken from a library, because the bytes of every shard set depend on them for ever.
"""

import numpy as np

from molstream.kernels.rng import _hashing


def mix_key(*parts: int) -> int:
    """Fold integers (seed, epoch, window, ...) into one 64-bit key; the order of the parts matters."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        value = np.array([part & 0xFFFFFFFFFFFFFFFF], np.uint64)
        _hashing.hash_u64(key[0], value, key)
    return int(key[0])


def hash_u64(key: int, values: np.ndarray) -> np.ndarray:
    """Hash each of `values` (integers) under `key`: mix(key ^ mix(value)) with SplitMix64's mix. uint64, same length."""
    values = np.ascontiguousarray(values, np.uint64)
    out = np.empty(values.size, np.uint64)
    _hashing.hash_u64(np.uint64(key), values, out)
    return out
