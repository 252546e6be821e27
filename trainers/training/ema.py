"""A moving average of the weights (Polyak & Juditsky 1992): often better than the last ones, and free of their noise."""

import copy

import torch
from torch import Tensor

from molstream.trainers.models.network import Network


class MovingAverage:
    """average <- d average + (1 - d) weights after each step, d = min(decay, (1 + step) / (10 + step)), so that the first weights
    are soon forgotten."""

    def __init__(self, network: Network, decay: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.weights: list[Tensor] = list(self.network.parameters())

    @torch.no_grad()
    def update(self, network: Network, step: int, share: Tensor) -> None:
        """After step number `step`; `share` is 1, or 0 to change nothing."""
        weights: list[Tensor] = list(network.parameters())
        difference = list(torch._foreach_sub(weights, self.weights))
        torch._foreach_mul_(difference, share * (1 - min(self.decay, (1 + step) / (10 + step))))
        torch._foreach_add_(self.weights, difference)
