"""SplitMix64 on Python integers."""

from collections.abc import Sequence

MASK = 2**64 - 1


def mix64(x: int) -> int:
    """One step of SplitMix64 (Steele, Lea, Flood 2014): add the golden ratio, then the finalizer of Stafford's variant 13."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ x // 2**shift) * factor % 2**64
    return x ^ x // 2**31


def hash_u64(key: int, values: Sequence[int]) -> list[int]:
    """mix(key ^ mix(value)) of each value; a negative value is its two's complement."""
    return [mix64(key ^ mix64(int(value) & MASK)) for value in values]


def mix_key(*parts: int) -> int:
    """Fold integers into one key, the first part deepest."""
    key = 0
    for part in parts:
        (key,) = hash_u64(key, [part])
    return key
