"""The network: encoders, message passing, sum pooling, a head for each task set.

Shape suffixes: A atoms, E directed edges, G graphs, H hidden, T tasks of a task set.
"""

import torch
from torch import Tensor, nn

from kernels.segment import segment_sum
from streamer import Batch
from trainers.checkpoint import Checkpoint
from trainers.config import Recipe
from trainers.layers import GINE, AtomEncoder, BondTable
from trainers.spec import DataSpec

POOL_SCALE = 16.0
"""Sums over a molecule's atoms are divided by this constant, so that they start at the scale of atom states."""


class Network(nn.Module):
    """Molecules -> normalised predictions of every task set."""

    def __init__(self, spec: DataSpec, recipe: Recipe):
        super().__init__()
        self.specs = spec.heads
        self.atoms = AtomEncoder(spec.atom_features, recipe.hidden)
        self.bonds = BondTable(spec.bond_features, recipe.bond_hidden)
        self.convs = nn.ModuleList(GINE(recipe.hidden, recipe.bond_hidden) for _ in range(recipe.num_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(recipe.hidden) for _ in range(recipe.num_layers))
        self.dropout = nn.Dropout(recipe.dropout)
        self.heads = nn.ModuleDict(
            {
                head.key: nn.Sequential(
                    nn.Linear(recipe.hidden, recipe.head_hidden), nn.GELU(), nn.Linear(recipe.head_hidden, len(head.tasks))
                )
                for head in spec.heads
            }
        )

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Atom states (A, H) and pooled graph states (G, H); the latter are the embeddings that `molstream embed` writes."""
        x = self.atoms(batch.atom_codes_AF)
        bonds, code = self.bonds(), batch.edge_codes_E.long()
        source, target = batch.edge_index_2E.long()
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + self.dropout(nn.functional.gelu(norm(conv(x, bonds, source, target, code))))
        pooled = segment_sum(x, batch.graph_of_atom_A.long(), num_segments=len(batch.graph_mask_G))
        return x, pooled / POOL_SCALE

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{task set: (G, T) or (A, T)}, normalised units, padding slots included."""
        atoms_AH, graphs_GH = self.encode(batch)
        states = {"graph": graphs_GH, "atom": atoms_AH}
        return {spec.name: self.heads[spec.key](states[spec.level]).float() for spec in self.specs}


def build_network(spec: DataSpec, recipe: Recipe) -> Network:
    """A network with initial weights drawn from the recipe's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return Network(spec, recipe)


def use_threads(recipe: Recipe) -> None:
    """Limit torch's threads to the recipe's, for the rest of the process."""
    if recipe.cpu_threads:
        torch.set_num_threads(recipe.cpu_threads)


def load_network(checkpoint: Checkpoint) -> Network:
    """The network of a checkpoint, in evaluation mode, on the threads of its recipe."""
    use_threads(checkpoint.recipe)
    network = build_network(checkpoint.spec, checkpoint.recipe)
    network.load_state_dict(checkpoint.model)
    return network.eval()
