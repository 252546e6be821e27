"""The ledger: which molecule came in which step and lane, as a Parquet file. It is the oracle for exactly-once, order and resume.

A molecule that was left out because it is larger than a pack has lane -1, in the step where its window begins.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molstream.shards.store.tables import parquet_writer
from molstream.shards.store.writing import write_beside
from molstream.streamer.loader import Step

SCHEMA = pa.schema([("epoch", pa.int32()), ("step", pa.int64()), ("lane", pa.int32()), ("set", pa.int32()), ("id", pa.uint64())])


class LedgerWriter:
    """Appends steps in a `with` block; the file appears under its name when that ends without an error."""

    def __init__(self, path: Path):
        self.path = path
        self._opened = ExitStack()

    def add(self, step: Step) -> None:
        """Record every real molecule of a step; its loader must have been made `with_ids`."""
        packs = [(lane, batch.ids) for lane, batch in zip(step.lanes, step.batches, strict=True) if batch.num_graphs]
        for lane, ids in [*packs, (-1, step.skipped)]:
            assert ids is not None
            if n := len(ids):
                columns = [np.full(n, step.epoch), np.full(n, step.step), np.full(n, lane), np.zeros(n, np.int64), ids]
                arrays = [pa.array(c).cast(f.type) for c, f in zip(columns, SCHEMA, strict=True)]
                self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))

    def __enter__(self) -> "LedgerWriter":
        with ExitStack() as opened:
            sink = opened.enter_context(write_beside(self.path))
            self._writer = opened.enter_context(parquet_writer(sink, SCHEMA))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)
