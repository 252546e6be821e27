"""Gated graph convolution."""

import torch
from torch import Tensor, nn

from molstream.kernels.nn.segment import gather, segment_sum
from molstream.trainers.models.layers.block import Convolution
from molstream.trainers.models.layers.graph import Graph


class GatedGCN(Convolution):
    """x_i <- S x_i + sum over edges j -> i of sigmoid(K x_i + Q x_j + G e_ij) * (V x_j + U e_ij).

    Bresson & Laurent 2017 (arXiv 1711.07553); PyG's ResGatedGraphConv with edge features.
    """

    def __init__(self, hidden: int, bond_hidden: int):
        super().__init__()
        self.skip = nn.Linear(hidden, hidden)
        self.key, self.query, self.value = (nn.Linear(hidden, hidden, bias=False) for _ in range(3))
        self.edge_gate, self.edge_value = nn.Linear(bond_hidden, hidden), nn.Linear(bond_hidden, hidden)

    def forward(self, x_AH: Tensor, bonds_CD: Tensor, graph: Graph) -> Tensor:
        """(A, H) -> (A, H)."""
        edges = graph.edges
        gate = gather(self.key(x_AH), edges.target_E) + gather(self.query(x_AH), edges.source_E)
        gate = torch.sigmoid(gate + gather(self.edge_gate(bonds_CD), edges.code_E))
        value = gather(self.value(x_AH), edges.source_E) + gather(self.edge_value(bonds_CD), edges.code_E)
        return self.skip(x_AH) + segment_sum(gate * value, edges.target_E, num_segments=len(x_AH))
