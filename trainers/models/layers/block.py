"""The two kinds of layers, and the block that makes a whole layer of a convolution.

Bonds are of few kinds, so a linear map of bond embeddings is applied to the table of distinct codes and then gathered; a linear
map of (source | target | ...) is the sum of maps of its parts, so it is applied to atoms and then gathered.
"""

from torch import nn

from molstream.kernels.nn.segment import gather, segment_sum
from molstream.trainers.config import Recipe
from molstream.trainers.models.layers.graph import POOL_SCALE, Graph, State
from molstream.trainers.models.layers.parts import Update, make_mlp


class Convolution(nn.Module):
    """Messages between atoms, without what goes around them.

    Made as `Convolution(hidden, bond_hidden)`; called with atom states (A, H), the table of bonds (C, D), or None if it does not
    need it, and the Graph; gives (A, H).
    """


class Layer(nn.Module):
    """A whole layer: made as `Layer(recipe, last=...)`, called with State and Graph; gives a State. The last one has no state of
    molecules to hand on."""


class ConvolutionBlock(Layer):
    """A convolution with what goes around it; with a virtual node, which atoms read before and write after."""

    def __init__(self, conv: Convolution, recipe: Recipe, *, last: bool):
        super().__init__()
        self.conv = conv
        self.update = Update(recipe.hidden, recipe, activation=True)
        # what the last layer wrote would not be read
        self.virtual = make_mlp(recipe.hidden, recipe.hidden, recipe.hidden) if recipe.virtual_node and not last else None
        self.virtual_update = None if self.virtual is None else Update(recipe.hidden, recipe, activation=True)

    def forward(self, state: State, graph: Graph) -> State:
        """One step of message passing."""
        x_AH, bonds, graphs_GH = state
        if graphs_GH is not None:
            x_AH = x_AH + gather(graphs_GH, graph.graph_of_atom_A)
        x_AH = self.update(x_AH, self.conv(x_AH, bonds, graph), graph.is_atom_A1)
        if self.virtual is not None and self.virtual_update is not None and graphs_GH is not None:
            total = segment_sum(x_AH, graph.graph_of_atom_A, num_segments=graph.num_graphs) / POOL_SCALE
            graphs_GH = self.virtual_update(graphs_GH, self.virtual(graphs_GH + total))
        return State(x_AH, bonds, graphs_GH)
