import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molstream.shards.build.options import BuildOptions
from molstream.shards.build.plan import BuildPlan
from molstream.shards.build.spill import REJECT_SCHEMA, PieceLayout, Spill, write_spill
from molstream.shards.columns import COLUMNS, groups_of
from molstream.shards.errors import FormatError
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.tables import InputFile, cut_ranges
from molstream.shards.molecules import concat_molecules
from molstream.shards.splits.rules import SPLITS, SplitFractions, Splits


def layout_of(num_tasks: dict, *, identifiers: bool = True, identity: bool = True) -> PieceLayout:
    return PieceLayout.of(groups_of(num_tasks, identifiers=identifiers), num_tasks=num_tasks, identity=identity)


NUM_TASKS = {"graph": 62, "atom": 7, "bond": 3, "pair": 2}
LAYOUT = layout_of({"graph": 62, "atom": 7, "bond": 0, "pair": 0}, identifiers=False, identity=False)


@pytest.fixture(scope="module")
def molecules(sample_set: ShardSet):
    return concat_molecules(list(sample_set.iter_blocks()))


@pytest.fixture(scope="module")
def all_columns(molecules):
    """The same molecules with everything that a piece can hold besides."""
    rng = np.random.default_rng(0)

    def labels(*shape):
        values = rng.normal(size=shape).astype(np.float32)
        values[rng.random(shape) < 0.3] = np.nan
        return values

    return molecules.replace(
        bond_labels=labels(len(molecules.bond_codes), 3, 2),
        pair_labels=labels(int(molecules.pair_ptr[-1]), 2, 2),
        identifiers=np.array(["", "CHEMBL\u00e9", "7"], object)[rng.integers(0, 3, len(molecules))],
    )


@pytest.fixture(scope="module")
def identity(molecules):
    return np.random.default_rng(1).integers(0, 2**64, (len(molecules), 2), np.uint64)


def write(path, molecules, partition, num_partitions, batch=37, rejects=(), facts=None, run_rows=1000, identity=None):
    cuts = [slice(k, min(k + batch, len(molecules))) for k in range(0, len(molecules), batch)]
    parts = [(molecules.slice(c.start, c.stop), partition[c], *(() if identity is None else (identity[c],))) for c in cuts]
    table = pa.Table.from_pylist(list(rejects), REJECT_SCHEMA)
    write_spill(path, num_partitions, parts, lambda: (table, facts or {}), run_rows=run_rows)
    return Spill(path)


@pytest.mark.parametrize("run_rows", [1, 50, 1000])
@pytest.mark.parametrize("num_partitions", [1, 7, 400])
def test_every_molecule_comes_back_from_its_partition_as_it_was(tmp_path, molecules, same, num_partitions, run_rows):
    partition = np.random.default_rng(num_partitions).integers(0, num_partitions, len(molecules))
    rejects = [
        {"row": 3, "identifier": None, "smiles": None, "reason": "x"},
        {"row": 2**40, "identifier": "a", "smiles": "é", "reason": "y"},
    ]
    facts = {"n": [0.1, float("inf")]}
    path = tmp_path / "a.spill"
    spill = write(path, molecules, partition, num_partitions, rejects=rejects, facts=facts, run_rows=run_rows)
    assert spill.molecules.tolist() == np.bincount(partition, minlength=num_partitions).tolist()
    assert spill.table().to_pylist() == rejects
    assert spill.facts == facts
    for p in range(num_partitions):
        parts = [m for m, _ in spill.read(p, LAYOUT)]
        rows = np.flatnonzero(partition == p)
        if not len(rows):
            assert parts == []
            continue
        expected, found = molecules.take(rows), concat_molecules(parts)
        for name in ("atom_ptr", "bond_ptr", *COLUMNS):
            a, b = getattr(found, name), getattr(expected, name)
            assert a.tolist() == b.tolist() if name == "smiles" else same(a, b), name


ABSENT = [
    (),
    ("graph", "atom"),
    ("bond", "identifiers"),
    ("pair", "identity"),
    ("graph", "atom", "bond", "pair", "identifiers", "identity"),
]


@pytest.mark.parametrize("run_rows", [50, 1000])
@pytest.mark.parametrize("absent", ABSENT, ids=",".join)
def test_whatever_columns_there_are_come_back_with_what_joins_them(tmp_path, all_columns, identity, same, absent, run_rows):
    expected = all_columns.replace(
        **{name if name == "identifiers" else f"{name}_labels": None for name in absent if name != "identity"}
    )
    number = {level: 0 if level in absent else count for level, count in NUM_TASKS.items()}
    layout = layout_of(number, identifiers="identifiers" not in absent, identity="identity" not in absent)
    partition = np.random.default_rng(2).integers(0, 7, len(expected))
    given = identity if layout.identity else None
    spill = write(tmp_path / "a.spill", expected, partition, 7, run_rows=run_rows, identity=given)
    assert spill.runs > 1 or run_rows == 1000
    for p in range(7):
        rows = np.flatnonzero(partition == p)
        parts = spill.read(p, layout)
        found = concat_molecules([m for m, _ in parts])
        for name in ("atom_ptr", "bond_ptr", *COLUMNS):
            a, b = getattr(found, name), getattr(expected.take(rows), name)
            is_text = name in ("smiles", "identifiers") and b is not None
            assert a.tolist() == b.tolist() if is_text else same(a, b), name
        if layout.identity:
            assert same(np.concatenate([i for _, i in parts]), identity[rows])
        else:
            assert all(i is None for _, i in parts)


def test_a_piece_of_other_columns_than_it_is_read_as_is_refused(tmp_path, all_columns, identity):
    partition = np.zeros(len(all_columns), np.int64)
    spill = write(tmp_path / "a.spill", all_columns, partition, 1, identity=identity)
    assert len(spill.read(0, layout_of(NUM_TASKS))[0][0]) == len(all_columns)
    for level, count in NUM_TASKS.items():
        for other in (count - 1, count + 1):
            with pytest.raises(FormatError, match=r"a\.spill, partition 0: damaged"):
                spill.read(0, layout_of(NUM_TASKS | {level: other}))
    for name in ("identifiers", "identity"):
        with pytest.raises(FormatError, match=r"a\.spill, partition 0: damaged"):
            spill.read(0, layout_of(NUM_TASKS, **{name: False}))


def test_a_spill_file_that_is_not_whole_is_refused(tmp_path, molecules):
    partition = np.arange(len(molecules)) % 5
    spill = write(tmp_path / "a.spill", molecules, partition, 5)
    data = spill.path.read_bytes()
    draw = random.Random(0)
    for size in (0, 10, 39, 40, *(draw.randrange(len(data)) for _ in range(30)), len(data) - 1):
        spill.path.write_bytes(data[:size])
        with pytest.raises(FormatError, match=r"spill file|damaged"):
            Spill(spill.path)


def read_all(path, layout):
    spill = Spill(path)
    return spill.table(), [spill.read(p, layout) for p in range(spill.num_partitions)]


@pytest.mark.parametrize("with_all", [False, True])
def test_flipped_bits_are_found_when_they_are_read(tmp_path, molecules, all_columns, identity, with_all):
    partition = np.arange(len(molecules)) % 5
    given, layout = ((all_columns, identity), layout_of(NUM_TASKS)) if with_all else ((molecules, None), LAYOUT)
    spill = write(tmp_path / "a.spill", given[0], partition, 5, identity=given[1])
    data = spill.path.read_bytes()
    draw = random.Random(1)
    for _ in range(60):
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        spill.path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"damaged|spill file"):
            read_all(spill.path, layout)


def test_nothing_is_left_of_a_spill_file_whose_writer_fails(tmp_path, molecules):
    def batches():
        yield molecules.slice(0, 5), np.zeros(5, np.int64)
        raise RuntimeError("now")

    with pytest.raises(RuntimeError, match="now"):
        write_spill(tmp_path / "a.spill", 1, batches(), lambda: (None, {}))
    assert not list(tmp_path.iterdir())


# ranges and partitions


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 400_000) | st.integers(0, 50), max_size=12), min_size=1, max_size=4))
def test_ranges_hold_every_row_once_in_order(groups):
    files = [InputFile(f"{k}.parquet", sum(g), 0, "", tuple(g)) for k, g in enumerate(groups)]
    ranges = cut_ranges(files)
    at = 0
    for r in ranges:
        assert (r.first_row, r.num_rows > 0) == (at, True)
        at += r.num_rows
        before = sum(sum(g) for g in groups[: r.file])
        assert before + sum(groups[r.file][: r.first_group]) + r.skip == r.first_row
        assert r.skip + r.num_rows <= sum(groups[r.file][r.first_group : r.first_group + r.num_groups])
        assert r.num_groups == 1 or r.skip == 0
    assert at == sum(sum(g) for g in groups)


def test_small_row_groups_are_read_together_and_large_ones_in_parts():
    for groups in ((4_200_000,), (1_000,) * 4_200, (70_000,) * 60):
        ranges = cut_ranges([InputFile("a.parquet", 4_200_000, 0, "", groups)])
        assert all(r.num_rows <= 131_072 for r in ranges)
        # a group over the target is cut, one that would go over it with the next stands alone
        assert len(ranges) <= 2 * 64
    assert len(cut_ranges([InputFile("a.parquet", 2_000, 0, "", (2_000,))])) == 1


@given(st.integers(1, 10**7), st.integers(0, 2**32 - 1))
def test_every_molecule_has_a_partition_of_its_split(num_rows, seed):
    options = BuildOptions(shard_molecules=5_000, split_fractions=SplitFractions.parse("8,1,1"))
    splits = Splits(rule="skeleton", names=SPLITS, shares=(0.8, 0.1, 0.1))
    plan = BuildPlan((InputFile("a.parquet", num_rows, 0, "", (num_rows,)),), (), options, splits, {}, (), (), ())
    rng = np.random.default_rng(seed)
    split = rng.integers(0, 3, 200)
    partition = plan.partition_of(split, rng.integers(0, 2**64, 200, np.uint64))
    assert [plan.partitions[p][0] for p in partition] == [SPLITS[s] for s in split]
    assert len(plan.partitions) == len(set(plan.partitions))
