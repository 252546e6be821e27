"""Threads, files and memory end with an iteration, however it ends; processes fork, spawn and are interrupted."""

import gc
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path

import pytest

from molstream.shards.errors import ShardError
from molstream.shards.format.reader import ShardSet
from molstream.streamer.batch import Batch
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader, _Schedule
from molstream.streamer.stats import rss_bytes
from molstream.streamer.window import Window

ROOT = Path(__file__).parents[2]
HANGS_S = 500
"""What has not happened after so long hangs."""


def loader_for(shard_set: ShardSet, *, atoms: int = 256, **options) -> Loader:
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=atoms), num_lanes=3, window_molecules=40)
    return Loader(shard_set, config, **{"num_threads": 3, "with_ids": True} | options)


def ids_of(steps) -> list[list[int]]:
    return [batch.ids.tolist() for step in steps for batch in step.batches]


def held() -> tuple[int, int, int]:
    """Threads of the streamer, by Python, and all of the process and its open files, by the kernel."""
    ours = sum(thread.name.startswith("molstream") for thread in threading.enumerate())
    return ours, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def settle(before: tuple[int, int, int]) -> tuple[int, int, int]:
    """What is held once it is no more than before, or after a while: the kernel's end of a thread comes after Python's."""
    assert held()[0] == 0
    end = time.monotonic() + 60
    while any(a > b for a, b in zip(held(), before, strict=True)) and time.monotonic() < end:
        time.sleep(0.01)
    return held()


def alive(kind: type) -> int:
    return sum(type(o) is kind for o in gc.get_objects())


@pytest.fixture
def damaged_set(made_sets, tmp_path) -> ShardSet:
    """A block in the middle of the first epoch has a flipped bit."""
    folder = shutil.copytree(made_sets["many"].path, tmp_path / "damaged")
    shard_set = ShardSet(folder)
    block = loader_for(shard_set).plan.blocks[len(shard_set.index) // 2]
    path, at = shard_set.shard_path(block), int(shard_set.index.members["structure_offset"][block]) + 20
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    return shard_set


def end_break(shard_set, damaged_set):
    for step in loader_for(shard_set):
        if step.step == 2:
            break


def end_body_error(shard_set, damaged_set):
    with pytest.raises(ZeroDivisionError, match="in the loop"):  # noqa: PT012
        for _ in loader_for(shard_set):
            raise ZeroDivisionError("in the loop")


def end_damage(shard_set, damaged_set):
    with pytest.raises(ShardError, match="member structure: damaged"):
        for _ in loader_for(damaged_set):
            pass


def end_generator_close(shard_set, damaged_set):
    iterator = iter(loader_for(shard_set))
    next(iterator)
    iterator.close()


def end_throw(shard_set, damaged_set):
    iterator = iter(loader_for(shard_set))
    next(iterator)
    with pytest.raises(KeyboardInterrupt, match="now"):
        iterator.throw(KeyboardInterrupt("now"))


def end_loader_close(shard_set, damaged_set):
    loader = loader_for(shard_set)
    iterator = iter(loader)
    next(iterator)
    loader.close()
    assert list(iterator) == []
    loader.close()


def end_with_block(shard_set, damaged_set):
    with loader_for(shard_set) as loader:
        iterator = iter(loader)
        next(iterator)
    assert list(iterator) == []


def end_with_error(shard_set, damaged_set):
    with pytest.raises(ZeroDivisionError, match="in the block"), loader_for(shard_set) as loader:  # noqa: PT012
        iterator = iter(loader)
        next(iterator)
        raise ZeroDivisionError("in the block")
    assert list(iterator) == []


def end_second_iter(shard_set, damaged_set):
    loader = loader_for(shard_set)
    first = iter(loader)
    next(first)
    second = iter(loader)
    next(second)
    assert list(first) == []
    assert loader.step == 2
    second.close()


def end_seek(shard_set, damaged_set):
    loader = loader_for(shard_set)
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(loader.state_dict())
    assert list(iterator) == []


def end_let_go(shard_set, damaged_set):
    iterator = iter(loader_for(shard_set))
    next(iterator)
    del iterator


def end_whole_epoch(shard_set, damaged_set):
    for _ in loader_for(shard_set):
        pass


def end_before_it_began(shard_set, damaged_set):
    loader = loader_for(shard_set)
    iterator = iter(loader)
    loader.close()
    assert list(iterator) == []


ENDS = {name.removeprefix("end_"): function for name, function in list(globals().items()) if name.startswith("end_")}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_when_an_iteration_ends(made_sets, damaged_set, end):
    """At once: not when the garbage collector comes around."""
    shard_set = made_sets["many"]
    ENDS[end](shard_set, damaged_set)
    time.sleep(0.02)
    before = held()
    gc.collect()
    # what is there already is not looked at again
    gc.freeze()
    gc.disable()
    try:
        for _ in range(3):
            ENDS[end](shard_set, damaged_set)
            after = settle(before)
            assert all(a <= b for a, b in zip(after, before, strict=True)), f"{after}, {before} before"
            assert (alive(Batch), alive(Window)) == (0, 0)
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["break", "damage"])
def test_memory_does_not_grow_with_the_number_of_iterations(made_sets, damaged_set, end):
    """Batches of 1.5 MB here: a leak of one an iteration would be 15 MB in each stretch of ten, an allocator's habits in some."""

    def iterate():
        loader = loader_for(damaged_set if end == "damage" else made_sets["many"], atoms=16_384, num_threads=2)
        kept = None
        try:
            for step in loader:
                kept = step
                if end == "break":
                    break
        except ShardError:
            pass
        return kept and sum(batch.storage.numel() for batch in kept.batches)

    for _ in range(10):
        size = iterate()
    gc.collect()
    tracemalloc.start()
    iterate()
    gc.collect()
    traced = tracemalloc.get_traced_memory()[0]
    for _ in range(5):
        iterate()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - traced
    tracemalloc.stop()
    assert grown < 50_000
    sizes = [rss_bytes()]
    for _ in range(4):
        for _ in range(10):
            iterate()
        sizes.append(rss_bytes())
    assert min(after - before for before, after in pairwise(sizes)) < 4e6, sizes
    assert end == "damage" or size > 1e6


def test_what_was_ahead_is_not_done_when_an_iteration_ends(made_sets, monkeypatch):
    """The windows that threads are at, and no other."""
    read, blocks = ShardSet.read_members, []
    ended = threading.Event()

    def slowly(self, block, groups):
        if ended.is_set():
            blocks.append(block)
        time.sleep(0.02)
        return read(self, block, groups)

    monkeypatch.setattr(ShardSet, "read_members", slowly)
    loader = loader_for(made_sets["many"], num_threads=1)
    iterator = iter(loader)
    next(iterator)
    ended.set()
    iterator.close()
    plan = loader.plan
    assert any(set(blocks) <= set(plan.window_blocks(window).tolist()) for window in range(plan.num_windows))


def test_an_iterator_in_a_cycle_may_be_collected_by_a_thread_of_its_own(made_sets, monkeypatch):
    """Whichever thread allocates too much runs the collector, and with it the end of what it collects."""
    read, armed, go, collected = ShardSet.read_members, threading.Event(), threading.Event(), threading.Event()

    def collect(self, block, groups):
        # slow, so that there is something left to read when it is let go of
        time.sleep(0.03)
        if armed.is_set() and not collected.is_set():
            go.wait(HANGS_S)
            gc.collect()
            collected.set()
        return read(self, block, groups)

    monkeypatch.setattr(ShardSet, "read_members", collect)
    gc.disable()
    try:
        iterator = iter(loader_for(made_sets["many"], num_threads=2))
        next(iterator)
        armed.set()
        cycle: list = [iterator]
        cycle.append(cycle)
        del iterator, cycle
        go.set()
        assert collected.wait(HANGS_S)
    finally:
        gc.enable()
    end = time.monotonic() + HANGS_S
    while held()[0] and time.monotonic() < end:
        time.sleep(0.05)
    assert not held()[0]


def test_several_loaders_at_once_do_not_disturb_each_other(made_sets):
    names = ["many", "tails", "many", "singles"]
    alone = [ids_of(loader_for(made_sets[name])) for name in names]
    iterators = [iter(loader_for(made_sets[name])) for name in names]
    together: list[list] = [[] for _ in names]
    for _ in range(max(map(len, alone))):
        for k, iterator in enumerate(iterators):
            together[k] += ids_of(step for step in [next(iterator, None)] if step is not None)
    assert together == alone


def test_a_step_that_was_interrupted_comes_again(made_sets, monkeypatch):
    """What was not handed out is not counted: the cursor stands before it."""
    loader = loader_for(made_sets["many"], num_threads=1)
    expected = ids_of(loader_for(made_sets["many"]))
    got, interrupts = [], 0
    while loader.epoch == 0:
        iterator = iter(loader)
        take = loader._take

        def interrupt(future, take=take, left=[4]):  # noqa: B006
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt("while waiting")
            return take(future)

        monkeypatch.setattr(loader, "_take", interrupt)
        try:
            for step in iterator:
                got += ids_of([step])
        except KeyboardInterrupt:
            interrupts += 1
        monkeypatch.undo()
    assert got == expected
    assert interrupts > 3
    assert not held()[0]


def test_a_pickled_loader_streams_the_same_from_where_it_stood(made_sets):
    """In the middle of an iteration too: what is under way stays behind."""
    loader = loader_for(made_sets["many"])
    iterator = iter(loader)
    next(iterator), next(iterator)
    data = pickle.dumps(loader)
    other = pickle.loads(data)
    assert len(data) < 30_000
    assert other.state_dict() == loader.state_dict()
    assert len(other) == len(loader)
    rest = ids_of(iterator)
    assert ids_of(other) == rest
    assert rest
    assert other.stages.bytes_read > 0
    assert other.epoch == 1


@pytest.mark.parametrize(("lanes", "window"), [(3, 40), (4, 200), (5, 10_000)])
def test_a_window_is_held_until_the_last_lane_that_needs_it_has_gone_on_and_no_longer(made_sets, lanes, window):
    """Own windows and shared ones, by the futures that the schedule keeps; nothing is read."""

    class Pool:
        def submit(self, work, *arguments):
            return Future()

    shard_set = made_sets["many"]
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=256), num_lanes=lanes, window_molecules=window)
    loader = Loader(shard_set, config)
    schedule, plan = _Schedule(loader, loader.plan, Pool()), loader.plan
    of_lane = [[slot and slot.window for slot in plan.iter_lane(lane)] for lane in range(lanes)]
    assert any(sum(w in windows for windows in of_lane) > 1 for w in range(plan.num_windows))
    for step, _ in enumerate(schedule.steps(0)):
        # a lane keeps the window that it ends with
        needed = {w for windows in of_lane for w in [*windows[step:], *[w for w in windows if w is not None][-1:]]}
        assert {windows[step] for windows in of_lane} - {None} <= schedule.windows.keys() <= needed


# processes


@pytest.fixture
def script(tmp_path, made_sets):
    """script(code) -> a Python process with the loader `make()` of the set "many", slow where told."""

    def run(code: str, *, wait: bool = True) -> subprocess.Popen | str:
        head = f"""
import hashlib, json, multiprocessing, os, signal, sys, threading, time
from molstream import Budget, Loader, ShardSet, StreamConfig, StreamError

def make():
    shard_set = ShardSet({str(made_sets["many"].path)!r})
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=256), num_lanes=3, window_molecules=40)
    return Loader(shard_set, config, num_threads=3, with_ids=True)

def ids_of(steps):
    return [batch.ids.tolist() for step in steps for batch in step.batches]

def ours():
    return sum(t.name.startswith("molstream") for t in threading.enumerate())
"""
        path = tmp_path / "script.py"
        path.write_text(head + code)
        process = subprocess.Popen(
            [sys.executable, path],
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if not wait:
            return process
        try:
            out, err = process.communicate(timeout=HANGS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"still running after {HANGS_S} s: {process.communicate()}")
        assert (process.returncode, err) == (0, ""), err
        return out

    return run


@pytest.mark.slow
def test_loaders_can_be_forked_before_between_and_in_the_middle_of_iterations(script, made_sets):
    """In the middle only the parent goes on; the child is told so, and can begin anew where the parent stood."""
    out = script("""
def in_child(function):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(300)
        os.write(writer, json.dumps(function()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    assert os.waitpid(child, 0)[1] == 0, "the child hung or failed"
    return json.loads(text)

loader, expected = make(), ids_of(make())
assert in_child(lambda: ids_of(loader)) == expected, "before"
assert ids_of(loader) == expected
second = ids_of(loader)
loader = make()
list(loader)
assert in_child(lambda: ids_of(loader)) == second, "between"

def go_on():
    try:
        next(iterator)
    except StreamError as error:
        said = str(error)
    return said, ids_of(loader), loader.stages.bytes_read, ours()

for k in range(1, 4):
    loader = make()
    iterator = iter(loader)
    got = ids_of(next(iterator) for _ in range(k))
    said, rest, read, threads = in_child(go_on)
    assert "forked in the middle of an iteration; iterate anew in the child" in said, said
    assert got + rest == expected, "in the middle"
    assert read > 0 and threads == 0
    assert got + ids_of(iterator) == expected, "the parent goes on"

# whatever a thread holds when the fork comes
loader = make()
iterator = iter(loader)
got = ids_of([next(iterator)])
with loader.stages._lock:
    assert got + in_child(go_on)[1] == expected, "with a lock that is held"
iterator.close()
# and the child that ends with an iteration under way ends
child = os.fork()
if not child:
    signal.alarm(300)
    iterator = iter(loader)
    next(iterator)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print(json.dumps([len(expected), ours()]))
""")
    assert json.loads(out) == [len(ids_of(loader_for(made_sets["many"]))), 0]


@pytest.mark.slow
def test_a_loader_can_be_sent_to_a_spawned_process(script, made_sets):
    out = script("""
def main(loader, pipe):
    pipe.send(ids_of(loader))
    pipe.send((loader.epoch, ours()))

if __name__ == "__main__":
    loader = make()
    iterator = iter(loader)
    got = ids_of([next(iterator)])
    context = multiprocessing.get_context("spawn")
    ours_end, theirs = context.Pipe()
    child = context.Process(target=main, args=(loader, theirs))
    child.start()
    rest = ours_end.recv()
    assert ours_end.recv() == (1, 0)
    child.join()
    assert child.exitcode == 0
    print(json.dumps(got + rest))
""")
    assert json.loads(out) == ids_of(loader_for(made_sets["many"]))


@pytest.mark.slow
def test_ctrl_c_while_waiting_ends_the_threads_and_loses_nothing(script, made_sets):
    process = script(
        """
read = ShardSet.read_members
held, interrupted = threading.Event(), threading.Event()
def wait(self, block, groups):
    if held.is_set():
        # until nothing more can be handed out
        seen = None
        while seen != len(got):
            seen = len(got)
            time.sleep(0.1)
        os.write(1, b"waiting\\n")
        interrupted.wait()
    return read(self, block, groups)
ShardSet.read_members = wait

def handle(*args):
    interrupted.set()
    signal.default_int_handler(*args)
signal.signal(signal.SIGINT, handle)

def handed_out(loader):
    for step in loader:
        got.extend(ids_of([step]))
        if step.step == 1:
            held.set()

loader = make()
got = []
try:
    handed_out(loader)
except KeyboardInterrupt:
    held.clear()
    print(json.dumps([ours(), len(os.listdir("/proc/self/task"))]), flush=True)
got += ids_of(loader)
print(json.dumps(got), flush=True)
interrupted.clear()
handed_out(loader)
""",
        wait=False,
    )

    def interrupt() -> None:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)

    def said() -> list:
        while (line := process.stdout.readline()) == "waiting\n":
            pass
        return json.loads(line)

    try:
        interrupt()
        ours, tasks = said()
        assert ours == 0
        assert tasks < 8
        assert said() == ids_of(loader_for(made_sets["many"]))
        # and unhandled it ends the process
        interrupt()
        _, err = process.communicate(timeout=HANGS_S)
        assert process.returncode == -signal.SIGINT
        assert err.splitlines()[-1].startswith("KeyboardInterrupt")
        assert "Exception ignored" not in err
    finally:
        process.kill()
        process.communicate()
