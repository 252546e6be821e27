"""Count, mean and spread of each task, merged exactly and in a fixed order, so that every build of the same data agrees."""

from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class Moments:
    """Moments of T columns of labels in float64."""

    count: np.ndarray
    """int64 (T)."""
    mean: np.ndarray
    """float64 (T)."""
    m2: np.ndarray
    """float64 (T): sum of squared deviations from the mean."""

    @classmethod
    def empty(cls, num_tasks: int) -> "Moments":
        """Moments of no labels at all."""
        return cls(np.zeros(num_tasks, np.int64), np.zeros(num_tasks), np.zeros(num_tasks))

    def add(self, labels: np.ndarray) -> None:
        """Merge in rows of labels (M, T), NaN where absent."""
        real = ~np.isnan(labels)
        count = real.sum(axis=0)
        values = np.where(real, labels, 0).astype(np.float64)
        mean = values.sum(axis=0) / np.maximum(count, 1)
        m2 = (np.where(real, values - mean, 0) ** 2).sum(axis=0)
        self.merge(Moments(count, mean, m2))

    def merge(self, other: "Moments") -> None:
        """Merge in the moments of other rows (Chan, Golub and LeVeque 1983, equation 2.1)."""
        total = np.maximum(self.count + other.count, 1)
        delta = np.where(other.count > 0, other.mean - self.mean, 0)
        self.m2 = self.m2 + other.m2 + delta**2 * (self.count * other.count / total)
        self.mean = self.mean + delta * (other.count / total)
        self.count = self.count + other.count

    def add_block(self, graph_labels: np.ndarray, atom_labels: np.ndarray) -> None:
        """Merge in a block's labels: graph-level tasks first, then atom-level ones."""
        parts = []
        for labels in (graph_labels, atom_labels):
            parts.append(Moments.empty(labels.shape[1]))
            parts[-1].add(labels)
        self.merge(Moments(*(np.concatenate([getattr(p, k) for p in parts]) for k in ("count", "mean", "m2"))))

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation (T); 1 where it would be 0 or there are no labels, so that nobody divides by 0."""
        std = np.sqrt(self.m2 / np.maximum(self.count, 1))
        return np.where(std > 0, std, 1.0)
