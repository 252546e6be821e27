"""The loader: a plan, read ahead by threads, handed out step by step, resumable anywhere.

Threads decode, pack and collate; nothing crosses a process. A lane holds its current window and the next one.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np

from shards import ShardSet
from streamer.batch import Batch
from streamer.config import StreamConfig
from streamer.cursor import Cursor
from streamer.errors import CallError, CursorError
from streamer.plan import Plan, Slot, plan_hash
from streamer.window import collate, load_window

NUM_STEPS_AHEAD = 4
"""Steps that are collated before they are asked for."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one rank does in one step."""

    epoch: int
    step: int
    """From 0 at the start of the epoch."""
    lanes: list[int]
    """Lane of each batch; -1 where the rank has no lane left and runs a masked pack."""
    batches: list[Batch]
    slots: list[Slot | None]
    """Window and pack of each batch, None for a masked one."""
    wait_s: float
    """Seconds the caller waited for it."""


class Loader:
    """Iterable over the steps of the current epoch; the next `iter` goes on with the next epoch.

    `state_dict` is the cursor after the last step that was handed out.
    """

    def __init__(
        self,
        shard_set: ShardSet,
        config: StreamConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_threads: int = 2,
        levels: tuple[str, ...] = ("graph", "atom"),
        with_ids: bool = False,
    ):
        """Raises CallError for an impossible rank, BudgetError for a budget too small; both before anything is read."""
        if not 1 <= world_size <= config.num_lanes:
            raise CallError(f"world size {world_size}: expected 1 to the number of lanes, {config.num_lanes}; raise the lanes")
        if not 0 <= rank < world_size:
            raise CallError(f"rank {rank}: expected 0 to {world_size - 1} in a world of {world_size}")
        if num_threads < 1:
            raise CallError(f"threads: got {num_threads}, expected at least 1")
        self.shard_set, self.config, self.num_threads = shard_set, config, num_threads
        self.lanes = list(range(rank, config.num_lanes, world_size))
        self.packs_a_step = -(-config.num_lanes // world_size)
        self.groups = ("structure", *(f"{level}_labels" for level in levels), *(("ids",) if with_ids else ()))
        self.epoch, self.step = 0, 0
        self._plan = Plan.make(shard_set, config, 0)
        self._masked: Batch | None = None

    @property
    def plan(self) -> Plan:
        """The plan of the current epoch."""
        if self._plan.epoch != self.epoch:
            self._plan = Plan.make(self.shard_set, self.config, self.epoch)
        return self._plan

    def __len__(self) -> int:
        """Steps of the current epoch, from its start."""
        return self.plan.num_steps

    def state_dict(self) -> dict:
        """The cursor, as a small dict of JSON types."""
        return asdict(self.cursor)

    def load_state_dict(self, state: dict) -> None:
        """Go on where a cursor stands. Raises CursorError if it belongs to another stream."""
        self.seek(Cursor(**state))

    @property
    def cursor(self) -> Cursor:
        """The next step."""
        return Cursor(
            fingerprint=self.shard_set.manifest.fingerprint,
            plan_hash=plan_hash(self.config),
            plan=asdict(self.config),
            epoch=self.epoch,
            step=self.step,
        )

    def seek(self, cursor: Cursor) -> None:
        """Go on where a cursor stands. Raises CursorError if it belongs to another stream or lies beyond its epoch."""
        cursor.check(self.cursor)
        before = self.epoch
        self.epoch = cursor.epoch
        if cursor.step > len(self):
            self.epoch = before
            raise CursorError(f"cursor at step {cursor.step} of an epoch of {len(self)} steps")
        self.step = cursor.step
        if self.step == len(self):
            self.epoch, self.step = self.epoch + 1, 0

    def window_bytes(self) -> int:
        """Estimated bytes of the decoded windows that are in memory at once."""
        plan, sums = self.plan, self.shard_set.index.sums()
        per_window = [sums[plan.window_blocks(w)].sum(axis=0) for w in range(plan.num_windows)]
        molecules, atoms, bonds = np.max(per_window, axis=0)
        manifest = self.shard_set.manifest
        size = molecules * (8 + 4 * len(manifest.tasks_of("graph")) * ("graph_labels" in self.groups)) + bonds * 5
        size += atoms * (len(manifest.atom_features) + 4 * len(manifest.tasks_of("atom")) * ("atom_labels" in self.groups))
        return int(size) * min(2 * len(self.lanes), plan.num_windows)

    def __iter__(self) -> Iterator[Step]:
        plan, first = self.plan, self.step
        with ThreadPoolExecutor(self.num_threads, thread_name_prefix="molstream") as pool:
            pending: deque[tuple[list[int], list[Slot | None], list[Future | None]]] = deque()
            try:
                for lanes, slots, futures in _Schedule(self, plan, pool).steps(first):
                    pending.append((lanes, slots, futures))
                    if len(pending) > NUM_STEPS_AHEAD:
                        yield self._hand_out(plan, *pending.popleft())
                while pending:
                    yield self._hand_out(plan, *pending.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        self.epoch, self.step = self.epoch + 1, 0

    def _hand_out(self, plan: Plan, lanes: list[int], slots: list[Slot | None], futures: list[Future | None]) -> Step:
        start = time.perf_counter()
        batches = [self.masked_batch if f is None else f.result() for f in futures]
        wait_s = time.perf_counter() - start
        step = Step(plan.epoch, self.step, lanes, batches, slots, wait_s)
        self.step += 1
        return step

    @property
    def masked_batch(self) -> Batch:
        """A pack of padding only (made once)."""
        if self._masked is None:
            self._masked = self.collate(None, 0)
        return self._masked

    def collate(self, window, pack: int) -> Batch:
        """Collate one pack of a window with this loader's shapes."""
        manifest = self.shard_set.manifest
        return collate(
            window,
            pack,
            budget=self.config.budget,
            num_graph_tasks=len(manifest.tasks_of("graph")),
            num_atom_tasks=len(manifest.tasks_of("atom")),
            num_features=len(manifest.atom_features),
        )


class _Schedule:
    """Submits window loads and collations in the order they are needed.

    The pool serves its queue first in, first out, and a window is always submitted before the packs cut from it: a thread that
    waits for a window waits for one that another thread is already loading, so no number of threads can deadlock.
    """

    def __init__(self, loader: Loader, plan: Plan, pool: ThreadPoolExecutor):
        self.loader, self.plan, self.pool = loader, plan, pool
        self.windows: dict[int, Future] = {}
        self.users: dict[int, int] = {}

    def steps(self, first: int) -> Iterator[tuple[list[int], list[Slot | None], list[Future | None]]]:
        """Futures of each step from `first` on."""
        lanes = self.loader.lanes
        visits = [deque(self._visits(lane, first)) for lane in lanes]
        for lane_visits in visits:
            for window in lane_visits:
                self.users[window] = self.users.get(window, 0) + 1
        walks = [self.plan.iter_lane(lane, first) for lane in lanes]
        short = self.loader.packs_a_step - len(lanes)
        for _ in range(first, self.plan.num_steps):
            slots = [next(walk) for walk in walks]
            futures = [None if s is None else self._pack(s, visits[k]) for k, s in enumerate(slots)]
            yield [*lanes, *[-1] * short], [*slots, *[None] * short], [*futures, *[None] * short]

    def _visits(self, lane: int, first: int) -> list[int]:
        """Windows a lane goes through from step `first` on, each once."""
        plan = self.plan
        starts = plan.lane_starts[lane]
        own = [int(w) for w, end in zip(plan.lane_windows[lane], starts[1:], strict=True) if end > first]
        shared = plan.lane_shared[lane][max(0, first - int(starts[-1])) :, 0]
        return own + list(dict.fromkeys(shared.tolist()))

    def _pack(self, slot: Slot, visits: deque[int]) -> Future:
        if visits[0] != slot.window:
            done = visits.popleft()
            self.users[done] -= 1
            if not self.users[done]:
                del self.windows[done]
        for window in list(visits)[:2]:
            if window not in self.windows:
                self.windows[window] = self.pool.submit(
                    load_window,
                    self.loader.shard_set,
                    self.plan,
                    window,
                    budget=self.loader.config.budget,
                    groups=self.loader.groups,
                )
        loading = self.windows[slot.window]
        return self.pool.submit(lambda: self.loader.collate(loading.result(), slot.pack))


def sequential(config: StreamConfig) -> StreamConfig:
    """The same stream in stored order on one lane, for evaluation and export."""
    return replace(config, shuffle=False, num_lanes=1)
