"""Steps that are not finite: noticed, named with their molecules in nonfinite.jsonl, then the run stops or goes on.

    {"step": 1200, "epoch": 0, "loss_is_finite": false, "packs": [{"lane": 3, "ids": [17, 4711, ...]}]}

Packs are those whose loss is not finite, or all of the step where only its gradient is not. No weight has changed, see
trainers/training/step.py.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from molstream.shards.store.lines import LineWriter
from molstream.streamer.loader import Loader
from molstream.trainers.config import Recipe
from molstream.trainers.distributed.process_group import ProcessGroup
from molstream.trainers.errors import TrainError
from molstream.trainers.training.step import StepResult

NONFINITE = "nonfinite.jsonl"
MOST_IN_A_ROW = 20
"""Steps that are skipped before a run is given up; losses scaled for fp16 overflow a few times at the start."""


class PendingStep(NamedTuple):
    """A step that was handed to the device, and not looked at yet."""

    step: int
    """Of the run."""
    epoch: int
    step_of_epoch: int
    lanes: list[int]
    result: StepResult


class Fault(NamedTuple):
    """Why a run ends, and the step at which it does."""

    at: PendingStep
    error: TrainError


class NonfiniteCheck:
    """Looks at steps once the device has done them: on a GPU one step later, so that the device never waits for the host."""

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        open_stream: Callable[[], Loader],
        *,
        processes: ProcessGroup,
        device: torch.device,
        num_skipped: int,
    ):
        """`open_stream`: the stream of the whole run, all lanes, with ids."""
        self.run, self.recipe, self.open_stream, self.processes = run, recipe, open_stream, processes
        self.delay = 1 if device.type == "cuda" and recipe.precision != "fp16" else 0
        self.pending: list[PendingStep] = []
        self.num_skipped = num_skipped
        """Steps of the run that changed nothing."""
        self._in_a_row = 0

    def add(self, pending: PendingStep) -> Fault | None:
        """Hand over a step; returns it, or an earlier one, if it must end the run. Collective."""
        self.pending.append(pending)
        return self.look(self.delay)

    def look(self, delay: int = 0) -> Fault | None:
        """Look at all pending steps but the last `delay`. Collective."""
        while len(self.pending) > delay:
            pending = self.pending.pop(0)
            if bool(pending.result.is_finite):
                self._in_a_row = 0
                continue
            self._in_a_row += 1
            lanes = self._find_lanes(pending)
            is_overflow = self.recipe.precision == "fp16" and not lanes
            if not is_overflow:
                with self.processes.together():
                    if self.processes.is_first:
                        self._write(pending, lanes)
            if self._in_a_row > MOST_IN_A_ROW or (self.recipe.nonfinite == "stop" and not is_overflow):
                self.pending.clear()
                return Fault(pending, self._explain(pending, "loss" if lanes else "gradient"))
            # in fp16 the scale of the loss was too large, and is halved
            self.num_skipped += 1
        return None

    def _find_lanes(self, pending: PendingStep) -> list[int]:
        """Lanes of all processes whose loss is not finite. Collective."""
        flags = torch.zeros(self.recipe.num_lanes, dtype=torch.int64)
        for lane, loss in zip(pending.lanes, pending.result.pack_losses.tolist(), strict=True):
            if lane >= 0 and not math.isfinite(loss):
                flags[lane] = 1
        return self.processes.sum(flags).nonzero().flatten().tolist()

    def _write(self, pending: PendingStep, lanes: list[int]) -> None:
        # the stream is a function of the cursor, so ids are read only now
        with self.open_stream() as loader:
            loader.seek(replace(loader.cursor, epoch=pending.epoch, step=pending.step_of_epoch))
            item = next(iter(loader))
        packs = [
            {"lane": lane, "ids": [] if batch.ids is None else batch.ids.tolist()}
            for lane, batch in zip(item.lanes, item.batches, strict=True)
            if lane in lanes or not lanes
        ]
        line = {"step": pending.step, "epoch": pending.epoch, "loss_is_finite": not lanes, "packs": packs}
        with LineWriter(self.run / NONFINITE) as lines:
            lines.add(line)

    def _explain(self, pending: PendingStep, what: str) -> TrainError:
        if self._in_a_row > MOST_IN_A_ROW:
            return TrainError(
                f"{self.run}: {self._in_a_row} steps in a row were not finite, the last of them step {pending.step}; start again "
                f"in another folder with a lower learning_rate, or precision=f32"
            )
        return TrainError(
            f"{self.run}: {what} is not finite at step {pending.step}; this step changed no weights; its molecules are in "
            f"{self.run / NONFINITE}; go on past it with --resume --set nonfinite=skip, or start again in another folder with a "
            f"lower learning_rate"
        )
