"""Compiled permutations and shuffles. Rules as in `_hashing.py`."""

import numpy as np

from molstream.kernels.compiled import kernel, part
from molstream.kernels.rng._hashing import mix64

NUM_FEISTEL_ROUNDS = 6
NUM_WORDS, MIDDLE = 624, 397


@kernel("u8, i8, i8, i8, i8[:]")
def permute(key, n, half_bits, start, out):
    """out[k] = image of start + k under a keyed permutation of [0, n): Feistel rounds on 2 * half_bits bits, cycle-walked."""
    shift = np.uint64(half_bits)
    mask = (np.uint64(1) << shift) - np.uint64(1)
    size = np.uint64(n)
    for k in range(out.size):
        x = np.uint64(start + k)
        while True:
            left = x >> shift
            right = x & mask
            for r in range(NUM_FEISTEL_ROUNDS):
                left, right = right, left ^ (mix64(right ^ mix64(key + np.uint64(r))) & mask)
            x = (left << shift) | right
            if x < size:
                break
        out[k] = x


@kernel("u8, i8[:]")
def shuffle_order(key, out):
    """Fisher-Yates with a counter-based generator."""
    for i in range(out.size):
        out[i] = i
    for i in range(out.size - 1, 0, -1):
        j = np.int64(mix64(key ^ mix64(np.uint64(i))) % np.uint64(i + 1))
        swap = out[i]
        out[i] = out[j]
        out[j] = swap


@part
def twist(words, drawn):
    """The next 624 words of MT19937 (Matsumoto, Nishimura 1998), in place, and what is drawn from them."""
    for i in range(NUM_WORDS):
        y = (words[i] & np.uint32(0x80000000)) | (words[(i + 1) % NUM_WORDS] & np.uint32(0x7FFFFFFF))
        x = words[(i + MIDDLE) % NUM_WORDS] ^ (y >> np.uint32(1))
        if y & np.uint32(1):
            x ^= np.uint32(0x9908B0DF)
        words[i] = x
    temper(words, drawn)


@part
def temper(words, drawn):
    for i in range(NUM_WORDS):
        y = words[i]
        y ^= y >> np.uint32(11)
        y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
        y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
        drawn[i] = y ^ (y >> np.uint32(18))


@kernel()
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
