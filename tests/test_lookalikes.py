"""The look-alikes of the data sets have the traps that they name; what compares labels sees an atom or a direction changed."""

from collections import Counter

import lookalikes as lk
import numpy as np
import pytest
import torch
from rdkit import Chem

SIZE, SEED = 80, 3
WRITERS = {
    **{name: getattr(lk, f"write_{name}") for name in "qm9 tox21 zinc pcba pcqm4m pm6 pm6_old own own_csv".split()},
    "l1000_vcap": lk.write_l1000,
    "l1000_mcf7_th2": lambda *size: lk.write_l1000(*size, cell="MCF7", classes=3),
}


@pytest.fixture(scope="module")
def looks(tmp_path_factory):
    return {name: write(tmp_path_factory.mktemp(name), SIZE, SEED) for name, write in WRITERS.items()}


@pytest.mark.parametrize("name", WRITERS)
def test_every_trap_has_rows_and_bytes_depend_on_the_seed_alone(looks, tmp_path, name):
    look = looks[name]
    assert look.traps
    for trap, rows in look.traps.items():
        assert rows == sorted(set(rows)) != [], trap
        assert 0 <= rows[0] <= rows[-1] < look.num_rows == sum(look.file_rows), trap
    assert {row for row, key in enumerate(look.molecule_keys) if key is None} <= set(look.unusable)
    for rows in look.same_molecules().values():
        assert len({look.smiles[row] for row in rows}) == len(rows), "written the same way"
    again, other = (WRITERS[name](tmp_path / str(seed), SIZE, seed) for seed in (SEED, SEED + 1))
    assert [p.read_bytes() for p in look.paths] == [p.read_bytes() for p in again.paths]
    assert all(p.read_bytes() != q.read_bytes() for p, q in zip(look.paths, other.paths, strict=True))


def test_large_tables_share_molecules_and_tautomers_share_a_key(looks):
    large = [looks[name] for name in ("pcqm4m", "pcba", "l1000_vcap", "l1000_mcf7_th2")]
    assert len(set.intersection(*({look.molecule_keys[i] for i in look.traps["shared"]} for look in large))) >= 10
    for look in (*large[:3], looks["own"]):
        rows = look.traps["tautomer"]
        assert len({look.molecule_keys[i] for i in rows}) == len(rows)
        assert set(Counter(look.inchi_keys[i] for i in rows).values()) == {2}


def test_labels_agree_after_renumbering_and_not_after_a_change(looks):
    look, num_turned = looks["own"], 0
    for i in look.usable[:40]:
        mol, labels = look.molecule(i), look.dense_labels(i)
        order = np.random.default_rng(i).permutation(mol.GetNumAtoms())
        moved = {c: v[order] if v.ndim == 1 else v[np.ix_(order, order)] for c, v in labels.items()}
        other = Chem.RenumberAtoms(mol, order.tolist())
        assert lk.labels_agree(mol, labels, other, moved)
        if len(order) == 1 or np.isnan(labels["charge_1"]).any():
            continue
        a, b = moved["charge_1"].argmin(), moved["charge_1"].argmax()
        wrong = moved["charge_1"].copy()
        wrong[[a, b]] = wrong[[b, a]]
        assert not lk.labels_agree(mol, labels, other, moved | {"charge_1": wrong})
        for column in ("flow", "bond_dir"):
            turned = moved[column].T
            same = np.array_equal(turned, moved[column], equal_nan=True)
            assert lk.labels_agree(mol, labels, other, moved | {column: turned}) == same
            num_turned += not same
    assert num_turned > 40


def test_splits_are_kept_as_in_the_published_files(looks, tmp_path):
    core = np._core if hasattr(np, "_core") else np.core
    numpy_types = [core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype(np.int64))]
    for name, expected in {"pcqm4m": ["train", "val", "test"], "pcba": ["train"], "zinc": []}.items():
        path = lk.write_splits(tmp_path, looks[name])
        with torch.serialization.safe_globals(numpy_types):
            splits = torch.load(path, weights_only=True)
        assert [split for split, found in splits.items() if isinstance(found, np.ndarray)] == expected
        assert sorted(int(i) for found in splits.values() for i in found) == list(range(looks[name].num_rows))


def test_sizes_without_room_for_the_traps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_molecules 59: expected 60 to 2000"):
        lk.write_zinc(tmp_path, 59)
