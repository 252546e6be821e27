"""Graph isomorphism network."""

import torch
from torch import Tensor, nn

from molstream.kernels.nn.segment import sum_messages
from molstream.trainers.models.layers.block import Convolution
from molstream.trainers.models.layers.graph import Graph
from molstream.trainers.models.layers.parts import make_mlp


class GIN(Convolution):
    """x_i <- MLP((1 + eps) x_i + sum over edges j -> i of x_j).

    Xu et al. 2019 (arXiv 1810.00826); PyG's GINConv.
    """

    def __init__(self, hidden: int, bond_hidden: int):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.mlp = make_mlp(hidden, hidden, hidden)

    def forward(self, x_AH: Tensor, bonds_CD: Tensor | None, graph: Graph) -> Tensor:
        """(A, H) -> (A, H)."""
        return self.mlp(torch.addcmul(sum_messages(x_AH, graph.edges), x_AH, 1 + self.eps))
