"""Encoders: from category codes and positional encodings to the first states of atoms and bonds.

Widths after arXiv 2310.04292: encodings become 32 numbers each and are summed; with the atom's features they meet at 256, leave
at 64, and enter the layers at their width.

Shape suffixes: A atoms, G graphs, C distinct bond codes, F features, H hidden, K numbers of an encoding.
"""

import torch
from torch import Tensor, nn

from molstream.kernels.chemistry.positional import VECTOR_SCALE, WALK_SCALES
from molstream.kernels.nn.segment import gather
from molstream.streamer.batch import Batch
from molstream.trainers.models.layers.parts import Dropout

POSITIONAL_HIDDEN, POSITIONAL_OUT = 64, 32
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


class FeatureEncoder(nn.Module):
    """Sum of one embedding a feature, plus those of the element's group and period: a linear map of the one-hot features."""

    def __init__(self, features: dict[str, int], width: int):
        super().__init__()
        sizes = [*features.values(), NUM_GROUPS, NUM_PERIODS]
        self.element = list(features).index("element")
        self.first: Tensor
        self.group_period: Tensor
        self.register_buffer("first", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        table = torch.tensor([group_and_period(z) for z in range(features["element"])])
        self.register_buffer("group_period", table, persistent=False)
        self.table = nn.Parameter(torch.randn(sum(sizes), width) / len(sizes) ** 0.5)

    def forward(self, atom_codes_AF: Tensor) -> Tensor:
        """uint8 (A, F) -> (A, width)."""
        codes = atom_codes_AF.long()
        codes = torch.cat([codes, self.group_period[codes[:, self.element]]], dim=1) + self.first
        return nn.functional.embedding_bag(codes, self.table, mode="sum")


class RwseEncoder(nn.Module):
    """Return probabilities of random walks through an MLP (Dwivedi et al. 2022, arXiv 2110.07875)."""

    def __init__(self, num_steps: int = 16, dropout: float = 0.0):
        super().__init__()
        scales = 1 / torch.tensor(WALK_SCALES).repeat(num_steps // 2)
        self.scales: Tensor
        self.register_buffer("scales", scales, persistent=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(num_steps),
            nn.Linear(num_steps, POSITIONAL_HIDDEN),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(POSITIONAL_HIDDEN, POSITIONAL_OUT),
        )

    def forward(self, batch: Batch) -> Tensor:
        """uint8 (A, 16) -> (A, 32)."""
        return self.mlp(batch.columns["rwse_AK"].to(self.scales.dtype) * self.scales)


class LaplacianEncoder(nn.Module):
    """Eigenvectors and eigenvalues, pair by pair through one MLP, summed, through another map (DeepSet; Kreuzer et al. 2021,
    arXiv 2106.03893). An eigenvector's sign means nothing, so in training each molecule's is drawn anew."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.pair = nn.Sequential(
            nn.Linear(2, POSITIONAL_HIDDEN),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(POSITIONAL_HIDDEN, POSITIONAL_HIDDEN),
            nn.ReLU(),
        )
        self.out = nn.Linear(POSITIONAL_HIDDEN, POSITIONAL_OUT)

    def forward(self, batch: Batch) -> Tensor:
        """int8 (A, 8), float16 (A, 8) -> (A, 32)."""
        dtype = self.out.weight.dtype
        vectors = batch.columns["eigenvectors_AK"].to(dtype) / VECTOR_SCALE
        values = batch.columns["eigenvalues_AK"].to(dtype)
        if self.training:
            signs_GK = torch.randint(0, 2, (len(batch.graph_mask_G), vectors.shape[1]), device=vectors.device)
            vectors = vectors * gather(2 * signs_GK - 1, batch.graph_of_atom_A.long()).to(dtype)
        # a component has one eigenvalue of 0, the first; where it has fewer than 8, the columns that remain are 0
        there = values > 0
        there[:, 0] = True
        pairs = self.pair(torch.stack([vectors, values], dim=-1))
        return self.out((pairs * there.unsqueeze(-1)).sum(dim=1))


POSITIONAL_ENCODERS = {"rw16": RwseEncoder, "lap8": LaplacianEncoder}


class AtomEncoder(nn.Module):
    """Features and positional encodings -> first atom states."""

    def __init__(
        self,
        features: dict[str, int],
        *,
        hidden: int,
        encodings: tuple[str, ...] = (),
        width: int = 256,
        out: int = 64,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.features = FeatureEncoder(features, width)
        self.encodings = nn.ModuleDict({name: POSITIONAL_ENCODERS[name](dropout=dropout) for name in encodings})
        self.join = nn.Linear(POSITIONAL_OUT, width, bias=False) if encodings else None
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.GELU(), Dropout(dropout), nn.Linear(width, out), nn.LayerNorm(out), nn.Linear(out, hidden)
        )

    def forward(self, batch: Batch) -> Tensor:
        """(A, H)."""
        x = self.features(batch.atom_codes_AF)
        if self.join is not None:
            x = x + self.join(torch.stack([encoder(batch) for encoder in self.encodings.values()]).sum(dim=0))
        # states stay in full precision whatever that of matrix products
        return self.mlp(x).to(self.features.table.dtype)


class BondTable(nn.Module):
    """An embedding for each distinct bond code: the sum of one embedding a feature. Layers map this table, not every edge."""

    def __init__(self, features: dict[str, int], width: int):
        super().__init__()
        sizes = list(features.values())
        digits = torch.cartesian_prod(*(torch.arange(n) for n in sizes)).view(-1, len(sizes))
        self.digits: Tensor
        self.register_buffer("digits", digits + torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        self.table = nn.Parameter(torch.randn(sum(sizes), width) / len(sizes) ** 0.5)

    def forward(self) -> Tensor:
        """(C, width), row = mixed-radix bond code."""
        return self.table[self.digits].sum(dim=1)
