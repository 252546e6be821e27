"""Permutations and shuffles, number by number."""

import random

from twins.hashing import MASK, mix64


def feistel(x: int, *, half: int, key: int) -> int:
    """Six Feistel rounds (Luby, Rackoff 1988) on [0, half * half): right goes left, left is masked with a hash of right."""
    left, right = divmod(x, half)
    for r in range(6):
        left, right = right, left ^ mix64(right ^ mix64((key + r) & MASK)) % half
    return left * half + right


def permutation(n: int, *, key: int) -> list[int]:
    """The whole permutation: tabulate the network on the least power of four, then strike the numbers from n on from each cycle.

    Walking a cycle until the image is below n is the same as striking the others from it.
    """
    half = 2
    while half * half < n:
        half *= 2
    network = [feistel(x, half=half, key=key) for x in range(half * half)]
    image: dict[int, int] = {}
    seen: set[int] = set()
    for first in range(half * half):
        cycle, x = [], first
        while x not in seen:
            seen.add(x)
            cycle.append(x)
            x = network[x]
        cycle = [x for x in cycle if x < n]
        image |= zip(cycle, cycle[1:] + cycle[:1])
    return [image[x] for x in range(n)]


def shuffled(n: int, *, key: int) -> list[int]:
    """Draw from a bag for the last place, then the one before, ...; the last in the bag takes the place of the one drawn."""
    bag, drawn = list(range(n)), []
    for i in range(n - 1, 0, -1):
        j = mix64(key ^ mix64(i)) % len(bag)
        drawn.append(bag[j])
        bag[j] = bag[-1]
        bag.pop()
    return bag + drawn[::-1]


def python_shuffle(n: int, *, seed: int) -> list[int]:
    """Python itself."""
    numbers = list(range(n))
    random.Random(seed).shuffle(numbers)
    return numbers
