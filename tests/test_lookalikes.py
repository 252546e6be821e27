"""The look-alikes of the data sets are what they say: layouts, traps, and the labels they name."""

import csv
import gzip
import importlib.util
import io
import itertools
import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rdkit import Chem

from molstream.shards.sample import sample_path

SOURCE = Path(__file__).with_name("lookalikes.py")
_spec = importlib.util.spec_from_file_location("lookalikes", SOURCE)
lk = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lk)
SIZE = 80


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lookalikes")
    return SimpleNamespace(folder=folder, looks=lk.write_lookalikes(folder, SIZE, seed=3))


@pytest.fixture(scope="module")
def looks(written):
    return written.looks


def read(look) -> list[dict]:
    """Rows of the files as they are: text from CSV, Python values from Parquet."""
    rows = []
    for path in look.paths:
        if path.name.endswith(".csv.gz"):
            text = gzip.decompress(path.read_bytes()).decode("utf-8-sig")
            rows += csv.DictReader(io.StringIO(text, newline=""), strict=True)
        else:
            rows += pq.read_table(path).to_pylist()
    return rows


def as_float(value) -> np.float32:
    value = math.nan if value in (None, "") else float(value)
    return np.float32(math.nan if math.isinf(value) else value)


def as_list(value) -> list | None:
    return (json.loads(value) if isinstance(value, str) and value else value) or None


NAMES = "qm9 tox21 zinc l1000_vcap l1000_vcap_th2 l1000_mcf7 l1000_mcf7_th2 pcba pcqm4m pm6 pm6_old own own_csv".split()


def test_there_is_one_of_each(looks):
    assert list(looks) == NAMES
    assert {look.preset for look in looks.values()} == {"qm9", "tox21", "zinc", "l1000", "pcba", "pcqm4m", "pm6", ""}
    sizes = {"qm9": 19, "tox21": 12, "zinc": 3, "l1000_vcap": 978, "l1000_mcf7_th2": 978, "pcba": 1328, "pcqm4m": 25, "pm6": 62}
    assert {name: len(looks[name].graph) for name in sizes} == sizes
    assert len(looks["pcqm4m"].atom) == 4
    assert len(looks["pm6"].atom) == len(looks["pm6_old"].atom) == 7


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_graph_labels_are_what_the_files_say(looks, name):
    look, rows = looks[name], read(looks[name])
    expected = {"pm6_old": 40}.get(name, 60 if name.startswith("l1000") else SIZE)
    assert look.num_rows == sum(look.file_rows) == len(rows) == expected
    assert [row[look.smiles_column] or None for row in rows] == look.smiles
    for task, values in look.graph.items():
        assert values.dtype == np.float32
        found = np.array([as_float(row[task]) for row in rows], np.float32)
        np.testing.assert_array_equal(values, found, err_msg=task)


@pytest.mark.parametrize("name", NAMES)
def test_identities_are_those_of_the_texts(looks, name):
    look = looks[name]
    for row, (text, key) in enumerate(zip(look.smiles, look.molecule_keys)):
        if key is None:
            assert row in look.unusable
            continue
        mol = Chem.MolFromSmiles(re.sub(r":\d+\]", "]", text))
        assert Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(mol))) == key
        assert Chem.MolToInchiKey(mol) == look.inchi_keys[row]
    for rows in look.same_molecules().values():
        assert len({look.smiles[row] for row in rows}) == len(rows), "written the same way"


@pytest.mark.parametrize("name", NAMES)
def test_every_trap_has_rows(looks, name):
    look = looks[name]
    assert look.traps
    for trap, rows in look.traps.items():
        assert rows, trap
        assert rows == sorted(set(rows)), trap
        assert 0 <= rows[0] <= rows[-1] < look.num_rows, trap
    assert look.usable == [row for row in range(look.num_rows) if row not in look.unusable]
    assert {row for row, key in enumerate(look.molecule_keys) if key is None} <= set(look.unusable)


def columns_of(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return pq.read_schema(path).names
    with gzip.open(path, "rt", encoding="utf-8-sig") as file:
        return file.readline().rstrip("\r\n").split(",")


def test_columns_come_in_the_layouts_of_the_originals(looks):
    assert columns_of(looks["qm9"].paths[0]) == ["mol_id", "smiles", *lk.QM9_TASKS]
    assert columns_of(looks["tox21"].paths[0]) == [*lk.TOX21_TASKS, "mol_id", "smiles"]
    assert columns_of(looks["zinc"].paths[0]) == ["SMILES", "SA", "logp", "score"]
    first = ["full_id", "pert_id", "cell_iname", "SMILES", "inchi_key", "compound_aliases"]
    for name in ("l1000_vcap", "l1000_mcf7_th2"):
        columns = columns_of(looks[name].paths[0])
        assert columns[:6] == first
        assert all(re.fullmatch(r"geneID-\d+", column) for column in columns[6:])
    columns = columns_of(looks["pcba"].paths[0])
    assert [c for c in columns if not re.fullmatch(r"assayID-\d+", c)] == ["mol_id", "SMILES", "num_tested", "inchi"]
    assert columns_of(looks["pcqm4m"].paths[0]) == [
        "ordered_cxsmiles_3d",
        "ordered_smiles",
        *lk.PCQM4M_GRAPH,
        *lk.PCQM4M_ATOM,
    ]
    original = pq.read_schema(sample_path()).names
    files = [columns_of(path) for path in looks["pm6"].paths]
    assert files == [original, original, original[::-1]]
    assert columns_of(looks["pm6_old"].paths[0]) == original
    assert [p.name for p in looks["pm6"].paths] == [f"pm6_processed_{k}.parquet" for k in (1, 2, 10)]
    assert [p.name for p in looks["own_csv"].paths] == ["own.csv.gz", "own_2.csv.gz"]


def test_toymix_traps_are_in_the_files(looks):
    qm9, rows = looks["qm9"], read(looks["qm9"])
    assert [row["smiles"] for row in rows[:3]] == ["C", "N", "O"]
    assert [row["mol_id"] for row in rows] == [f"gdb_{i + 1}" for i in range(SIZE)]
    assert rows[0]["mu"] == "0.0"
    assert all(rows[i]["mu"] == "1.5e-05" for i in qm9.traps["scientific"])
    assert all("[H]" in rows[i]["smiles"] for i in qm9.traps["explicit_hydrogens"])
    assert not any(np.isnan(values).any() for values in qm9.graph.values())
    tox, rows = looks["tox21"], read(looks["tox21"])
    assert {row[task] for row in rows for task in tox.graph} == {"", "0", "1", "0.0", "1.0"}
    assert all("." in rows[i]["smiles"] for i in tox.traps["salt"])
    assert all(row[task] == "" for row in (rows[i] for i in tox.traps["all_missing"]) for task in tox.graph)
    for name in ("tox21", "pcba"):
        look = looks[name]
        pairs = [found for key, found in look.same_molecules().items() if set(found) <= set(look.traps["duplicate"])]
        assert sorted(i for pair in pairs for i in pair) == look.traps["duplicate"]
        for a, b in pairs:
            both = [values[[a, b]] for values in look.graph.values()]
            assert any(set(pair.tolist()) == {0.0, 1.0} for pair in both), "no contradiction"
    a, b = looks["tox21"].traps["stereo"]
    assert tox.inchi_keys[a] != tox.inchi_keys[b]
    assert tox.inchi_keys[a][:14] == tox.inchi_keys[b][:14]


def test_l1000_has_words_for_smiles_quoted_fields_and_two_codings_of_one_label(looks):
    for cell in ("vcap", "mcf7"):
        five, three = looks[f"l1000_{cell}"], looks[f"l1000_{cell}_th2"]
        assert five.smiles == three.smiles
        assert set(np.unique(list(five.graph.values())).tolist()) == {0, 1, 2, 3, 4}
        for task, values in five.graph.items():
            np.testing.assert_array_equal(np.clip(values - 1, 0, 2), three.graph[task])
        first = next(iter(five.graph))
        assert five.graph[first].max() == 3
        rows = read(five)
        assert [i for i, row in enumerate(rows) if row["SMILES"] == "restricted"] == five.traps["restricted"] == five.unusable
        assert all("," in rows[i]["compound_aliases"] and '"' in rows[i]["compound_aliases"] for i in five.traps["quoted"])
        assert five.same_molecules()
        for found in five.same_molecules().values():
            assert len({tuple(values[i] for values in five.graph.values()) for i in found}) == len(found)


def test_large_tables_share_molecules_and_tautomers_share_a_key(looks):
    large = [looks[name] for name in ("pcqm4m", "pcba", "l1000_vcap", "l1000_mcf7")]
    common = set.intersection(*({look.molecule_keys[i] for i in look.traps["shared"]} for look in large))
    assert len(common) >= 10
    for a, b in itertools.pairwise(large):
        texts = [{look.smiles[look.molecule_keys.index(key)] for key in common} for look in (a, b)]
        assert len(texts[0] & texts[1]) < 3, "written the same way"
    vcap, mcf7 = ({key for key in look.molecule_keys if key} for look in large[2:])
    assert len(vcap & mcf7) > 0.7 * len(vcap)
    for look in (*large, looks["own"]):
        rows = look.traps["tautomer"]
        assert len({look.molecule_keys[i] for i in rows}) == len(rows)
        assert set(Counter(look.inchi_keys[i] for i in rows).values()) == {2}


def test_pcba_is_mostly_missing_as_null_and_as_nan(looks):
    look, table = looks["pcba"], pq.read_table(looks["pcba"].paths[0])
    assert pq.ParquetFile(look.paths[0]).metadata.num_row_groups == 2
    values = np.array(list(look.graph.values()))
    assert 0.85 < np.isnan(values).mean() < 0.95
    assert set(np.unique(values[~np.isnan(values)]).tolist()) == {0.0, 1.0}
    assert np.isnan(values[0]).all()
    assert np.isnan(values[:, look.traps["all_missing"]]).all()
    nulls = {table[name].null_count > 0 for name in look.graph}
    assert nulls == {True, False}


def test_pcqm4m_maps_index_lists_whose_values_are_those_of_chemistry(looks):
    look, rows = looks["pcqm4m"], read(looks["pcqm4m"])
    usual = [i for i in range(SIZE) if not {i} & {r for t in ("wrong_length", "empty_list", "nan_list") for r in look.traps[t]}]
    orders = set()
    for i in usual:
        mol = Chem.MolFromSmiles(rows[i]["ordered_smiles"], sanitize=True)
        params = Chem.SmilesParserParams()
        params.removeHs = False
        whole = Chem.MolFromSmiles(rows[i]["ordered_smiles"], params)
        heavy = [atom for atom in whole.GetAtoms() if atom.GetAtomicNum() > 1]
        assert sorted(atom.GetAtomMapNum() for atom in heavy) == list(range(len(heavy)))
        assert (len(heavy) < whole.GetNumAtoms()) == (i in look.traps["explicit_hydrogens"])
        orders.add(tuple(atom.GetAtomMapNum() for atom in heavy) == tuple(range(len(heavy))))
        for task in look.atom:
            expected = lk.atom_label(mol, task)
            values = rows[i][task]
            if "tddft" in task and i in look.traps["tddft_missing"]:
                assert values is None
                assert np.isnan(look.atom[task][i]).all()
                continue
            assert len(values) == len(heavy)
            for atom, value in zip(heavy, expected, strict=True):
                at = atom.GetAtomMapNum()
                assert values[at] == value or (math.isnan(values[at]) and i in look.traps["nan_atom"])
                np.testing.assert_equal(look.atom[task][i][at], np.float32(values[at]))
    assert False in orders, "text and labels are in one order"
    conformer = Chem.MolFromSmiles(rows[usual[0]]["ordered_cxsmiles_3d"]).GetConformer()
    assert conformer.Is3D()
    [i] = look.traps["no_bonds"]
    assert re.fullmatch(r"\[C:0\]\(?\[H:1\].*", rows[i]["ordered_smiles"])
    assert all(len(rows[i]["node_charges_lowdin"]) == look.molecule(i).GetNumAtoms() - 1 for i in look.unusable)
    late = "graph_tddft_alpha_gap"
    assert [i for i, row in enumerate(rows) if row[late] is None] == look.traps["tddft_missing"]


def test_pm6_labels_stay_on_the_atoms_of_the_sample(looks):
    sample = {row["inchi"]: row for row in pq.read_table(sample_path()).to_pylist()}
    for name in ("pm6", "pm6_old"):
        look = looks[name]
        for i, row in enumerate(read(look)):
            origin = sample[row["inchi"]]
            mol = lk.parse_labelled(origin["ordered_smiles"])
            for task in look.atom:
                stored = as_list(row[task])
                if stored is None or i in look.traps["nan_atom"] or i in look.traps["nan_state"]:
                    continue
                labelled = lk.label_key(look.molecule(i), look.atom[task][i])
                assert labelled == lk.label_key(mol, np.array(origin[task], np.float32)), (i, task)
                text = look.smiles[i]
                for k in range(1, mol.GetNumAtoms()):
                    assert re.search(rf":{k}\]", text)
                    assert np.float32(stored[k]) == look.atom[task][i][k]
    pm6, rows = looks["pm6"], read(looks["pm6"])
    assert all(":0]" not in pm6.smiles[i] for i in pm6.traps["lost_map_zero"])
    assert all("[H:" in pm6.smiles[i] for i in pm6.traps["explicit_hydrogens"])
    assert all(math.isinf(rows[i]["graph_S0_energy_total"]) for i in pm6.traps["infinite"])
    assert all(np.isnan(pm6.atom["node_S0_charges_mulliken"][i]).sum() == 1 for i in pm6.traps["nan_atom"])
    assert sorted(i for found in pm6.same_molecules().values() for i in found) == pm6.traps["duplicate"]
    assert [pq.ParquetFile(p).metadata.num_row_groups for p in pm6.paths] == [1, 3, 4]
    old, rows = looks["pm6_old"], read(looks["pm6_old"])
    assert {type(row["node_T0_spin"]) for row in rows} == {str, type(None)}
    for i in old.traps["all_atom_lists"]:
        assert len(json.loads(rows[i]["node_S0_charges_mulliken"])) > old.molecule(i).GetNumAtoms()


def test_the_two_forms_of_an_own_table_say_the_same(looks):
    parquet, text = looks["own"], looks["own_csv"]
    assert parquet.smiles == text.smiles
    for i, (a, b) in enumerate(zip(read(parquet), read(text), strict=True)):
        assert a["name"] == b["name"]
        for column in lk.OWN_RULES:
            x, y = a[column], json.loads(b[column]) if b[column] else None
            assert (x is None) == (y is None), (i, column)
            x, y = (np.array([math.nan if v is None else v for v in z or []], np.float32) for z in (x, y))
            np.testing.assert_array_equal(x, y)
    raw = [path.read_bytes() for path in text.paths]
    assert raw[0].count(b"\x1f\x8b\x08\x00\x00\x00\x00\x00") == 3
    assert gzip.decompress(raw[1]).startswith(b"\xef\xbb\xbf")
    assert gzip.decompress(raw[1]).endswith(b"\r\n")


def test_labels_of_an_own_table_follow_the_text(looks):
    look, rows = looks["own"], read(looks["own"])
    lists = {**look.atom, **look.bond, **look.edge, **look.pair_upper, **look.pair_full}
    assert set(lists) == set(lk.OWN_RULES)
    missing = {i for trap in ("null_list", "empty_list", "nan_list") for i in look.traps[trap]}
    for i in look.usable:
        mol = Chem.MolFromSmiles(rows[i]["mol"])
        n, bonds = mol.GetNumAtoms(), mol.GetNumBonds()
        sizes = {"charge_1": n, "charge_2": n, "bond_order_sum": bonds, "bond_dir": 2 * bonds, "distance": n * (n - 1) // 2}
        for column, values in lists.items():
            assert len(values[i]) == (sizes | {"flow": n * n})[column]
            if i in missing:
                assert np.isnan(values[i]).all()
                continue
            stored = np.array([math.nan if v is None else v for v in rows[i][column]], np.float32)
            np.testing.assert_array_equal(stored, values[i])
            expected = lk.OWN_RULES[column](mol)
            one = i in look.traps["nan_value"] or i in look.traps["null_value"]
            assert (np.isnan(values[i]) & ~np.isnan(expected)).sum() == one
            kept = ~np.isnan(values[i])
            np.testing.assert_array_equal(values[i][kept], expected[kept])
    for column in lk.OWN_RULES:
        [i] = look.traps[f"wrong_length_{column}"]
        assert len(rows[i][column]) == len(lists[column][i]) - 1
    i = look.traps["salt"][0]
    assert np.isnan(look.pair_upper["distance"][i]).any()
    assert all(rows[i]["bond_dir"] == [] for i in look.traps["no_bonds"])


def renumbered(mol: Chem.Mol, labels: dict, seed: int):
    order = np.random.default_rng(seed).permutation(mol.GetNumAtoms())
    moved = {c: v[order] if v.ndim == 1 else v[np.ix_(order, order)] for c, v in labels.items()}
    return Chem.RenumberAtoms(mol, order.tolist()), moved


def test_labels_agree_after_renumbering_and_not_after_a_change(looks):
    look, num_turned = looks["own"], 0
    for i in look.usable[:40]:
        mol, labels = look.molecule(i), look.dense_labels(i)
        other, moved = renumbered(mol, labels, i)
        assert lk.labels_agree(mol, labels, other, moved)
        assert lk.label_key(mol, labels["charge_1"]) == lk.label_key(other, moved["charge_1"])
        n = mol.GetNumAtoms()
        if n == 1 or np.isnan(labels["charge_1"]).any():
            continue
        a, b = moved["charge_1"].argmin(), moved["charge_1"].argmax()
        wrong = moved["charge_1"].copy()
        wrong[[a, b]] = wrong[[b, a]]
        assert not lk.labels_agree(mol, labels, other, moved | {"charge_1": wrong})
        assert lk.label_key(mol, labels["charge_1"]) != lk.label_key(other, wrong)
        for column in ("flow", "bond_dir"):
            turned = moved[column].T
            same = np.array_equal(turned, moved[column], equal_nan=True)
            assert lk.labels_agree(mol, labels, other, moved | {column: turned}) == same
            num_turned += not same
    assert num_turned > 40


def test_dense_labels_go_from_the_row_to_the_column(looks):
    look = looks["own"]
    partial = {i for trap, rows in look.traps.items() if trap.endswith(("_list", "_value")) for i in rows}
    for i in sorted(set(look.usable) - partial):
        mol, labels, sign = look.molecule(i), look.dense_labels(i), lk.atom_signature(look.molecule(i))
        bonds = Chem.GetAdjacencyMatrix(mol).astype(bool)
        towards = sign[:, None] - 0.5 * sign[None, :]
        np.testing.assert_allclose(labels["bond_dir"], np.where(bonds, towards, np.nan), rtol=1e-5)
        steps = Chem.GetDistanceMatrix(mol)
        steps[steps > mol.GetNumAtoms()] = np.nan
        np.testing.assert_allclose(labels["flow"], towards + 0.1 * steps, rtol=1e-5)
        np.testing.assert_array_equal(labels["distance"], np.where(np.eye(len(sign)), np.nan, steps))
        order = Chem.GetAdjacencyMatrix(mol, useBO=True) + 0.01 * (sign[:, None] + sign[None, :])
        np.testing.assert_allclose(labels["bond_order_sum"], np.where(bonds, order, np.nan), rtol=1e-5)


def test_a_signature_depends_on_chemistry_alone(looks):
    look = looks["pm6"]
    for i in range(20):
        mol = look.molecule(i)
        plain = lk.atom_signature(mol)
        other, moved = renumbered(mol, {"s": plain}, i)
        np.testing.assert_array_equal(lk.atom_signature(other), moved["s"])
        np.testing.assert_array_equal(lk.atom_signature(Chem.AddHs(mol)), plain)
        classes = list(Chem.CanonicalRankAtoms(Chem.MolFromSmiles(Chem.MolToSmiles(mol, isomericSmiles=False)), breakTies=False))
        assert len(set(plain.tolist())) >= len(set(classes)) - 1, "atoms that differ share a value"
    enol, keto = (lk.atom_signature(Chem.MolFromSmiles(text)) for text in lk.TAUTOMERS[0])
    assert sorted(enol.tolist()) != sorted(keto.tolist())


def test_splits_are_those_of_the_published_files(looks, tmp_path):
    core = np._core if hasattr(np, "_core") else np.core
    numpy_types = [core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype(np.int64))]
    for name, file in lk.SPLIT_FILES.items():
        path = lk.write_splits(tmp_path, looks[name])
        assert path.name == file
        with torch.serialization.safe_globals(numpy_types):
            splits = torch.load(path, weights_only=True)
        assert sorted(int(i) for found in splits.values() for i in found) == list(range(looks[name].num_rows))
        assert list(splits) == ["train", "val", "test"] + ["test_seen"] * (name == "pcba")
        arrays = [split for split, found in splits.items() if isinstance(found, np.ndarray)]
        assert arrays == {"pcqm4m": ["train", "val", "test"], "pcba": ["train"]}.get(name, [])
    rows = list(range(1234))
    random.seed(42)
    random.shuffle(rows)
    assert lk.plan_splits("pm6", 1234) == {"train": rows[:1210], "val": rows[1210:1222], "test": rows[1222:]}


def test_bytes_depend_on_the_seed_alone(written, tmp_path):
    again = lk.write_lookalikes(tmp_path / "a", SIZE, seed=3)
    other = lk.write_lookalikes(tmp_path / "b", SIZE, seed=4)
    for name, look in written.looks.items():
        assert [p.read_bytes() for p in look.paths] == [p.read_bytes() for p in again[name].paths]
        assert look.traps == again[name].traps
        assert all(p.read_bytes() != q.read_bytes() for p, q in zip(look.paths, other[name].paths, strict=True))


@pytest.mark.slow
def test_the_command_writes_every_file_and_says_which(run_python, tmp_path):
    done = run_python(SOURCE, tmp_path, "--molecules", 60)
    assert done.returncode == 0, done.stderr
    files = sorted(p.name for p in tmp_path.iterdir())
    assert len(files) == 16 + len(lk.SPLIT_FILES)
    assert all(name in done.stdout for name in files)
    assert sum(len(paths) for paths in lk.write_all(tmp_path / "again", 60).values()) == len(files)


@pytest.mark.parametrize("size", [0, 59, 2001])
def test_sizes_without_room_for_the_traps_are_refused(size, tmp_path):
    with pytest.raises(ValueError, match=f"num_molecules {size}: expected 60 to 2000"):
        lk.write_zinc(tmp_path, size)
