"""Labels of one task set between raw units and those a network predicts. Shape suffixes: R rows, T tasks, K knots."""

import torch
from torch import Tensor, nn

from molstream.trainers.label_transform import padded
from molstream.trainers.spec import HeadSpec


class LabelScale(nn.Module):
    """As `trainers.label_transform` says; classes stay as they are."""

    mean: Tensor
    std: Tensor
    values: Tensor
    scores: Tensor

    def __init__(self, head: HeadSpec):
        super().__init__()
        self.limit = head.clip
        # scales in f64 would double the work for digits that the labels do not have
        self.register_buffer("mean", torch.tensor(head.mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(head.std, dtype=torch.float32))
        self.is_ranked = bool(head.knots)
        if self.is_ranked:
            values, scores = torch.from_numpy(padded(head.knots)).float()
            self.register_buffer("values", values.contiguous())
            self.register_buffer("scores", scores.contiguous())

    def forward(self, raw_RT: Tensor) -> Tensor:
        """Raw labels (R, T) -> normalised ones; NaN stays."""
        if self.is_ranked:
            return _interpolate(raw_RT, self.values, self.scores)
        return (raw_RT - self.mean) / self.std

    def clip(self, scaled_RT: Tensor) -> Tensor:
        """What training sees of normalised labels."""
        return scaled_RT.clamp(-self.limit, self.limit) if self.limit else scaled_RT

    def inverse(self, predicted_RT: Tensor) -> Tensor:
        """Predictions (R, T) -> raw units."""
        if self.is_ranked:
            return _interpolate(predicted_RT, self.scores.to(predicted_RT), self.values.to(predicted_RT))
        return predicted_RT * self.std.to(predicted_RT) + self.mean.to(predicted_RT)


def _interpolate(x_RT: Tensor, from_TK: Tensor, to_TK: Tensor) -> Tensor:
    """Linear between knots, constant beyond the first and last; NaN for what is not finite."""
    x_TR = x_RT.T.contiguous()
    # of a single knot both are that one
    above = torch.searchsorted(from_TK, x_TR.nan_to_num()).clamp(min=1).clamp(max=from_TK.shape[1] - 1)
    below = (above - 1).clamp(min=0)
    a, b = from_TK.gather(1, below), from_TK.gather(1, above)
    share = torch.where(b > a, (x_TR - a) / (b - a), torch.zeros_like(x_TR)).clamp(0, 1)
    # what is no number stays so
    share = torch.where(torch.isfinite(x_TR), share, torch.nan)
    return torch.lerp(to_TK.gather(1, below), to_TK.gather(1, above), share).T
