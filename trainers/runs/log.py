"""The log of a run: one JSON object a line in log.jsonl, the same numbers for TensorBoard, and for trackers of Accelerate."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from molstream.shards.store.documents import encode_line
from molstream.shards.store.lines import LineWriter, read_json_lines
from molstream.shards.store.writing import write_bytes
from molstream.trainers.errors import RunError
from molstream.trainers.runs.board import Board

LOG = "log.jsonl"


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that Accelerate does not know, or whose package is not installed. Raises RunError."""
    known = {str(name): tracker for name, tracker in LOGGER_TYPE_TO_CLASS.items()}
    for name in names:
        if name not in known:
            raise RunError(f"tracker {name!r}: expected one of {', '.join(known)}")
        # a class registered by its user has no package that could be missing
        builtin = getattr(known[name], "__module__", "") == GeneralTracker.__module__
        if builtin and name not in map(str, get_available_trackers()):
            raise RunError(f"tracker {name!r}: its package is not installed here; pip install {name.replace('_', '-')}")


class RunLog:
    """Appends to a run's log; on resume, lines after the checkpoint's step are dropped, for they will come again."""

    def __init__(
        self,
        run: Path,
        *,
        step: int,
        is_validated: bool,
        accelerator: Accelerator,
        config: Mapping,
        on_problem: Callable[[str], None] = lambda text: None,
    ):
        """`is_validated`: whether the validation at `step`, if there is one, will not come again. `on_problem` is told of damaged
        lines, which are dropped. Raises StorageError."""
        self.path, self.accelerator = run / LOG, accelerator
        self.last_validation = -1
        if self.path.exists():
            again = ("validation", step) if not is_validated else None
            kept = [line for line in read_log(run, on_problem) if line["step"] <= step and (line["kind"], line["step"]) != again]
            self.last_validation = max((line["step"] for line in kept if line["kind"] == "validation"), default=-1)
            write_bytes(self.path, b"".join(map(encode_line, kept)))
        self.lines = LineWriter(self.path)
        self.board = Board(run, step=step + 1, on_problem=on_problem)
        flat = {k: v if isinstance(v, (int, float, str)) else json.dumps(v) for k, v in config.items()}
        accelerator.init_trackers("molstream", config=flat)

    def has_validation(self, step: int) -> bool:
        """Whether the validation at `step` is there already: that of a run which was finished before."""
        return step == self.last_validation

    def add(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
        """One line; numbers that are not finite are written as null."""
        clean = {k: v if v is not None and math.isfinite(v) else None for k, v in values.items()}
        self.lines.add({"kind": kind, "step": step} | clean)
        numbers = {f"{kind}/{name}": value for name, value in clean.items() if value is not None}
        self.board.add(numbers, step)
        self.accelerator.log(numbers, step=step)

    def close(self) -> None:
        """Flush and close all."""
        self.board.close()
        self.lines.close()
        # not end_training, which leaves the group of processes too
        for tracker in self.accelerator.trackers:
            tracker.finish()


def read_log(run: Path, on_problem: Callable[[str], None] = lambda text: None) -> list[dict]:
    """The lines of a run's log, to the last whole one; `on_problem` is told of damaged ones, which are left out. Empty without a
    log."""
    found, damaged = read_json_lines(run / LOG)
    lines = [line for line in found if isinstance(line.get("kind"), str) and type(line.get("step")) is int]
    if damaged := damaged + len(found) - len(lines):
        on_problem(f"{run / LOG}: {damaged} damaged lines are left out")
    return lines
