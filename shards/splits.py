"""Which split a molecule belongs to: by its skeleton's hash, so that isomers and duplicates stay on one side."""

from dataclasses import dataclass

import numpy as np

from shards.errors import InputError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class SplitFractions:
    """Shares of train, val and test; they sum to 1."""

    train: float
    val: float
    test: float

    @classmethod
    def parse(cls, text: str) -> "SplitFractions":
        """'98,1,1' or '0.8,0.1,0.1': three non-negative numbers, train above 0, scaled to sum to 1."""
        try:
            parts = [float(p) for p in text.split(",")]
        except ValueError:
            parts = []
        if len(parts) != 3 or not all(0 <= p <= 1e9 for p in parts) or parts[0] < 1e-9 * sum(parts) or not sum(parts):
            raise InputError(
                f"split fractions: got {text!r}, expected three numbers train,val,test with train above 0, like 98,1,1"
            )
        return cls(*(p / sum(parts) for p in parts))

    def assign(self, hashes: np.ndarray) -> np.ndarray:
        """Split number (index into SPLITS) of each uint64 hash: the unit interval, cut at the fractions. uint8."""
        unit = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return np.searchsorted([self.train, self.train + self.val], unit, side="right").astype(np.uint8).clip(max=2)
