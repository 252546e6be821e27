"""Byte shuffling is a transposition of items and their bytes."""

import numpy as np
import pytest
import twins.bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.kernels.codec.bytes import shuffle_bytes, transpose, unshuffle_bytes

DTYPES = [np.uint8, np.int16, np.uint32, np.float32, np.int64, np.float64]


@given(data=st.binary(max_size=400), dtype=st.sampled_from(DTYPES))
@settings(deadline=None, max_examples=80)
def test_shuffled_bytes_equal_the_twin_and_come_back_as_they_were(data, dtype):
    item_size = np.dtype(dtype).itemsize
    data = data[: len(data) // item_size * item_size]
    array = np.frombuffer(data, dtype)
    shuffled = shuffle_bytes(array)
    assert shuffled.dtype == np.uint8
    assert shuffled.tobytes() == twins.bytes.shuffle_bytes(data, item_size)
    assert twins.bytes.unshuffle_bytes(shuffled.tobytes(), item_size) == data
    back = unshuffle_bytes(shuffled, dtype)
    assert back.dtype == dtype
    assert back.tobytes() == data


def test_the_order_of_bytes_never_changes():
    assert shuffle_bytes(np.array([0x04030201, 0x14131211], "<u4")).tolist() == [1, 17, 2, 18, 3, 19, 4, 20]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_shuffles_to_nothing(dtype):
    assert shuffle_bytes(np.empty(0, dtype)).shape == (0,)
    assert unshuffle_bytes(np.empty(0, np.uint8), dtype).shape == (0,)


def test_strided_and_read_only_arrays_are_taken_by_their_values():
    array = np.arange(20, dtype=np.float32)
    np.testing.assert_array_equal(unshuffle_bytes(shuffle_bytes(array[::2]), np.float32), array[::2])
    data = np.frombuffer(shuffle_bytes(array).tobytes(), np.uint8)
    assert not data.flags.writeable
    np.testing.assert_array_equal(unshuffle_bytes(data, np.float32), array)


def test_a_broken_last_item_is_refused():
    with pytest.raises(ValueError, match="7 bytes are no whole number of 4-byte items"):
        unshuffle_bytes(np.zeros(7, np.uint8), np.float32)


@given(st.integers(0, 2**32), st.sampled_from([np.uint8, np.int8, np.float16]), st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_columns_become_rows_where_their_molecule_begins(seed, dtype, width):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 90, rng.integers(1, 9))
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    columns = rng.integers(0, 256, (width, int(ptr[-1]) * np.dtype(dtype).itemsize), np.uint8).view(dtype)
    assert transpose(columns, ptr).tobytes() == np.ascontiguousarray(columns.T).tobytes()
    order = rng.permutation(len(sizes))
    starts = np.empty(len(sizes), np.int64)
    starts[order] = np.cumsum(sizes[order]) - sizes[order]
    out = transpose(columns, ptr, np.empty((ptr[-1], width), dtype), starts=starts)
    expect = [columns.T[ptr[m] : ptr[m + 1]] for m in order]
    assert out.tobytes() == b"".join(np.ascontiguousarray(part).tobytes() for part in expect)


def test_a_place_of_another_kind_is_refused_for_rows():
    columns, ptr = np.zeros((3, 5), np.uint8), np.array([0, 2, 5])
    for out in (np.empty((5, 4), np.uint8), np.empty((5, 3), np.int8), np.empty((5, 6), np.uint8)[:, :3]):
        with pytest.raises(ValueError, match="place for uint8"):
            transpose(columns, ptr, out)
    with pytest.raises(ValueError, match="do not lie in a place"):
        transpose(columns, ptr, np.empty((5, 3), np.uint8), starts=np.array([0, 3]))
