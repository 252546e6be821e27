"""Permutations: every number once, any slice alone, the same for ever."""

import random

import numpy as np
import pytest
import twins.hashing
import twins.permutation
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.kernels.rng.permutation import permutation, python_shuffle, shuffled

KEYS = st.integers(0, 2**64 - 1)


@given(n=st.integers(0, 300), key=KEYS)
@settings(deadline=None, max_examples=60)
def test_permutation_and_shuffle_equal_their_twins(n, key):
    assert permutation(n, key=key).tolist() == twins.permutation.permutation(n, key=key)
    assert shuffled(n, key=key).tolist() == twins.permutation.shuffled(n, key=key)


def test_both_are_bijections_for_every_small_number_and_around_powers_of_two():
    sizes = [*range(130), *(2**k + d for k in range(8, 17) for d in (-1, 0, 1)), 100_003]
    for n in sizes:
        for key in (0, 1, 2**64 - 1):
            for images in (permutation(n, key=key), shuffled(n, key=key)):
                assert images.dtype == np.int64
                assert np.array_equal(np.sort(images), np.arange(n)), (n, key)


@given(n=st.integers(1, 5000), key=KEYS, data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_slice_is_the_slice_of_the_whole(n, key, data):
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    np.testing.assert_array_equal(permutation(n, key=key, start=start, stop=stop), permutation(n, key=key)[start:stop])


@pytest.mark.parametrize("n", [2**32 + 1, 10**12, 2**62])
def test_a_slice_of_a_huge_permutation_equals_cycle_walking_by_hand(n):
    half = 1 << (((n - 1).bit_length() + 1) // 2)
    expect = []
    for x in range(n - 50, n):
        image = twins.permutation.feistel(x, half=half, key=5)
        while image >= n:
            image = twins.permutation.feistel(image, half=half, key=5)
        expect.append(image)
    assert permutation(n, key=5, start=n - 50).tolist() == expect


def test_permutations_never_change():
    assert permutation(10, key=0).tolist() == [2, 5, 1, 4, 3, 6, 9, 8, 0, 7]
    assert permutation(10, key=1).tolist() == [0, 2, 4, 9, 1, 3, 6, 7, 5, 8]
    assert permutation(20_000, key=2**64 - 1, stop=6).tolist() == [17, 1039, 19784, 18932, 14791, 9527]
    assert permutation(10**12, key=5, stop=3).tolist() == [463603893416, 368238121471, 753427918729]
    assert shuffled(10, key=0).tolist() == [8, 0, 1, 4, 9, 3, 7, 5, 2, 6]
    assert shuffled(10, key=1).tolist() == [1, 2, 5, 8, 6, 4, 0, 7, 9, 3]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (0, 11), (11, None)])
def test_a_slice_outside_is_refused(start, stop):
    with pytest.raises(ValueError, match=r"slice .* is not inside \[0, 10\)"):
        permutation(10, key=0, start=start, stop=stop)


SEEDS = st.one_of(st.integers(-(2**31), 2**32), st.integers(-(2**200), 2**200))


@given(n=st.integers(0, 3000), seed=SEEDS)
@settings(deadline=None, max_examples=80)
def test_python_shuffle_is_what_python_shuffles(n, seed):
    numbers = list(range(n))
    random.seed(seed)
    random.shuffle(numbers)
    shuffle = python_shuffle(n, seed=seed)
    assert shuffle.dtype == np.uint32
    assert shuffle.tolist() == numbers == twins.permutation.python_shuffle(n, seed=seed)


def test_python_shuffle_never_changes():
    assert python_shuffle(10, seed=42).tolist() == [7, 3, 2, 8, 5, 6, 9, 4, 0, 1]
    assert python_shuffle(100_000, seed=42)[:5].tolist() == [3813, 99183, 80737, 65674, 53670]
    assert python_shuffle(10, seed=-42).tolist() == python_shuffle(10, seed=42).tolist()


@pytest.mark.slow
def test_the_shuffle_that_pm6_was_split_by():
    # as CPython 3.11 made it, in a minute and 3 GB
    rows = python_shuffle(83_746_835, seed=42)
    assert rows[:4].tolist() == [80906607, 35370758, 67172470, 75622100]
    assert rows[82_071_899:][:2].tolist() == [72821092, 82908686]
    assert rows[-4:].tolist() == [32868828, 36913810, 3356886, 14942603]


def test_python_shuffle_leaves_the_state_of_random_alone():
    random.seed(7)
    state = random.getstate()
    python_shuffle(100, seed=42)
    assert random.getstate() == state


@pytest.mark.parametrize("n", [-1, 2**32, 2**40])
def test_python_shuffle_refuses_what_uint32_does_not_count(n):
    with pytest.raises(ValueError, match=rf"python_shuffle: got n = {n}, expected 0 <= n < 2\*\*32"):
        python_shuffle(n, seed=42)


@pytest.mark.parametrize("seed", [4.2, "42", None])
def test_python_shuffle_takes_whole_seeds_only(seed):
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        python_shuffle(10, seed=seed)
