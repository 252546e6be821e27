"""Maximal update parametrisation (muP): what a weight's shape says of its initial values and its learning rate."""

from collections.abc import Mapping

import torch
from torch import nn


def scale_initial_weights(network: nn.Module, base: Mapping[str, torch.Size] | None) -> None:
    """Divide the initial values of weights that read a widened state and write one of fixed width; `base` as in `width_ratio`."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if base and (ratio := width_ratio(parameter.shape, base[name])) != 1 and parameter.shape[0] == base[name][0]:
                parameter.div_(ratio**0.5)


def width_ratio(shape: torch.Size, base: torch.Size) -> float:
    """How many times as wide the input of a weight is as in the base network; 1 for all that is no matrix."""
    return shape[1] / base[1] if len(shape) == 2 else 1.0
