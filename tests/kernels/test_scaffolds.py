"""Scaffold hashes equal their twin, and put together what RDKit's Murcko scaffolds do, but for what `hash_scaffolds` lists."""

from collections import defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow.parquet as pq
import pytest
import twins.scaffolds
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds.MurckoScaffold import GetScaffoldForMol

from molstream.kernels.chemistry.scaffolds import hash_scaffolds
from molstream.kernels.chemistry.skeletons import hash_skeletons
from molstream.shards import schema
from molstream.shards.chemistry.parser import featurize

NUM_STEREO = len(schema.BOND_STEREO)
FEATURES = [feature.name for feature in schema.ATOM_FEATURES]
ELEMENT, DEGREE, CHARGE, RADICALS, VALENCE, AROMATIC, RING = map(
    FEATURES.index, "element degree charge radicals valence aromatic ring".split()
)
ONE_SCAFFOLD = {
    "substituents": "C1CCCCC1 CC1CCCCC1O C1CCCCC1C(F)(F)F OC(=O)C1CCCCC1 N#CC1CCCCC1 C#CC1CCCCC1 C1CCCCC1C=CC=C O=CC1CCCCC1",
    "exocyclic =O": "O=C1CCCCC1 CC1CCCCC1=O",
    "exocyclic =C": "C=C1CCCCC1 CC(C)=C1CCCCC1 C1CCCCC1=C=C=C O=C=C1CCCCC1 OC(=O)C=C1CCCC(C)C1",
    "exocyclic =N": "N=C1CCCCC1 ON=C1CCCCC1 C1CCCCC1=NN=CC=C",
    "=O at a linker": "O=C(C1CC1)c1ccccc1 Cc1ccc(cc1)C(=O)C1CC1C#N",
    "=C at a linker": "C=C(C1CC1)c1ccccc1 CC=C(C1CC1)c1ccccc1 OC(=O)C(C)=C(C1CC1)c1ccccc1",
    "sulfone in a ring": "O=S1(=O)CCCC1 CC1CCCS1(=O)=O",
    "sulfonamide between rings": "O=S(=O)(Nc1ccccc1)c1ccccc1 Cc1ccc(cc1)S(=O)(=O)N(C)c1ccccc1",
    "sulfone beside a ring": "c1ccccc1 CS(=O)(=O)c1ccccc1 NS(=O)(=O)c1ccccc1",
    "N-oxide and pyridinium": "c1cc[nH+]cc1 [O-][n+]1ccccc1 C[n+]1ccccc1",
    "triple bond": "C1CCPC1 CP1CCCC1 N#P1CCCC1",
    "nitro": "C1CC1 O=[N+]([O-])C1CC1",
    "sulfoxide with charges": "C1CC[S+]([O-])C1 C1CC[S+](C)C1 C1CC[SH+]C1",
    "ammonium in a ring": "C1CC[NH2+]C1 C[N+]1(C)CCCC1 C[NH+]1CCCC1",
    "borate in a ring": "F[B-]1(F)CCCC1 C1CC[BH2-]C1",
    "NH and NR": "c1cc[nH]c1 Cn1cccc1 Cc1cccn1CCO",
    "NH and NR of a tautomer": "c1ccc2[nH]cnc2c1 Cn1cnc2ccccc21 Cn1cnc2cc(C)ccc21",
    "NH and NR of a lactam": "O=c1cccc[nH]1 Cn1ccccc1=O",
    "NH and NR in a saturated ring": "C1CCNCC1 CN1CCCCC1 CC(=O)N1CCCCC1",
    "salts": "C1CNCCN1 C1CNCCN1.Cl C1CNCCN1.OC(=O)C=CC(=O)O [Na+].[Cl-].CN1CCNCC1",
    "two fragments with rings": "C1CC1.c1ccccc1 Cc1ccccc1.CC1CC1.O",
    "stereo": "C[C@H]1CC[C@@H](O)CC1C=C1CC1 C[C@@H]1CC[C@H](O)CC1C=C1CC1",
    "stereo of a linker": "C(=C/c1ccccc1)\\C1CC1 C(=C\\c1ccccc1)\\C1CC1",
    "isotopes": "[13CH2]1CO1 C1CO1 [2H]C1CO1",
    "spiro": "C1CCC2(CC1)CCNC2 CC1CCC2(CC1)CCN(C)C2",
    "fused": "C1CCC2CNCCC2C1 CC1CCC2CNCC(O)C2C1",
    "bridged": "C1CC2CCC1O2 CC1CC2CCC1(C)O2",
    "macrocycle": "O1CCCCCCCCCCCCCCCCCCC1 O1CCCCC(C)CCCCCCCCC(O)CCCCC1",
    "long linkers": "C(CCCCCOCCCc1ccncc1)CCCCC1CC1 CC(CCCCOCC(C)Cc1ccncc1)CCCCCC1CC1",
}
"""Each line: SMILES that have one scaffold."""
SCAFFOLDS = """
C1CC1 C1CCC1 C1CCCC1 C1CCCCC1 C1=CCCCC1 c1ccccc1 c1ccncc1 c1cc[nH+]cc1 C1CCNCC1 C1CC[NH2+]CC1 C1CCOCC1 C1CCSCC1 O=C1CCCCC1
S=C1CCCCC1 N=C1CCCCC1 C=C1CCCCC1 O=S1CCCC1 O=S1(=O)CCCC1 C1CCSC1 C1CC[SH+]C1 C1CC[BH2-]C1 c1cc[nH]c1 c1ccoc1 c1ccsc1 [CH]1CCCC1
[C]1CCCC1 [CH-]1CCCC1 [CH+]1CCCC1 C1CCC2CCCCC2C1 C1CCC(C1)C1CCCC1 C1CCC2(CC1)CCCC2 c1ccc(-c2ccccc2)cc1 c1ccc2c(c1)-c1ccccc1-2
c1ccc(Cc2ccccc2)cc1 c1ccc(CCc2ccccc2)cc1 C(=Cc1ccccc1)c1ccccc1 C(#Cc1ccccc1)c1ccccc1 O=C(c1ccccc1)c1ccccc1 C=C(c1ccccc1)c1ccccc1
O=S(c1ccccc1)c1ccccc1 C12C3C4C1C5C2C3C45 C12C3C1C4C5C2C3C45 C1C2CC3CC1CC(C2)C3 C1C2CC(C1)C1CC2C1 C1CC1.C1CC1 C1CC1.C1CC1.C1CC1
C1CCCCCCCC1 C1CC1.C1CCCCC1 C1CCC(C1)CC1CCCC1 C1CCC2CCCC2C1 C1CC2CCC1CC2 C1CC2CCC1C2 C1CCCCCCCCCCCCCCCCCCCC1
C1CCCCCCCCCCCCCCCCCCC1 *1CCCCC1
""".split()
"""SMILES of different scaffolds, some alike but for the sizes of their rings."""
DIFFERENCES = {
    "hydrogen on an aromatic atom": ("Cn1ccc(-c2ccccc2)n1", "Cn1nccc1-c1ccccc1"),
    "hydrogen beside a ring": ("C1CCCC1=[NH2+]", "C1CCCC1=[N+](C)C"),
    "hydrogen on an aromatic anion": ("c1cc[cH-]c1", "C[c-]1cccc1"),
    "hydrogen of a high valence": ("C1CC[SH2]C1", "CS1(C)CCCC1"),
    "quadruple bond": ("C1CC1[Cr]$[Cr]C1CC1", "C1CC1[Cr]->[Cr]C1CC1"),
    "alike around every atom": ("C12C3C4C1C5C2C3C45", "C12C3C4C1C1C2C4C31"),
    "too far from every atom": (f"C1CC1{'C' * 33}N{'C' * 37}C1CC1", f"C1CC1{'C' * 35}N{'C' * 35}C1CC1"),
}
"""What RDKit tells apart and hashes do not."""


def columns_of(smiles):
    found = featurize(smiles)
    assert not found.rejects
    return found


def hash_columns(columns, key=0):
    arrays = (columns.atom_ptr, columns.bond_ptr, columns.atom_codes, columns.bond_atoms, columns.bond_codes)
    return hash_scaffolds(*arrays, num_stereo=NUM_STEREO, key=key)


def hash_smiles(*smiles, key=0):
    return hash_columns(columns_of(smiles), key=key).tolist()


@pytest.fixture(scope="module")
def real(sample_smiles):
    """300 real molecules."""
    return columns_of(sample_smiles)


@cache
def scaffold_smiles(smiles, *, aromatic_hydrogens=True):
    """RDKit's scaffold without stereo; '' where there is none."""
    with rdBase.BlockLogs():
        scaffold = GetScaffoldForMol(Chem.MolFromSmiles(smiles))
        for atom in scaffold.GetAtoms():
            if atom.GetIsAromatic() and not aromatic_hydrogens:
                atom.SetNoImplicit(True)
                atom.SetNumExplicitHs(0)
        return Chem.MolToSmiles(scaffold, isomericSmiles=False)


def parts_of(smiles, names):
    """Which molecules share a name, but for those with the empty scaffold."""
    groups = defaultdict(set)
    for i, (text, name) in enumerate(zip(smiles, names, strict=True)):
        if scaffold_smiles(text):
            groups[name].add(i)
    return {frozenset(group) for group in groups.values()}


def tally(smiles):
    """(molecules with rings, RDKit's groups, those of them that hashes cut, molecules beside the largest group in their hash)."""
    groups, hashes = defaultdict(set), defaultdict(lambda: defaultdict(int))
    for text, number in zip(smiles, hash_smiles(*smiles), strict=True):
        if scaffold := scaffold_smiles(text):
            groups[scaffold].add(number)
            hashes[number][scaffold] += 1
    counts = [list(inside.values()) for inside in hashes.values()]
    cut = [scaffold for scaffold, numbers in groups.items() if len(numbers) > 1]
    return sum(map(sum, counts)), len(groups), cut, sum(sum(c) - max(c) for c in counts)


@pytest.mark.parametrize("case", ONE_SCAFFOLD)
def test_molecules_of_one_scaffold_share_a_hash(case):
    smiles = ONE_SCAFFOLD[case].split()
    assert len({scaffold_smiles(text) for text in smiles}) == 1, "not what this test is about"
    assert len(set(hash_smiles(*smiles))) == 1


def test_different_scaffolds_have_different_hashes():
    smiles = SCAFFOLDS + [line.split()[-1] for line in ONE_SCAFFOLD.values()]
    assert parts_of(smiles, hash_smiles(*smiles)) == parts_of(smiles, map(scaffold_smiles, smiles))


@pytest.mark.parametrize("case", DIFFERENCES)
def test_documented_differences_from_rdkit_are_there(case):
    one, other = DIFFERENCES[case]
    assert scaffold_smiles(one) != scaffold_smiles(other)
    assert len(set(hash_smiles(one, other))) == 1


def test_rings_of_dative_bonds_count_here_beside_other_rings_and_not_with_rdkit():
    chelate, plain = "c1ccccc1C1CN->[Pt](Cl)(Cl)<-NC1", "c1ccccc1"
    assert scaffold_smiles(chelate) == scaffold_smiles(plain)
    assert len(set(hash_smiles(chelate, plain))) == 2
    alone = columns_of(["C1CN->[Pt](Cl)(Cl)<-N1"])
    skeletons = hash_skeletons(alone.atom_ptr, alone.bond_ptr, alone.atom_codes[:, ELEMENT], alone.bond_atoms)
    np.testing.assert_array_equal(hash_columns(alone), skeletons)


def test_features_thirty_bonds_apart_are_seen_together():
    hashes = hash_smiles(f"C1CC1{'C' * 29}N{'C' * 31}C1CC1", f"C1CC1{'C' * 30}N{'C' * 30}C1CC1")
    assert hashes[0] != hashes[1]


def test_molecules_without_rings_have_the_hash_of_their_skeleton():
    smiles = ["C", "CCO", "CC=O", "[Na+].[Cl-]", "CCCCN", "[H][H]", "c1ccccc1", "C[N+](C)(C)C"]
    columns = columns_of(smiles)
    skeletons = hash_skeletons(columns.atom_ptr, columns.bond_ptr, columns.atom_codes[:, ELEMENT], columns.bond_atoms, key=5)
    same = (hash_columns(columns, key=5) == skeletons).tolist()
    assert same == [text != "c1ccccc1" for text in smiles]


def test_real_molecules_fall_into_rdkits_groups(sample_smiles):
    smiles = columns_of(sample_smiles).smiles.tolist()
    expected = parts_of(smiles, [scaffold_smiles(text, aromatic_hydrogens=False) for text in smiles])
    assert len(expected) > 100
    assert parts_of(smiles, hash_smiles(*smiles)) == expected


@pytest.mark.slow
def test_all_sample_molecules_fall_into_rdkits_groups_but_for_tautomers(data_dir):
    tables = [pq.read_table(path, columns=["ordered_smiles"]) for path in sorted((data_dir / "pm6_sample").glob("*.parquet"))]
    smiles = columns_of([text for table in tables for text in table["ordered_smiles"].to_pylist()]).smiles.tolist()
    # as `hash_scaffolds` says
    molecules, groups, cut, beside = tally(smiles)
    assert (molecules, groups, cut) == (4506, 3571, [])
    assert beside <= 0.003 * molecules
    expected = parts_of(smiles, [scaffold_smiles(text, aromatic_hydrogens=False) for text in smiles])
    assert parts_of(smiles, hash_smiles(*smiles)) == expected


def renumber(columns, rng):
    """The same molecules with atoms, bonds and ends of bonds in another order."""
    atom_codes, bond_atoms, bond_codes = columns.atom_codes.copy(), columns.bond_atoms.copy(), columns.bond_codes.copy()
    for a, b, c, d in zip(columns.atom_ptr[:-1], columns.atom_ptr[1:], columns.bond_ptr[:-1], columns.bond_ptr[1:], strict=True):
        place = rng.permutation(b - a)
        atom_codes[a:b][place] = columns.atom_codes[a:b]
        order = rng.permutation(d - c)
        bond_codes[c:d] = columns.bond_codes[c:d][order]
        bond_atoms[c:d] = rng.permuted(place[columns.bond_atoms[c:d][order]], axis=1)
    return replace(columns, atom_codes=atom_codes, bond_atoms=bond_atoms, bond_codes=bond_codes)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_numbering_of_real_molecules_does_not_count(real, seed):
    renumbered = renumber(real, np.random.default_rng(seed))
    np.testing.assert_array_equal(hash_columns(renumbered), hash_columns(real))


def test_stereo_degree_and_valence_do_not_count(real):
    kind, ring = real.bond_codes // (2 * NUM_STEREO), real.bond_codes % 2
    rng = np.random.default_rng(0)
    bond_codes = (kind * NUM_STEREO + rng.integers(NUM_STEREO, size=kind.size)) * 2 + ring
    atom_codes = real.atom_codes.copy()
    atom_codes[:, [DEGREE, VALENCE]] = rng.integers(8, size=(len(atom_codes), 2))
    changed = replace(real, atom_codes=atom_codes, bond_codes=bond_codes)
    np.testing.assert_array_equal(hash_columns(changed), hash_columns(real))


@pytest.mark.parametrize("column", [ELEMENT, CHARGE, RADICALS, AROMATIC])
def test_what_an_atom_of_the_scaffold_is_counts(column):
    benzene = columns_of(["c1ccccc1"])
    before = hash_columns(benzene)
    benzene.atom_codes[2, column] ^= 1
    assert hash_columns(benzene) != before


def test_keys_and_real_scaffolds_give_different_hashes(real):
    hashes = np.stack([hash_columns(real, key=key) for key in (0, 1, 2, 2**64 - 1)])
    assert (np.diff(np.sort(hashes, axis=0), axis=0) > 0).all()
    assert len({np.unique(row).size for row in hashes}) == 1
    assert len(np.unique(hashes)) == 4 * len(np.unique(hashes[0]))


def test_hash_never_changes():
    assert hash_smiles("c1ccccc1", "Cc1ccc(cc1)C(=O)C1CC1") == [0x2D14983F71A81E13, 0xFBCA08B850AAE103]
    assert hash_smiles("c1ccccc1", key=42) == [0x86FC66C9E382158F]


def test_atoms_without_all_codes_are_refused():
    ptr = np.array([0, 1])
    with pytest.raises(ValueError, match=r"shape \(1, 1\), expected \(atoms, 7\)"):
        hash_scaffolds(ptr, ptr - ptr, np.array([[6]]), np.empty((0, 2)), np.empty(0), num_stereo=NUM_STEREO)


@st.composite
def molecules(draw):
    """(atom codes, bond atoms, bond codes): any graph and any flags, loops and double entries included."""
    code = st.integers(0, 2)
    num_atoms = draw(st.integers(0, 10))
    in_ring = st.sampled_from([0, 0, 1])
    atoms = draw(st.lists(st.tuples(code, code, code, code, code, code, in_ring), min_size=num_atoms, max_size=num_atoms))
    atom = st.integers(0, max(0, num_atoms - 1))
    bond = st.tuples(atom, atom, st.integers(0, schema.NUM_BOND_CODES - 1))
    bonds = draw(st.lists(bond, max_size=14)) if num_atoms else []
    # a chain now and then, to have long rings and linkers
    if draw(st.booleans()):
        bonds += [(i, i + 1, draw(st.sampled_from([0, 1, 14, 15]))) for i in range(num_atoms - 1)]
    return atoms, bonds


def arrays_of(batch):
    atoms = np.array([a for atoms, _ in batch for a in atoms], np.uint8).reshape(-1, 7)
    bonds = np.array([b for _, bonds in batch for b in bonds], np.uint16).reshape(-1, 3)
    atom_ptr = np.cumsum([0] + [len(atoms) for atoms, _ in batch])
    bond_ptr = np.cumsum([0] + [len(bonds) for _, bonds in batch])
    return atom_ptr, bond_ptr, atoms, bonds[:, :2], bonds[:, 2].astype(np.uint8)


@given(batch=st.lists(molecules(), max_size=5), key=st.integers(0, 2**64 - 1))
@settings(max_examples=100)
def test_scaffold_hash_equals_its_twin(batch, key):
    arrays = arrays_of(batch)
    expected = twins.scaffolds.hash_scaffolds(*arrays, num_stereo=NUM_STEREO, key=key)
    assert hash_scaffolds(*arrays, num_stereo=NUM_STEREO, key=key).tolist() == expected


def test_scaffold_hash_of_real_molecules_equals_its_twin(real):
    arrays = (real.atom_ptr[:61], real.bond_ptr[:61], real.atom_codes, real.bond_atoms, real.bond_codes)
    expected = twins.scaffolds.hash_scaffolds(*arrays, num_stereo=NUM_STEREO, key=7)
    assert hash_scaffolds(*arrays, num_stereo=NUM_STEREO, key=7).tolist() == expected


@pytest.mark.parametrize("size", [3, 15, 16, 17, 18])
def test_ring_of_any_size_equals_its_twin(size):
    ring = [((6, 2, 5, 0, 4, 0, 1), (i, (i + 1) % size, 1)) for i in range(size)]
    arrays = arrays_of([tuple(zip(*ring))])
    expected = twins.scaffolds.hash_scaffolds(*arrays, num_stereo=NUM_STEREO)
    assert hash_scaffolds(*arrays, num_stereo=NUM_STEREO).tolist() == expected
