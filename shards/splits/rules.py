"""The split of a molecule: by a hash of its skeleton or scaffold, so that isomers and duplicates stay on one side, or by its row,
as a seeded shuffle or a file decides."""

import math
from dataclasses import dataclass

import numpy as np

from molstream.kernels.chemistry.scaffolds import hash_scaffolds
from molstream.kernels.chemistry.skeletons import hash_skeletons
from molstream.kernels.rng.permutation import python_shuffle
from molstream.shards.errors import InputError
from molstream.shards.molecules import Molecules
from molstream.shards.schema import BOND_STEREO

SPLITS = ("train", "val", "test")
"""The splits where fractions decide."""
RULES = ("skeleton", "scaffold", "position")
"""The values of `--splits` besides a file."""
BY_TABLE = "tables"
"""The value of `BuildOptions.splits` where each table has splits of its own."""


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

    def shuffle(self, num_rows: int, *, seed: int) -> np.ndarray:
        """Split number of each row, uint8 (num_rows): rows in the order of Python's `random.shuffle` are first train, then val,
        then test; val and test are rounded down. With fractions 98,1,1 and seed 42 this is the published split of PM6_83M."""
        # plus a millionth of a row, so that 29 % of 100 rows are 29
        val, test = (math.floor(num_rows * share + 1e-6) for share in (self.val, self.test))
        order = python_shuffle(num_rows, seed=seed)
        out = np.zeros(num_rows, np.uint8)
        out[order[num_rows - val - test : num_rows - test]] = 1
        out[order[num_rows - test :]] = 2
        return out


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The splits of a set and the rule that assigns molecules to them."""

    rule: str
    """'skeleton' or 'scaffold': by hash; 'rows': by one byte per row, in a file of the build."""
    names: tuple[str, ...]
    shares: tuple[float, ...]
    """Approximate share of the rows in each split."""
    rows_sha256: str = ""
    """SHA-256 of the bytes per row."""
    most_held_out: bool = False
    """Where rows of one molecule are in several splits: it goes to the most held-out of them, else to that of its first row."""

    def by_hash(self, molecules: Molecules, fractions: SplitFractions, *, key: int) -> np.ndarray:
        """Split number of each molecule, uint8 (N)."""
        graph = (molecules.atom_ptr, molecules.bond_ptr)
        if self.rule == "scaffold":
            codes = (molecules.atom_codes, molecules.bond_atoms, molecules.bond_codes)
            return fractions.assign(hash_scaffolds(*graph, *codes, num_stereo=len(BOND_STEREO), key=key))
        return fractions.assign(hash_skeletons(*graph, molecules.atom_codes[:, 0], molecules.bond_atoms, key=key))

    def of_molecules(self, split: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Split number, uint8 (N), of the molecule of each of N rows, whose own split numbers are `split`; `first` (N): place of
        the first row of its molecule."""
        if not self.most_held_out:
            return split[first]
        order = sorted(range(len(self.names)), key=lambda k: held_out_key(self.names[k]))
        rank = np.argsort(order)
        most = np.zeros(len(split), np.int64)
        np.maximum.at(most, first, rank[split])
        return np.array(order, np.uint8)[most[first]]


def held_out_key(name: str) -> tuple[int, str]:
    """Sorts the names of splits from train, which models see, over val, which chooses among them, and others to test."""
    return {"train": 0, "val": 1, "test": 3}.get(name, 2), name
