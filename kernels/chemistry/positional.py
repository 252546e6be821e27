"""Positional encodings of molecular graphs: return probabilities of random walks, Laplacian eigenvectors, 8-bit codes of both.

The definitions are those of the paper's configurations (Beaini et al. 2023, arXiv 2310.04292; in datamol-io/graphium
`expts/neurips2023_configs/base_config/{small,large}.yaml` and `graphium/features/{rw,spectral}.py`): 16 steps, 8 eigenvectors,
`normalization: none`, `disconnected_comp: True`. One decision beyond them: an eigenvector's sign and the basis of an eigenspace
follow from a rule, not from a solver, and the solver is our own, so the same molecule has the same bytes on every run, thread and
machine of one architecture. The price: the rule knows the order of atoms, and a model that should not must flip signs in
training.

No BLAS and no LAPACK. The kernels release the GIL and gain from calls with a few hundred molecules, as eigenvalues are found for
16 at a time. A bond listed twice counts twice; a bond of an atom with itself does not count.
"""

import numpy as np

from molstream.kernels.chemistry import _positional

WALK_SCALES = (510.0, 255.0)
"""Codes per unit of probability at odd and at even steps: without loops an odd return has a probability of at most 1/2."""
VECTOR_SCALE = 127.0
"""Codes per unit of an eigenvector's entry."""


def random_walk(atom_ptr: np.ndarray, bond_ptr: np.ndarray, bond_atoms: np.ndarray, *, num_steps: int = 16) -> np.ndarray:
    """Probability of being back at each atom after 1, 2, ... `num_steps` steps of a walk to uniformly chosen neighbours.

    `atom_ptr`, `bond_ptr`: offsets (N + 1) from 0; `bond_atoms`: local atom indices (B, 2). An atom without neighbours has
    nowhere to return from: 0 at every step (Graphium: 1 for a molecule of one atom, 0 for a lone atom beside others). Odd steps
    are exactly 0 where no odd ring is near. Computed in float64. Cost: about 4 us for a drug-like molecule, and linear in the
    size of a large one, as a walk of 16 steps stays within 8 bonds. Returns float32 (A, num_steps). Raises ValueError for a bond
    out of range.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}, expected at least 1")
    atom_ptr, bond_ptr, bond_atoms = _check(atom_ptr, bond_ptr, bond_atoms)
    out = np.empty((int(atom_ptr[-1]), num_steps), np.float32)
    _positional.random_walk(atom_ptr, bond_ptr, bond_atoms, out)
    return out


def laplacian(
    atom_ptr: np.ndarray, bond_ptr: np.ndarray, bond_atoms: np.ndarray, *, num_vectors: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors and eigenvalues of the Laplacian D - A of each connected component, lowest eigenvalues first.

    Arguments as in `random_walk`. Returns (vectors, values), both float32 (A, num_vectors): an atom's row holds its entry in each
    unit eigenvector of its component, and the eigenvalues. The first pair is the constant vector 1 / sqrt(atoms) and 0. A
    component of fewer atoms than `num_vectors` has zeros in the columns that remain, as in Graphium.

    Signs and eigenspaces, one rule: eigenvalues that differ by at most 1e-6 of the larger share an eigenspace. Its basis is built
    one vector at a time: project every atom's unit vector onto what is left of the space, take the first atom whose projection is
    at least 0.9999 times as long as the longest, and normalise that projection. So a simple eigenvector is positive at its entry
    of largest magnitude; of several within 1e-4, at the one of the lowest atom. If `num_vectors` ends inside an eigenspace, the
    first vectors of that basis are returned.

    Limits. The rule depends on the order of atoms. A projection as near to 0.9999, or eigenvalues as near to 1e-6, as rounding
    may fall either way with another solver (not on another run). In a component of more than 128 atoms an eigenspace follows the
    rule only if all up to it fit in 64 vectors; a larger one is cut the same way every time, but where the solver puts it.

    Up to 128 atoms (or a little over twice `num_vectors`): Householder and implicit QL in float64, about 11 us for a drug-like
    molecule. Beyond: subspace iteration with the pseudo-inverse, by a sparse factor, from a fixed start; time and memory are in
    proportion to the atoms of a chain or of any graph of small rings (0.05 s for 10,000 atoms). Raises ValueError for a bond out
    of range, and for a large component so densely connected that its factor has more than 8 million entries.
    """
    if num_vectors < 1:
        raise ValueError(f"num_vectors is {num_vectors}, expected at least 1")
    atom_ptr, bond_ptr, bond_atoms = _check(atom_ptr, bond_ptr, bond_atoms)
    num_atoms = int(atom_ptr[-1])
    vectors = np.empty((num_atoms, num_vectors), np.float32)
    values = np.empty_like(vectors)
    local, members, molecule = (np.empty(num_atoms, np.int64) for _ in range(3))
    ptr, neighbours = np.empty(num_atoms + len(atom_ptr), np.int64), np.empty(2 * len(bond_atoms), np.int64)
    component_ptr = np.empty(num_atoms + 1, np.int64)
    graph = (ptr, neighbours, local, members, component_ptr)
    num_components, largest = _positional.find_components(atom_ptr, bond_ptr, bond_atoms, *graph, molecule)
    max_dense = max(_positional.MAX_DENSE_ATOMS, 2 * num_vectors + _positional.PANEL)
    arguments = (*graph[:-1], component_ptr[: num_components + 1], min(largest, max_dense), vectors, values)
    if largest > max_dense:
        # compiled when it is first needed, as it takes long and few sets hold such molecules
        failed = _positional.large_laplacian(*arguments)
        if failed >= 0:
            failed = int(molecule[failed])
            atoms, bonds = (int(offsets[failed + 1] - offsets[failed]) for offsets in (atom_ptr, bond_ptr))
            raise ValueError(
                f"molecule {failed} ({atoms} atoms, {bonds} bonds): too densely connected to decompose; leave it out"
            )
    converged = _positional.laplacian(*arguments)
    assert converged, "QL did not converge"
    return vectors, values


# 8-bit codes


def quantize_walk(walk: np.ndarray) -> np.ndarray:
    """Probabilities (A, num_steps) from `random_walk` -> uint8, column k in units of 1/510 (odd steps) or 1/255 (even steps).

    Rounds half to even. `quantize_walk(dequantize_walk(codes))` is `codes`.
    """
    return np.clip(np.rint(walk * _walk_scales(walk.shape[1])), 0, 255).astype(np.uint8)


def dequantize_walk(codes: np.ndarray) -> np.ndarray:
    """Inverse of `quantize_walk` to 1/1020 at odd and 1/510 at even steps. float32."""
    return codes * (np.float32(1) / _walk_scales(codes.shape[1]))


def quantize_laplacian(vectors: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays of `laplacian` -> int8 in units of 1/127, rounded half to even, and float16."""
    return np.rint(vectors * np.float32(VECTOR_SCALE)).astype(np.int8), values.astype(np.float16)


def dequantize_laplacian(vector_codes: np.ndarray, value_codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `quantize_laplacian`, to 1/254 for entries and to 1/2048 of an eigenvalue. float32."""
    return vector_codes * np.float32(1 / VECTOR_SCALE), value_codes.astype(np.float32)


def _walk_scales(num_steps: int) -> np.ndarray:
    return np.resize(np.array(WALK_SCALES, np.float32), num_steps)


def _check(atom_ptr: np.ndarray, bond_ptr: np.ndarray, bond_atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays as the kernels take them; raises ValueError for what would make these read outside."""
    atom_ptr, bond_ptr = np.ascontiguousarray(atom_ptr, np.int64), np.ascontiguousarray(bond_ptr, np.int64)
    bond_atoms = np.ascontiguousarray(bond_atoms, np.uint16).reshape(-1, 2)
    if len(atom_ptr) != len(bond_ptr) or len(atom_ptr) == 0 or atom_ptr[0] or bond_ptr[0] or bond_ptr[-1] != len(bond_atoms):
        raise ValueError(
            f"{len(atom_ptr)} atom offsets and {len(bond_ptr)} bond offsets for {len(bond_atoms)} bonds: "
            "expected as many of both, from 0 to the number of atoms and of bonds"
        )
    if (np.diff(atom_ptr) < 0).any() or (np.diff(bond_ptr) < 0).any():
        raise ValueError("offsets decrease; expected atom_ptr and bond_ptr as of Molecules")
    bond = _positional.find_bad_bond(atom_ptr, bond_ptr, bond_atoms)
    if bond >= 0:
        molecule = int(np.searchsorted(bond_ptr, bond, side="right")) - 1
        atoms = int(atom_ptr[molecule + 1] - atom_ptr[molecule])
        raise ValueError(f"bond {bond} joins atoms {bond_atoms[bond].tolist()} of molecule {molecule}, which has {atoms} atoms")
    return atom_ptr, bond_ptr, bond_atoms
