"""The log of a run: one JSON object a line in log.jsonl, and the same numbers for TensorBoard."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

LOG = "log.jsonl"


class RunLog:
    """Appends to a run's log; on resume, lines after the checkpoint's step are dropped, for they will come again."""

    def __init__(self, run: Path, *, step: int):
        self.path = run / LOG
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
            beside = self.path.with_name(LOG + ".part")
            beside.write_text("".join(line + "\n" for line in kept))
            beside.rename(self.path)
        self.file = self.path.open("a", buffering=1)
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def add(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
        """One line; numbers that are not finite are written as null."""
        clean = {k: v if v is not None and math.isfinite(v) else None for k, v in values.items()}
        self.file.write(json.dumps({"kind": kind, "step": step} | clean) + "\n")
        for name, value in clean.items():
            if value is not None:
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        self.file.close()
        self.board.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        # a line cut short by a crash
        return math.inf
