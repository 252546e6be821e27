"""Graph convolution."""

import torch
from torch import Tensor, nn

from molstream.kernels.nn.segment import sum_messages
from molstream.trainers.models.layers.block import Convolution
from molstream.trainers.models.layers.graph import Graph


class GCN(Convolution):
    """x_i <- sum over neighbours j and i itself of W x_j / sqrt(d_i d_j), plus b; d counts the atom itself.

    Kipf & Welling 2017 (arXiv 1609.02907); PyG's GCNConv.
    """

    def __init__(self, hidden: int, bond_hidden: int):
        super().__init__()
        self.linear = nn.Linear(hidden, hidden, bias=False)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x_AH: Tensor, bonds_CD: Tensor | None, graph: Graph) -> Tensor:
        """(A, H) -> (A, H)."""
        scale = (graph.degree_A + 1).to(x_AH.dtype).rsqrt().unsqueeze(1)
        y = self.linear(x_AH) * scale
        return scale * (y + sum_messages(y, graph.edges)) + self.bias
