"""Optimizer, learning rate, and how both follow the width of a network (maximal update parametrisation, muP).

muP (Yang et al. 2021, arXiv 2203.03466, table 3, Adam): of a weight whose input is n times as wide as in the network for which
the learning rate was chosen, the learning rate is divided by n; if its output does not widen with it, as in a head, its initial
values are divided by sqrt(n), beyond what their usual scale 1/sqrt(inputs) does. All else stays. So a learning rate found with a
narrow network is right for a wide one. Our own code: two rules; tests/trainers/test_optim.py checks coordinates.
"""

from collections.abc import Mapping

import torch
from torch import nn

from molstream.shards.store.fields import to_json
from molstream.trainers.config import Recipe
from molstream.trainers.errors import CheckpointError
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


def check_optimizer(optimizer: torch.optim.Optimizer, found: dict) -> None:
    """Hold the optimizer state of a checkpoint against the optimizer that is to take it. Raises CheckpointError."""
    own = optimizer.state_dict()["param_groups"]
    groups = found["param_groups"]
    names = [[group.get("params") for group in of] for of in (groups, own)]
    if names[0] != names[1]:
        raise CheckpointError("optimizer: its groups of parameters are not those of the recipe; use another checkpoint")
    for mine, there in zip(own, groups, strict=True):
        # the rest follows from the recipe, but for what another version of PyTorch does not know
        differ = [k for k, v in to_json(mine).items() if k in there and k not in ("lr", "initial_lr") and there[k] != v]
        if differ:
            raise CheckpointError(
                f"optimizer: {differ[0]} is {there[differ[0]]!r}, expected {mine[differ[0]]!r}; use another checkpoint"
            )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    places = [k for group in own for k in group["params"]]
    if found["state"] and {*found["state"]} != {*places}:
        raise CheckpointError("optimizer: has not the state of every parameter; use another checkpoint")
    for k, parameter in zip(places, parameters, strict=True):
        state = found["state"].get(k, {})
        moments = [state.get(name) for name in ("exp_avg", "exp_avg_sq")]
        if state and not ("step" in state and all(m is not None and m.shape == parameter.shape for m in moments)):
            raise CheckpointError(f"optimizer: the state of parameter {k} is not one of its shape; use another checkpoint")
