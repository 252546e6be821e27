"""The layers by name: where each is, and what it needs. A layer is added by its file, its test and its line in `LAYERS`; choices
of a recipe, `--fields`, what the network prepares and the tests that every layer must pass follow from that line.

A class cannot say this itself, since a recipe is checked, and help is printed, without PyTorch.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpec:
    """One layer."""

    where: str
    """Its class, 'module:Class' with a module of `molstream.trainers.models.layers`."""
    title: str = ""
    """What the field calls it, where the name does not say it."""
    bonds: Literal["none", "table", "states"] = "none"
    """What it reads of bonds: nothing, the embeddings of the distinct bond codes (C, D), or a state of each directed edge (E, D),
    which it also writes."""
    has_molecule_state: bool = False
    """Whether a state of each molecule, read and written by its atoms, is part of it; others have one with `virtual_node`."""


LAYERS = {
    "gcn": LayerSpec(where="gcn:GCN"),
    "gin": LayerSpec(where="gin:GIN"),
    "gine": LayerSpec(where="gine:GINE", title="GIN with bonds", bonds="table"),
    "gated": LayerSpec(where="gated:GatedGCN", title="gated GCN", bonds="table"),
    "mpnn": LayerSpec(where="mpnn:MPNN", title="MPNN++: GPS without attention", bonds="states", has_molecule_state=True),
}
