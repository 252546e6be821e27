"""Molecules larger than a pack: refused by name at the start, or left out, each told once an epoch."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molstream.shards.format.reader import ShardSet
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.errors import BudgetError
from molstream.streamer.ledger import LedgerWriter
from molstream.streamer.loader import Loader
from molstream.streamer.plan import Plan
from molstream.streamer.stats import StreamStats


def sizes_of(shard_set: ShardSet) -> dict[int, tuple[int, int]]:
    """{id: (atoms, directed edges)} of the whole set."""
    return {
        int(i): (int(a), 2 * int(b))
        for block in shard_set.iter_blocks(None, ("sizes", "ids"))
        for i, a, b in zip(block.ids, block.num_atoms, block.num_bonds, strict=True)
    }


def split_sizes(shard_set: ShardSet, budget: Budget) -> tuple[set[int], set[int]]:
    """Ids that fit a pack, and those that do not."""
    capacity, sizes = budget.capacity, sizes_of(shard_set)
    fit = {i for i, (atoms, edges) in sizes.items() if atoms <= capacity.atoms and edges <= capacity.edges}
    return fit, sizes.keys() - fit


def config_for(budget: str, **options) -> StreamConfig:
    return StreamConfig(budget=Budget.parse(budget), **{"oversize": "skip", "num_lanes": 4, "window_molecules": 30} | options)


def run(loader: Loader, steps: int | None = None) -> tuple[Counter, Counter]:
    """Ids in packs and ids left out, of some steps or of the rest of the epoch."""
    kept: Counter = Counter()
    skipped: Counter = Counter()
    for step in loader if steps != 0 else ():
        skipped.update(step.skipped.tolist())
        for batch in step.batches:
            kept.update(batch.window_rows.tolist() if batch.ids is None else batch.ids.tolist())
        steps = None if steps is None else steps - 1
        if steps == 0:
            break
    return kept, skipped


SHAPES = {
    "too many atoms": "32,64,512",
    "too many edges only": "32,256,160",
    "atoms and edges": "32,64,88",
    "hardly anything fits": "8,8,16",
}


@pytest.mark.parametrize("world", [1, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_epoch_is_the_kept_and_the_left_out_each_once_over_all_ranks(made_sets, shape, world):
    config = config_for(SHAPES[shape])
    fit, too_large = split_sizes(made_sets["tails"], config.budget)
    assert fit
    assert len(too_large) > 20
    if shape == "too many edges only":
        assert all(sizes_of(made_sets["tails"])[i][0] < 256 for i in too_large)
    kept, skipped, steps = Counter(), Counter(), set()
    for rank in range(world):
        loader = Loader(made_sets["tails"], config, rank=rank, world_size=world, with_ids=True)
        planned = len(loader)
        mine = run(loader)
        kept, skipped = kept + mine[0], skipped + mine[1]
        steps.add((planned, loader.epoch))
    assert (kept, skipped) == (Counter(fit), Counter(too_large))
    assert len(steps) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    atoms=st.sampled_from([16, 40, 96, 128]),
    edges=st.sampled_from([16, 72, 160, 512]),
    lanes=st.integers(1, 6),
    window=st.sampled_from([1, 40, 1000]),
    cut=st.floats(0, 1),
    world=st.integers(1, 6),
    epoch=st.integers(0, 2),
)
def test_a_resumed_stream_tells_of_the_rest_only(made_sets, atoms, edges, lanes, window, cut, world, epoch):
    """Where a cut is inside a window, those of it that were left out were told before the cut."""
    shard_set = made_sets["tails"]
    config = config_for(f"16,{atoms},{edges}", num_lanes=lanes, window_molecules=window)
    fit, too_large = split_sizes(shard_set, config.budget)
    first = Loader(shard_set, config, num_threads=1, with_ids=True)
    first.seek(replace(first.cursor, epoch=epoch))
    kept, skipped = run(first, int(cut * len(first)))
    for rank in range(min(world, lanes)):
        loader = Loader(shard_set, config, rank=rank, world_size=min(world, lanes), with_ids=True)
        loader.seek(first.cursor)
        if loader.epoch == epoch:
            rest = run(loader)
            kept, skipped = kept + rest[0], skipped + rest[1]
    assert (kept, skipped) == (Counter(fit), Counter(too_large))


def test_windows_of_which_every_molecule_is_left_out_are_empty_packs(random_set):
    """Blocks sorted by size: the last ones hold nothing that fits."""
    shard_set = random_set(200, seed=11, block=10, largest=60, by_size=True)
    config = config_for("16,32,512", window_molecules=1)
    fit, too_large = split_sizes(shard_set, config.budget)
    for epoch in range(2):
        loader = Loader(shard_set, config, with_ids=True)
        loader.seek(replace(loader.cursor, epoch=epoch))
        plan = loader.plan
        histogram = shard_set.index.histogram()
        least = np.minimum.reduceat(histogram.size, histogram.ptr[:-1])
        empty = [w for w in range(plan.num_windows) if (least[plan.window_blocks(w)] > 31).all()]
        assert len(empty) > 3
        assert (plan.window_packs[empty] == 1).all()
        stats = StreamStats(loader)
        packs_of_empty = 0
        for step in loader:
            stats.add(step)
            for slot, batch in zip(step.slots, step.batches, strict=True):
                if slot is not None and slot.window in empty:
                    packs_of_empty += 1
                    assert batch.num_graphs == 0
                    assert not batch.graph_mask_G.any()
        assert packs_of_empty == len(empty)
        assert (stats.molecules, stats.skipped) == (len(fit), len(too_large))
        assert stats.masked == plan.num_masked_packs + len(empty)


def test_all_molecules_with_too_many_atoms_are_refused_at_the_start(random_set):
    shard_set = random_set(30, seed=12, block=10, largest=40, by_size=True, edit=lambda m: m.take(np.arange(15, 30)))
    assert min(atoms for atoms, _ in sizes_of(shard_set).values()) > 7
    with pytest.raises(BudgetError, match="budget 8,8,64: no molecule of split train is small enough for a pack"):
        Loader(shard_set, config_for("8,8,64"))


def test_all_molecules_with_too_many_edges_are_left_out_one_by_one(random_set):
    """The index does not know that there is no other: the stream says so molecule by molecule."""
    shard_set = random_set(30, seed=12, block=10, largest=40, by_size=True, edit=lambda m: m.take(np.arange(15, 30)))
    assert min(edges for _, edges in sizes_of(shard_set).values()) > 8
    loader = Loader(shard_set, config_for("8,64,8"), with_ids=True)
    planned = len(loader)
    stats = StreamStats(loader)
    skipped: Counter = Counter()
    for step in loader:
        stats.add(step)
        skipped.update(step.skipped.tolist())
    assert skipped == Counter(list(sizes_of(shard_set)))
    assert (stats.molecules, stats.skipped, stats.masked, stats.steps) == (0, 15, stats.packs, planned)


def test_ids_are_read_of_those_blocks_only_that_have_one_too_large(random_set, monkeypatch):
    shard_set = random_set(200, seed=11, block=10, largest=60, by_size=True)
    config = config_for("16,32,512", window_molecules=70)
    asked = []
    read = ShardSet.read_members

    def spy(self, block, groups):
        if "ids" in groups:
            asked.append(int(block))
        return read(self, block, groups)

    monkeypatch.setattr(ShardSet, "read_members", spy)
    loader = Loader(shard_set, config)
    run(loader)
    assert sorted(asked) == [b for b, most in enumerate(shard_set.index.counts["max_atoms"]) if most > 31]


def test_what_is_read_to_name_the_left_out_is_counted(made_sets):
    shard_set, config = made_sets["tails"], config_for("32,64,512")
    members = shard_set.index.members
    loader = Loader(shard_set, config)
    run(loader)
    all_blocks = sum(int(members[f"{group}_bytes"].sum()) for group in loader.selection.groups)
    large = shard_set.index.counts["max_atoms"] > 63
    for_ids = sum(int(members[f"{group}_bytes"][large].sum()) for group in ("sizes", "ids"))
    assert loader.stages.bytes_read == all_blocks + for_ids


def test_error_names_the_worst_molecule_before_anything_is_read(made_sets, monkeypatch):
    def refuse(*args):
        raise AssertionError("payload was read")

    shard_set = made_sets["tails"]
    sizes = sizes_of(shard_set)
    for budget, k, what, limit in (("32,64,512", 0, "atoms", 63), ("32,256,160", 1, "edges", 160)):
        most = max(size[k] for size in sizes.values())
        monkeypatch.setattr(ShardSet, "read_members", refuse)
        with pytest.raises(BudgetError, match=rf"has {most} {what}, usable are {limit}; .*--oversize skip") as error:
            Loader(shard_set, config_for(budget, oversize="error"))
        monkeypatch.undo()
        named = int(str(error.value).split("molecule ")[1].split()[0])
        assert sizes[named][k] == most
        # and what it suggests holds
        suggested = str(error.value).split("--budget ")[1]
        assert sum(run(Loader(shard_set, config_for(suggested, oversize="error"), with_ids=True))[0].values()) == len(sizes)


def test_the_ledger_tells_who_was_left_out(made_sets, tmp_path):
    config = config_for("32,64,512", num_lanes=3)
    fit, too_large = split_sizes(made_sets["tails"], config.budget)
    loader = Loader(made_sets["tails"], config, with_ids=True)
    with LedgerWriter(tmp_path / "ledger.parquet") as ledger:
        for step in loader:
            ledger.add(step)
    table = pq.read_table(tmp_path / "ledger.parquet").to_pydict()
    rows = list(zip(table["lane"], table["id"], strict=True))
    assert Counter(i for lane, i in rows if lane == -1) == Counter(too_large)
    assert Counter(i for lane, i in rows if lane >= 0) == Counter(fit)
    # each in the step of its window's first pack
    plan = Plan.make(made_sets["tails"], config, 0)
    assert {s for s, lane in zip(table["step"], table["lane"], strict=True) if lane == -1} <= {
        step for lane in range(3) for step, slot in enumerate(plan.iter_lane(lane)) if slot is not None and slot.pack == 0
    }
