"""The network: encoders, message passing, pooling, an output network for each level, a head for each task set.

    codes, encodings ─► AtomEncoder ─► layers ─► atom states ─┬────────► output network ─► heads of atoms, bonds, pairs
                                                              └► pool ─► output network ─► heads of molecules
                                                                   └──► embeddings (`molstream embed`)

Shape suffixes: A atoms, E directed edges, G graphs, H hidden, T tasks of a task set, C classes.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from molstream.kernels.nn.segment import gather, segment_max, segment_mean, segment_sum
from molstream.streamer.batch import Batch
from molstream.trainers.config import Recipe
from molstream.trainers.errors import CheckpointError
from molstream.trainers.layer_table import LAYERS
from molstream.trainers.models.encoders import AtomEncoder, BondTable
from molstream.trainers.models.heads import EndsHead, Head, find_ends
from molstream.trainers.models.layers.build import build_layer
from molstream.trainers.models.layers.graph import POOL_SCALE, Graph, State
from molstream.trainers.models.mup import scale_initial_weights
from molstream.trainers.runs.checkpoint import Checkpoint
from molstream.trainers.spec import DataSpec


class Network(nn.Module):
    """Molecules -> normalised predictions, or logits, of every task set."""

    def __init__(self, spec: DataSpec, recipe: Recipe):
        super().__init__()
        self.specs, self.recipe, self.needs = spec.heads, recipe, LAYERS[recipe.layer]
        hidden = recipe.hidden
        self.atoms = AtomEncoder(
            spec.atom_features,
            hidden=hidden,
            encodings=recipe.encodings,
            width=recipe.encoder_hidden,
            out=recipe.encoder_out,
            dropout=recipe.dropout,
        )
        self.bonds = BondTable(spec.bond_features, recipe.bond_hidden) if self.needs.bonds != "none" else None
        self.first_graph = nn.Parameter(torch.zeros(hidden)) if self.needs.has_molecule_state or recipe.virtual_node else None
        self.layers = nn.ModuleList(build_layer(recipe, last=k == recipe.num_layers - 1) for k in range(recipe.num_layers))
        # no normalisation before these: it would take from a pooled sum how large the molecule is
        self.outputs = nn.ModuleDict({level: nn.Sequential(nn.Linear(hidden, hidden), nn.GELU()) for level in spec.levels})
        self.heads = nn.ModuleDict(
            {head.key: (Head if head.level in ("graph", "atom") else EndsHead)(head, recipe) for head in spec.heads}
        )
        # one log variance a task set
        self.log_variance = nn.Parameter(torch.zeros(len(spec.heads))) if recipe.weighting == "uncertainty" else None

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Atom states (A, H) and pooled graph states (G, H); the latter are the embeddings that `molstream embed` writes."""
        graph, x_AH = Graph.of(batch), self.atoms(batch)
        bonds = None if self.bonds is None else self.bonds()
        if bonds is not None and self.needs.bonds == "states":
            bonds = gather(bonds, graph.edges.code_E)
        graphs = None if self.first_graph is None else self.first_graph.expand(graph.num_graphs, -1)
        state = State(x_AH * graph.is_atom_A1, bonds, graphs)
        for layer in self.layers:
            state = layer(state, graph)
        # sums over a molecule in full precision
        return state.atoms_AH, self._pool(state.atoms_AH.to(x_AH.dtype), graph)

    def _pool(self, x_AH: Tensor, graph: Graph) -> Tensor:
        if self.recipe.pooling == "sum":
            return segment_sum(x_AH, graph.graph_of_atom_A, num_segments=graph.num_graphs) / POOL_SCALE
        pool = segment_mean if self.recipe.pooling == "mean" else segment_max
        return pool(x_AH, graph.graph_of_atom_A, num_segments=graph.num_graphs)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{task set: (R, T), or (R, T, C) for classes}: rows R are graphs, atoms, directed edges, or pairs in both directions,
        padding included."""
        atoms_AH, graphs_GH = self.encode(batch)
        states = {level: net(graphs_GH if level == "graph" else atoms_AH) for level, net in self.outputs.items()}
        ends = {level: find_ends(batch, level) for level in states if level in ("bond", "pair")}
        return {spec.name: self.heads[spec.key](states[spec.level], *ends.get(spec.level, ())) for spec in self.specs}

    @property
    def num_parameters(self) -> int:
        """Trained numbers."""
        return sum(p.numel() for p in self.parameters())


def build_network(spec: DataSpec, recipe: Recipe) -> Network:
    """A network with initial weights drawn from the recipe's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = Network(spec, recipe)
    scale_initial_weights(network, base_shapes(spec, recipe))
    return network.double() if recipe.precision == "f64" else network


def base_shapes(spec: DataSpec, recipe: Recipe) -> dict[str, torch.Size] | None:
    """Shapes of the parameters at the width that the learning rate was chosen for; None without muP."""
    if not recipe.mup_base_hidden:
        return None
    with torch.device("meta"):
        base = Network(spec, replace(recipe, hidden=recipe.mup_base_hidden))
    return {name: parameter.shape for name, parameter in base.named_parameters()}


def use_threads(recipe: Recipe) -> None:
    """Limit torch's threads to the recipe's, for the rest of the process."""
    if recipe.cpu_threads:
        torch.set_num_threads(recipe.cpu_threads)


def load_network(checkpoint: Checkpoint) -> Network:
    """The network of a checkpoint, in evaluation mode, on the threads of its recipe."""
    use_threads(checkpoint.recipe)
    check_weights(checkpoint)
    network = build_network(checkpoint.spec, checkpoint.recipe)
    network.load_state_dict(checkpoint.weights)
    return network.eval()


def check_weights(checkpoint: Checkpoint) -> None:
    """Hold the tensors of a checkpoint against the network that its recipe and spec describe, before there is any memory for it.

    Raises CheckpointError.
    """
    recipe, spec = checkpoint.recipe, checkpoint.spec
    try:
        with torch.device("meta"):
            network = Network(spec, recipe)
    except (RuntimeError, ValueError, OverflowError, KeyError) as error:
        raise CheckpointError(f"step {checkpoint.step}: recipe and data spec describe no network: {error}") from error
    dtype = torch.float64 if recipe.precision == "f64" else None
    expected = {
        name: (t.shape, dtype if dtype and t.is_floating_point() else t.dtype) for name, t in network.state_dict().items()
    }
    for tensors in (checkpoint.model, *([] if checkpoint.average is None else [checkpoint.average])):
        found = {name: (t.shape, t.dtype) for name, t in tensors.items()}
        if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
            name = wrong[0]
            raise CheckpointError(
                f"step {checkpoint.step}: weights are not those of its recipe: {name} is {_describe(found.get(name))}, expected "
                f"{_describe(expected.get(name))}; use another checkpoint"
            )


def _describe(tensor: tuple[torch.Size, torch.dtype] | None) -> str:
    return "not there" if tensor is None else f"{str(tensor[1]).removeprefix('torch.')} {tuple(tensor[0])}"
