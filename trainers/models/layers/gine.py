"""Graph isomorphism network with bonds."""

import torch
from torch import Tensor, nn

from molstream.kernels.nn.segment import sum_messages
from molstream.trainers.models.layers.block import Convolution
from molstream.trainers.models.layers.graph import Graph
from molstream.trainers.models.layers.parts import make_mlp


class GINE(Convolution):
    """x_i <- MLP((1 + eps) x_i + sum over edges j -> i of relu(x_j + W e_ij)).

    Hu et al. 2020 (arXiv 1905.12265); PyG's GINEConv.
    """

    def __init__(self, hidden: int, bond_hidden: int):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.edge = nn.Linear(bond_hidden, hidden)
        self.mlp = make_mlp(hidden, hidden, hidden)

    def forward(self, x_AH: Tensor, bonds_CD: Tensor, graph: Graph) -> Tensor:
        """(A, H) -> (A, H)."""
        return self.mlp(torch.addcmul(sum_messages(x_AH, graph.edges, self.edge(bonds_CD)), x_AH, 1 + self.eps))
