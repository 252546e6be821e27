import random
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem, rdBase

from shards import FeaturizeError, schema
from shards.featurize import parse_molecule

ATTACKS = runpy.run_path(str(Path(__file__).parents[1] / "attacks" / "molecules.py"))
ACCEPTED = [text for text, reason in ATTACKS["MOLECULES"] if reason is None]
# every feature code at least once, and what RDKit treats apart
ODD = [
    *ACCEPTED,
    "F/C=C/Cl",
    "F/C=C\\Cl",
    "CC=CC",
    "C[C@H](N)C(=O)O",
    "[NH4+].[Cl-]",
    "[CH3]",
    "[O][O]",
    "C[N+](=O)[O-]",
    "c1ccc2[nH]ccc2c1",
    "O=c1cc[nH]cc1",
    "[Cu+2]",
    "C#N",
    "C[Se]C",
    "[SiH4]",
    "B(O)(O)c1ccccc1",
    "OI(=O)(=O)=O",
    "C12C3C4C1C5C2C3C45",
    "[Fe]" + "(Cl)" * 11 + "Cl",
]


def labels_by_element(smiles: str) -> list[tuple[str, int]]:
    """(element, entry of an atom list) of each stored atom."""
    parsed = parse_molecule(smiles)
    assert parsed.label_index is not None, parsed.map_problem
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    return [(symbol(int(z)), int(k)) for z, k in zip(parsed.atom_codes[:, 0], parsed.label_index, strict=True)]


def test_map_number_zero_is_an_atom_of_its_own():
    assert sorted(labels_by_element("[CH3:1][OH:0]")) == [("C", 1), ("O", 0)]
    assert sorted(labels_by_element("[CH3:0][OH:1]")) == [("C", 0), ("O", 1)]


def test_the_only_heavy_atom_without_a_map_is_atom_zero():
    assert sorted(labels_by_element("[CH3:1]O")) == [("C", 1), ("O", 0)]
    assert sorted(labels_by_element("C[NH:1][OH:2]")) == [("C", 0), ("N", 1), ("O", 2)]


def test_a_map_lost_inside_a_ring_or_an_aromatic_atom_is_found():
    assert sorted(labels_by_element("[nH:1]1[cH:2][cH:3]c[cH:4]1")) == [("C", 0), ("C", 2), ("C", 3), ("C", 4), ("N", 1)]


def test_maps_written_with_leading_zeros_count():
    assert sorted(labels_by_element("[CH3:001][OH:00]")) == [("C", 1), ("O", 0)]


def test_two_unmapped_heavy_atoms_are_not_guessed():
    parsed = parse_molecule("[CH3:2]CO")
    assert parsed.label_index is None
    assert "not 0..2" in parsed.map_problem


def test_without_any_map_lists_run_in_the_order_of_the_text():
    assert labels_by_element("OC(Cl)Br") == [("O", 0), ("C", 1), ("Cl", 2), ("Br", 3)]
    assert sorted(labels_by_element("BrC(Cl)O")) == [("Br", 0), ("C", 1), ("Cl", 2), ("O", 3)]
    # the colon of an aromatic bond is no map
    assert sorted(labels_by_element("o1:c:c:c:c1"))[-1] == ("O", 0)


def test_explicit_hydrogens_go_and_their_maps_with_them():
    assert labels_by_element("[C:0]([H:1])([H:2])([H:3])[H:4]") == [("C", 0)]
    assert sorted(labels_by_element("[H:4][C:1]([H:2])([H:3])[O:0][H:5]")) == [("C", 1), ("O", 0)]
    parsed = parse_molecule("[H:4][C:1]([H:2])([H:3])[O:0][H:5]")
    assert (parsed.smiles, parsed.num_heavy, parsed.num_all) == ("CO", 2, 6)


def test_isotopic_hydrogens_stay_and_have_no_entry_of_a_heavy_list():
    assert sorted(labels_by_element("[2H][CH2:1][OH:0]")) == [("C", 1), ("H", -1), ("O", 0)]
    assert sorted(labels_by_element("[2H:5][CH2:1][OH:0]")) == [("C", 1), ("H", 5), ("O", 0)]
    assert sorted(labels_by_element("[2H]CO")) == [("C", 0), ("H", -1), ("O", 1)]


def test_a_molecule_of_hydrogens_is_labelled_on_them():
    assert sorted(labels_by_element("[H:0][H:1]")) == [("H", 0), ("H", 1)]
    assert parse_molecule("[H][H]").num_heavy == 2


@pytest.mark.parametrize("smiles", ATTACKS["MAP_ATTACKS"])
def test_maps_that_are_not_a_numbering_of_the_heavy_atoms_are_reported(smiles):
    parsed = parse_molecule(smiles)
    assert parsed.label_index is None
    assert re.search(r"not 0\.\.1|not 0\.\.2", parsed.map_problem)


@pytest.mark.parametrize(("smiles", "reason"), [a for a in ATTACKS["MOLECULES"] if a[1]])
def test_what_is_no_molecule_is_rejected_with_a_reason(smiles, reason):
    with pytest.raises(FeaturizeError, match=reason):
        parse_molecule(smiles)


@given(st.text(max_size=40) | st.text("CNOcn[]()=#:+-@/\\.%0123H ", max_size=30))
def test_any_text_is_a_molecule_or_a_reason(text):
    try:
        parsed = parse_molecule(text)
    except FeaturizeError as error:
        assert str(error)  # noqa: PT017
    else:
        assert len(parsed.atom_codes)
        assert ":" not in parsed.smiles


def test_a_chain_too_long_for_rdkit_is_rejected_before_it_overflows_the_stack():
    code = (
        "from shards.featurize import FeaturizeError, parse_molecule, schema\n"
        "assert len(parse_molecule('C' * schema.MAX_ATOMS).atom_codes) == schema.MAX_ATOMS\n"
        "for n in (schema.MAX_ATOMS + 1, 60_000):\n"
        "    try: parse_molecule('C' * n)\n"
        "    except FeaturizeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["10001 atoms, more than 10000", "60000 atoms, more than 10000"]


def plain_features(mol: Chem.Mol) -> tuple[np.ndarray, list]:
    """The documented codes by RDKit's getters, atom by atom."""
    atoms = [
        (
            a.GetAtomicNum(),
            a.GetDegree() if a.GetDegree() <= 10 else 11,
            a.GetFormalCharge() + 5 if -5 <= a.GetFormalCharge() <= 5 else 11,
            a.GetNumRadicalElectrons() if a.GetNumRadicalElectrons() <= 4 else 5,
            a.GetTotalValence() if a.GetTotalValence() <= 8 else 9,
            int(a.GetIsAromatic()),
            int(a.IsInRing()),
        )
        for a in mol.GetAtoms()
    ]
    kinds = {"SINGLE": "single", "DOUBLE": "double", "TRIPLE": "triple", "AROMATIC": "aromatic"}
    stereos = {
        "STEREONONE": "none",
        "STEREOANY": "any",
        "STEREOZ": "z",
        "STEREOE": "e",
        "STEREOCIS": "cis",
        "STEREOTRANS": "trans",
    }
    bonds = [
        (
            *sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())),
            kinds.get(b.GetBondType().name, "other"),
            stereos.get(b.GetStereo().name, "other"),
            b.IsInRing(),
        )
        for b in mol.GetBonds()
    ]
    return np.array(atoms, np.uint8), bonds


def read_bond(code: int) -> tuple[str, str, bool]:
    """A bond code by the rule of the manifest: mixed radix, first feature most significant."""
    digits = []
    for feature in reversed(schema.BOND_FEATURES):
        code, digit = divmod(int(code), feature.num_codes)
        digits.append(digit)
    assert code == 0
    ring, stereo, kind = digits
    return schema.BOND_TYPES[kind], schema.BOND_STEREO[stereo], bool(ring)


def check_features(smiles: str) -> None:
    parsed = parse_molecule(smiles)
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(parsed.smiles)
    atoms, bonds = plain_features(mol)
    assert np.array_equal(parsed.atom_codes, atoms), parsed.smiles
    found = [(int(a), int(b), *read_bond(c)) for (a, b), c in zip(parsed.bond_atoms, parsed.bond_codes, strict=True)]
    assert sorted(found) == sorted(bonds), parsed.smiles
    assert [(b, a) for a, b, *_ in found] == sorted((b, a) for a, b, *_ in found)
    assert all(a < b for a, b, *_ in found)
    assert (parsed.atom_codes < [f.num_codes for f in schema.ATOM_FEATURES]).all()


def check_stable(smiles: str) -> None:
    once = parse_molecule(smiles)
    again = parse_molecule(once.smiles)
    assert once.smiles == again.smiles
    for name in ("atom_codes", "bond_atoms", "bond_codes"):
        assert np.array_equal(getattr(once, name), getattr(again, name)), (name, once.smiles)


@pytest.mark.parametrize("smiles", ODD)
def test_codes_of_odd_molecules_are_those_of_rdkit_on_the_stored_smiles(smiles):
    check_features(smiles)
    check_stable(smiles)


def test_codes_of_real_molecules_are_those_of_rdkit_on_the_stored_smiles(sample_smiles):
    for smiles in sample_smiles:
        check_features(smiles)


def test_featurising_a_stored_smiles_again_changes_nothing(sample_smiles):
    for smiles in sample_smiles:
        check_stable(smiles)


def test_explicit_and_implicit_hydrogens_give_the_same_molecule(sample_smiles):
    for smiles in sample_smiles[::5]:
        parsed = parse_molecule(smiles)
        mapped = Chem.AddHs(Chem.MolFromSmiles(parsed.smiles))
        for atom in mapped.GetAtoms():
            atom.SetAtomMapNum(atom.GetIdx() + 1)
        text = re.sub(r":(\d+)\]", lambda m: f":{int(m[1]) - 1}]", Chem.MolToSmiles(mapped))
        full = parse_molecule(text)
        assert full.smiles == parsed.smiles
        assert np.array_equal(full.atom_codes, parsed.atom_codes)
        assert np.array_equal(full.bond_codes, parsed.bond_codes)
        assert (full.num_heavy, full.num_all) == (parsed.num_heavy, parsed.num_all)


def test_the_order_of_atoms_in_the_text_does_not_matter(sample_smiles):
    for seed, smiles in enumerate(sample_smiles[::10]):
        parsed = parse_molecule(smiles)
        for other in Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(parsed.smiles), 3, randomSeed=seed + 1):
            again = parse_molecule(other)
            assert again.smiles == parsed.smiles
            assert np.array_equal(again.atom_codes, parsed.atom_codes)


def test_every_odd_molecule_keeps_its_labels_on_its_atoms_however_it_is_written():
    draw = random.Random(1)
    for smiles in ("F/C=C/Cl", "C[C@H](N)C(=O)O", "c1ccc2[nH]ccc2c1", "[NH4+].[Cl-]", "OC(Cl)Br"):
        mol = Chem.MolFromSmiles(smiles)
        order = list(range(mol.GetNumAtoms()))
        draw.shuffle(order)
        for atom, number in zip(mol.GetAtoms(), order, strict=True):
            atom.SetAtomMapNum(number + 1)
        elements = {a.GetAtomMapNum() - 1: a.GetAtomicNum() for a in mol.GetAtoms()}
        for text in Chem.MolToRandomSmilesVect(mol, 5, randomSeed=3):
            parsed = parse_molecule(re.sub(r":(\d+)\]", lambda m: f":{int(m[1]) - 1}]", text))
            assert [elements[int(k)] for k in parsed.label_index] == parsed.atom_codes[:, 0].tolist()


def test_an_unmapped_text_with_hydrogens_says_nothing_of_a_list_over_all_atoms():
    assert parse_molecule("CO").num_all == 6
    assert parse_molecule("C([H])([H])([H])O").num_all == parse_molecule("C([H])([H])([H])O").num_heavy == 2
