"""One optimizer step: forward and backward over the packs of all lanes, one reduction over processes, one update.

The gradient is the same for any number of processes (up to the order of sums): a pack's loss is its errors over the labels of the
whole step, times the number of processes, since DistributedDataParallel takes a mean; what is random in a pack is drawn from
(seed, step, lane); gradients are clipped after they are reduced. Nothing here waits for the device.

A loss that is not finite makes the gradient so, and with it that of every process; such a step leaves weights, optimizer and
average as they were. That is decided on the device, and seen by the host later (trainers/training/nonfinite.py).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from molstream.kernels.rng.hashing import mix_key
from molstream.streamer.loader import Step
from molstream.trainers.config import Recipe
from molstream.trainers.distributed.process_group import ProcessGroup, lost_as_error
from molstream.trainers.models.loss import Loss, Targets
from molstream.trainers.models.network import Network
from molstream.trainers.training.ema import MovingAverage
from molstream.trainers.training.optim import learning_rate, set_learning_rate

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class StepResult(NamedTuple):
    """What a step found, on the device."""

    losses: Tensor
    """Of the packs of this process: the total, then each task set's share; sums over processes are those of the step."""
    pack_losses: Tensor
    """The total of each pack."""
    num_labels: Tensor
    """float64: of each task set, over all packs of the step."""
    num_clipped: Tensor
    """Labels of the packs of this process that are clipped."""
    norm: Tensor
    """Of the gradient, before it was clipped; the same in all processes."""
    is_finite: Tensor
    """bool: whether anything was changed."""


class Stepper:
    """Network, optimizer and what they need for a step."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.AdamW,
        recipe: Recipe,
        *,
        loss: Loss,
        targets: Targets,
        average: MovingAverage | None,
        processes: ProcessGroup,
        device: torch.device,
    ):
        """`network`: a Network, or one in DistributedDataParallel."""
        self.network, self.optimizer, self.recipe, self.average = network, optimizer, recipe, average
        self.bare: Network = network.module if isinstance(network, DistributedDataParallel) else network  # type: ignore[assignment]
        self.loss, self.targets, self.processes, self.device = loss, targets, processes, device
        self.parameters = list(network.parameters())
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        # once a step was not finite no later one changes anything either, unless they are to be skipped
        self.is_sticky = recipe.nonfinite == "stop" and not self.scaler.is_enabled()
        self.stuck = torch.zeros((), device=device)

    def autocast(self) -> torch.autocast | nullcontext:
        """The precision of matrix products."""
        dtype = DTYPES.get(self.recipe.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def run(self, item: Step, *, step: int, num_labels: Sequence[int]) -> StepResult:
        """Do step number `step`, which has `num_labels` real labels of each task set in all its packs. Collective."""
        set_learning_rate(self.optimizer, learning_rate(step, self.recipe))
        counts = torch.tensor(num_labels, dtype=torch.float64, pin_memory=self.device.type == "cuda")
        counts = counts.to(self.device, non_blocking=True)
        num_packs = len(item.batches) * self.processes.world_size
        losses, pack_losses = [], []
        num_clipped = torch.zeros((), dtype=torch.int64, device=self.device)
        for k, (lane, batch) in enumerate(zip(item.lanes, item.batches, strict=True)):
            is_last = k == len(item.batches) - 1
            self._seed(mix_key(self.recipe.seed, step, max(0, lane)) >> 1)
            moved = batch.to(self.device)
            with self._reduced(is_last), lost_as_error():
                with self.autocast():
                    predictions = self.network(moved)
                labels = self.targets.all(moved)
                targets = self.targets.trained(labels)
                num_clipped += self.targets.count_clipped(labels, targets)
                loss, shares = self.loss(predictions, targets, counts, log_variance=self.bare.log_variance, num_packs=num_packs)
                self.scaler.scale(_poison(loss) * self.processes.world_size).backward()
            pack_losses.append(loss.detach())
            losses.append(torch.cat([loss.detach().view(1), shares]))
        norm, is_finite = self._update(step)
        return StepResult(torch.stack(losses).sum(dim=0), torch.stack(pack_losses), counts, num_clipped, norm, is_finite)

    def _seed(self, seed: int) -> None:
        """As torch.manual_seed, which takes up to 5 ms: for each kind of device that is not here it formats a traceback."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _reduced(self, is_last: bool):
        """Gradients are reduced over processes with the last pack."""
        if is_last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()

    def _update(self, step: int) -> tuple[Tensor, Tensor]:
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        bad = (~torch.isfinite(norm)).float()
        if self.is_sticky:
            self.stuck = bad = torch.maximum(self.stuck, bad)
        # read by fused AdamW, as GradScaler sets it
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.scaler.is_enabled():
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.bare, step, 1 - bad)
        return norm, bad == 0


def _poison(loss: Tensor) -> Tensor:
    """The same loss, but one whose gradient is NaN where it is not finite: that of MAE at infinity is finite."""
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
