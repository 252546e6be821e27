"""Columns computed from the structure, as positional encodings are: when a set is built, or by a reader of a set without them."""

from collections.abc import Sequence

import numpy as np

from molstream.shards.columns import COLUMN_GROUPS
from molstream.shards.errors import LimitError
from molstream.shards.molecules import Molecules

ENCODE_MOLECULES = 512
"""Molecules whose encodings are computed together: what fits a processor's cache."""


def compute_columns(molecules: Molecules, groups: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of these column groups, which have a `compute`. Raises LimitError, naming the molecules."""
    columns: dict[str, list[np.ndarray]] = {column.name: [] for name in groups for column in COLUMN_GROUPS[name].columns}
    for first in range(0, len(molecules), ENCODE_MOLECULES):
        part = molecules.slice(first, min(first + ENCODE_MOLECULES, len(molecules)))
        try:
            for name in groups:
                group = COLUMN_GROUPS[name]
                assert group.compute is not None
                found = group.compute(part.atom_ptr, part.bond_ptr, part.bond_atoms)
                for column, values in zip(group.columns, found, strict=True):
                    columns[column.name].append(values)
        except ValueError as error:
            where = "" if part.ids is None else f" of rows {part.ids.min()} to {part.ids.max()}"
            raise LimitError(f"positional encodings{where}: {error}; run again without that encoding") from error
    return {name: np.concatenate(parts) for name, parts in columns.items() if parts}
