"""Splits of whole sets: by skeleton, by scaffold, by a shuffle of the rows, or as a file of their authors says."""

import json
import math
import os
import pickle
import random
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import lookalikes as lk
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.errors import InputError, LimitError, OutputError, SchemaError
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.verify import verify
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.splits.rules import SplitFractions

SIZE, SEED = 110, 1
WRITERS = {
    "zinc": lk.write_zinc,
    "l1000_vcap": lk.write_l1000,
    "l1000_mcf7": lambda *size: lk.write_l1000(*size, cell="MCF7"),
    "pcba": lk.write_pcba,
    "pcqm4m": lk.write_pcqm4m,
    "pm6": lk.write_pm6,
}
"""Of data sets that have a published split."""


@pytest.fixture(scope="module")
def looks(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("split_rules")
    return {name: write(folder / name, SIZE, SEED) for name, write in WRITERS.items()}


@pytest.fixture
def build_look(tmp_path):
    """build_look(look, name="set", split_file=None, fraction=0.2, workers=1, **BuildOptions) -> ShardSet of its structures alone,
    or of what `tables` says."""

    def make(look, name: str = "set", split_file=None, fraction: float = 0.2, workers: int = 1, **options) -> ShardSet:
        spec = TableSpec(dataset="table", smiles_column=look.smiles_column)
        options = {"tables": (spec,)} | options
        if split_file is not None:
            options |= {"splits": Path(split_file).name}
        work = WorkOptions(max_reject_fraction=fraction, workers=workers)
        file = None if split_file is None else str(split_file)
        build([str(path) for path in look.paths], tmp_path / name, BuildOptions(**options), work=work, split_file=file)
        return ShardSet(tmp_path / name)

    return make


def ids_of(shard_set: ShardSet) -> dict[str, set[int]]:
    """{split: ids}, every id once."""
    found = {split: [int(i) for block in shard_set.iter_blocks(split) for i in block.ids] for split in shard_set.splits}
    every = [i for ids in found.values() for i in ids]
    assert len(set(every)) == len(every), "an id that is there twice"
    return {split: set(ids) for split, ids in found.items()}


def split_of(shard_set: ShardSet) -> dict[int, str]:
    return {i: split for split, ids in ids_of(shard_set).items() for i in ids}


def readable(look) -> set[int]:
    """Rows that are molecules: no list is read here."""
    return {row for row, key in enumerate(look.molecule_keys) if key is not None}


def fractions(text: str) -> SplitFractions:
    return SplitFractions.parse(text)


# by skeleton


def test_a_molecule_has_the_same_split_in_every_table_with_the_same_seed(looks, build_look):
    found: dict[str, set[str]] = defaultdict(set)
    tables: dict[str, set[str]] = defaultdict(set)
    for name in ("pcqm4m", "pcba", "l1000_vcap", "l1000_mcf7"):
        # in other respects the sets are as different as can be
        options = {"seed": len(name), "split_seed": 5, "block_molecules": len(name)}
        splits = split_of(build_look(looks[name], name, split_fractions=fractions("40,30,30"), **options))
        for row, split in splits.items():
            found[looks[name].molecule_keys[row]].add(split)
            tables[looks[name].molecule_keys[row]].add(name)
    assert all(len(splits) == 1 for splits in found.values())
    shared = [key for key, names in tables.items() if len(names) > 1]
    assert len(shared) > 20
    assert {next(iter(found[key])) for key in shared} == {"train", "val", "test"}


def test_the_seed_of_the_splits_is_that_of_the_order_unless_it_is_said(looks, build_look):
    look, shares = looks["zinc"], {"split_fractions": fractions("50,25,25")}
    one, two = build_look(look, "one", seed=7, **shares), build_look(look, "two", split_seed=7, **shares)
    other = build_look(look, "other", seed=8, **shares)
    assert ids_of(one) == ids_of(two)
    assert ids_of(one) != ids_of(other)
    order = [[int(i) for block in s.iter_blocks("train") for i in block.ids] for s in (one, two)]
    assert order[0] != order[1]


# by scaffold


def scaffold_of(smiles: str) -> str:
    mol = Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(mol)
    return MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False)


def decorate(smiles: str, draw: random.Random) -> str:
    """The molecule with a methyl group more on an atom of its rings, so of the same scaffold."""
    mol = Chem.RWMol(Chem.MolFromSmiles(smiles))
    places = [a.GetIdx() for a in mol.GetAtoms() if a.GetSymbol() == "C" and a.IsInRing() and a.GetTotalNumHs()]
    if places:
        mol.AddBond(draw.choice(places), mol.AddAtom(Chem.Atom("C")), Chem.BondType.SINGLE)
        Chem.SanitizeMol(mol)
    return Chem.MolToSmiles(mol)


def test_no_scaffold_is_in_two_splits_and_shares_are_about_those_asked_for(tmp_path):
    seed = 4
    print(f"seed {seed}")
    draw = random.Random(seed)
    texts = [Chem.MolToSmiles(lk._mol(index)) for index in draw.sample(range(2000), 500)]
    texts += [decorate(text, draw) for text in texts[:250]]
    pq.write_table(pa.table({"smiles": texts}), tmp_path / "a.parquet")
    options = BuildOptions(
        tables=(TableSpec(dataset="table"),), splits="scaffold", split_seed=3, split_fractions=fractions("60,25,15")
    )
    build([str(tmp_path / "a.parquet")], tmp_path / "set", options)
    splits = split_of(ShardSet(tmp_path / "set"))
    assert sorted(splits) == list(range(len(texts)))
    rows: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        if scaffold := scaffold_of(text):
            rows[scaffold].append(row)
    assert {scaffold for scaffold, found in rows.items() if len({splits[row] for row in found}) > 1} == set()
    skeletons = [len({Chem.MolFromSmiles(texts[row]).GetNumAtoms() for row in found}) for found in rows.values()]
    # groups of molecules that a split by skeleton would not hold together
    assert sum(n > 1 for n in skeletons) > 100
    counts, asked = Counter(splits[found[0]] for found in rows.values()), {"train": 0.6, "val": 0.25, "test": 0.15}
    for split, share in asked.items():
        # four standard deviations of so many draws
        assert counts[split] / len(rows) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / len(rows)))
        # a common scaffold moves many molecules at once
        assert sum(found == split for found in splits.values()) / len(texts) == pytest.approx(share, abs=0.1)


def test_molecules_without_rings_go_by_their_skeletons(tmp_path):
    texts = ["C" * n + tail for n in range(1, 40) for tail in ("O", "N", "Cl")]
    (tmp_path / "a.smi").write_text("\n".join(texts))
    shares = fractions("50,25,25")
    for rule in ("scaffold", "skeleton"):
        options = BuildOptions(tables=(TableSpec(dataset="table"),), splits=rule, split_fractions=shares)
        build([str(tmp_path / "a.smi")], tmp_path / rule, options)
    assert ids_of(ShardSet(tmp_path / "scaffold")) == ids_of(ShardSet(tmp_path / "skeleton"))
    assert len(ids_of(ShardSet(tmp_path / "scaffold"))) == 3


# by position


def shuffled(num_rows: int, shares: tuple[float, float], seed: int) -> dict[str, list[int]]:
    """Rows by Python's own shuffle: train, then val, then test, the last two rounded down."""
    order = list(range(num_rows))
    # as random.seed(seed); random.shuffle(order)
    random.Random(seed).shuffle(order)
    val, test = (math.floor(num_rows * share + 1e-9) for share in shares)
    return {"train": order[: num_rows - val - test], "val": order[num_rows - val - test : num_rows - test], "test": order[-test:]}


@pytest.mark.parametrize(
    ("name", "text", "shares"),
    [("pm6", "98,1,1", (0.01, 0.01)), ("pcqm4m", "98,1,1", (0.01, 0.01)), ("l1000_vcap", "70,10,20", (0.1, 0.2))],
)
def test_rows_are_split_by_position_in_exactly_the_order_of_pythons_shuffle(looks, build_look, name, text, shares):
    look = looks[name]
    expected = shuffled(look.num_rows, shares, 42)
    if name == "pm6":
        # the published split, over the rows of three files
        assert len(look.paths) == 3
        assert expected == lk.plan_splits("pm6", look.num_rows)
    shard_set = build_look(look, splits="position", split_seed=42, split_fractions=fractions(text))
    # rows that are no molecules keep their places, so they move no others
    assert ids_of(shard_set) == {split: set(rows) & readable(look) for split, rows in expected.items()}
    assert len(readable(look)) == {"l1000_vcap": 57}.get(name, look.num_rows)
    assert verify(shard_set).problems == []


@pytest.mark.slow
def test_position_splits_are_the_same_bytes_with_one_worker_and_with_two(looks, build_look, folder_bytes, monkeypatch):
    monkeypatch.setattr("molstream.shards.inputs.tables.RANGE_ROWS", 25)
    monkeypatch.setattr("molstream.shards.inputs.tables.MIN_RANGE_ROWS", 25)
    options = {"splits": "position", "split_seed": 42, "split_fractions": fractions("60,20,20")}
    one = build_look(looks["pm6"], "one", **options)
    two = build_look(looks["pm6"], "two", workers=2, **options)
    assert folder_bytes(one.path) == folder_bytes(two.path)


# by a file


# one with arrays and four splits, one whose rows are not all molecules, one of several files
@pytest.mark.parametrize("name", ["pcba", "l1000_vcap", "pm6"])
def test_a_published_split_file_gives_exactly_its_splits(looks, build_look, tmp_path, name):
    look = looks[name]
    splits = lk.plan_splits(name, look.num_rows)
    shard_set = build_look(look, split_file=lk.write_splits(tmp_path, look))
    assert ids_of(shard_set) == {split: rows for split in splits if (rows := set(map(int, splits[split])) & readable(look))}
    manifest = shard_set.manifest
    assert list(manifest.splits) == list(splits)
    assert manifest.rejects.get("in no split") is None
    assert manifest.provenance["splits"]["rule"] == "rows"
    # in another container they are the same set
    (tmp_path / "splits.json").write_text(json.dumps({split: list(map(int, rows)) for split, rows in splits.items()}))
    again = build_look(look, "again", split_file=tmp_path / "splits.json").manifest
    assert (again.fingerprint, again.provenance["splits"]) == (manifest.fingerprint, manifest.provenance["splits"])


# rows in no split


@pytest.fixture
def partly(looks, tmp_path):
    """A split file that names the even rows of a look-alike only, and which are in which split."""
    look = looks["l1000_vcap"]
    rows = {"train": list(range(0, 40, 2)), "val": [40, 42, 44], "test": [46, 48]}
    path = tmp_path / "partly.json"
    path.write_text(json.dumps(rows))
    return look, rows, path


def test_rows_in_no_split_are_left_out_and_listed_but_are_no_faults(partly, build_look, rejects_of):
    look, rows, path = partly
    spec = TableSpec(dataset="l1000", id_column="full_id")
    faults = sorted(set(range(look.num_rows)) - readable(look))
    limit = len(faults) / look.num_rows
    shard_set = build_look(look, split_file=path, fraction=limit, tables=(spec,))
    named = {row for found in rows.values() for row in found}
    assert ids_of(shard_set) == {split: set(found) & readable(look) for split, found in rows.items()}
    rejects = rejects_of(shard_set)
    left_out = {row for row, reject in rejects.items() if reject["reason"] == "in no split"}
    assert left_out == readable(look) - named
    assert sorted(set(rejects) - left_out) == faults
    assert list(rejects) == sorted(rejects)
    assert shard_set.manifest.rejects["in no split"] == len(left_out) > 20
    for row in left_out:
        assert Chem.CanonSmiles(rejects[row]["smiles"]) == look.molecule_keys[row]
        assert rejects[row]["identifier"].endswith("_VCAP_24h")
    assert verify(shard_set).problems == []


def test_a_limit_on_rejects_is_about_faults_alone_and_names_one(partly, build_look):
    look, _, path = partly
    with pytest.raises(LimitError, match=r"[123] of 60 rows rejected so far, .*SMILES 'restricted': not a SMILES") as caught:
        build_look(look, split_file=path, fraction=0.0)
    assert "in no split" not in str(caught.value)


def test_how_rows_are_cut_changes_no_byte_where_a_file_leaves_some_out(partly, build_look, folder_bytes, monkeypatch):
    look, _, path = partly
    whole = build_look(look, "whole", split_file=path)
    monkeypatch.setattr("molstream.shards.inputs.tables.RANGE_ROWS", 7)
    monkeypatch.setattr("molstream.shards.inputs.tables.MIN_RANGE_ROWS", 7)
    monkeypatch.setattr("molstream.shards.build.map.BATCH_ROWS", 3)
    assert folder_bytes(build_look(look, "cut", split_file=path).path) == folder_bytes(whole.path)


# files that are none


class Evil:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def write_bad_file(folder: Path, case: str, num_rows: int) -> Path:
    path = folder / "splits.json"
    rows = {
        "overlap": {"train": [0, 1, 2], "val": [2]},
        "outside": {"train": [0, num_rows]},
        "name": {"train": [0], "../val": [1]},
    }.get(case)
    if rows is not None:
        path.write_text(json.dumps(rows))
        return path
    if case == "short":
        path = folder / "splits.npy"
        np.save(path, np.array(["train"] * (num_rows - 1)))
    elif case == "evil pickle":
        path = folder / "splits.pt"
        path.write_bytes(pickle.dumps({"train": Evil(folder / "ran")}))
    elif case == "evil archive":
        path = folder / "splits.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("splits/data.pkl", pickle.dumps({"train": Evil(folder / "ran")}, protocol=2))
            archive.writestr("splits/version", "3\n")
            archive.writestr("splits/byteorder", "little")
    elif case == "evil npy":
        path = folder / "splits.npy"
        np.save(path, np.array([Evil(folder / "ran")], object), allow_pickle=True)
    elif case == "other kind":
        path = folder / "splits.xlsx"
        path.write_bytes(b"")
    else:
        assert case == "absent"
        path = folder / "absent.json"
    return path


BAD_FILES = [
    ("overlap", SchemaError, "row 2 is in two splits, train and val; splits must not overlap"),
    ("outside", SchemaError, r"row number 110 is not one of the 110 rows of the data set, which are 0 to 109"),
    ("name", SchemaError, r"got '\.\./val' for the name of a split"),
    ("short", SchemaError, "names a split for 109 rows, the data set has 110"),
    ("evil pickle", SchemaError, "not a file of torch.save"),
    ("evil archive", SchemaError, r"os\.system|posix\.system|posix system"),
    ("evil npy", SchemaError, "an array of Python objects, which could run anything"),
    ("other kind", InputError, "not a kind of split file that is known; expected one of .pt"),
    ("absent", InputError, r"absent\.json: no such file"),
]


@pytest.mark.parametrize(("case", "error", "match"), BAD_FILES, ids=[case for case, *_ in BAD_FILES])
def test_a_split_file_that_cannot_be_is_one_line_and_nothing_is_written_or_run(looks, build_look, tmp_path, case, error, match):
    look = looks["zinc"]
    path = write_bad_file(tmp_path, case, look.num_rows)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=match) as caught:
        build_look(look, split_file=path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    # neither a set nor what the code in the file would have left
    assert sorted(tmp_path.rglob("*")) == before


def test_a_rule_that_is_none_is_refused(looks, build_look, tmp_path):
    with pytest.raises(InputError, match="splits 'scafold': expected skeleton, scaffold, position, or a file that says so"):
        build_look(looks["zinc"], splits="scafold")
    assert not (tmp_path / "set").exists()


# what a set remembers of a file


def test_a_set_names_the_split_file_but_neither_its_folder_nor_its_path(looks, build_look, tmp_path, folder_bytes):
    folder = tmp_path / "secret_folder"
    folder.mkdir()
    look = looks["zinc"]
    path = lk.write_splits(folder, look)
    shard_set = build_look(look, split_file=path)
    assert shard_set.manifest.provenance["options"]["splits"] == path.name
    for name, data in folder_bytes(shard_set.path).items():
        assert b"secret_folder" not in data, name
        assert str(tmp_path).encode() not in data, name
    # so the same file in another folder makes the same bytes
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / path.name)
    assert folder_bytes(build_look(look, "again", split_file=moved).path) == folder_bytes(shard_set.path)


def test_a_build_is_gone_on_from_with_the_same_splits_and_refused_with_others(looks, build_look, tmp_path, folder_bytes):
    look, out = looks["zinc"], tmp_path / "set"
    rows = {"train": list(range(60)), "val": list(range(60, 110))}
    path, same, other = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c" / "a.json"
    other.parent.mkdir()
    path.write_text(json.dumps(rows))
    same.write_text(json.dumps(rows))
    other.write_text(json.dumps({"train": list(range(59)), "val": list(range(59, 110))}))
    spec = TableSpec(dataset="table", smiles_column=look.smiles_column)
    options = BuildOptions(tables=(spec,), splits="a.json")

    def stop(phase, done, total):
        if phase == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build([str(look.paths[0])], out, options, stop, split_file=str(path))
    for file, match in (
        (
            other,
            r"set: holds an unfinished build with other splits \(shares .*rows_sha256 \w{64} \(now \w{64}\)\); go on with",
        ),
        (same, r"set: holds an unfinished build with splits a\.json \(now b\.json\); run it with that to go on"),
    ):
        with pytest.raises(OutputError, match=match) as caught:
            build_look(look, split_file=file)
        assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match=r"unfinished build with splits a\.json \(now position\)"):
        build_look(look, splits="position")
    build_look(look, split_file=path)
    assert folder_bytes(out) == folder_bytes(build_look(look, "fresh", split_file=path).path)
    # and so is the finished one
    before = folder_bytes(out)
    with pytest.raises(OutputError, match=r"already holds a shard set, built with shares .*rows_sha256"):
        build_look(look, split_file=other)
    with pytest.raises(OutputError, match=r"already holds a shard set, built with splits a\.json \(now b\.json\)"):
        build_look(look, split_file=same)
    build_look(look, split_file=path)
    assert folder_bytes(out) == before
