"""How labels of regression tasks are transformed for training, found from the statistics of a manifest alone.

none     (y - mean) / std
clip:K   the same, of labels that are clipped K standard deviations from the mean; both are of the clipped labels, so one value
         far out does not set the scale of all others (sigma clipping)
rank     to a normal distribution by rank: y goes to the normal quantile of the share of labels up to it, linearly between the
         quantiles in the manifest

Distributions are taken to be even between the quantiles. Predictions come back through the inverse.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from molstream.shards.format.manifest import Statistics
from molstream.trainers.errors import RunError

MAX_ROUNDS = 100
"""Clipping settles in some ten; a distribution for which it does not is clipped where it then stands."""


class Scales(NamedTuple):
    """How labels of T tasks are normalised, as in `trainers.spec.HeadSpec`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: float = 0.0
    knots: tuple[tuple[tuple[float, float], ...], ...] = ()

    @classmethod
    def identity(cls, num_tasks: int) -> "Scales":
        """Labels stay as they are."""
        return cls((0.0,) * num_tasks, (1.0,) * num_tasks)


@dataclass(frozen=True, slots=True)
class LabelTransform:
    """A parsed `label_transform` of a recipe."""

    kind: str
    """'none', 'clip' or 'rank'."""
    limit: float = math.inf
    """Of clip: standard deviations."""

    @classmethod
    def parse(cls, text: str) -> "LabelTransform":
        """'none', 'clip:K' with K of at least 2, or 'rank'. Raises ValueError."""
        kind, colon, number = text.partition(":")
        if kind == "clip" and colon:
            with suppress(ValueError):
                if 2 <= float(number) < math.inf:
                    return cls("clip", float(number))
        elif text in ("none", "rank"):
            return cls(text)
        raise ValueError(f"{text!r}, expected none, rank, or clip:K with K standard deviations, at least 2, like clip:5")

    def scales(self, tasks: Sequence[str], statistics: Sequence[Statistics]) -> Scales:
        """How labels of these regression tasks are normalised. Raises RunError for tasks that cannot be transformed so."""
        if self.kind == "none":
            return Scales(tuple(s.mean for s in statistics), tuple(s.std for s in statistics))
        if coarse := [task for task, found in zip(tasks, statistics, strict=True) if is_too_coarse(found)]:
            raise RunError(
                f"label_transform {self.kind}: {len(coarse)} tasks, first {coarse[0]}, vary too little beside their mean for the "
                f"quantiles in the manifest; choose label_transform=none, or store these labels less an offset"
            )
        if self.kind == "rank":
            return Scales.identity(len(tasks))._replace(knots=tuple(map(rank_knots, statistics)))
        means, stds = zip(*(clipped_scale(s, self.limit) for s in statistics), strict=True)
        return Scales(means, stds, clip=self.limit)


def ends_of(statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the labels, rising from 0 to 1 (float64), and the values that they reach."""
    inner = [(float(p), value) for p, value in statistics.quantiles.items()]
    knots = [(0.0, statistics.min), *inner, (1.0, statistics.max)]
    shares, values = np.array(knots, np.float64).T
    return shares, values


def clipped_scale(statistics: Statistics, limit: float) -> tuple[float, float]:
    """Mean and standard deviation of the labels, clipped `limit` standard deviations from the mean; 1 where nothing is spread."""
    mean, std = statistics.mean, statistics.std
    if not statistics.quantiles:
        return mean, std
    shares, values = ends_of(statistics)
    width = np.diff(shares)
    for _ in range(MAX_ROUNDS):
        x = np.clip(values, mean - limit * std, mean + limit * std)
        # of even distributions from one quantile to the next
        new_mean = float((width * (x[:-1] + x[1:]) / 2).sum())
        square = float((width * (x[:-1] ** 2 + x[:-1] * x[1:] + x[1:] ** 2) / 3).sum())
        new_std = math.sqrt(max(0.0, square - new_mean**2))
        if new_std <= 1e-6 * max(abs(new_mean), 1e-30) or new_std >= std * (1 - 1e-9):
            # nothing is far out any more, or nearly all labels are one value
            break
        mean, std = new_mean, new_std
    return mean, std


def is_too_coarse(statistics: Statistics) -> bool:
    """Whether the spread of the labels is so small beside their values that the quantiles, which have eight leading bits, do not
    tell where a label lies."""
    if not statistics.quantiles or statistics.min == statistics.max:
        return False
    mean, std = clipped_scale(statistics, 5.0)
    return abs(mean) / 128 > std / 4


def rank_knots(statistics: Statistics) -> tuple[tuple[float, float], ...]:
    """(value, normal score) from the least to the largest label, both rising; labels that are equal share a score."""
    if not statistics.quantiles:
        return ((0.0, 0.0),)
    shares, values = ends_of(statistics)
    # the ends stand for half a label
    half = min(0.5, 0.5 / statistics.count)
    keep = (shares == 0) | (shares == 1) | ((shares > half) & (shares < 1 - half))
    shares, values = np.clip(shares[keep], half, 1 - half), values[keep]
    same, places = np.unique(values, return_inverse=True)
    middle = np.bincount(places, shares) / np.bincount(places)
    return tuple((float(value), NormalDist().inv_cdf(float(p))) for value, p in zip(same, middle, strict=True))


def padded(knots: Sequence[tuple[tuple[float, float], ...]]) -> np.ndarray:
    """Knots of T tasks as one array: float64 (2, T, K), values and scores, the last knot of a task repeated."""
    most = max(map(len, knots))
    return np.array([[*task, *[task[-1]] * (most - len(task))] for task in knots], np.float64).transpose(2, 0, 1)
