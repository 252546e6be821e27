"""Memory of windows: used again, never while anything still refers to it."""

import threading
import weakref
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.streamer.buffers import ALIGNMENT, WindowMemory, align
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader, _Lane
from molstream.streamer.window import load_window

SHAPES = {"a": ((5, 3), np.uint8), "b": ((7,), np.float32), "c": ((0, 4), np.float16), "d": ((2, 2), np.uint64)}


def size_of(shapes) -> int:
    return sum(align(int(np.prod(shape)) * np.dtype(dtype).itemsize) for shape, dtype in shapes.values())


def memory_for(shapes) -> WindowMemory:
    memory = WindowMemory()
    memory.require(size_of(shapes))
    return memory


def span(array: np.ndarray) -> tuple[int, int]:
    at = array.__array_interface__["data"][0]
    return at, at + array.nbytes


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["u1", "f2", "f4", "u8"])), min_size=1, max_size=6))
def test_arrays_are_aligned_writable_and_apart(fields):
    shapes = {f"{k}": ((n, 3), np.dtype(dtype)) for k, (n, dtype) in enumerate(fields)}
    arrays = memory_for(shapes).arrays(shapes)
    assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == shapes
    spans = sorted(span(a) for a in arrays.values() if a.size)
    assert all(at % ALIGNMENT == 0 for at, _ in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    for k, array in enumerate(arrays.values()):
        array[:] = k
    assert all((array == k).all() for k, array in enumerate(arrays.values()))


def test_a_piece_comes_back_when_the_last_view_is_gone_and_not_before():
    memory = memory_for(SHAPES)
    arrays = memory.arrays(SHAPES)
    first = span(arrays["a"])[0]
    view = arrays["b"][2:4]
    view[:] = 7
    del arrays
    others = [memory.arrays(SHAPES) for _ in range(3)]
    for other in others:
        for array in other.values():
            array[:] = 1
    assert (view == 7).all(), "a view of one column keeps the piece"
    assert first not in {span(o["a"])[0] for o in others}
    del view
    assert span(memory.arrays(SHAPES)["a"])[0] == first


def test_pieces_grow_when_more_is_required_and_small_ones_are_not_taken_for_large():
    memory = memory_for(SHAPES)
    small = memory.arrays(SHAPES)
    large = {name: ((100, *shape), dtype) for name, (shape, dtype) in SHAPES.items()}
    memory.require(size_of(large))
    del small
    arrays = memory.arrays(large)
    for array in arrays.values():
        array[:] = 1
    memory.require(8)
    assert memory.arrays(large)


def test_more_than_was_required_is_a_bug_that_shows():
    with pytest.raises(AssertionError, match=r"a window of \d+ bytes in a piece of"):
        memory_for(SHAPES).arrays({"a": ((10_000,), np.uint8)})


def test_threads_never_share_a_piece():
    memory, wrong = memory_for(SHAPES), []

    def work(number: int) -> None:
        for _ in range(300):
            arrays = memory.arrays(SHAPES)
            for array in arrays.values():
                array[:] = number
            if not all((array == number).all() for array in arrays.values()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_stream_takes_no_more_pieces_than_it_says(made_sets, monkeypatch):
    """Two windows a lane at most, however many epochs."""
    taken = []
    take = WindowMemory._take

    def spy(self):
        root = take(self)
        taken.append(span(root)[0])
        return root

    monkeypatch.setattr(WindowMemory, "_take", spy)
    config = StreamConfig(budget=Budget.suggest(made_sets["many"], atoms=256), num_lanes=2, window_molecules=20)
    loader = Loader(made_sets["many"], config)
    for _ in range(4):
        list(loader)
    assert len(taken) > 40
    # one more may be under way while those that go are not yet gone
    assert len(set(taken)) <= 2 * 2 + loader.num_threads
    assert len(set(taken)) * loader.memory.num_bytes <= 2 * loader.window_bytes()
    loader.close()
    assert not loader.memory._free


@settings(max_examples=20, deadline=None)
@given(lanes=st.integers(1, 5), window=st.sampled_from([1, 10, 60, 500]), epoch=st.integers(0, 3), data=st.data())
def test_the_largest_window_fits_its_piece(made_sets, lanes, window, epoch, data):
    shard_set = made_sets[data.draw(st.sampled_from(sorted(made_sets)))]
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=256), num_lanes=lanes, window_molecules=window)
    loader = Loader(shard_set, config, encodings=("rw16", "lap8"), with_ids=True)
    loader.load_state_dict(loader.state_dict() | {"epoch": epoch})
    loader.memory.require(loader._largest_window())
    for number in range(loader.plan.num_windows):
        parts = {"config": config, "selection": loader.selection, "stages": loader.stages, "memory": loader.memory}
        assert len(load_window(shard_set, loader.plan, number, **parts).molecules)


def test_memory_goes_with_its_loader(made_sets):
    loader = Loader(made_sets["many"], StreamConfig(budget=Budget.suggest(made_sets["many"], atoms=256), num_lanes=2))
    list(loader)
    assert loader.memory._free
    memory = weakref.ref(loader.memory)
    del loader
    assert memory() is None


def test_a_lane_holds_two_windows_at_most(made_sets, monkeypatch):
    held, advance = [], _Lane.advance

    def spy(self, slot):
        out = advance(self, slot)
        held.append(len(self.held))
        assert self.held[0] == slot.window
        return out

    monkeypatch.setattr(_Lane, "advance", spy)
    for lanes in (1, 2, 5):
        config = StreamConfig(budget=Budget.suggest(made_sets["many"], atoms=128), num_lanes=lanes, window_molecules=20)
        list(Loader(made_sets["many"], config))
    assert set(held) == {1, 2}
