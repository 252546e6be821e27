"""Positional encodings of molecules as they are stored: computed when a set is built, or by a reader of a set that lacks them."""

import numpy as np

from molstream.kernels.chemistry.positional import laplacian, quantize_laplacian, quantize_walk, random_walk
from molstream.shards.errors import LimitError
from molstream.shards.molecules import Molecules

COLUMNS_OF_ENCODING = {"rw16": ("walks",), "lap8": ("eigenvectors", "eigenvalues")}
"""Columns of `Molecules` that each group of encodings holds."""
ENCODE_MOLECULES = 512
"""Molecules whose encodings are computed together: what fits a processor's cache."""


def encode_positions(molecules: Molecules, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of the encodings `names`, as codes of `kernels.chemistry.positional`. Raises LimitError, naming the molecules."""
    columns: dict[str, list[np.ndarray]] = {column: [] for name in names for column in COLUMNS_OF_ENCODING[name]}
    for first in range(0, len(molecules), ENCODE_MOLECULES):
        part = molecules.slice(first, min(first + ENCODE_MOLECULES, len(molecules)))
        graph = (part.atom_ptr, part.bond_ptr, part.bond_atoms)
        try:
            if "rw16" in names:
                columns["walks"].append(quantize_walk(random_walk(*graph)))
            if "lap8" in names:
                vectors, values = quantize_laplacian(*laplacian(*graph))
                columns["eigenvectors"].append(vectors)
                columns["eigenvalues"].append(values)
        except ValueError as error:
            where = "" if part.ids is None else f" of rows {part.ids.min()} to {part.ids.max()}"
            raise LimitError(f"positional encodings{where}: {error}; run again without that encoding") from error
    return {name: np.concatenate(parts) for name, parts in columns.items() if parts}
