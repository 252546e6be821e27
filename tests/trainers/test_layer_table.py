"""The table of layers: what a line says is so, and a line and a file are all that a new layer takes."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from molstream.streamer.config import StreamConfig
from molstream.streamer.loader import Loader
from molstream.trainers.config import describe_fields
from molstream.trainers.jobs.evaluate import plan_budget
from molstream.trainers.layer_table import LAYERS, LayerSpec
from molstream.trainers.models import layers
from molstream.trainers.models.export import load_encoder
from molstream.trainers.models.layers.block import Convolution, Layer
from molstream.trainers.models.layers.build import find_layer
from molstream.trainers.models.network import build_network
from molstream.trainers.spec import DataSpec
from molstream.trainers.training.trainer import pretrain

CONVOLUTION = '''
"""x_i <- W (largest of x_j + V e_ij over edges j -> i)."""

from torch import nn

from molstream.kernels.nn.segment import gather, segment_max
from molstream.trainers.models.layers.block import Convolution


class Largest(Convolution):
    def __init__(self, hidden, bond_hidden):
        super().__init__()
        self.bond, self.out = nn.Linear(bond_hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, x_AH, bonds_CD, graph):
        edges = graph.edges
        message_EH = gather(x_AH, edges.source_E) + gather(self.bond(bonds_CD), edges.code_E)
        return self.out(segment_max(message_EH, edges.target_E, num_segments=len(x_AH)))
'''
WHOLE = '''
"""States of edges, atoms and molecules that are read and handed on."""

from torch import nn

from molstream.kernels.nn.segment import gather, segment_sum
from molstream.trainers.models.layers.block import Layer
from molstream.trainers.models.layers.graph import State
from molstream.trainers.models.layers.parts import Update


class States(Layer):
    def __init__(self, recipe, *, last):
        super().__init__()
        self.edge, self.atom = nn.Linear(recipe.bond_hidden, recipe.hidden), nn.Linear(recipe.hidden, recipe.hidden)
        self.update = Update(recipe.hidden, recipe, activation=True)

    def forward(self, state, graph):
        x_AH, e_ED, g_GH = state
        message_EH = gather(x_AH, graph.edges.source_E) * self.edge(e_ED)
        new_AH = segment_sum(message_EH, graph.edges.target_E, num_segments=len(x_AH)) + gather(g_GH, graph.graph_of_atom_A)
        return State(self.update(x_AH, self.atom(new_AH), graph.is_atom_A1), 2 * e_ED, g_GH + 1)
'''
NEW = {
    "convolution": (CONVOLUTION, LayerSpec(where="new_layer:Largest", title="for a test", bonds="table")),
    "whole": (WHOLE, LayerSpec(where="new_layer:States", title="for a test", bonds="states", has_molecule_state=True)),
}


@pytest.fixture(params=NEW)
def new_layer(request, tmp_path, monkeypatch) -> LayerSpec:
    """A file in the room of layers, and a line in the table: the layer `new`."""
    source, line = NEW[request.param]
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "new_layer.py").write_text(source)
    monkeypatch.setattr(layers, "__path__", [*layers.__path__, str(tmp_path / "room")])
    monkeypatch.delitem(sys.modules, f"{layers.__name__}.new_layer", raising=False)
    monkeypatch.setitem(LAYERS, "new", line)
    return line


def test_a_new_layer_is_a_file_and_a_line(new_layer, sample_set, tiny, tmp_path, reporter):
    recipe = replace(tiny, num_steps=4).override(["layer=new"])
    outcome = pretrain(sample_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    assert outcome.finished
    assert "new 32 x 2" in reporter.messages[0]["model"]
    trained, fresh = load_encoder(tmp_path / "run" / "model").network, build_network(DataSpec.of(sample_set), recipe)
    changed = {name for name, p in trained.named_parameters() if not torch.equal(p, fresh.get_parameter(name))}
    assert changed == {name for name, _ in trained.named_parameters()}
    assert "new (for a test)" in describe_fields()["layer"]
    with pytest.raises(ValueError, match="layer is 'newer', expected one of gcn, gin, gine, gated, mpnn, new"):
        recipe.override(["layer=newer"])
    if new_layer.has_molecule_state:
        with pytest.raises(ValueError, match="virtual_node is True, expected False with new, which has one built in"):
            recipe.override(["virtual_node=true"])
    else:
        assert recipe.override(["virtual_node=true"]).virtual_node


class Seen(nn.Module):
    """In place of a network's first layer: what that is given."""

    def forward(self, state, graph):
        self.state, self.graph = state, graph
        return state


@pytest.mark.parametrize("virtual_node", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_given_what_its_line_says_it_needs(sample_set, tiny, name, virtual_node):
    line = LAYERS[name]
    if virtual_node and line.has_molecule_state:
        return
    spec, recipe = DataSpec.of(sample_set), replace(tiny, layer=name, virtual_node=virtual_node, num_layers=1)
    network, seen = build_network(spec, recipe), Seen()
    network.layers = nn.ModuleList([seen])
    batch = next(iter(Loader(sample_set, StreamConfig(budget=plan_budget(sample_set, spec, recipe), num_lanes=1)))).batches[0]
    network.encode(batch)
    atoms, bonds, molecules = seen.state
    rows = {"none": None, "table": math.prod(spec.bond_features.values()), "states": len(seen.graph.edges.source_E)}[line.bonds]
    assert atoms.shape == (len(batch.atom_mask_A), recipe.hidden)
    assert (None if bonds is None else tuple(bonds.shape)) == (None if rows is None else (rows, recipe.bond_hidden))
    assert (molecules is not None) == (line.has_molecule_state or virtual_node)


@pytest.mark.parametrize("name", LAYERS)
def test_a_line_names_a_class_of_the_room(name):
    found = find_layer(name)
    assert issubclass(found, (Convolution, Layer))
    assert found.__module__.rpartition(".")[0] == layers.__name__


def test_every_class_of_the_room_is_in_the_table():
    shared = {"__init__", "block", "build", "graph", "parts"}
    files = {path.stem for path in Path(layers.__file__).parent.glob("*.py")} - shared
    assert files == {line.where.partition(":")[0] for line in LAYERS.values()}
