"""Whole numbers read out of pickles equal those the standard library reads, wherever a reading begins or breaks off."""

import pickle

import numpy as np
import pytest
import twins.pickled
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.kernels.tables.pickled import read_pickled_ints

EDGES = [0, 1, -1, 255, 256, -128, 65535, 65536, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**39, 2**63 - 1, -(2**63)]
NUMBERS = st.one_of(st.sampled_from(EDGES), st.integers(-(2**63), 2**63 - 1), st.integers(0, 300))


def read(data: bytes, at: int) -> tuple[list[int], int]:
    numbers, end = read_pickled_ints(np.frombuffer(data, np.uint8), at=at)
    assert numbers.dtype == np.int64
    return numbers.tolist(), end


def begin(data: bytes) -> int:
    """Where the first list's items begin: after EMPTY_LIST and what puts it into the memo."""
    at = 11 if data[2] == 0x95 else 2
    assert data[at : at + 1] == b"]"
    return at + 3 if data[at + 1 : at + 2] == b"q" else at + 2


@given(numbers=st.lists(NUMBERS, max_size=50), protocol=st.integers(2, 5))
@settings(deadline=None)
def test_all_numbers_of_a_list_are_read_at_once(numbers, protocol):
    data = pickle.dumps(numbers, protocol)
    assert read(data, begin(data)) == (numbers, len(data) - 1) == twins.pickled.read_pickled_ints(data, at=begin(data))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("size", [1, 2, 999, 1000, 1001, 2001, 30_000])
def test_batches_of_a_thousand_and_frames_are_passed_over(size, protocol):
    numbers = (np.arange(size) * 7_919 % 100_003).tolist()
    data = pickle.dumps(numbers, protocol)
    assert read(data, begin(data)) == (numbers, len(data) - 1)


@given(
    items=st.lists(st.one_of(NUMBERS, st.sampled_from([None, True, "a", 2.5, 2**63, -(2**70), []])), max_size=12),
    protocol=st.integers(2, 5),
    data=st.data(),
)
@settings(deadline=None, max_examples=200)
def test_any_part_of_a_mixed_list_is_read_as_its_twin_reads_it(items, protocol, data):
    pickled = pickle.dumps(items, protocol)
    stop = data.draw(st.integers(begin(pickled), len(pickled)))
    assert read(pickled[:stop], begin(pickled)) == twins.pickled.read_pickled_ints(pickled[:stop], at=begin(pickled))


PARTS = [
    b"(",
    b"(",
    b"e",
    b"e",
    b"a",
    b"K\x05",
    b"M\x00\x01",
    b"J\xff\xff\xff\xff",
    b"\x8a\x00",
    b"\x8a\x01\x80",
    b"\x95" + bytes(8),
    b"N",
    b"]",
]


@given(parts=st.lists(st.sampled_from(PARTS), max_size=20))
@settings(deadline=None, max_examples=500)
def test_any_opcodes_are_read_as_their_twin_reads_them(parts):
    data = b"".join(parts)
    assert read(data, 0) == twins.pickled.read_pickled_ints(data, at=0)


@given(data=st.lists(st.sampled_from(b"(eaKMJ\x8a\x95\x00\x01\x08\xff"), max_size=40).map(bytes))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_read_within_their_bounds(data):
    numbers, end = read(data, 0)
    assert 2 * len(numbers) <= end <= len(data)
