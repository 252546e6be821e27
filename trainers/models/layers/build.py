"""From a recipe to its layers."""

from pkgutil import resolve_name

from molstream.trainers.config import Recipe
from molstream.trainers.layer_table import LAYERS
from molstream.trainers.models.layers.block import Convolution, ConvolutionBlock, Layer


def find_layer(name: str) -> type[Convolution] | type[Layer]:
    """The class of a layer of the table; its module is imported when it is first asked for."""
    return resolve_name(f"{__package__}.{LAYERS[name].where}")


def build_layer(recipe: Recipe, *, last: bool) -> Layer:
    """One layer of a recipe; the last has no state of molecules to hand on."""
    found = find_layer(recipe.layer)
    if issubclass(found, Convolution):
        return ConvolutionBlock(found(recipe.hidden, recipe.bond_hidden), recipe, last=last)
    return found(recipe, last=last)
