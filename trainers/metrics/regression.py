"""MAE, RMSE, Pearson and R² of T tasks from moments of their (prediction, target) pairs, in float64, in constant memory.

Means and central moments are merged part by part (Chan, Golub and LeVeque 1983, eq. 2.1), not kept as raw sums: a large common
offset costs no digits. The price is an order: ranks are merged in rank order, so that all of them hold the same bits.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor

_ROWS = (
    "count mean_p mean_y m2_p m2_y c_py abs_error square_error abs_y abs_raw min_p max_p min_y max_y nonfinite"
).split()  # p: prediction, y: target
_SUMS = ("abs_error", "square_error", "abs_y", "abs_raw", "nonfinite")

_SAME = 2.0**-40
"""Numbers whose range is below this share of the largest are one number: digits that float64 moments do not hold. Two float32
numbers that differ do so by 2^-24, so it decides nothing for them: a constant is min == max, whatever the rounding of M2."""


class RegressionState:
    """What the metrics of T tasks are computed from: 15 numbers each."""

    def __init__(self, num_tasks: int, device: torch.device):
        self.state = torch.zeros(len(_ROWS), num_tasks, dtype=torch.float64, device=device)
        for name in ("min_p", "min_y"):
            self.state[_ROWS.index(name)] = math.inf
        for name in ("max_p", "max_y"):
            self.state[_ROWS.index(name)] = -math.inf

    def add(self, columns: slice, prediction: Tensor, target: Tensor, mask: Tensor, raw_error: Tensor | None = None) -> None:
        """Add rows (M, T) of the tasks `columns`; only entries where `mask` is True count. `raw_error`: absolute errors in raw
        units, where they are not the normalised ones times a scale."""
        if len(mask):
            self.state[:, columns] = _merged(self.state[:, columns], _moments(prediction, target, mask, raw_error))

    def merge(self, device: torch.device) -> None:
        """Moments of all ranks, merged in rank order; `device` is one that the process group works on. Collective."""
        mine = self.state.to(device).contiguous()
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine)
        total = parts[0]
        for part in parts[1:]:
            total = _merged(total, part)
        self.state = total.to(self.state.device)

    def tasks(self) -> list[dict[str, float]]:
        """{row: value} of each task."""
        return [dict(zip(_ROWS, column, strict=True)) for column in self.state.T.tolist()]


def _moments(prediction: Tensor, target: Tensor, mask: Tensor, raw_error: Tensor | None) -> Tensor:
    """Moments (15, T) of one pack, in two passes."""
    finite = mask & torch.isfinite(prediction) & torch.isfinite(target)
    p, y = (torch.where(finite, x, 0).double() for x in (prediction, target))
    n = finite.sum(0, dtype=torch.float64)
    some = n.clamp(min=1)
    mean_p, mean_y = p.sum(0) / some, y.sum(0) / some
    dp, dy = torch.where(finite, p - mean_p, 0), torch.where(finite, y - mean_y, 0)
    # deviations do not sum to 0 quite, as the mean is rounded (same paper, eq. 1.7)
    rest_p, rest_y = dp.sum(0), dy.sum(0)
    rows = {
        "count": n,
        "mean_p": mean_p,
        "mean_y": mean_y,
        "m2_p": (dp * dp).sum(0) - rest_p * rest_p / some,
        "m2_y": (dy * dy).sum(0) - rest_y * rest_y / some,
        "c_py": (dp * dy).sum(0) - rest_p * rest_y / some,
        "abs_error": (p - y).abs().sum(0),
        "square_error": (p - y).square().sum(0),
        "abs_y": y.abs().sum(0),
        "abs_raw": torch.zeros_like(n) if raw_error is None else torch.where(finite, raw_error, 0).double().sum(0),
        "min_p": torch.where(finite, p, math.inf).amin(0),
        "max_p": torch.where(finite, p, -math.inf).amax(0),
        "min_y": torch.where(finite, y, math.inf).amin(0),
        "max_y": torch.where(finite, y, -math.inf).amax(0),
        "nonfinite": (mask & ~finite).sum(0, dtype=torch.float64),
    }
    return torch.stack([rows[name] for name in _ROWS])


def _merged(a_state: Tensor, b_state: Tensor) -> Tensor:
    """Moments (15, T) of two parts together."""
    a, b = (dict(zip(_ROWS, x, strict=True)) for x in (a_state, b_state))
    n = a["count"] + b["count"]
    share = b["count"] / n.clamp(min=1)
    weight = a["count"] * share
    dp, dy = b["mean_p"] - a["mean_p"], b["mean_y"] - a["mean_y"]
    rows = {
        "count": n,
        "mean_p": a["mean_p"] + dp * share,
        "mean_y": a["mean_y"] + dy * share,
        "m2_p": a["m2_p"] + b["m2_p"] + dp * dp * weight,
        "m2_y": a["m2_y"] + b["m2_y"] + dy * dy * weight,
        "c_py": a["c_py"] + b["c_py"] + dp * dy * weight,
        **{name: a[name] + b[name] for name in _SUMS},
        **{name: torch.minimum(a[name], b[name]) for name in ("min_p", "min_y")},
        **{name: torch.maximum(a[name], b[name]) for name in ("max_p", "max_y")},
    }
    return torch.stack([rows[name] for name in _ROWS])


def regression_values(s: dict[str, float], std: float | None) -> dict[str, float | None]:
    """Metrics of one task of `RegressionState.tasks`; `std` takes normalised units to those of the task, None where errors in
    those were added."""
    n = s["count"]
    varies_p, varies_y = (
        s[f"max_{x}"] - s[f"min_{x}"] > _SAME * max(abs(s[f"min_{x}"]), abs(s[f"max_{x}"])) and s[f"m2_{x}"] > 0 for x in "py"
    )
    mae = s["abs_error"] / n
    return {
        "mae": mae,
        "mae_raw": s["abs_raw"] / n if std is None else mae * std,
        "mean_mae": s["abs_y"] / n,
        "rmse": math.sqrt(s["square_error"] / n),
        # two square roots: the product of two small variances underflows; rounding may pass 1
        "pearson": max(-1.0, min(1.0, s["c_py"] / math.sqrt(s["m2_p"]) / math.sqrt(s["m2_y"])))
        if varies_p and varies_y
        else None,
        "r2": 1 - s["square_error"] / s["m2_y"] if varies_y else None,
    }
