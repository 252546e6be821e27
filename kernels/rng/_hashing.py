"""Compiled hashes. Rules for all compiled code, which lives in files named `_*.py` and in `tables/`:

One decision: every function is `nogil` and works on arrays its caller allocated and checked, so that threads run them side by
side. The price: nothing in here raises; a caller that passes an index out of range corrupts memory. Callers check first.
"""

import numpy as np

from molstream.kernels.compiled import inline, kernel

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


@inline
def mix64(x):
    x = np.uint64(x) + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * MIX_1
    x = (x ^ (x >> np.uint64(27))) * MIX_2
    return x ^ (x >> np.uint64(31))


@kernel("u8, u8[:], u8[:]")
def hash_u64(key, values, out):
    for i in range(values.size):
        out[i] = mix64(key ^ mix64(values[i]))
