"""The masked loss, written so that how molecules are packed cannot change it.

A pack's loss of a task set is the sum of its absolute errors over N, the real labels of that task set in the whole step (all
lanes); the total is the mean over task sets. Summed over the step's packs this is the mean absolute error of each task set.
"""

import torch
from torch import Tensor, nn

from streamer import Batch
from trainers.spec import DataSpec


class Targets(nn.Module):
    """Raw label columns -> normalised targets of each task set."""

    def __init__(self, spec: DataSpec):
        super().__init__()
        self.heads = spec.heads
        for head in spec.heads:
            self.register_buffer(f"columns_{head.key}", torch.tensor(head.columns))
            # scales in f64 would double the work for digits that the labels do not have
            self.register_buffer(f"mean_{head.key}", torch.tensor(head.mean, dtype=torch.float32))
            self.register_buffer(f"std_{head.key}", torch.tensor(head.std, dtype=torch.float32))

    def forward(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """{task set: (targets, mask)}, each (G, T) or (A, T); targets are 0 where the mask is False."""
        out = {}
        for head in self.heads:
            labels = batch.graph_labels_GT if head.level == "graph" else batch.atom_labels_AT
            raw = labels[:, getattr(self, f"columns_{head.key}")]
            mask = ~torch.isnan(raw)
            scaled = (raw - getattr(self, f"mean_{head.key}")) / getattr(self, f"std_{head.key}")
            out[head.name] = torch.where(mask, scaled, 0.0), mask
        return out


def count_labels(batches: list[Batch], spec: DataSpec) -> dict[str, int]:
    """Real labels of each task set over the packs of a step; known at collation, no device involved."""
    out = {}
    for head in spec.heads:
        counts = [b.num_graph_labels_T if head.level == "graph" else b.num_atom_labels_T for b in batches]
        out[head.name] = sum(int(c[list(head.columns)].sum()) for c in counts)
    return out


def masked_mae(
    predictions: dict[str, Tensor], targets: dict[str, tuple[Tensor, Tensor]], num_labels: dict[str, int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """One pack's share of the step's loss: (total, {task set: share}).

    `num_labels`: real labels of each task set over all packs of the step. A task set without any contributes 0.
    """
    shares = {}
    for name, (target, mask) in targets.items():
        error = torch.where(mask, (predictions[name] - target).abs(), 0.0).sum()
        shares[name] = error / max(1, num_labels[name])
    return torch.stack(list(shares.values())).mean(), {name: share.detach() for name, share in shares.items()}
