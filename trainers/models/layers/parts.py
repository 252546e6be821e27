"""What layers are made of: a small MLP, dropout, and how a new state meets the old one."""

from torch import Tensor, nn

from molstream.kernels.nn.dropout import add_dropped, dropout
from molstream.trainers.config import Recipe


def make_mlp(width_in: int, width: int, width_out: int) -> nn.Sequential:
    """Linear, ReLU, linear."""
    return nn.Sequential(nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, width_out))


class Dropout(nn.Module):
    """Zeros a share of the numbers in training; `kernels.nn.dropout`."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return dropout(x, self.p if self.training else 0.0)


class Update(nn.Module):
    """old + dropout(activation(norm(new))), and 0 in rows of padding; norm, activation and the sum are optional."""

    def __init__(self, width: int, recipe: Recipe, *, activation: bool):
        super().__init__()
        self.norm = nn.LayerNorm(width) if recipe.norm else nn.Identity()
        self.activation = nn.GELU() if activation else nn.Identity()
        self.dropout = Dropout(recipe.dropout)
        self.residual = recipe.residual

    def forward(self, old_NH: Tensor, new_NH: Tensor, is_row_N1: Tensor | None = None) -> Tensor:
        """Two tensors of one shape -> one of the same."""
        new_NH = self.activation(self.norm(new_NH))
        if self.residual:
            return add_dropped(old_NH, new_NH, self.dropout.p if self.training else 0.0, is_row_N1)
        new_NH = self.dropout(new_NH)
        return new_NH if is_row_N1 is None else new_NH * is_row_N1
