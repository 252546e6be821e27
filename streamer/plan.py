"""The plan: which molecules come in which step. It is a pure function of the index, the configuration and the epoch.

    blocks of the split, permuted   | 17 | 3 | 40 | 8 | 25 | 31 | 2 | 11 | ...
    windows                         |     window 0    |    window 1    | ...     each: a known number of packs
    whole windows to lanes          lane 0: w0 w3 ...   lane 1: w1 w2 ...         the next window to the shortest lane
    last windows, pack by pack      the next pack to the shortest lane, so that lanes end within one pack of each other
    steps                           step t takes pack t of every lane; a lane that has ended gives a masked pack

Invariants (tests/streamer/test_plan.py): every molecule of the split comes once per epoch; the numbers of steps and packs are
known before any payload is read; packs are enough for any molecules that the index may describe, so that a stream that starts
never stops for room; nothing here depends on ranks, threads or where a run was resumed.

Molecules larger than the budget, if the configuration leaves them out rather than refuses to start, are in no pack. Those with
too many atoms or pairs are not counted when packs are, since the index knows their number; those with too many edges or labels
are counted.

Order version 3: windows are cut for fewest packs, and the number of packs is that of the proof in `kernels.packing.packs`. Any
change that moves a molecule must raise the version.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from molstream.kernels.packing.packs import count_larger, count_whole, cut_windows, deal_to_lanes
from molstream.kernels.rng.hashing import mix_key
from molstream.kernels.rng.permutation import permutation
from molstream.shards.format.reader import ShardSet
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.errors import BudgetError

ORDER_VERSION = 3


@dataclass(frozen=True, slots=True)
class Slot:
    """One pack of one window."""

    window: int
    pack: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One epoch of one split."""

    epoch: int
    key: int
    """Key of every permutation of the epoch."""
    shuffle: bool
    blocks: np.ndarray
    """int64: block numbers in the epoch's order."""
    num_oversize: int
    """Molecules of the split that are left out because they have more atoms, or pairs of atoms, than a pack holds."""
    window_ptr: np.ndarray
    """int64 (W + 1): blocks of window w are blocks[window_ptr[w]:window_ptr[w + 1]]."""
    window_packs: np.ndarray
    """int64 (W): packs of each window."""
    lane_windows: list[np.ndarray]
    """Windows that belong to one lane alone, in order, per lane."""
    lane_shared: list[np.ndarray]
    """int64 (n, 2) per lane: window and pack of each pack that it takes from the shared windows, in order."""
    lane_starts: list[np.ndarray]
    """Number of packs of a lane before each of its own windows, and before its shared packs (last entry)."""

    @classmethod
    def make(cls, shard_set: ShardSet, config: StreamConfig, epoch: int, *, max_labels: int | None = None) -> "Plan":
        """Plan an epoch. It reads only the index, and time and memory grow with blocks only. Raises BudgetError.

        `max_labels`: graph-level tasks that are read, which matter where labels are listed; None: all.
        """
        check_budget(shard_set, config)
        blocks = shard_set.blocks(config.split)
        key = mix_key(int(shard_set.manifest.fingerprint[:16], 16), config.seed, epoch, ORDER_VERSION)
        if config.shuffle:
            blocks = blocks[permutation(len(blocks), key=key)]
        counts, sizes = shard_set.index.counts, shard_set.index.histogram()
        histogram = (sizes.ptr, sizes.size, sizes.count)
        labels = None if config.budget.labels is None else shard_set.index.label_histogram()
        window_ptr, window_packs = cut_windows(
            blocks,
            counts["num_molecules"],
            counts["num_bonds"],
            counts["max_bonds"],
            histogram,
            capacity=config.budget.capacity,
            window_molecules=config.window_molecules,
            labels=None if labels is None else (labels.ptr, labels.size, labels.count),
            max_labels=len(shard_set.manifest.tasks_of("graph")) if max_labels is None else max_labels,
        )
        num_oversize = count_larger(blocks, histogram, atoms=config.budget.max_atoms)
        if num_oversize == counts["num_molecules"][blocks].sum():
            raise BudgetError(f"budget {config.budget}: no molecule of split {config.split} is small enough for a pack")
        # the last windows level the lanes
        whole = count_whole(window_packs, num_lanes=config.num_lanes)
        lane_of_window, load = deal_to_lanes(window_packs[:whole], num_lanes=config.num_lanes)
        shared = window_packs[whole:]
        shared_slots = np.stack([np.repeat(np.arange(whole, len(window_packs)), shared), _count_up(shared)], axis=1)
        lane_of_shared, _ = deal_to_lanes(np.ones(len(shared_slots), np.int64), num_lanes=config.num_lanes, load=load)
        lane_windows = [np.flatnonzero(lane_of_window == lane) for lane in range(config.num_lanes)]
        return cls(
            epoch=epoch,
            key=key,
            shuffle=config.shuffle,
            blocks=blocks,
            num_oversize=num_oversize,
            window_ptr=window_ptr,
            window_packs=window_packs,
            lane_windows=lane_windows,
            lane_shared=[shared_slots[lane_of_shared == lane] for lane in range(config.num_lanes)],
            lane_starts=[np.concatenate([[0], np.cumsum(window_packs[w])]) for w in lane_windows],
        )

    @property
    def num_windows(self) -> int:
        """Number of windows of the epoch."""
        return len(self.window_packs)

    @property
    def num_packs(self) -> int:
        """Number of packs of the epoch that hold molecules."""
        return int(self.window_packs.sum())

    @property
    def num_steps(self) -> int:
        """Number of steps of the epoch: the packs of the longest lane."""
        return max(self.lane_length(lane) for lane in range(len(self.lane_windows)))

    @property
    def num_masked_packs(self) -> int:
        """Number of packs of the epoch's last step that are all padding."""
        return self.num_steps * len(self.lane_windows) - self.num_packs

    def lane_length(self, lane: int) -> int:
        """Number of packs of a lane."""
        return int(self.lane_starts[lane][-1]) + len(self.lane_shared[lane])

    def iter_lane(self, lane: int, start: int = 0) -> Iterator[Slot | None]:
        """Packs of a lane from step `start` to the epoch's last step; None for a masked one."""
        starts, windows, shared = self.lane_starts[lane], self.lane_windows[lane], self.lane_shared[lane]
        length, num_steps, at = self.lane_length(lane), self.num_steps, start
        place = int(np.searchsorted(starts, start, side="right")) - 1
        while at < min(length, int(starts[-1])):
            if at == starts[place + 1]:
                place += 1
            yield Slot(int(windows[place]), at - int(starts[place]))
            at += 1
        while at < length:
            window, pack = shared[at - int(starts[-1])]
            yield Slot(int(window), int(pack))
            at += 1
        while at < num_steps:
            yield None
            at += 1

    def iter_windows(self, lane: int, start: int = 0) -> Iterator[int]:
        """Windows that a lane goes through from step `start` on, each once."""
        ends = self.lane_starts[lane][1:]
        for window in self.lane_windows[lane][np.searchsorted(ends, start, side="right") :]:
            yield int(window)
        yield from self.iter_shared(lane, start)

    def iter_shared(self, lane: int, start: int = 0) -> Iterator[int]:
        """Those of `iter_windows` that other lanes go through too."""
        shared = self.lane_shared[lane][max(0, start - int(self.lane_starts[lane][-1])) :, 0]
        # a lane takes its packs of one window one after another
        yield from dict.fromkeys(shared.tolist())

    def window_blocks(self, window: int) -> np.ndarray:
        """Block numbers of a window."""
        return self.blocks[self.window_ptr[window] : self.window_ptr[window + 1]]


def _count_up(sizes: np.ndarray) -> np.ndarray:
    """[2, 3] -> [0, 1, 0, 1, 2]."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def check_budget(shard_set: ShardSet, config: StreamConfig) -> None:
    """Refuse a budget that the largest molecule of the split exceeds. Raises a BudgetError that names the molecule."""
    if config.oversize == "skip":
        return
    counts, blocks, capacity = shard_set.index.counts, shard_set.blocks(config.split), config.budget.capacity
    kinds: list[tuple[str, str, Callable[[int], int], int, int]] = [
        ("atoms", "atoms", lambda atoms: atoms, 1, capacity.atoms),
        ("bonds", "edges", lambda bonds: 2 * bonds, 0, capacity.edges),
    ]
    if capacity.pairs is not None:
        kinds.append(("atoms", "pairs", lambda atoms: atoms * (atoms + 1) // 2, 0, capacity.pairs))
    for what, name, number, spare, limit in kinds:
        sizes = counts[f"max_{what}"][blocks]
        largest = number(int(sizes.max()))
        if largest > limit:
            fitting = Budget.suggest(
                shard_set,
                atoms=config.budget.atoms,
                list_labels=capacity.labels is not None,
                pairs=capacity.pairs is not None,
            )
            worst = counts[f"max_{what}_id"][blocks[sizes.argmax()]]
            raise BudgetError(
                f"budget {config.budget}: molecule {worst} of split {config.split} has {largest} {name}, usable are {limit}; "
                f"leave such molecules out with --oversize skip, or give at least {largest + spare} {name}, for example --budget "
                f"{fitting}"
            )


def plan_hash(plan: dict) -> str:
    """Hash of the plan that a cursor carries: `plan` is everything that moves a molecule, besides the shard set, as JSON
    types."""
    text = json.dumps({"order_version": ORDER_VERSION} | plan, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
