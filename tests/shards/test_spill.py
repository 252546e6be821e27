import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards import FormatError, ShardSet
from shards.options import BuildOptions
from shards.plan import Plan
from shards.spill import Spill, Widths, write_spill
from shards.splits import SPLITS, SplitFractions
from shards.tables import InputFile, cut_ranges
from shards.types import COLUMNS, concat_molecules

WIDTHS = Widths(atom_features=7, graph_tasks=62, atom_tasks=7)


@pytest.fixture(scope="module")
def molecules(sample_set: ShardSet):
    return concat_molecules(list(sample_set.iter_blocks()))


def write(path, molecules, partition, num_partitions, batch=37, rejects=(), facts=None):
    parts = [
        (molecules.slice(k, min(k + batch, len(molecules))), partition[k : k + batch]) for k in range(0, len(molecules), batch)
    ]
    write_spill(path, num_partitions, parts, lambda: (list(rejects), facts or {}))
    return Spill(path)


@pytest.mark.parametrize("run_rows", [1, 50, 1000])
@pytest.mark.parametrize("num_partitions", [1, 7, 400])
def test_every_molecule_comes_back_from_its_partition_as_it_was(tmp_path, molecules, same, monkeypatch, num_partitions, run_rows):
    monkeypatch.setattr("shards.spill.MAX_RUN_ROWS", run_rows)
    partition = np.random.default_rng(num_partitions).integers(0, num_partitions, len(molecules))
    rejects = [{"row": 3, "smiles": None, "reason": "x"}, {"row": 2**40, "smiles": "é", "reason": "y"}]
    spill = write(tmp_path / "a.spill", molecules, partition, num_partitions, rejects=rejects, facts={"n": [0.1, float("inf")]})
    assert spill.molecules.tolist() == np.bincount(partition, minlength=num_partitions).tolist()
    assert spill.rejects().to_pylist() == rejects
    assert spill.facts == {"n": [0.1, float("inf")]}
    for p in range(num_partitions):
        parts = spill.read(p, WIDTHS)
        rows = np.flatnonzero(partition == p)
        if not len(rows):
            assert parts == []
            continue
        expected, found = molecules.take(rows), concat_molecules(parts)
        for name in ("atom_ptr", "bond_ptr", *COLUMNS):
            a, b = getattr(found, name), getattr(expected, name)
            assert a.tolist() == b.tolist() if name == "smiles" else same(a, b), name


def test_a_spill_file_that_is_not_whole_is_refused(tmp_path, molecules):
    partition = np.arange(len(molecules)) % 5
    spill = write(tmp_path / "a.spill", molecules, partition, 5)
    data = spill.path.read_bytes()
    draw = random.Random(0)
    for size in (0, 10, 39, 40, *(draw.randrange(len(data)) for _ in range(30)), len(data) - 1):
        spill.path.write_bytes(data[:size])
        with pytest.raises(FormatError, match=r"spill file|damaged"):
            Spill(spill.path)


def test_flipped_bits_are_found_when_they_are_read(tmp_path, molecules):
    partition = np.arange(len(molecules)) % 5
    spill = write(tmp_path / "a.spill", molecules, partition, 5)
    data = spill.path.read_bytes()
    draw = random.Random(1)
    for _ in range(60):
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        spill.path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"damaged|spill file"):
            [Spill(spill.path).read(p, WIDTHS) for p in range(5)]


def test_nothing_is_left_of_a_spill_file_whose_writer_fails(tmp_path, molecules):
    def batches():
        yield molecules.slice(0, 5), np.zeros(5, np.int64)
        raise RuntimeError("now")

    with pytest.raises(RuntimeError, match="now"):
        write_spill(tmp_path / "a.spill", 1, batches(), lambda: ([], {}))
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
    plan = Plan((InputFile("a.parquet", num_rows, 0, "", (num_rows,)),), options, {}, ())
    rng = np.random.default_rng(seed)
    split = rng.integers(0, 3, 200)
    partition = plan.partition_of(split, rng.integers(0, 2**64, 200, np.uint64))
    assert [plan.partitions[p][0] for p in partition] == [SPLITS[s] for s in split]
    assert len(plan.partitions) == len(set(plan.partitions))
