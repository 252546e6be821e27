"""A running build, as every worker sees it: the plan, how the work is done, and where its files lie."""

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from molstream.kernels.rng.hashing import hash_u64
from molstream.shards.build.options import WorkOptions
from molstream.shards.build.plan import BuildPlan
from molstream.shards.build.spill import PieceLayout
from molstream.shards.errors import LimitError
from molstream.shards.format.archive import shard_name
from molstream.shards.format.manifest import BUILDING
from molstream.shards.molecules import Molecules
from molstream.shards.store.reading import map_file


@dataclass(frozen=True, slots=True)
class BuildJob:
    plan: BuildPlan
    work: WorkOptions
    out: Path
    """The folder that becomes the shard set; every worker can write to it."""

    @property
    def building(self) -> Path:
        """The folder of finished work until the set is committed."""
        return self.out / BUILDING

    def spill_path(self, number: int) -> Path:
        """Spill file of a range of rows. Its name tells the plan, so that a file which a lost worker writes late is ignored."""
        return self.building / f"{self.plan.map_id}-{number:05d}.spill"

    def merge_path(self, number: int) -> Path:
        """Merged spill file of a partition of joined tables."""
        return self.building / f"{self.plan.map_id}-join-{number:05d}.spill"

    def mapped(self) -> list[tuple[Path, PieceLayout]]:
        """Spill files of all ranges and what is in them."""
        layouts = [self.plan.piece_layout(t) for t in range(len(self.plan.datasets))]
        return [(self.spill_path(k), layouts[self.plan.files[r.file].table]) for k, r in enumerate(self.plan.ranges)]

    def reduced(self) -> list[tuple[Path, PieceLayout]]:
        """Spill files that are sorted by split."""
        if not self.plan.options.join:
            return self.mapped()
        layout = self.plan.piece_layout(None)
        return [(self.merge_path(k), layout) for k in range(self.plan.merges)]

    @property
    def rows_path(self) -> Path:
        """File of one byte per row: its split, if rows decide."""
        return self.building / f"{self.plan.map_id}-splits.u1"

    def assign_splits(self, molecules: Molecules) -> np.ndarray:
        """Split number of each molecule, uint8 (N); NO_SPLIT for a row that the split file does not name."""
        plan = self.plan
        if plan.splits.rule == "rows":
            return map_file(self.rows_path)[molecules.ids.astype(np.int64)]
        return plan.splits.by_hash(molecules, plan.options.split_fractions, key=plan.split_key)

    def partition(self, molecules: Molecules, split: np.ndarray) -> np.ndarray:
        """Number of the partition to which each molecule of these splits belongs, int64 (N)."""
        return self.plan.partition_of(split, hash_u64(self.plan.order_key, molecules.ids))

    def facts_path(self, split: str, number: int) -> Path:
        """What is noted of a finished shard, see `shards.build.facts`."""
        return self.building / f"{self.plan.reduce_id}-{split}-{number:05d}.facts"

    def shard_path(self, split: str, number: int) -> Path:
        """Path of a shard."""
        return self.out / shard_name(split, number)

    @property
    def max_rejects(self) -> int:
        """Number of rows that may be rejected."""
        return int(self.work.max_reject_fraction * self.plan.num_rows)

    def refuse_rejects(self, num_rejects: int, last: dict) -> NoReturn:
        """Raise LimitError for more than `max_rejects` rejects; `last` is one of them."""
        raise LimitError(
            f"{num_rejects:,} of {self.plan.num_rows:,} rows rejected so far, more than --max-reject-fraction "
            f"{self.work.max_reject_fraction:g} allows; the last was row {last['row']}, SMILES {_short(last['smiles'])}: "
            f"{last['reason']}; mend the input, or allow more and run again to go on from here"
        )


def _short(text: str | None) -> str:
    return repr(text if text is None or len(text) <= 60 else text[:57] + "...")
