"""Lists over all atoms of SMILES without maps: labels sit on the atoms that the call says, or the row is refused."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.errors import InputError
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.atom_order import has_maps, interleaved_entries, writes_hydrogens
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.sample import sample_path

ZWITTERION = "CCC1([NH3+])CC1C([O-])=O"
WRITTEN = [
    ZWITTERION,
    "c1cc[nH]c1",
    "C[C@@H](N)C(=O)O",
    "[H]OC([H])([H])C",
    "[NH4+].[OH-]",
    "[2H]C([2H])O",
    "C[N@H+](C)CC",
    "OC[13CH2]C",
    "[nH]1cccc1C[NH3+]",
    "[C@TH1H](F)(Cl)Br",
    "[#1]OC",
]
PLAIN = ["CCO", "C[N+](C)(C)C", "[Hg]", "[Rh]C", "OC[Si](C)(C)C", "[Ho+3]", "C[C@](F)(Cl)Br"]


def place_by_rdkit(text: str, order: str) -> tuple[list[int], int]:
    """Entry of each heavy atom in the order of the text, and the length of a list, by RDKit's atoms."""
    params = Chem.SmilesParserParams()
    params.removeHs = False
    mol = Chem.MolFromSmiles(text, params)
    entries, at = [], 0
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() != 1:
            entries.append(at if order == "interleaved" else len(entries))
        at += 1 + atom.GetNumExplicitHs()
    total = mol.GetNumAtoms() + sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    return entries, total


def build_lists(tmp_path, texts: list[str], lists: list[list[float]], order: str, name: str = "set") -> ShardSet:
    pq.write_table(pa.table({"smiles": texts, "q": lists}), tmp_path / f"{name}.parquet")
    table = TableSpec(dataset="table", atom_columns=("q",), atom_order=order)
    options = BuildOptions(tables=(table,), atom_labels="f32")
    build([str(tmp_path / f"{name}.parquet")], tmp_path / name, options, work=WorkOptions(max_reject_fraction=1.0))
    return ShardSet(tmp_path / name)


def labels_by_row(shard_set: ShardSet) -> dict[int, list[tuple[int, float]]]:
    """Row -> (element, label) of each heavy atom, sorted."""
    out = {}
    for block in shard_set.iter_blocks():
        for i, row in enumerate(block.ids.tolist()):
            atoms = slice(*block.atom_ptr[i : i + 2])
            pairs = zip(block.atom_codes[atoms, 0].tolist(), block.atom_labels[atoms, 0].tolist(), strict=True)
            out[row] = sorted((z, y) for z, y in pairs if z != 1)
    return out


@pytest.mark.parametrize("text", WRITTEN + PLAIN)
def test_written_hydrogens_are_seen_where_rdkit_sees_them(text):
    params = Chem.SmilesParserParams()
    params.removeHs = False
    mol = Chem.MolFromSmiles(text, params)
    assert writes_hydrogens(text) == (text in WRITTEN)
    assert any(a.GetAtomicNum() == 1 or a.GetNumExplicitHs() for a in mol.GetAtoms()) == (text in WRITTEN)
    assert interleaved_entries(text).tolist() == place_by_rdkit(text, "interleaved")[0]
    assert not has_maps(text)
    assert has_maps("[CH3:0]O")


@pytest.mark.parametrize("order", ["hydrogens-last", "interleaved"])
def test_labels_sit_on_the_atoms_that_the_order_says(tmp_path, order, capsys):
    """Labels are numbers of atoms in the list; RDKit says which heavy atom has which."""
    with capsys.disabled():
        seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    smiles = pq.read_table(sample_path())["ordered_smiles"].to_pylist()[:60]
    params = Chem.SmilesParserParams()
    texts = WRITTEN + PLAIN
    for text in smiles:
        mol = Chem.MolFromSmiles(text, params)
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
        whole = Chem.AddHs(mol) if rng.random() < 0.3 else mol
        texts.append(Chem.MolToSmiles(whole, allHsExplicit=rng.random() < 0.5, doRandom=True))
    lists, expected = [], {}
    for row, text in enumerate(texts):
        entries, total = place_by_rdkit(text, order)
        lists.append([float(k) for k in range(total)])
        params.removeHs = False
        atoms = [a.GetAtomicNum() for a in Chem.MolFromSmiles(text, params).GetAtoms() if a.GetAtomicNum() != 1]
        expected[row] = sorted(zip(atoms, map(float, entries), strict=True))
    shard_set = build_lists(tmp_path, texts, lists, order)
    assert shard_set.manifest.rejects == {}
    assert labels_by_row(shard_set) == expected


def test_without_the_order_written_hydrogens_refuse_a_list_over_all_atoms_and_nothing_else(tmp_path, rejects_of):
    texts = WRITTEN + PLAIN
    lists = [[float(k) for k in range(place_by_rdkit(text, "heavy")[1])] for text in texts]
    shard_set = build_lists(tmp_path, texts, lists, "")
    rejects = rejects_of(shard_set)
    assert sorted(rejects) == list(range(len(WRITTEN)))
    why = "hydrogens are written in the SMILES: where they stand in the list is not known; say it with --atom-order"
    assert rejects[0]["reason"].startswith("atom list of 20 values for 9 heavy atoms (20 with hydrogens), and ")
    assert all(f"{why} hydrogens-last or interleaved" in reject["reason"] for reject in rejects.values())
    # lists over heavy atoms are what they were
    heavy = [[float(k) for k in range(len(place_by_rdkit(text, "heavy")[0]))] for text in texts]
    assert build_lists(tmp_path, texts, heavy, "", "heavy").manifest.rejects == {}


def test_lists_of_another_length_than_the_order_says_are_refused(tmp_path, rejects_of):
    lists = [[1.0] * 3, [1.0] * 9]
    for order, bad, expected in (("heavy", 1, 3), ("interleaved", 0, 9), ("hydrogens-last", 0, 9)):
        rejects = rejects_of(build_lists(tmp_path, ["CCO", "CCO"], lists, order, order))
        assert list(rejects) == [bad]
        assert rejects[bad]["reason"].endswith(f"expected {expected} by --atom-order {order}")


def test_maps_say_it_whatever_the_order(tmp_path):
    shard_set = build_lists(tmp_path, ["[NH3+:1][CH3:0]"], [[5.0, 7.0]], "heavy")
    assert labels_by_row(shard_set) == {0: [(6, 5.0), (7, 7.0)]}


def test_another_word_is_refused(tmp_path):
    with pytest.raises(InputError, match="atom order 'last': expected one of hydrogens-last, interleaved, heavy"):
        TableSpec(dataset="table", atom_order="last")
