"""Encoders of codes and the message-passing layer.

Shape suffixes: A atoms, E directed edges, C distinct bond codes, F features, H hidden, D bond hidden.
"""

import torch
from torch import Tensor, nn

from kernels.segment import gather, segment_sum

_NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
NUM_GROUPS, NUM_PERIODS = 19, 8


def group_and_period(element: int) -> tuple[int, int]:
    """Column (1..18) and row (1..7) of the periodic table; lanthanides and actinides are group 3, a wildcard (0) is 0, 0."""
    if not 0 < element <= _NOBLE[-1]:
        return 0, 0
    period = next(p for p in range(1, 8) if element <= _NOBLE[p])
    place = element - _NOBLE[period - 1]
    length = _NOBLE[period] - _NOBLE[period - 1]
    if place <= (1 if period == 1 else 2):
        return place, period
    from_right = 18 - (length - place)
    return max(3, from_right), period


class AtomEncoder(nn.Module):
    """Sum of one embedding a feature, plus those of the element's group and period: a linear map of the one-hot features."""

    def __init__(self, features: dict[str, int], hidden: int):
        super().__init__()
        sizes = [*features.values(), NUM_GROUPS, NUM_PERIODS]
        first = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.element = list(features).index("element")
        table = torch.tensor([group_and_period(z) for z in range(features["element"])])
        self.first: Tensor
        self.group_period: Tensor
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("group_period", table, persistent=False)
        self.table = nn.Parameter(torch.randn(sum(sizes), hidden) / len(sizes) ** 0.5)

    def forward(self, atom_codes_AF: Tensor) -> Tensor:
        """uint8 (A, F) -> (A, H)."""
        codes = atom_codes_AF.long()
        codes = torch.cat([codes, self.group_period[codes[:, self.element]]], dim=1) + self.first
        return nn.functional.embedding_bag(codes, self.table, mode="sum")


class BondTable(nn.Module):
    """An embedding for each distinct bond code: the sum of one embedding a feature. Layers map this table, not every edge."""

    def __init__(self, features: dict[str, int], hidden: int):
        super().__init__()
        sizes = list(features.values())
        digits = torch.cartesian_prod(*(torch.arange(n) for n in sizes)).view(-1, len(sizes))
        self.digits: Tensor
        self.register_buffer("digits", digits + torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        self.table = nn.Parameter(torch.randn(sum(sizes), hidden) / len(sizes) ** 0.5)

    def forward(self) -> Tensor:
        """(C, D), row = mixed-radix bond code."""
        return self.table[self.digits].sum(dim=1)


class GINE(nn.Module):
    """x_i <- MLP((1 + eps) x_i + sum over edges j -> i of relu(x_j + W e_ij)).

    Hu et al. 2020 (arXiv 1905.12265); the same as PyG's GINEConv.
    """

    def __init__(self, hidden: int, bond_hidden: int):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.edge = nn.Linear(bond_hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))

    def forward(self, x_AH: Tensor, bonds_CD: Tensor, source_E: Tensor, target_E: Tensor, code_E: Tensor) -> Tensor:
        """(A, H) -> (A, H); indices int64."""
        message = torch.relu(gather(x_AH, source_E) + gather(self.edge(bonds_CD), code_E))
        total = segment_sum(message, target_E, num_segments=x_AH.shape[0])
        return self.mlp((1 + self.eps) * x_AH + total)
