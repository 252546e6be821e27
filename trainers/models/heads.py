"""Heads: one for each task set, on the states of its level. Atoms and molecules read a state, bonds and pairs those of both
ends.

Shape suffixes: A atoms, R rows of a level (graphs, atoms, directed edges, pairs both ways), H hidden, T tasks, C classes.
"""

from torch import Tensor, nn

from molstream.kernels.nn.segment import gather
from molstream.streamer.batch import Batch
from molstream.trainers.config import Recipe
from molstream.trainers.spec import HeadSpec


class Head(nn.Module):
    """Hidden layer, GELU, one output a task, or one a task and class."""

    def __init__(self, spec: HeadSpec, recipe: Recipe):
        super().__init__()
        width = recipe.head_hiddens.get(spec.name, recipe.head_hidden)
        self.shape = (len(spec.tasks), spec.num_outputs) if spec.num_outputs > 1 else (len(spec.tasks),)
        self.state = nn.Linear(recipe.hidden, width)
        self.out = nn.Sequential(nn.GELU(), nn.Linear(width, len(spec.tasks) * spec.num_outputs))

    def forward(self, state_RH: Tensor) -> Tensor:
        """(R, H) -> (R, T) or (R, T, C), in the precision of the weights."""
        return self._shaped(self.state(state_RH))

    def _shaped(self, hidden: Tensor) -> Tensor:
        return self.out(hidden).to(self.state.weight.dtype).view(-1, *self.shape)


class EndsHead(Head):
    """The same of two atoms, in their order: a linear map of (from | to), applied to atoms before they are gathered."""

    def __init__(self, spec: HeadSpec, recipe: Recipe):
        super().__init__(spec, recipe)
        self.target = nn.Linear(recipe.hidden, self.state.out_features, bias=False)

    def forward(self, state_AH: Tensor, source_R: Tensor, target_R: Tensor) -> Tensor:  # type: ignore[override]
        """(A, H) and atoms (R) -> (R, T) or (R, T, C), in the precision of the weights."""
        hidden = gather(self.state(state_AH), source_R) + gather(self.target(state_AH), target_R)
        return self._shaped(hidden)


def find_ends(batch: Batch, level: str) -> tuple[Tensor, Tensor]:
    """Both atoms of each row of a level, int64 (R): of directed edges, or of each pair one way and then the other."""
    if level == "bond":
        source, target = batch.edge_index_2E.long()
        return source, target
    assert batch.pair_index_2P is not None
    pairs = batch.pair_index_2P.long()
    return pairs.t().reshape(-1), pairs.flip(0).t().reshape(-1)
