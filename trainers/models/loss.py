"""The masked loss, written so that how molecules are packed cannot change it.

A pack's loss of a task set is the sum of its labels' errors over N, the real labels of that task set in the whole step (all
lanes); the total is the mean over task sets. Summed over the step's packs this is the mean error of each task set, averaged
(arXiv 2310.04292), or, with a log variance s of each that is learned, the mean of exp(-s) error + s (Kendall et al. 2018, arXiv
1705.07115).

Shape suffixes: R rows of a level (graphs, atoms, directed edges, pairs in both directions), T tasks, C classes.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molstream.streamer.batch import Batch
from molstream.trainers.config import LOSSES, Recipe
from molstream.trainers.errors import RunError
from molstream.trainers.models.label_scale import LabelScale
from molstream.trainers.spec import DataSpec, HeadSpec

HYBRID_SHARE = 0.5
"""Of cross-entropy in the hybrid loss."""
Labels = dict[str, tuple[Tensor, Tensor]]


class Targets(nn.Module):
    """Raw label columns -> normalised targets of each task set."""

    def __init__(self, spec: DataSpec):
        super().__init__()
        self.heads = spec.heads
        self.scales = nn.ModuleDict({head.key: LabelScale(head) for head in spec.heads})
        for head in spec.heads:
            self.register_buffer(f"columns_{head.key}", torch.tensor(head.columns))
            self.register_buffer(f"trained_{head.key}", torch.tensor(head.trained))

    def forward(self, batch: Batch) -> Labels:
        """{task set: (targets, mask)}, each (R, T), as training sees them: clipped where the recipe says so, and only of tasks
        that the training split has labels of. Targets are 0 where the mask is False, numbers of classes where these are."""
        return self.trained(self.all(batch))

    def scale(self, head: HeadSpec) -> LabelScale:
        """Between raw and normalised labels of a task set."""
        return cast(LabelScale, self.scales[head.key])

    def trained(self, labels: Labels) -> Labels:
        """Of `all` labels what training sees."""
        out = {}
        for head in self.heads:
            target, mask = labels[head.name]
            mask = mask if all(head.trained) else mask & getattr(self, f"trained_{head.key}")
            out[head.name] = self.scale(head).clip(target), mask
        return out

    def count_clipped(self, labels: Labels, targets: Labels) -> Tensor:
        """How many of `targets`, made of `labels`, are clipped."""
        counts = [
            (targets[head.name][1] & (targets[head.name][0] != labels[head.name][0])).sum() for head in self.heads if head.clip
        ]
        return torch.stack(counts).sum() if counts else torch.zeros((), dtype=torch.int64, device=next(self.buffers()).device)

    def raw_errors(self, predictions: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """{task set: absolute errors (R, T) in raw units} of matched predictions, where these are not proportional to the
        normalised ones; NaN where there is no label."""
        return {
            head.name: (
                self.scale(head).inverse(predictions[head.name])
                - label_columns(batch, head.level)[:, getattr(self, f"columns_{head.key}")]
            ).abs()
            for head in self.heads
            if head.knots
        }

    def all(self, batch: Batch) -> Labels:
        """Of all tasks, as they are."""
        columns = {level: label_columns(batch, level) for level in {head.level for head in self.heads}}
        out = {}
        for head in self.heads:
            raw = columns[head.level][:, getattr(self, f"columns_{head.key}")]
            mask = ~torch.isnan(raw)
            out[head.name] = torch.where(mask, self.scale(head)(raw), 0.0), mask
        return out


def label_columns(batch: Batch, level: str) -> Tensor:
    """Labels of a level (R, T), NaN where absent: of bonds one row per directed edge, of pairs one row per direction."""
    if level == "graph":
        return batch.dense_graph_labels()
    if level == "atom":
        return batch.atom_labels_AT
    both = batch.bond_labels_BT2 if level == "bond" else batch.pair_labels_PT2
    assert both is not None
    return both.transpose(1, 2).reshape(-1, both.shape[1])


def match(predictions: dict[str, Tensor], targets: Labels, spec: DataSpec) -> dict[str, Tensor]:
    """Predictions as they are held against the targets: a label that a bond or pair has once, not one each way, is about no
    direction, so it is held against the mean of both."""
    out = dict(predictions)
    for head in spec.heads:
        if head.level in ("bond", "pair"):
            both, mask = predictions[head.name], targets[head.name][1]
            both = both.view(-1, 2, *both.shape[1:])
            one_way = mask.view(-1, 2, mask.shape[1])
            one_way = one_way[:, :1] & ~one_way[:, 1:]
            one_way = one_way.view(*one_way.shape, *[1] * (both.dim() - 3))
            out[head.name] = torch.where(one_way, both.mean(dim=1, keepdim=True), both).view_as(predictions[head.name])
    return out


def count_labels(batches: Sequence[Batch], spec: DataSpec) -> list[int]:
    """Real labels of each task set over some packs, of trained tasks; known at collation, no device involved."""
    out = []
    for head in spec.heads:
        counts = [getattr(batch, f"num_{head.level}_labels_T") for batch in batches]
        out.append(sum(int(c[head.trained_columns].sum()) for c in counts))
    return out


def _binary(logit: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none")


def _cross_entropy(logits_RTC: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits_RTC.movedim(-1, 1), target.long(), reduction="none")


def _hybrid(logits_RTC: Tensor, target: Tensor) -> Tensor:
    classes = torch.arange(logits_RTC.shape[-1], device=logits_RTC.device, dtype=logits_RTC.dtype)
    expected = (logits_RTC.softmax(dim=-1) * classes).sum(dim=-1)
    return HYBRID_SHARE * _cross_entropy(logits_RTC, target) + (1 - HYBRID_SHARE) * (expected - target) ** 2


ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": lambda p, y: (p - y).abs(),
    "mse": lambda p, y: (p - y) ** 2,
    "huber": lambda p, y: F.huber_loss(p, y, reduction="none"),
    "bce": _binary,
    "cross_entropy": _cross_entropy,
    "hybrid": _hybrid,
}
"""(predictions (R, T) or (R, T, C), targets (R, T)) -> errors (R, T). Huber's is linear beyond one standard deviation; hybrid is
cross-entropy and the square error of the expected class, half and half (arXiv 2310.04292)."""


class Loss:
    """The loss of each task set of a recipe."""

    def __init__(self, spec: DataSpec, recipe: Recipe):
        """Raises RunError for a loss that does not fit the kind of its tasks, or of a task set that is not trained."""
        self.spec = spec
        if lacking := [name for name in (*recipe.losses, *recipe.head_hiddens) if name not in spec.task_sets]:
            raise RunError(
                f"recipe {recipe.name}: losses or head_hiddens name {lacking[0]}, trained are {', '.join(spec.task_sets)}"
            )
        self.names = {head.name: self._choose(head, recipe) for head in spec.heads}

    @staticmethod
    def _choose(head: HeadSpec, recipe: Recipe) -> str:
        fitting = LOSSES[head.kind]
        name = recipe.losses.get(head.name, fitting[0])
        if name not in fitting:
            raise RunError(
                f"recipe {recipe.name}: losses say {name} for {head.name}, whose tasks are {head.kind}; "
                f"expected {', '.join(fitting)}"
            )
        return name

    def sums(self, predictions: dict[str, Tensor], targets: Labels) -> dict[str, Tensor]:
        """Sum of errors of each task set over one pack, in the precision of the predictions (float32, or float64)."""
        matched = match(predictions, targets, self.spec)
        out = {}
        for name, (target, mask) in targets.items():
            error = ERRORS[self.names[name]](matched[name], target.to(matched[name].dtype))
            out[name] = torch.where(mask, error, 0.0).sum()
        return out

    def __call__(
        self,
        predictions: dict[str, Tensor],
        targets: Labels,
        num_labels: Tensor | Sequence[int],
        *,
        log_variance: Tensor | None = None,
        num_packs: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """One pack's share of the step's loss: (total, shares (task sets)).

        `num_labels` (task sets): real labels over all packs of the step, of all processes; a task set without any contributes 0.
        As a tensor on the device it costs no wait. `log_variance` (task sets): where the weights are learned; `num_packs`: packs
        of the step, which share their own term.
        """
        sums = torch.stack(list(self.sums(predictions, targets).values()))
        counts = torch.as_tensor(num_labels, dtype=sums.dtype, device=sums.device)
        shares = terms = sums / counts.clamp(min=1)
        if log_variance is not None:
            terms = torch.exp(-log_variance) * terms + (counts > 0) * log_variance / num_packs
        return terms.mean(), shares.detach()
