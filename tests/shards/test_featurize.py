import os
import random
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem, rdBase

import molstream.shards.chemistry.parser as module
from molstream.kernels.chemistry import structure
from molstream.shards import schema
from molstream.shards.chemistry.parser import ATOM_MAP, TRIAL, Structures, featurize, parse_molecule
from molstream.shards.errors import FeaturizeError

ATTACKS = runpy.run_path(str(Path(__file__).parents[1] / "attacks" / "molecules.py"))
ACCEPTED = [text for text, reason in ATTACKS["MOLECULES"] if reason is None]
# every feature code at least once, and what RDKit treats apart
ODD = [
    *ACCEPTED,
    *"F/C=C/Cl F/C=C\\Cl CC=CC C[C@H](N)C(=O)O [NH4+].[Cl-] [CH3] [O][O] C[N+](=O)[O-] c1ccc2[nH]ccc2c1 O=c1cc[nH]cc1".split(),
    *"[Cu+2] C#N C[Se]C [SiH4] B(O)(O)c1ccccc1 OI(=O)(=O)=O C12C3C4C1C5C2C3C45".split(),
    "[Fe]" + "(Cl)" * 11 + "Cl",
]


def labels_by_element(smiles: str) -> list[tuple[str, int]]:
    """(element, entry of an atom list) of each stored atom."""
    parsed = parse_molecule(smiles)
    assert parsed.label_index is not None, parsed.map_problem
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    return [(symbol(int(z)), int(k)) for z, k in zip(parsed.atom_codes[:, 0], parsed.label_index, strict=True)]


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
    assert "heavy atoms do not count them from zero or one" in parsed.map_problem


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
    assert "heavy atoms do not count them from zero or one" in parsed.map_problem


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
        "from molstream.shards.chemistry.parser import FeaturizeError, parse_molecule, schema\n"
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
    kinds = {name.upper(): name for name in ("single", "double", "triple", "aromatic")}
    stereos = {f"STEREO{name.upper()}": name for name in ("none", "any", "z", "e", "cis", "trans")}
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


def test_the_order_of_atoms_in_the_text_does_not_matter(sample_smiles):
    for seed, smiles in enumerate(sample_smiles[::10]):
        parsed = parse_molecule(smiles)
        for other in Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(parsed.smiles), 3, randomSeed=seed + 1):
            again = parse_molecule(other)
            assert again.smiles == parsed.smiles
            assert np.array_equal(again.atom_codes, parsed.atom_codes)


def test_hydrogens_are_counted_however_they_are_written():
    for text in ("CO", "C([H])([H])([H])O", "[CH3][OH]", "[H]OC", "[2H]OC"):
        parsed = parse_molecule(text)
        assert (parsed.num_heavy, parsed.num_all) == (2, 6)


@pytest.mark.parametrize("smiles", ["[CH3:{1}][CH2:{0}][OH:{2}]", "[CH3:{1}][C:{0}]([H:{4}])([H:{3}])[OH:{2}]", "[CH4:{0}]"])
def test_atom_maps_may_count_from_one(smiles):
    zero, one = (smiles.format(*range(start, start + 5)) for start in (0, 1))
    assert parse_molecule(zero).label_index.tolist() == parse_molecule(one).label_index.tolist()
    found = featurize([zero, one, "CO"])
    assert not found.map_problems
    assert len(found.rows) == 3
    assert np.array_equal(*(found.label_index[found.atom_ptr[k] : found.atom_ptr[k + 1]] for k in (0, 1)))


# batches: many molecules read together, to the letter what each gives by itself


def by_hand(texts: list[str | None]) -> Structures:
    """The columns of a batch out of `parse_molecule`, put together anew."""
    rows, parsed, rejects = [], [], {}
    for i, text in enumerate(texts):
        try:
            parsed.append(parse_molecule(text or ""))
            rows.append(i)
        except FeaturizeError as error:
            rejects[i] = str(error)
    atoms = [codes for p in parsed for codes in p.atom_codes.tolist()]
    bonds = [pair for p in parsed for pair in p.bond_atoms.tolist()]
    index = [k for p in parsed for k in (len(p.atom_codes) * [-1] if p.label_index is None else p.label_index.tolist())]
    return Structures(
        rows=np.array(rows, np.int64),
        atom_ptr=np.cumsum([0, *(len(p.atom_codes) for p in parsed)]),
        bond_ptr=np.cumsum([0, *(len(p.bond_codes) for p in parsed)]),
        atom_codes=np.array(atoms, np.uint8).reshape(-1, len(schema.ATOM_FEATURES)),
        bond_atoms=np.array(bonds, np.uint16).reshape(-1, 2),
        bond_codes=np.array([code for p in parsed for code in p.bond_codes.tolist()], np.uint8),
        smiles=np.array([p.smiles for p in parsed], object),
        label_index=np.array(index, np.int32),
        num_heavy=np.array([p.num_heavy for p in parsed], np.int32),
        num_all=np.array([p.num_all for p in parsed], np.int32),
        map_problems={k: p.map_problem for k, p in enumerate(parsed) if p.label_index is None},
        rejects=rejects,
    )


def check_batch(texts: list[str | None]) -> Structures:
    batch, expected = featurize(texts), by_hand(texts)
    for field in fields(Structures):
        found, wanted = getattr(batch, field.name), getattr(expected, field.name)
        if isinstance(wanted, np.ndarray):
            assert found.dtype == wanted.dtype, field.name
            assert found.shape == wanted.shape, field.name
            different = np.flatnonzero((found != wanted).reshape(len(found), -1).any(axis=1)) if found.size else []
            assert not len(different), (field.name, different[:5])
        else:
            assert found == wanted, field.name
    return batch


def read_apart(texts: list[str]) -> list[str]:
    """Texts that are not read together with the others."""
    return [texts[i] for i in module._read_together(texts)[1]]


def random_texts(smiles: str, *, seed: int, number: int, hydrogens: bool = False) -> list[str]:
    """The molecule written in random orders, with the atom maps it has."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or mol.GetNumAtoms() > 500:
            return []
        if hydrogens:
            mol = Chem.AddHs(mol)
        return list(Chem.MolToRandomSmilesVect(mol, number, randomSeed=seed))


@pytest.fixture(scope="session")
def many_smiles(sample_smiles) -> list[str]:
    """All real molecules at hand, with atom maps."""
    if not os.environ.get("MOLSTREAM_DATA"):
        return sample_smiles
    folder = Path(os.environ["MOLSTREAM_DATA"]) / "pm6_sample"
    tables = [pq.read_table(path, columns=["ordered_smiles"]) for path in sorted(folder.glob("*.parquet"))]
    return [smiles for table in tables for smiles in table["ordered_smiles"].to_pylist()]


@pytest.mark.slow
def test_a_batch_of_real_molecules_is_what_each_gives_by_itself(many_smiles):
    batch = check_batch(many_smiles)
    assert len(batch.rows) == len(many_smiles)
    # or this file says nothing of reading together
    assert module._reads_together()
    assert read_apart(many_smiles) == []


def test_a_batch_of_molecules_without_maps_is_what_each_gives_by_itself(many_smiles):
    check_batch([ATOM_MAP.sub("]", smiles) for smiles in many_smiles[::12]])
    check_batch([parse_molecule(smiles).smiles for smiles in many_smiles[1::12]])


def test_a_batch_of_molecules_in_random_orders_is_what_each_gives_by_itself(many_smiles):
    seed = random.randrange(1, 2**30)
    print("seed", seed)
    draw = random.Random(seed)
    texts = []
    for smiles in draw.sample(many_smiles, min(300, len(many_smiles))):
        texts += random_texts(smiles, seed=seed, number=1)
        texts += random_texts(ATOM_MAP.sub("]", smiles), seed=seed, number=2)
    for smiles in draw.sample(many_smiles, 40):
        texts += random_texts(smiles, seed=seed, number=1, hydrogens=True)
    draw.shuffle(texts)
    check_batch(texts)


STRANGE = [
    # isotopes, charges, radicals
    "[13CH3:0][OH:1]", "[CH2]", "[CH]", "[C]", "c1cc[c]cc1", "[N]1C=CC=C1", "[C+200]", "[Fe+200]", "[Fe-129]", "[OH3+]",
    "[C-]#[O+]",
    "[CH2-][S+](C)C", "[FeH300]", "[CH10]", "[Fe+127]",
    # rings: fused, bridged, large, cages, one that needs three digits, a hydrocarbon with no six-membered ring aromatic
    "C1CC2CCC1CC2", "C1CC2CC3CC1CC(C2)C3", "C1" + "C" * 298 + "1", "C%(123)CC%(123)", "c1ccc2cccc-2cc1", "c1ccc2c(c1)-c1ccccc1-2",
    "c1cc2ccc3cccc4ccc(c1)c2c34", "C1=CC=CC=CC=C1", "C1=CC=C2C=CC=CC2=C1", "C12CC1C2", "c1ccccc1" + "-c1ccccc1" * 50,
    # aromatic atoms that are not carbon
    "[O-][n+]1ccccc1", "c1cc[o+]cc1", "[cH-]1cccc1", "[cH+]1cccccc1", "O=s1cccc1", "c1c2sc(cc2)s1", "[se]1cccc1", "[te]1cccc1",
    "b1ccccc1", "p1ccccc1", "O=c1[nH]c(=O)c2[nH]cnc2[nH]1", "c1:c:c:c:c:c1",
    # what RDKit rewrites
    "CN(=O)=O", "CN=N#N", "OCl(=O)(=O)=O", "OI(=O)=O", "C=P(=O)C", "FI(F)(F)(F)F", "C[SH](=O)=O", "F[Si-2](F)(F)(F)(F)F",
    # stereo of bonds and atoms, of cumulenes, rings and metals; marks that say nothing
    "C/C=C/C=C\\C", "C/1=C/CCCCCCCCCC1", "C/C(F)=C(/C)F", "CC\\C=C", "C/C=N/O", "CC(C)=NO", "C/C=C=C/C", "FC(Cl)=C=C(Cl)F",
    "C/C=C=C=C/C", "C/C=C1/CC1", "[C@@](F)(Cl)(Br)I", "C[C@H]1CC[C@@H](C)CC1", "C[S@](=O)CC", "CC(C)=[C@]=C(C)F",
    "[Pt@SP1](F)(Cl)(Br)I",
    "N[Co@OH1](N)(N)(N)(N)N", "C[C@](C)(C)C",
    # metals, dative and other bonds, wildcards, queries
    "C->[Fe]", "[Na]Cl", "C[Mg]Br", "Cl[Pt](Cl)(N)N", "C[Hg]C", "C~C", "[*:1]C", "[1*]C", "*C*",
    "[Fe]12345678c9c1c2c3c4c9.c1c5c6c7c8c1",
    # many neighbours, many atoms
    "[Fe]" + "(C)" * 19 + "C", "[Fe]" + "(C)" * 20 + "C", "[U]" + "(=C)" * 30 + "=C", "C" * 255, "C" * 256, "C" * 257,
    "F/C=C/" + "C" * 260,
    "[CH3:0]" + "".join(f"[CH2:{i}]" for i in range(1, 300)) + "[OH:300]", "C" * 10_001,
    # fragments
    "CC.CC.CC.CC.O.O.O.O", "[Cl-].[Cl-].[Ca+2]", "C1.C1", "[CH3:0][CH3:1].[CH3:3][CH3:2]", "[NH4+].[O-]C=O",
    # atom maps that say something else, or nothing
    "[CH3:123456789]C", "[CH3:1234567890]C", "[C:0]", "[c:0]1[c:1][c:2][c:3][c:4][c:5]1", "[CH3:0]C[CH3:1]", "C[CH2:2][CH3:1]",
    "[CH4:1]", "[CH4:5]",
    # hydrogens
    "[H]O[H]", "[H+]", "[2H:1][CH3:0]", "[H:3][O:0][H:1]", "[#1]C", "[3H][3H]", "[HH]", "C[2H]", "[He]", "[Hg]",
    # no molecules
    ".", "C.", ".C", "(C)", "C)", "[", "]", "[]", "[[C]]", "C[", "[C:]", "[C:1x]", "C:1", ":1]", "[CL]", "cl", "[R]C", "C11",
    "C1C1", "CnC", "[D]C",
    " C", "C ", "C\n", "C\tname", "CO\N{LATIN SMALL LETTER E WITH ACUTE}", None,
]  # fmt: skip


def test_a_batch_of_strange_molecules_is_what_each_gives_by_itself():
    texts = [*STRANGE, *ODD, *(text for text, _ in ATTACKS["MOLECULES"]), *ATTACKS["MAP_ATTACKS"], *TRIAL]
    check_batch(texts)
    check_batch(texts[::-1])
    rewritten = [other for i, text in enumerate(texts) for other in random_texts(text or "", seed=i + 1, number=2)]
    check_batch(rewritten)


@given(st.lists(st.sampled_from([*STRANGE[:60], *ODD]), max_size=5))
def test_a_molecule_does_not_depend_on_its_batch(texts):
    check_batch(texts)


PIECES = "C N O c n o s F Cl Br S P I B [N+] [nH] [O-] [CH2:1] [CH3:0] [OH:2] [C@H] [13CH2] [se] [Na+] [2H] [Fe] c1ccccc1".split()


@given(
    st.lists(
        st.lists(st.sampled_from([*PIECES, *PIECES, *"()=#:/\\.[]12"]), max_size=9).map("".join) | st.text(max_size=9), max_size=9
    )
)
def test_any_texts_give_the_same_together_and_apart(texts):
    check_batch(texts)


@pytest.mark.parametrize("texts", [[], [None], [""], ["[H]"], ["C("], ["C", None], [None, "C"]])
def test_batches_in_which_little_or_nothing_is_a_molecule(texts):
    batch = check_batch(texts)
    assert batch.atom_codes.shape[1] == len(schema.ATOM_FEATURES)
    assert sorted([*batch.rows, *batch.rejects]) == list(range(len(texts)))


def test_a_watcher_hears_of_every_entry_before_rdkit_reads_it(monkeypatch):
    texts = ["CO", "", "[2H]C", "C[C@H](N)O", "C(", "[#1]C", "*", None, "CCO", "c1cccc1"]
    heard: list[int] = []
    parse = Chem.MolFromSmiles

    def spy(text, *args):
        assert texts[heard[-1]] == text, "RDKit reads another entry than the watcher heard of last"
        return parse(text, *args)

    monkeypatch.setattr(module.Chem, "MolFromSmiles", spy)
    batch = featurize(texts, heard.append)
    assert set(heard) == set(range(len(texts)))
    assert batch.rows.tolist() == [0, 2, 3, 5, 6, 8]


def write_conformers(monkeypatch):
    monkeypatch.setattr(module, "_NO_CONFORMERS", 0)


def write_other_valences(monkeypatch):
    decode = structure.decode_molecules

    def changed(*args, **kwargs):
        columns = decode(*args, **kwargs)
        columns.atom_codes[:, 4] += columns.atom_codes[:, 0] == 16
        return columns

    monkeypatch.setattr(module.structure, "decode_molecules", changed)


def write_another_version(monkeypatch):
    decode = structure.decode_molecules

    def changed(forms, *args, **kwargs):
        return decode([b[:8] + b"\x11" + b[9:] if b[0] > 127 else b for b in forms], *args, **kwargs)

    monkeypatch.setattr(module.structure, "decode_molecules", changed)


def number_backwards(monkeypatch):
    decode = structure.decode_molecules

    def changed(*args, **kwargs):
        columns = decode(*args, **kwargs)
        return columns._replace(label_index=columns.label_index[::-1].copy())

    monkeypatch.setattr(module.structure, "decode_molecules", changed)


@pytest.mark.parametrize("change", [write_conformers, write_other_valences, write_another_version, number_backwards])
def test_where_rdkit_writes_another_binary_form_molecules_are_read_one_by_one(change, monkeypatch, caplog, sample_smiles):
    assert module._reads_together()
    module._reads_together.cache_clear()
    try:
        change(monkeypatch)
        assert not module._reads_together()
        assert "slower" in caplog.text
        check_batch([*sample_smiles[:20], *STRANGE[:20]])
    finally:
        module._reads_together.cache_clear()
