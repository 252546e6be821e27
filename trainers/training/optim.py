"""Optimizer, learning rate, and how both follow the width of a network (maximal update parametrisation, muP).

muP (Yang et al. 2021, arXiv 2203.03466, table 3, Adam): of a weight whose input is n times as wide as in the network for which
the learning rate was chosen, the learning rate is divided by n; if its output does not widen with it, as in a head, its initial
values are divided by sqrt(n), beyond what their usual scale 1/sqrt(inputs) does. All else stays. So a learning rate found with a
narrow network is right for a wide one. Our own code: two rules; tests/trainers/test_optim.py checks coordinates.
"""

from collections.abc import Mapping

import torch
from torch import nn

from molstream.trainers.config import Recipe
from molstream.trainers.models.mup import width_ratio


def build_optimizer(network: nn.Module, recipe: Recipe, base: Mapping[str, torch.Size] | None = None) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with a group for each scale of the learning rate, which is in the group as `lr_scale`.

    Weight decay acts as it would at the base width: it is multiplied by what the learning rate is divided by. Fused: one kernel
    for all weights, which leaves them and its own state alone where `found_inf` is 1, a tensor, which the host need not wait for.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        ratio = width_ratio(parameter.shape, base[name]) if base else 1.0
        groups.setdefault(ratio, []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": group, "lr": 0.0, "lr_scale": 1 / ratio, "weight_decay": recipe.weight_decay * ratio}
            for ratio, group in sorted(groups.items())
        ],
        fused=True,
    )


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then linear decay to 0 at the last step. `step` counts from 0."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    return recipe.learning_rate * (recipe.num_steps - step) / max(1, recipe.num_steps - recipe.warmup_steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Before a step: each group at its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
