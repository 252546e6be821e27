"""Positional encodings by dense linear algebra."""

from collections.abc import Sequence

import numpy as np


def adjacency(num_atoms: int, bonds: Sequence[Sequence[int]]) -> np.ndarray:
    """How often each pair is listed; a bond of an atom with itself is left out."""
    matrix = np.zeros((num_atoms, num_atoms))
    for u, v in bonds:
        if u != v:
            matrix[u, v] += 1
            matrix[v, u] += 1
    return matrix


def random_walk(num_atoms: int, bonds: Sequence[Sequence[int]], *, num_steps: int) -> np.ndarray:
    """Diagonals of the powers of the walk's matrix, of one molecule."""
    weights = adjacency(num_atoms, bonds)
    steps = np.array([row / max(row.sum(), 1) for row in weights]).reshape(num_atoms, num_atoms)
    powers = [np.linalg.matrix_power(steps, k + 1) for k in range(num_steps)]
    return np.array([np.diag(p) for p in powers]).reshape(num_steps, num_atoms).T


def components(matrix: np.ndarray) -> list[list[int]]:
    """Sets of atoms that are joined, by lowest atom."""
    reach = np.eye(len(matrix), dtype=bool) | (matrix > 0)
    for _ in range(len(matrix).bit_length()):
        reach = (reach.astype(float) @ reach.astype(float)) > 0
    return [list(atoms) for atoms in sorted({tuple(np.nonzero(row)[0].tolist()) for row in reach})]


def canonical_basis(space: np.ndarray) -> np.ndarray:
    """The rule of `positional.laplacian` for an orthonormal basis `space` (n, m) of an eigenspace, by its projector."""
    left = space @ space.T
    basis = []
    for _ in range(space.shape[1]):
        lengths = np.linalg.norm(left, axis=0)
        chosen = next(i for i, length in enumerate(lengths) if length >= 0.9999 * max(lengths))
        basis.append(left[:, chosen] / lengths[chosen])
        left = left - np.outer(basis[-1], basis[-1])
    return np.array(basis).T


def laplacian(num_atoms: int, bonds: Sequence[Sequence[int]], *, num_vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest eigenpairs of D - A of each component of one molecule, by LAPACK, with bases by the rule."""
    weights = adjacency(num_atoms, bonds)
    vectors, values = np.zeros((num_atoms, num_vectors)), np.zeros((num_atoms, num_vectors))
    for atoms in components(weights):
        part = weights[np.ix_(atoms, atoms)]
        found, basis = np.linalg.eigh(np.diag(part.sum(axis=1)) - part)
        found[0] = 0.0
        start = 0
        for k in range(1, len(atoms) + 1):
            if k == len(atoms) or found[k] - found[k - 1] > 1e-6 * found[k]:
                basis[:, start:k] = canonical_basis(basis[:, start:k])
                start = k
        take = min(num_vectors, len(atoms))
        vectors[np.ix_(atoms, range(take))] = basis[:, :take]
        values[np.ix_(atoms, range(take))] = found[:take]
    return vectors, values
