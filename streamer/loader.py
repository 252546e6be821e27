"""The loader: threads read ahead what the plan says, and it is handed out step by step. A stream can resume anywhere.

Threads decode, pack and collate; no data crosses processes. A lane holds its current window and, from some point in it on, the
next one. The lanes reach that point one after another, so that their windows are not all read at once.
"""

import hashlib
import json
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np
from torch.utils.data import get_worker_info

from molstream.kernels.packing.packs import WIDEST
from molstream.shards.columns import ROWS, Row
from molstream.shards.format.reader import ShardSet
from molstream.shards.tasks import LEVELS, Level
from molstream.streamer.batch import Batch, Layout
from molstream.streamer.buffers import WindowMemory, piece_bytes
from molstream.streamer.config import StreamConfig
from molstream.streamer.cursor import Cursor
from molstream.streamer.errors import BudgetError, CallError, CursorError, StreamError
from molstream.streamer.launched import warn_of_forgotten_rank
from molstream.streamer.plan import Plan, Slot, plan_hash
from molstream.streamer.selection import Selection
from molstream.streamer.stages import Stages
from molstream.streamer.window import Window, collate, load_window, window_bytes

NUM_STEPS_AHEAD = 4
"""Number of steps that are collated before they are asked for."""
MAX_THREADS = 1024
THREADS = "molstream"
"""Prefix of the names of the threads."""
_NONE = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one rank in one step."""

    epoch: int
    step: int
    """Counted from 0 at the start of the epoch."""
    lanes: list[int]
    """Lane of each batch; -1 where the rank has no lane left and runs a masked pack."""
    batches: list[Batch]
    slots: list[Slot | None]
    """Window and pack of each batch, None for a masked one."""
    skipped: np.ndarray
    """uint64: ids of oversize molecules of the windows whose first pack is in this step."""
    wait_s: float
    """Seconds that the caller waited for the step."""
    num_ready: int
    """Steps that were ready when this one was asked for, itself included, up to `NUM_STEPS_AHEAD`."""


class Loader:
    """Iterable over the steps of the current epoch; the next `iter` continues with the next epoch.

    Before the first step every shard of the split is checked: it must exist, be whole and be the one that was built.
    `state_dict` is the cursor after the last step that was handed out. The loader is a plain Python iterable, which refuses
    to run in the workers of a DataLoader: each would give every molecule. Its threads end with their iteration, with `close`,
    or when the loader is freed. It can be pickled, and it can be iterated in a forked child if no iteration was under way.
    Several loaders do not disturb each other.
    """

    def __init__(
        self,
        shard_set: ShardSet,
        config: StreamConfig,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        num_threads: int = 2,
        tasks: Sequence[str] | None = None,
        levels: Sequence[Level] = LEVELS,
        encodings: Sequence[str] = (),
        with_ids: bool = False,
        pin_memory: bool = False,
        in_worker: bool = False,
    ):
        """`rank`, `world_size`: which share of the lanes is this process's; None: all, which is said once where a launcher
        started several processes. `in_worker`: they count the workers of a DataLoader too, so that it may be iterated
        in one. `tasks`: names or patterns of the labels of `levels` to read, None: all; `encodings`: "rw16", "lap8",
        which are computed where the set has none; `pin_memory`: keep batches in page-locked memory, for copies to a
        GPU that do not wait.

        Labels of pairs of atoms need a budget with pairs. Raises CallError for an impossible rank or for columns that the set or
        the budget does not have, BudgetError for a budget that is too small; both before anything is read.
        """
        if rank is None and world_size is None:
            warn_of_forgotten_rank()
        rank, world_size = rank or 0, 1 if world_size is None else world_size
        self.in_worker = in_worker
        if not 1 <= world_size <= config.num_lanes:
            raise CallError(f"world size {world_size}: expected 1 to the number of lanes, {config.num_lanes}; raise the lanes")
        if not 0 <= rank < world_size:
            raise CallError(f"rank {rank}: expected 0 to {world_size - 1} in a world of {world_size}")
        if not 1 <= num_threads <= MAX_THREADS:
            raise CallError(f"threads: got {num_threads}, expected at least 1 and at most {MAX_THREADS:,}")
        self.shard_set, self.config, self.num_threads, self.pin_memory = shard_set, config, num_threads, pin_memory
        self.lanes = list(range(rank, config.num_lanes, world_size))
        self.packs_per_step = -(-config.num_lanes // world_size)
        self.selection = Selection.resolve(shard_set, tasks=tasks, levels=levels, encodings=encodings, with_ids=with_ids)
        self._check_labels()
        self.layout = Layout.of(
            config.budget,
            num_features=len(shard_set.manifest.atom_features),
            num_tasks={level: len(tasks) for level, tasks in self.selection.tasks.items()},
            encodings=self.selection.encodings,
        )
        self.stages, self._owner = Stages(), os.getpid()
        self.memory = WindowMemory()
        self.epoch, self.step = 0, 0
        self._plan = self._make_plan(0)
        self._checked = False
        self._masked: Batch | None = None
        self._running: weakref.ref[Generator[Step, None, None]] | None = None

    def _check_labels(self) -> None:
        """Refuse pair-level labels that the budget has no room for, and a budget of listed labels that a molecule may exceed
        according to the index, which knows the number of labels of a molecule but not their tasks."""
        if (pairs := self.selection.tasks["pair"]) and self.config.budget.pairs is None:
            raise CallError(
                f"tasks: {pairs[0].name} is of level pair, and budget {self.config.budget} has no pairs; give one with "
                f"(G,A,E,pairs=N; Budget.suggest(pairs=True) finds it), or leave out the level or its {len(pairs)} tasks"
            )
        limit, counts = self.config.budget.labels, self.shard_set.index.counts
        if limit is None or self.config.oversize == "skip":
            return
        blocks = self.shard_set.blocks(self.config.split)
        most, num_tasks = counts["max_graph_labels"][blocks], len(self.selection.tasks["graph"])
        needed = min(int(most.max()), num_tasks)
        if needed > limit:
            some = "" if num_tasks == len(self.shard_set.manifest.tasks_of("graph")) else f", up to {num_tasks} of selected tasks"
            raise BudgetError(
                f"budget {self.config.budget}: molecule {counts['max_graph_labels_id'][blocks[most.argmax()]]} has {most.max()} "
                f"graph-level labels{some}, usable are {limit}; give {-(-needed // 8) * 8}, select fewer tasks, "
                f"or leave such molecules out with --oversize skip"
            )

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_running": None, "_masked": None, "stages": None, "memory": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state | {"stages": Stages(), "memory": WindowMemory(), "_owner": os.getpid()})

    def check_shards(self) -> None:
        """Check the index and every shard of the split, once: raises FormatError for sizes that are not those of the molecules,
        and for a shard that is missing, cut short or not the one of the index."""
        if not self._checked:
            self.shard_set.check_sizes()
            self.shard_set.check_shards(self.config.split)
            self._checked = True

    @property
    def plan(self) -> Plan:
        """The plan of the current epoch."""
        if self._plan.epoch != self.epoch:
            self._plan = self._make_plan(self.epoch)
        return self._plan

    def __len__(self) -> int:
        """Number of steps of the current epoch, from its start."""
        return self.plan.num_steps

    def _make_plan(self, epoch: int) -> Plan:
        return Plan.make(self.shard_set, self.config, epoch, max_labels=len(self.selection.tasks["graph"]))

    def state_dict(self) -> dict:
        """The cursor, as a small dict of JSON types."""
        return asdict(self.cursor)

    def load_state_dict(self, state: dict) -> None:
        """Continue where a cursor stands. Raises CursorError if it belongs to another stream."""
        self.seek(Cursor.of(state))

    @property
    def cursor(self) -> Cursor:
        """The cursor of the next step."""
        plan = asdict(self.config)
        if self.config.budget.pairs is None:
            # a budget without pairs is written as it always was, so that older cursors fit
            del plan["budget"]["pairs"]
        if self.config.budget.labels is not None:
            # listed labels take room in a pack; thousands of names would not fit a cursor
            names = [task.name for task in self.selection.tasks["graph"]]
            plan["listed_tasks"] = f"{len(names)} (hash {hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]})"
        return Cursor(
            fingerprint=self.shard_set.manifest.fingerprint,
            plan_hash=plan_hash(plan),
            plan=plan,
            epoch=self.epoch,
            step=self.step,
        )

    def seek(self, cursor: Cursor) -> None:
        """Continue where a cursor stands. Raises CursorError if it belongs to another stream or lies beyond its epoch."""
        cursor.check(self.cursor)
        plan = self.plan if cursor.epoch == self.epoch else self._make_plan(cursor.epoch)
        if cursor.step > plan.num_steps:
            raise CursorError(f"cursor at step {cursor.step} of an epoch of {plan.num_steps} steps; remove it to start anew")
        self._stop()
        self._plan, self.epoch, self.step = plan, cursor.epoch, cursor.step
        if self.step == plan.num_steps:
            self.epoch, self.step = self.epoch + 1, 0

    def window_bytes(self) -> int:
        """Most bytes of decoded windows that are in memory at once; for listed labels, their mean number is assumed.

        A lane holds two windows, and a thread may be at work on the last pack of a window that its lane has left.
        """
        counts, manifest, config = self.shard_set.index.counts, self.shard_set.manifest, self.config
        total = int(counts["num_molecules"][self.plan.blocks].sum(dtype=np.int64))
        # other epochs may be cut into more windows, none smaller than the least
        number = min(2 * len(self.lanes) + self.num_threads - 1, max(1, total // config.window_molecules))
        listed = 0
        if config.budget.labels is not None:
            labels = sum(manifest.labels[task.name].get(config.split, 0) for task in self.selection.tasks["graph"])
            listed = 8 * (labels + total) // total * min(total, WIDEST * config.window_molecules)
        return number * (piece_bytes(self._largest_window()) + listed)

    def _largest_window(self) -> int:
        """Bytes of the largest window of this epoch or, except for chance in the sizes of molecules, of any other."""
        plan, counts = self.plan, self.shard_set.index.counts
        share = min(1.0, WIDEST * self.config.window_molecules / int(counts["num_molecules"][plan.blocks].sum()))

        def most(column: np.ndarray) -> int:
            column = column[plan.blocks]
            here = int(np.add.reduceat(column, plan.window_ptr[:-1], dtype=np.int64).max())
            return max(here, int(share * int(column.sum())))

        pairs = most(self.shard_set.index.histogram().num_pairs()) if self.selection.tasks["pair"] else 0
        rows: dict[Row, int] = {row: pairs if row == "pair" else most(counts[f"num_{row}s"]) for row in ROWS}
        return window_bytes(self.shard_set, rows, budget=self.config.budget, selection=self.selection)

    def __iter__(self) -> Iterator[Step]:
        """Raises CallError in a worker of a DataLoader, unless it was made for one."""
        if not self.in_worker and (worker := get_worker_info()) is not None:
            raise CallError(
                f"loader: iterated in worker {worker.id} of {worker.num_workers} of a DataLoader, where each worker would give "
                f"every molecule; iterate it without one (its threads read ahead), take streamer.webdataset.packs, or make it "
                f"in_worker, with a rank and world size that count the workers"
            )
        self._stop()
        if self._owner != os.getpid():
            # a thread that a fork left behind may have held the lock of the old stages
            self.stages, self._owner = Stages(), os.getpid()
        steps = self._steps()
        self._running = weakref.ref(steps)
        return steps

    def close(self) -> None:
        """End the iteration that is under way, if any, its threads and its memory. The cursor does not move."""
        self._stop()
        self.memory.release()

    def _stop(self) -> None:
        running = None if self._running is None else self._running()
        self._running = None
        if running is not None:
            running.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _steps(self) -> Generator[Step, None, None]:
        self.check_shards()
        plan, owner = self.plan, os.getpid()
        self.memory.require(self._largest_window())
        pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix=THREADS)
        schedule, pending = _Schedule(self, plan, pool), deque[_Pending]()
        try:
            for step in schedule.steps(self.step):
                pending.append(step)
                del step
                if len(pending) > NUM_STEPS_AHEAD:
                    yield self._hand_out(plan, pending, owner)
            while pending:
                yield self._hand_out(plan, pending, owner)
        finally:
            # the garbage collector may be at work in one of these threads, which cannot wait for itself
            pool.shutdown(wait=not threading.current_thread().name.startswith(THREADS), cancel_futures=True)
            # an error holds this frame; if the frame held the error through its futures, batches would stay until garbage
            # collection
            pending.clear()
            schedule.windows.clear()
            # this holds too if no further step was asked for: after a `break` at the last step, or after len(loader) steps
            if (self.epoch, self.step) == (plan.epoch, plan.num_steps):
                self.epoch, self.step = self.epoch + 1, 0

    def _hand_out(self, plan: Plan, pending: "deque[_Pending]", owner: int) -> Step:
        if os.getpid() != owner:
            # its threads stayed in the parent, so no step would ever come
            raise StreamError("a loader was forked in the middle of an iteration; iterate anew in the child, or fork before")
        num_ready = min(NUM_STEPS_AHEAD, sum(step.is_ready for step in pending))
        lanes, slots, futures = pending.popleft()
        start, packs = time.perf_counter(), []
        try:
            while futures:
                packs.append(self._take(futures.pop(0)))
        finally:
            futures.clear()
        wait_s = time.perf_counter() - start
        skipped = [ids for _, ids in packs if ids.size]
        step = Step(
            epoch=plan.epoch,
            step=self.step,
            lanes=lanes,
            batches=[batch for batch, _ in packs],
            slots=slots,
            skipped=np.concatenate(skipped) if skipped else _NONE,
            wait_s=wait_s,
            num_ready=num_ready,
        )
        self.step += 1
        return step

    def _take(self, future: Future | None) -> "tuple[Batch, np.ndarray]":
        try:
            return (self.masked_batch, _NONE) if future is None else future.result()
        finally:
            del future

    @property
    def masked_batch(self) -> Batch:
        """A pack of padding only, which is made once."""
        if self._masked is None:
            self._masked = self._collate(None, 0)
        return self._masked

    def _load(self, plan: Plan, window: int) -> Window:
        return load_window(
            self.shard_set,
            plan,
            window,
            config=self.config,
            selection=self.selection,
            stages=self.stages,
            memory=self.memory,
        )

    def _collate(self, window: Window | None, pack: int) -> Batch:
        with self.stages.time("collate"):
            return collate(window, pack, layout=self.layout, pin_memory=self.pin_memory)


class _Pending(tuple[list[int], list[Slot | None], list[Future | None]]):
    """Lanes, slots and future batches of one step."""

    @property
    def is_ready(self) -> bool:
        return all(f is None or f.done() for f in self[2])


class _Lane:
    """The position of one lane: its next packs and the windows it holds."""

    def __init__(self, plan: Plan, lane: int, first: int, turn: float):
        self.slots = plan.iter_lane(lane, first)
        self.visits = plan.iter_windows(lane, first)
        self.held: deque[int] = deque()
        self.turn = turn
        """Share of a window that is handed out before the next window is read."""
        self.plan = plan

    def advance(self, slot: Slot) -> tuple[list[int], list[int]]:
        """Go to a pack. Returns the windows that are no longer needed, and those that are needed from now on."""
        done = []
        if self.held and self.held[0] != slot.window:
            done.append(self.held.popleft())
        new = []
        if not self.held:
            new.append(next(self.visits))
        if len(self.held) + len(new) < 2 and slot.pack >= self.turn * self.plan.window_packs[slot.window]:
            new += [w for w in (next(self.visits, None),) if w is not None]
        self.held.extend(new)
        return done, new


class _Schedule:
    """Submits window loads and collations in the order they are needed.

    The pool serves its queue first in, first out, and a window is always submitted before the packs cut from it: a thread that
    waits for a window waits for one that another thread is already loading, so no number of threads can deadlock.
    """

    def __init__(self, loader: Loader, plan: Plan, pool: ThreadPoolExecutor):
        self.loader, self.plan, self.pool = loader, plan, pool
        self.windows: dict[int, Future] = {}
        self.users: Counter[int] = Counter()

    def steps(self, first: int) -> Iterator[_Pending]:
        """Futures of each step from `first` on."""
        numbers = self.loader.lanes
        lanes = [_Lane(self.plan, number, first, (k + 1) / (len(numbers) + 1)) for k, number in enumerate(numbers)]
        # own windows have one user; a shared window has as many users as lanes of this rank take packs from it
        self.users.update(w for number in numbers for w in self.plan.iter_shared(number, first))
        short = self.loader.packs_per_step - len(lanes)
        for _ in range(first, self.plan.num_steps):
            slots = [next(lane.slots) for lane in lanes]
            futures = [None if slot is None else self._pack(slot, lane) for slot, lane in zip(slots, lanes, strict=True)]
            yield _Pending(([*numbers, *[-1] * short], [*slots, *[None] * short], [*futures, *[None] * short]))

    def _pack(self, slot: Slot, lane: _Lane) -> Future:
        done, new = lane.advance(slot)
        for window in new:
            if window not in self.windows:
                self.windows[window] = self.pool.submit(self.loader._load, self.plan, window)
        for window in done:
            self.users[window] -= 1
            if self.users[window] <= 0:
                del self.windows[window], self.users[window]
        return self.pool.submit(self._cut, self.windows[slot.window], slot.pack)

    def _cut(self, loading: Future, pack: int) -> tuple[Batch, np.ndarray]:
        try:
            window = loading.result()
        finally:
            del loading
        return self.loader._collate(window, pack), window.skipped if pack == 0 else _NONE


def sequential(config: StreamConfig) -> StreamConfig:
    """The same stream in stored order on one lane, for evaluation and export."""
    return replace(config, shuffle=False, num_lanes=1)
