import re
import runpy
import socket
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.build.options import parse_label_dtypes
from molstream.shards.build.spill import Spill
from molstream.shards.errors import InputError, OutputError, SchemaError, ShardError, StorageError
from molstream.shards.format.manifest import Dropped, Statistics
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.statistics import PROBABILITIES
from molstream.shards.format.verify import verify
from molstream.shards.inputs.datasets import TableSpec, preset_dataset
from molstream.shards.splits.rules import SplitFractions

ATTACKS = runpy.run_path(str(Path(__file__).parents[1] / "attacks" / "molecules.py"))
GRAPH, ATOM = ([t.name for t in preset_dataset("pm6").tasks if t.level == level] for level in ("graph", "atom"))
MULLIKEN, SPIN = "node_S0_charges_mulliken", "node_T0_spin"
S0, T0 = ATOM.index(MULLIKEN), ATOM.index(SPIN)
NAN = float("nan")


def labels(molecule, task: int = S0) -> dict[str, float]:
    """{atom's element + number among its equals: label} of a molecule's stored atoms, NaN left out."""
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    names = [symbol(int(z)) for z in molecule.codes[:, 0]]
    found = [(n, float(v)) for n, v in zip(names, molecule.atom[:, task], strict=True) if not np.isnan(v)]
    assert len(dict(found)) == len(found), "use molecules with one atom of each element"
    return dict(found)


# atom labels on their atoms


@pytest.mark.parametrize(
    ("smiles", "values", "expected"),
    [
        # the string's order is O C Cl, the lists' is C Cl O
        ("[OH:2][CH2:0][Cl:1]", [1, 2, 3], {"C": 1, "Cl": 2, "O": 3}),
        # a list over all atoms: heavy entries are kept
        ("[H:5][O:1][C:0]([H:2])([H:3])[H:4]", [1, 2, 3, 4, 5, 6], {"C": 1, "O": 2}),
        ("[OH:1][CH3:0]", [1, 2, 3, 4, 5, 6], {"C": 1, "O": 2}),
        # an isotopic hydrogen is an atom, with an entry in lists over all atoms only
        ("[2H:2][O:1][CH3:0]", [1, 2], {"C": 1, "O": 2}),
        ("[2H:2][O:1][CH3:0]", [1, 2, 3, 4, 5, 6], {"C": 1, "O": 2, "H": 3}),
        # no maps: the order of the string
        ("BrC(Cl)O", [1, 2, 3, 4], {"Br": 1, "C": 2, "Cl": 3, "O": 4}),
        # absent in four ways
        ("[OH:1][CH3:0]", None, {}),
        ("[OH:1][CH3:0]", [], {}),
        ("[OH:1][CH3:0]", [NAN, NAN], {}),
        ("[OH:1][CH3:0]", [None, None], {}),
        ("[OH:1][CH3:0]", [None, 2], {"O": 2}),
    ],
)
def test_each_label_lies_on_its_atom(build_set, by_id, rejects_of, smiles, values, expected):
    shard_set = build_set([{"ordered_smiles": smiles, MULLIKEN: values}, {"ordered_smiles": "N"}])
    assert not rejects_of(shard_set)
    molecules = by_id(shard_set)
    assert labels(molecules[0]) == expected
    assert not labels(molecules[0], T0)
    assert not labels(molecules[1])
    assert molecules[0].atom.shape == (len(molecules[0].codes), 7)


# rows that cannot become molecules


def test_rejected_rows_are_listed_with_a_reason_and_move_no_other_id(build_set, by_id, rejects_of):
    rows = [
        {"ordered_smiles": "[CH3:0][OH:1]", MULLIKEN: [1.0, 2.0]},
        {"ordered_smiles": ""},
        {"ordered_smiles": None},
        {"ordered_smiles": " \t "},
        {"ordered_smiles": "restricted"},
        {"ordered_smiles": "[CH3:0][OH:1]", MULLIKEN: [1.0, 2.0, 3.0]},
        {"ordered_smiles": "[CH3:0][OH:1]", MULLIKEN: [1.0, 2.0], SPIN: [1.0]},
        {"ordered_smiles": "[CH3:1][OH:3]", MULLIKEN: [1.0, 2.0]},
        {"ordered_smiles": "[CH3:1][OH:3]"},
        {"ordered_smiles": "C(C)(C)(C)(C)C"},
        {"ordered_smiles": "CC", "graph_mw": 30.0},
    ]
    shard_set = build_set(rows)
    molecules, rejects = by_id(shard_set), rejects_of(shard_set)
    assert sorted(molecules) == [0, 8, 10]
    assert molecules[10].graph[GRAPH.index("graph_mw")] == 30
    assert {row: r["reason"] for row, r in rejects.items()} == {
        1: "empty SMILES",
        2: "empty SMILES",
        3: "empty SMILES",
        4: "not a SMILES that RDKit can parse",
        5: "atom list of 3 values for 2 heavy atoms (6 with hydrogens)",
        6: "atom list of 1 values for 2 heavy atoms (6 with hydrogens)",
        7: "atom maps of the 2 heavy atoms do not count them from zero or one, each once",
        9: "RDKit: Explicit valence for atom # 0 C, 5, is greater than permitted",
    }
    assert [rejects[k]["smiles"] for k in (1, 2, 3, 4)] == ["", None, " \t ", "restricted"]
    assert shard_set.manifest.rejects["empty SMILES"] == 3
    assert sum(shard_set.manifest.rejects.values()) == len(rejects)


@pytest.mark.parametrize("with_list", [False, True])
def test_hostile_molecules_end_in_the_set_or_among_the_rejects(build_set, by_id, rejects_of, with_list):
    texts = [text for text, _ in ATTACKS["MOLECULES"]] + ATTACKS["MAP_ATTACKS"]
    rows = [{"ordered_smiles": text} | ({MULLIKEN: [1.0, 2.0]} if with_list else {}) for text in texts]
    shard_set = build_set([*rows, {"ordered_smiles": "CO"}])
    kept, rejects = by_id(shard_set), rejects_of(shard_set)
    assert sorted([*kept, *rejects]) == list(range(len(texts) + 1))
    first = len(ATTACKS["MOLECULES"])
    for k in range(first, len(texts)):
        assert k in (rejects if with_list else kept), texts[k]
    if not with_list:
        assert {k for k, (_, reason) in enumerate(ATTACKS["MOLECULES"]) if reason} == set(rejects)
    assert not verify(shard_set).problems


def test_all_rows_rejected_is_an_error_that_says_why(pm6_table, tmp_path):
    path = pm6_table([{"ordered_smiles": "restricted"}, {"ordered_smiles": "restricted"}, {"ordered_smiles": ""}])
    with pytest.raises(SchemaError, match="none of 3 rows can become a molecule; 2 of them: not a SMILES"):
        build([str(path)], tmp_path / "out", BuildOptions(), work=WorkOptions(max_reject_fraction=1.0))
    assert not (tmp_path / "out").exists()


# the whole


def test_the_same_input_gives_the_same_bytes(sample_table, sample_set, sample_options, tmp_path, folder_bytes):
    (tmp_path / "elsewhere").mkdir()
    build([str(sample_table)], tmp_path / "elsewhere", sample_options(), lambda *progress: None)
    assert folder_bytes(tmp_path / "elsewhere") == folder_bytes(sample_set.path)


def test_how_rows_are_cut_into_ranges_batches_and_runs_changes_no_byte(
    sample_table, sample_set, sample_options, tmp_path, folder_bytes, monkeypatch
):
    monkeypatch.setattr("molstream.shards.inputs.tables.RANGE_ROWS", 70)
    monkeypatch.setattr("molstream.shards.inputs.tables.MIN_RANGE_ROWS", 70)
    monkeypatch.setattr("molstream.shards.build.map.BATCH_ROWS", 13)
    monkeypatch.setattr("molstream.shards.build.spill.MAX_RUN_ROWS", 30)
    runs = []

    def look_at_spills(phase, done, total):
        if phase == "write" and not runs:
            runs.extend(Spill(path).runs for path in (tmp_path / "set" / ".building").glob("*.spill"))

    build([str(sample_table)], tmp_path / "set", sample_options(), look_at_spills)
    assert folder_bytes(tmp_path / "set") == folder_bytes(sample_set.path)
    assert len(runs) == 5
    assert min(runs) > 1


def test_a_set_holds_the_documented_files_and_nothing_else(sample_set, folder_bytes):
    names = set(folder_bytes(sample_set.path))
    shards = {n for n in names if re.fullmatch(r"(train|val|test)-\d{5}\.tar", n)}
    assert names - shards == {"index.parquet", "manifest.json", "rejects.parquet"}
    assert len(shards) == sum(s["shards"] for s in sample_set.manifest.splits.values())
    for split, totals in sample_set.manifest.splits.items():
        assert {n for n in shards if n.startswith(split)} == {f"{split}-{k:05d}.tar" for k in range(totals["shards"])}
    assert not list(sample_set.path.glob(".*"))


def test_nothing_tells_where_or_by_whom_a_set_was_built(sample_table, sample_set, folder_bytes):
    host = socket.gethostname().encode()
    for name, data in folder_bytes(sample_set.path).items():
        assert str(sample_table.parent).encode() not in data, name
        assert b"/tmp/" not in data, name
        if len(host) > 5:
            assert host not in data, name
    assert sample_set.manifest.provenance["inputs"][0]["name"] == sample_table.name


def test_the_stored_order_is_not_the_input_order_and_depends_on_the_seed(sample_table, sample_set, tmp_path):
    def order(path):
        return np.concatenate([b.ids for b in ShardSet(path).iter_blocks("train")]).tolist()

    build([str(sample_table)], tmp_path / "other", BuildOptions(split_fractions=SplitFractions.parse("80,10,10"), seed=1))
    mine, other = order(sample_set.path), order(tmp_path / "other")
    assert mine != sorted(mine)
    # inside a shard as well
    assert all(ids != sorted(ids) for ids in (b.ids.tolist() for b in sample_set.iter_blocks() if len(b) > 8))
    assert mine != other
    assert set(mine) != set(other)


def test_infinite_and_nan_labels_are_dropped_and_counted(build_set, pm6_table, by_id):
    inf = float("inf")
    path = pm6_table(
        [
            {"ordered_smiles": "[CH3:0][OH:1]", "graph_mw": inf, "graph_qed": 0.5, MULLIKEN: [1.0, -inf]},
            {"ordered_smiles": "[CH3:0][OH:1]", "graph_mw": 1e300, "graph_qed": 0.25, MULLIKEN: [inf, inf]},
            {"ordered_smiles": "[CH3:0][OH:1]", "graph_mw": 3.0, "graph_qed": NAN, MULLIKEN: [2.0, 1e39]},
        ],
        dtypes={"graph_mw": pa.float64(), MULLIKEN: pa.list_(pa.float64())},
    )
    shard_set = build_set([path], fractions="1,0,0")
    molecules, manifest = by_id(shard_set), shard_set.manifest
    assert manifest.dropped_labels == {
        "graph_mw": Dropped(infinite=2, nan=0),
        "graph_qed": Dropped(infinite=0, nan=1),
        MULLIKEN: Dropped(infinite=4, nan=0),
    }
    assert [molecules[k].graph[GRAPH.index("graph_mw")].item() for k in (0, 1, 2)] == pytest.approx([NAN, NAN, 3], nan_ok=True)
    assert [labels(molecules[k]) for k in (0, 1, 2)] == [{"C": 1}, {}, {"C": 2}]
    assert manifest.labels["graph_mw"] == {"train": 1, "val": 0, "test": 0}
    assert manifest.labels[MULLIKEN]["train"] == 2
    assert (manifest.statistics[MULLIKEN].mean, manifest.statistics[MULLIKEN].std) == (1.5, 0.5)
    assert manifest.statistics["graph_qed"].count == 2


def test_statistics_are_those_of_the_training_split(sample_set, by_id):
    molecules = by_id(sample_set).values()
    for level, column in (("graph", "graph"), ("atom", "atom")):
        for t, task in enumerate(sample_set.manifest.tasks_of(level)):
            values = {
                split: np.concatenate([np.atleast_1d(getattr(m, column)[..., t]) for m in molecules if m.split == split])
                for split in sample_set.splits
            }
            real = {split: v[~np.isnan(v)].astype(np.float64) for split, v in values.items()}
            assert sample_set.manifest.labels[task.name] == {split: v.size for split, v in real.items()}
            said, train = sample_set.manifest.statistics[task.name], real["train"]
            assert said.count == train.size > 0
            assert said.mean == pytest.approx(train.mean(), rel=1e-11, abs=1e-12)
            assert said.std == pytest.approx(train.std() or 1, rel=1e-9)
            assert (said.min, said.max) == (train.min(), train.max())


def test_histograms_are_those_of_all_molecules(sample_set, by_id):
    molecules = [(m, Chem.MolFromSmiles(m.smiles)) for m in by_id(sample_set).values()]
    names = {"SINGLE": "single", "DOUBLE": "double", "TRIPLE": "triple", "AROMATIC": "aromatic"}
    expected = {
        "atoms": Counter(str(len(m.codes)) for m, _ in molecules),
        "bonds": Counter(str(len(m.bonds)) for m, _ in molecules),
        "elements": Counter(str(atom.GetAtomicNum()) for _, mol in molecules for atom in mol.GetAtoms()),
        "bond_types": Counter(names[str(bond.GetBondType())] for _, mol in molecules for bond in mol.GetBonds()),
    }
    assert sample_set.manifest.histograms == expected
    for name in ("atoms", "bonds", "elements"):
        assert [int(key) for key in sample_set.manifest.histograms[name]] == sorted(map(int, expected[name]))


def test_a_task_without_labels_in_training_has_mean_zero_and_std_one(build_set):
    shard_set = build_set([{"ordered_smiles": "CO", "graph_mw": 32.0}])
    statistics = shard_set.manifest.statistics
    assert statistics["graph_qed"] == Statistics(count=0, mean=0.0, std=1.0, min=None, max=None, quantiles={})
    assert statistics["graph_mw"] == Statistics(
        count=1, mean=32.0, std=1.0, min=32.0, max=32.0, quantiles=dict.fromkeys((f"{p:g}" for p in PROBABILITIES), 32.0)
    )


def test_ids_are_row_numbers_over_all_files_in_natural_order(build_set, pm6_table, tmp_path, by_id):
    at = 0
    for name, count in (("part_1", 3), ("part_2", 1), ("part_10", 4)):
        rows = [{"ordered_smiles": "C" * (k + 1), "graph_n_heavy_atoms": k + 1.0} for k in range(at, at + count)]
        pm6_table(rows, name=f"{name}.parquet")
        at += count
    shard_set = build_set([tmp_path / "part_*.parquet"])
    assert {k: m.smiles for k, m in by_id(shard_set).items()} == {k: "C" * (k + 1) for k in range(8)}
    inputs = shard_set.manifest.provenance["inputs"]
    assert [(i["name"], i["rows"]) for i in inputs] == [("part_1.parquet", 3), ("part_2.parquet", 1), ("part_10.parquet", 4)]


# splits


def test_isomers_of_one_skeleton_share_a_split(build_set, by_id, sample_smiles):
    groups = []
    for smiles in sample_smiles[:60]:
        mol = Chem.MolFromSmiles(re.sub(r":\d+\]", "]", smiles))
        flat, isotope = Chem.Mol(mol), Chem.Mol(mol)
        Chem.RemoveStereochemistry(flat)
        isotope.GetAtomWithIdx(0).SetIsotope(15)
        bare = Chem.RWMol(mol)
        for bond in bare.GetBonds():
            bond.SetBondType(Chem.BondType.SINGLE)
            bond.SetIsAromatic(False)
        for atom in bare.GetAtoms():
            atom.SetIsAromatic(False)
            atom.SetNoImplicit(False)
            atom.SetNumExplicitHs(0)
        written = [Chem.MolToSmiles(m) for m in (mol, flat, isotope, Chem.AddHs(mol))]
        groups.append([*written, Chem.MolToSmiles(bare), *Chem.MolToRandomSmilesVect(mol, 2, randomSeed=5)])
    # explicit hydrogens in place of neutral ones, a deuterium, a charge
    groups += [["CCO", "CC[O-]", "C=CO", "[2H]CCO", "C#[C+]O"], ["C1CCCCC1N", "c1ccccc1N", "c1ccccc1[NH3+]"]]
    rows = [{"ordered_smiles": s} for group in groups for s in group]
    molecules = by_id(build_set(rows, fractions="34,33,33"))
    at, splits = 0, []
    for group in groups:
        found = {molecules[k].split for k in range(at, at + len(group)) if k in molecules}
        assert len(found) == 1, group
        splits += found
        at += len(group)
    assert len(molecules) > 0.9 * len(rows)
    assert set(splits) == {"train", "val", "test"}


def test_blocks_and_shards_have_about_the_size_asked_for(sample_set):
    counts = sample_set.index.counts["num_molecules"]
    assert counts.max() <= 32
    per_shard = defaultdict(int)
    for block, count in enumerate(counts):
        per_shard[sample_set.shard_path(block)] += int(count)
    assert max(per_shard.values()) < 150
    for path in per_shard:
        mine = [int(c) for b, c in enumerate(counts) if sample_set.shard_path(b) == path]
        assert max(mine) - min(mine) <= 1


# bad calls, bad inputs, interruptions: one line, and the output folder as it was


def broken_inputs(folder: Path, sample_table: Path) -> dict[str, tuple[list[str], type[ShardError], str]]:
    data = bytearray(sample_table.read_bytes())
    table = pq.read_table(sample_table)
    (folder / "text.parquet").write_text("ordered_smiles,graph_mw\nC,16\n" * 20)
    (folder / "nothing.parquet").write_bytes(b"")
    (folder / "cut.parquet").write_bytes(data[: len(data) * 2 // 3])
    pq.write_table(table.slice(0, 0), folder / "no_rows.parquet")
    pq.write_table(table.select(["ordered_smiles", "graph_mw"]), folder / "columns.parquet")
    place = table.schema.names.index("graph_mw")
    pq.write_table(table.set_column(place, "graph_mw", table["inchi"]), folder / "type.parquet")
    # a page header in the middle, found at run time: the footer knows where
    offset = pq.ParquetFile(sample_table).metadata.row_group(0).column(40).data_page_offset
    data[offset : offset + 40] = b"\xff" * 40
    (folder / "middle.parquet").write_bytes(data)
    return {
        "missing": ([f"{folder}/absent.parquet"], InputError, "absent.parquet: no such file"),
        "glob": ([f"{folder}/absent*.parquet"], InputError, r"absent\*.parquet: no file matches"),
        "folder": ([str(folder)], InputError, "a folder, expected a table; name its files, for example "),
        "twice": ([str(sample_table)] * 2, InputError, "named twice among the inputs"),
        "text": ([f"{folder}/text.parquet"], SchemaError, "text.parquet: not a readable Parquet file"),
        "nothing": ([f"{folder}/nothing.parquet"], SchemaError, "nothing.parquet: not a readable Parquet file"),
        "cut": ([f"{folder}/cut.parquet"], SchemaError, "cut.parquet: not a readable Parquet file"),
        "no_rows": ([f"{folder}/no_rows.parquet"], SchemaError, "no_rows.parquet: no rows"),
        "columns": (
            [f"{folder}/columns.parquet"],
            SchemaError,
            r"68 of 70 columns of --dataset pm6 are missing: graph_S0_alpha_homo, .*; found 2: ordered_smiles, graph_mw",
        ),
        "type": ([f"{folder}/type.parquet"], SchemaError, "column graph_mw is of type string, expected numbers"),
        "middle": ([f"{folder}/middle.parquet"], SchemaError, "middle.parquet: unreadable at or after row 0"),
        "second": (
            [str(sample_table), f"{folder}/middle.parquet"],
            SchemaError,
            "middle.parquet: unreadable at or after row 300",
        ),
    }


BROKEN = ["missing", "glob", "folder", "twice", "text", "nothing", "cut", "no_rows", "columns", "type", "middle", "second"]


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_input_is_one_line_and_leaves_the_output_as_it_was(tmp_path, sample_table, case, existing):
    (tmp_path / "in").mkdir()
    inputs, error, reason = broken_inputs(tmp_path / "in", sample_table)[case]
    out = tmp_path / "new" / "deep" / "out"
    if existing:
        out.mkdir(parents=True)
    with pytest.raises(error, match=reason) as caught:
        build(inputs, out, BuildOptions())
    assert "\n" not in str(caught.value)
    assert (tmp_path / "new").exists() == existing
    if existing:
        assert not list(out.iterdir())


def test_an_output_that_holds_anything_is_not_touched(tmp_path, sample_table, sample_set, folder_bytes):
    other, file, below = tmp_path / "other", tmp_path / "file", tmp_path / "file" / "below"
    other.mkdir()
    (other / "thesis.txt").write_text("only copy")
    file.write_text("text")
    before = folder_bytes(sample_set.path)
    for out, reason in (
        (sample_set.path, "already holds a shard set, built with split_fractions"),
        (other, "not empty and not a shard set"),
        (file, "a file, expected a folder"),
        (below, "below: cannot be written to: Not a directory"),
        (Path("/proc/molstream"), "/proc/molstream: cannot be written to"),
        (tmp_path / "good" / ("x" * 300), "cannot be written to: File name too long"),
    ):
        with pytest.raises(OutputError, match=reason) as caught:
            build([str(sample_table)], out, BuildOptions())
        assert "\n" not in str(caught.value)
    assert folder_bytes(sample_set.path) == before
    assert folder_bytes(tmp_path) == {"file": b"text", "other/thesis.txt": b"only copy"}
    assert not (tmp_path / "good").exists()


def test_an_interruption_anywhere_can_be_gone_on_from(
    tmp_path, sample_table, sample_set, sample_options, folder_bytes, monkeypatch
):
    monkeypatch.setattr("molstream.shards.inputs.tables.RANGE_ROWS", 100)
    monkeypatch.setattr("molstream.shards.inputs.tables.MIN_RANGE_ROWS", 100)
    monkeypatch.setattr("molstream.shards.build.map.BATCH_ROWS", 100)
    calls = []
    build([str(sample_table)], tmp_path / "whole", sample_options(), lambda *call: calls.append(call))
    assert {phase for phase, _, _ in calls} == {"check", "featurize", "write"}
    last = {phase: (done, total) for phase, done, total in calls}
    assert all(done == total for done, total in last.values())
    assert folder_bytes(tmp_path / "whole") == folder_bytes(sample_set.path)
    for stop, (phase, done, _) in enumerate(calls):
        out = tmp_path / f"out{stop}"
        left = [stop]

        def interrupt(*call, left=left):
            if not left[0]:
                raise KeyboardInterrupt("now")
            left[0] -= 1

        with pytest.raises(KeyboardInterrupt, match="now"):
            build([str(sample_table)], out, sample_options(), interrupt)
        # what is left is finished work or nothing: a range here has a hundred rows
        assert out.exists() == (phase == "write" or (phase == "featurize" and done > 100)), (phase, done)
        seen = []
        build([str(sample_table)], out, sample_options(), lambda *call, seen=seen: seen.append(call))
        assert folder_bytes(out) == folder_bytes(sample_set.path)
        if phase == "write":
            assert [call for call in seen if call[0] == "featurize"] == [("featurize", 300, 300)]


@pytest.mark.parametrize("existing", [False, True])
def test_an_interruption_before_anything_is_finished_leaves_nothing(tmp_path, sample_table, sample_options, existing):
    def interrupt(phase, done, total):
        if phase == "featurize":
            raise KeyboardInterrupt("now")

    out = tmp_path / "new" / "out"
    if existing:
        out.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt, match="now"):
        build([str(sample_table)], out, sample_options(), interrupt)
    assert (tmp_path / "new").exists() == existing
    assert not existing or not list(out.iterdir())


def test_a_failing_disk_is_one_line(tmp_path, sample_table, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"plan\.json: cannot be written: No space left on device; run again to go on"):
        build([str(sample_table)], tmp_path / "out", BuildOptions())
    assert not (tmp_path / "out").exists()


def test_what_a_build_of_another_version_left_is_replaced(tmp_path, sample_table, sample_set, sample_options, folder_bytes):
    out = tmp_path / "out"
    (out / ".building").mkdir(parents=True)
    for name in (
        ".building/0123456789abcdef-00000.spill",
        ".building/.0123456789abcdef-00001.spill.0123456789ab.part",
        "train-00000.tar",
        "train-00007.tar",
        ".val-00000.tar.0123456789ab.part",
        "index.parquet",
        "rejects.parquet",
    ):
        (out / name).write_bytes(b"half")
    with pytest.raises(ShardError, match="incomplete build"):
        ShardSet(out)
    build([str(sample_table)], out, sample_options())
    assert folder_bytes(out) == folder_bytes(sample_set.path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: BuildOptions(tables=(TableSpec(dataset="pm7"),)), r"dataset 'pm7': expected one of pm6, "),
        (lambda: BuildOptions(block_molecules=-1), "block_molecules -1: expected at least 0"),
        (lambda: BuildOptions(shard_molecules=0), "shard_molecules 0: expected at least 1"),
        (lambda: BuildOptions(tables=()), "no table"),
        (lambda: BuildOptions(tables=(TableSpec(), TableSpec())), "2 tables: expected one, or to be told what to join them by"),
        (lambda: BuildOptions(join="name"), "join 'name': expected one of smiles, inchi"),
        (lambda: BuildOptions(pair_labels="f64"), "pair_labels 'f64': expected one of f32, f16"),
        (lambda: parse_label_dtypes(["edge=f32"]), "label dtype 'edge=f32': expected graph=, atom=, bond=, pair=, "),
    ],
)
def test_options_out_of_range_are_refused(make, reason):
    with pytest.raises(InputError, match=reason):
        make()


def test_a_second_build_into_the_same_folder_is_refused_while_the_first_runs(sample_table, tmp_path, folder_bytes):
    refused = []

    def start_another(phase, done, total):
        if phase == "write" and not refused:
            before = folder_bytes(tmp_path / "set")
            with pytest.raises(OutputError, match="another build is writing to it"):
                build([str(sample_table)], tmp_path / "set", BuildOptions())
            assert folder_bytes(tmp_path / "set") == before
            refused.append(True)

    build([str(sample_table)], tmp_path / "set", BuildOptions(), start_another)
    assert refused
    assert not verify(ShardSet(tmp_path / "set")).problems
    assert not (tmp_path / "set" / ".building").exists()
