"""Count, mean and spread of each task, merged in a fixed order, so that every build of the same data agrees to the last bit."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from molstream.kernels.tables.moments import measure_columns
from molstream.shards.molecules import Molecules
from molstream.shards.schema import BOND_TYPES, split_bond_codes
from molstream.shards.tasks import LEVELS, Level


@dataclass(slots=True)
class LabelMoments:
    """Moments of T columns of labels in float64."""

    count: np.ndarray
    """int64 (T)."""
    mean: np.ndarray
    """float64 (T)."""
    m2: np.ndarray
    """float64 (T): sum of squared deviations from the mean."""
    low: np.ndarray
    """float64 (T): least label, infinity where there is none."""
    high: np.ndarray
    """float64 (T): largest label, minus infinity where there is none."""

    @classmethod
    def empty(cls, num_tasks: int) -> "LabelMoments":
        """Moments of no labels at all."""
        return cls(
            np.zeros(num_tasks, np.int64),
            np.zeros(num_tasks),
            np.zeros(num_tasks),
            np.full(num_tasks, np.inf),
            np.full(num_tasks, -np.inf),
        )

    @classmethod
    def measure(cls, *levels: np.ndarray) -> "LabelMoments":
        """Of rows of labels, NaN where absent: (M, T) for each level; the tasks of all levels, one after another."""
        parts = [measure_columns(labels) for labels in levels]
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @classmethod
    def of(cls, molecules: Molecules, num_tasks: Mapping[Level, int]) -> "LabelMoments":
        """Of the labels of molecules, level by level; both directions of a bond or pair count, where both have a label."""
        return cls.measure(*flat_labels(molecules, num_tasks))

    @classmethod
    def scatter(cls, part: "LabelMoments", places: np.ndarray, num_tasks: int) -> "LabelMoments":
        """Moments of some tasks as those of `num_tasks`, of which they are number `places`."""
        out = cls.empty(num_tasks)
        for f in fields(cls):
            getattr(out, f.name)[places] = getattr(part, f.name)
        return out

    def merge(self, other: "LabelMoments") -> None:
        """Merge in the moments of other rows (Chan, Golub and LeVeque 1983, equation 2.1)."""
        total = np.maximum(self.count + other.count, 1)
        delta = np.where(other.count > 0, other.mean - self.mean, 0)
        self.m2 = self.m2 + other.m2 + delta**2 * (self.count * other.count / total)
        self.mean = self.mean + delta * (other.count / total)
        self.count = self.count + other.count
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation (T); 1 where it would be 0 or there are no labels, so that it can be divided by."""
        std = np.sqrt(self.m2 / np.maximum(self.count, 1))
        return np.where(std > 0, std, 1.0)

    def encode(self) -> bytes:
        """To float64 columns, one after another (counts are exact up to 2**53)."""
        return np.stack([getattr(self, f.name).astype(np.float64) for f in fields(self)]).tobytes()

    @classmethod
    def decode(cls, data: bytes) -> "LabelMoments":
        """Inverse of `encode`."""
        columns = np.frombuffer(data, np.float64).reshape(len(fields(cls)), -1)
        return cls(columns[0].astype(np.int64), *columns[1:])


_THOUSANDTHS = np.array([1, 10, 20, 50, *range(100, 901, 50), 950, 980, 990, 999])
PROBABILITIES = tuple((_THOUSANDTHS / 1000).tolist())
"""Of the quantiles in a manifest."""


class ValueCounts:
    """How often each value of T tasks occurs, in bins of float32's eight leading bits: quantiles of any number of labels.

    A bin is named by its end towards zero, so whole numbers up to 256 are exact, and any other value is less than 1/128 of it too
    close to zero. Bins are counted in whole numbers: merged in any order, the counts are those of all rows.
    """

    def __init__(self, num_tasks: int):
        self._keys = [np.empty(0, np.uint16) for _ in range(num_tasks)]
        self._counts = [np.empty(0, np.int64) for _ in range(num_tasks)]

    @classmethod
    def of(cls, molecules: Molecules, num_tasks: Mapping[Level, int], wanted: Sequence[bool]) -> "ValueCounts":
        """Of the labels of molecules that are `wanted`, level by level as in `LabelMoments.of`."""
        out, task = cls(len(wanted)), 0
        for labels in flat_labels(molecules, num_tasks):
            for column in labels.T:
                if wanted[task]:
                    out._add(task, *np.unique(_bins_of(column[~np.isnan(column)]), return_counts=True))
                task += 1
        return out

    def _add(self, task: int, keys: np.ndarray, counts: np.ndarray) -> None:
        if not len(self._keys[task]):
            self._keys[task], self._counts[task] = keys, counts.astype(np.int64)
            return
        merged, places = np.unique(np.concatenate([self._keys[task], keys]), return_inverse=True)
        total = np.zeros(len(merged), np.int64)
        np.add.at(total, places, np.concatenate([self._counts[task], counts]))
        self._keys[task], self._counts[task] = merged, total

    def merge(self, other: "ValueCounts") -> None:
        """Add what others counted."""
        for task, (keys, counts) in enumerate(zip(other._keys, other._counts, strict=True)):
            if len(keys):
                self._add(task, keys, counts)

    def quantiles(self, task: int, *, low: float, high: float) -> dict[str, float]:
        """Probability -> the least value that so large a share of the labels does not exceed, between the least and the largest
        label; none without labels."""
        keys, counts = self._keys[task], self._counts[task]
        if not len(keys):
            return {}
        ends = np.cumsum(counts)
        # whole numbers, since 0.55 of 100 is more than 55 in floating point
        places = np.searchsorted(ends, -(-_THOUSANDTHS * ends[-1] // 1000))
        values = np.clip(_values_of(keys)[places].astype(np.float64), low, high)
        return {f"{p:g}": float(value) for p, value in zip(PROBABILITIES, values, strict=True)}

    def encode(self) -> bytes:
        """To bytes: the number of bins of each task, then all bins, then all counts."""
        sizes = np.array([len(keys) for keys in self._keys], "<u4")
        return b"".join([sizes.tobytes(), *(k.astype("<u2").tobytes() for k in self._keys), *(c.tobytes() for c in self._counts)])

    @classmethod
    def decode(cls, data: bytes, num_tasks: int) -> "ValueCounts":
        """Inverse of `encode`."""
        out = cls(num_tasks)
        sizes = np.frombuffer(data, "<u4", num_tasks)
        ends, total = np.cumsum(sizes)[:-1], int(sizes.sum())
        out._keys = np.split(np.frombuffer(data, "<u2", total, 4 * num_tasks), ends)
        out._counts = np.split(np.frombuffer(data, "<i8", total, 4 * num_tasks + 2 * total), ends)
        return out


def _bins_of(values: np.ndarray) -> np.ndarray:
    """float32 (N) -> uint16 (N): the leading half of its bits, ordered as the values are."""
    # zero has one sign
    high = ((values + np.float32(0)).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return np.where(high >> 15, ~high, high | np.uint16(0x8000))


def _values_of(bins: np.ndarray) -> np.ndarray:
    """uint16 (N) -> float32 (N): the value of each bin that is closest to zero."""
    high = np.where(bins >> 15, bins & np.uint16(0x7FFF), ~bins)
    return (high.astype(np.uint32) << np.uint32(16)).view(np.float32)


def flat_labels(molecules: Molecules, num_tasks: Mapping[Level, int]) -> list[np.ndarray]:
    """Label columns of each level as rows of all its tasks: float32 (M, T), both directions of bonds and pairs as rows."""
    out = []
    for level in LEVELS:
        labels = molecules.labels(level)
        if labels is None:
            labels = np.empty((0, num_tasks[level]), np.float32)
        out.append(np.concatenate([labels[..., 0], labels[..., 1]]) if labels.ndim == 3 else labels)
    return out


HISTOGRAMS = ("atoms", "bonds", "elements", "bond_types")


def count_structure(molecules: Molecules) -> dict[str, dict[str, int]]:
    """Histograms of a run of molecules: atoms and bonds per molecule, elements (atomic numbers) and types of bonds."""
    columns = {
        "atoms": molecules.num_atoms,
        "bonds": molecules.num_bonds,
        "elements": molecules.atom_codes[:, 0],
        "bond_types": split_bond_codes(molecules.bond_codes)[0],
    }
    out = {}
    for name, column in columns.items():
        counts = np.bincount(column)
        values = np.flatnonzero(counts)
        keys = [BOND_TYPES[v] for v in values] if name == "bond_types" else values.tolist()
        out[name] = {str(k): int(n) for k, n in zip(keys, counts[values], strict=True)}
    return out


def merge_histograms(parts: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """The sum, keys in rising order (types of bonds in the order of their codes); {} is nothing yet."""
    out = {}
    for name in HISTOGRAMS:
        total = sum((Counter(part.get(name)) for part in parts), Counter())
        order = BOND_TYPES if name == "bond_types" else sorted(total, key=int)
        out[name] = {key: total[key] for key in order if total[key]}
    return out
