"""Hashes of Bemis-Murcko scaffolds."""

import numpy as np

from molstream.kernels.chemistry import _scaffolds


def hash_scaffolds(
    atom_ptr: np.ndarray,
    bond_ptr: np.ndarray,
    atom_codes: np.ndarray,
    bond_atoms: np.ndarray,
    bond_codes: np.ndarray,
    *,
    num_stereo: int,
    key: int = 0,
) -> np.ndarray:
    """Hash the Bemis-Murcko scaffold of each molecule that has a ring: molecules of one scaffold share a hash.

    A scaffold (Bemis and Murcko, J. Med. Chem. 39, 2887, 1996) is what RDKit's `MurckoScaffold.GetScaffoldForMol` keeps: ring
    atoms, atoms on the way from one ring to another, and every atom with a double bond to one of these. So `=O`, `=C`, `=N`
    and both oxygens of a sulfone stay, without what hangs on them; what a single or triple bond holds goes, nitro groups and
    `[N+][O-]` included, and so do fragments without rings. Element, charge, radicals and aromaticity of its atoms, types of its
    bonds and sizes of its rings up to 16 count; hydrogens, isotopes and stereo do not. Sixteen rounds of Weisfeiler-Lehman
    colour refinement.

    A molecule without rings gets its `hash_skeletons` under the same key. That departs from RDKit, where the scaffold of all of
    these is empty, which would send them to a split together.

    `atom_ptr`, `bond_ptr`: offsets (N + 1); `atom_codes`: element, degree, charge, radicals, valence, aromatic, ring of each atom
    (A, 7); `bond_atoms`: local atom indices (B, 2); `bond_codes`: (type * num_stereo + stereo) * 2 + ring (B), type 1 a double
    bond. Degree and valence are not read. Returns uint64 (N). Raises ValueError when atoms do not have seven codes.

    Among 4,506 molecules with rings from ChEMBL and MOSES, RDKit's SMILES of scaffolds without stereo make 3,571 groups and these
    hashes 3,562. None of RDKit's groups is cut, which is what splits need; 9 hashes hold more than one group (0.3 % of molecules
    are not in the largest of their hash). Of the ways in which the two differ, only the first occurs there:

    - together here, apart there: places of hydrogen on aromatic atoms (3- and 5-phenylpyrazole; 1H- and 2H-indazole), which are
      not in the codes. RDKit writes `[nH]` where a substituent was, so those of its scaffolds are tautomers of each other.
    - together here, apart there: hydrogens that RDKit writes because it does not take them away with a substituent, as
      `=[NH2+]` against `=[N+](C)C`, `[cH-]` against `[c-]C`, or `[SH2]` with four bonds in a ring.
    - together here, apart there: scaffolds that look the same within 16 bonds of each atom, ring sizes included, as where
      features of linkers or macrocycles are more than 32 bonds apart; types of bonds that share the code for any other.
    - apart here, together there: rings closed by dative bonds, which RDKit does not count as rings but which stay here in a
      molecule that has another; radicals at `=[C]` or a metal.
    """
    if atom_codes.shape[1:] != (_scaffolds.NUM_ATOM_FEATURES,):
        raise ValueError(f"atom codes of shape {atom_codes.shape}, expected (atoms, {_scaffolds.NUM_ATOM_FEATURES})")
    out = np.empty(len(atom_ptr) - 1, np.uint64)
    _scaffolds.hash_scaffolds(
        np.ascontiguousarray(atom_ptr, np.int64),
        np.ascontiguousarray(bond_ptr, np.int64),
        np.ascontiguousarray(atom_codes, np.uint8),
        np.ascontiguousarray(bond_atoms, np.uint16),
        np.ascontiguousarray(bond_codes, np.uint8),
        num_stereo,
        np.uint64(key),
        out,
    )
    return out
