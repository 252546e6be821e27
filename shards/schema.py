"""Atom and bond features as category codes: those of the PM6_83M paper (arXiv 2310.04292), no RDKit needed to read them.

Group and period are functions of the element, so models look them up instead of us storing them. The last code of an open-ended
feature means "any other value".
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A categorical property of atoms or bonds, stored as a code in [0, num_codes)."""

    name: str
    num_codes: int
    meaning: str
    """How a code reads."""


MAX_ELEMENT = 118
MAX_DEGREE = 10
MAX_CHARGE = 5
MAX_RADICALS = 4
MAX_VALENCE = 8
BOND_TYPES = ("single", "double", "triple", "aromatic", "other")
BOND_STEREO = ("none", "any", "z", "e", "cis", "trans", "other")

ATOM_FEATURES = (
    Feature(name="element", num_codes=MAX_ELEMENT + 1, meaning="atomic number, 0 a wildcard atom"),
    Feature(name="degree", num_codes=MAX_DEGREE + 2, meaning=f"stored neighbours, {MAX_DEGREE + 1} more than {MAX_DEGREE}"),
    Feature(name="charge", num_codes=2 * MAX_CHARGE + 2, meaning=f"formal charge + {MAX_CHARGE}, last any other"),
    Feature(name="radicals", num_codes=MAX_RADICALS + 2, meaning="radical electrons, last any other"),
    Feature(name="valence", num_codes=MAX_VALENCE + 2, meaning="total valence, last any other"),
    Feature(name="aromatic", num_codes=2, meaning="0 no, 1 yes"),
    Feature(name="ring", num_codes=2, meaning="in a ring: 0 no, 1 yes"),
)
BOND_FEATURES = (
    Feature(name="type", num_codes=len(BOND_TYPES), meaning=", ".join(BOND_TYPES)),
    Feature(name="stereo", num_codes=len(BOND_STEREO), meaning=", ".join(BOND_STEREO)),
    Feature(name="ring", num_codes=2, meaning="in a ring: 0 no, 1 yes"),
)
NUM_BOND_CODES = len(BOND_TYPES) * len(BOND_STEREO) * 2
MAX_ATOMS = 10_000
"""RDKit writes canonical SMILES recursively: near 18,000 atoms in a chain it overflows a stack of 8 MB and kills the process."""


def encode_bond(kind: int, stereo: int, ring: int) -> int:
    """Mixed radix, first feature most significant."""
    return (kind * len(BOND_STEREO) + stereo) * 2 + ring


def split_bond_codes(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inverse of `encode_bond`: type, stereo, ring."""
    return codes // (2 * len(BOND_STEREO)), codes // 2 % len(BOND_STEREO), codes % 2


SYMBOLS = (
    "* H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru "
    "Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn "
    "Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()
"""By atomic number."""
assert len(SYMBOLS) == MAX_ELEMENT + 1
