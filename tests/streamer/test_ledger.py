"""The oracle of the stream: which ids come when, for any lanes, world size, threads and cuts."""

import copy
import hashlib
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molstream.kernels.rng.hashing import mix_key
from molstream.kernels.rng.permutation import shuffled
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.ledger import LedgerWriter
from molstream.streamer.loader import Loader, Step

GOLDEN_ORDER = "e139b189edd24840"
SHAPES = ["many", "one_block", "singles", "lonely", "tails"]


def config_for(shard_set, *, atoms=256, **options) -> StreamConfig:
    return StreamConfig(budget=Budget.suggest(shard_set, atoms=atoms), **options)


def rows_of(step: Step) -> list[tuple]:
    """(epoch, step, lane, ids of the pack) of every real pack of a step."""
    return [
        (step.epoch, step.step, lane, tuple(batch.ids.tolist()))
        for lane, batch in zip(step.lanes, step.batches, strict=True)
        if batch.num_graphs
    ]


def run(loader: Loader, *, steps: int | None = None) -> list[tuple]:
    """(epoch, step, lane, ids of the pack) of every real pack until the epoch ends or `steps` are done."""
    rows = []
    for step in loader:
        rows += rows_of(step)
        if steps is not None and len({r[1] for r in rows}) >= steps:
            break
    return rows


def all_ids(shard_set) -> Counter:
    return Counter(int(i) for block in shard_set.iter_blocks("train", ("ids",)) for i in block.ids)


def ids_of(rows) -> Counter:
    return Counter(i for row in rows for i in row[3])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**32),
    lanes=st.integers(1, 12),
    atoms=st.sampled_from([128, 256, 1024]),
    window=st.sampled_from([1, 20, 60, 200, 10_000]),
    threads=st.integers(1, 3),
)
def test_an_epoch_holds_every_molecule_exactly_once(made_sets, shape, seed, lanes, atoms, window, threads):
    shard_set = made_sets[shape]
    config = config_for(shard_set, atoms=atoms, seed=seed, num_lanes=lanes, window_molecules=window)
    loader = Loader(shard_set, config, num_threads=threads, with_ids=True)
    planned, packs = len(loader), loader.plan.num_packs
    rows = run(loader)
    assert ids_of(rows) == all_ids(shard_set)
    assert len(rows) == packs, "every planned pack holds molecules"
    assert {r[1] for r in rows} == set(range(planned)), "the number of steps was known before"


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**32),
    lanes=st.integers(1, 8),
    window=st.sampled_from([1, 30, 150]),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    data=st.data(),
)
def test_stop_and_resume_at_any_world_size_gives_the_ledger_of_no_stop(made_sets, shape, seed, lanes, window, cuts, data):
    shard_set = made_sets[shape]
    config = config_for(shard_set, seed=seed, num_lanes=lanes, window_molecules=window)
    whole = Loader(shard_set, config, with_ids=True)
    steps = len(whole)
    expected = run(whole) + run(whole)
    got: list[tuple] = []
    stops = [*sorted({int(c * steps) for c in cuts}), None, None]
    state = None
    for stop in stops:
        world, rows, states = data.draw(st.integers(1, min(lanes, 4))), [], []
        for rank in range(world):
            threads = data.draw(st.integers(1, 3))
            loader = Loader(shard_set, config, rank=rank, world_size=world, num_threads=threads, with_ids=True)
            if state is not None:
                loader.load_state_dict(json.loads(json.dumps(state)))
            for step in loader:
                rows += rows_of(step)
                if stop is not None and step.step >= stop - 1:
                    break
            states.append(loader.state_dict())
        state = states[0]
        assert all(other == state for other in states), "the cursor knows nothing of ranks"
        got += sorted(rows)
    assert got[: len(expected)] == expected


@pytest.mark.parametrize("lanes", [8, 12])
@pytest.mark.parametrize("shape", ["many", "tails", "lonely"])
def test_the_global_batch_of_a_step_is_the_same_for_every_world_size(made_sets, shape, lanes):
    shard_set = made_sets[shape]
    config = config_for(shard_set, seed=7, num_lanes=lanes, window_molecules=40)
    alone = sorted(run(Loader(shard_set, config, with_ids=True)))
    for world_size in (2, 3, 4, 8):
        rows, packs_per_step = [], set()
        for rank in range(world_size):
            loader = Loader(shard_set, config, rank=rank, world_size=world_size, with_ids=True)
            steps = list(loader)
            assert len(steps) == len(Loader(shard_set, config)), "all ranks end at the same step"
            packs_per_step |= {len(s.batches) for s in steps}
            rows += [row for step in steps for row in rows_of(step)]
        assert sorted(rows) == alone
        assert packs_per_step == {-(-lanes // world_size)}, "every rank runs the same number of packs"


def test_epochs_and_seeds_have_orders_of_their_own(made_sets):
    shard_set = made_sets["many"]
    orders = set()
    for seed in (0, 1):
        loader = Loader(shard_set, config_for(shard_set, seed=seed, num_lanes=1), with_ids=True)
        for _ in range(2):
            orders.add(tuple(i for row in run(loader) for i in row[3]))
    assert len(orders) == 4


def test_the_stored_order_is_kept_without_shuffling(made_sets):
    shard_set = made_sets["many"]
    config = config_for(shard_set, num_lanes=1, shuffle=False, window_molecules=50)
    loader = Loader(shard_set, config, with_ids=True)
    stored = np.concatenate([b.ids for b in shard_set.iter_blocks("train", ("ids",))])
    seen, windows = [], {}
    for step in loader:
        windows.setdefault(step.slots[0].window, []).append(step.batches[0])
    for window in sorted(windows):
        ids = np.empty(sum(b.num_graphs for b in windows[window]), np.uint64)
        for batch in windows[window]:
            ids[batch.window_rows] = batch.ids
        seen.append(ids)
    assert np.array_equal(np.concatenate(seen), stored)


def test_the_ledger_file_holds_what_was_streamed(made_sets, tmp_path):
    shard_set = made_sets["many"]
    loader = Loader(shard_set, config_for(shard_set, num_lanes=3, window_molecules=40), with_ids=True)
    with LedgerWriter(tmp_path / "ledger.parquet") as ledger:
        for step in loader:
            ledger.add(step)
    table = pq.read_table(tmp_path / "ledger.parquet").to_pydict()
    assert Counter(table["id"]) == all_ids(shard_set)
    assert set(table["lane"]) == {0, 1, 2}
    assert not list(tmp_path.glob("*.part"))


def test_a_ledger_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError, match="boom"), LedgerWriter(tmp_path / "ledger.parquet"):
        raise RuntimeError("boom")
    assert not list(tmp_path.iterdir())


def test_an_epoch_ends_with_its_last_step_whether_or_not_another_is_asked_for(made_sets):
    """A loop that breaks there, or counts to len(loader) as Lightning does, goes on with the next epoch, not an empty one."""
    shard_set = made_sets["many"]
    config = config_for(shard_set, num_lanes=3, window_molecules=40)
    whole = Loader(shard_set, config, with_ids=True)
    expected = [run(whole), run(whole), run(whole)]

    breaks = Loader(shard_set, config, with_ids=True)
    got: list[tuple] = []
    for step in breaks:
        got += rows_of(step)
        if step.step == len(breaks) - 1:
            # not yet: this step may fail
            assert breaks.state_dict()["epoch"] == 0
            break
    assert (breaks.epoch, breaks.step) == (1, 0)
    assert [got, run(breaks), run(breaks)] == expected

    counts, rows = Loader(shard_set, config, with_ids=True), []
    for _ in range(3):
        iterator = iter(counts)
        rows.append([row for _ in range(len(counts)) for row in rows_of(next(iterator))])
    assert rows == expected


def test_every_window_is_shuffled_by_a_key_of_its_own(made_sets):
    """Inside a pack molecules are in this order; `members` are places in stored order."""
    shard_set = made_sets["many"]
    loader = Loader(shard_set, config_for(shard_set, seed=9, num_lanes=3, window_molecules=40))
    plan, orders = loader.plan, {}
    for step in loader:
        for slot, batch in zip(step.slots, step.batches, strict=True):
            if slot is None:
                continue
            if slot.window not in orders:
                number = int(shard_set.index.counts["num_molecules"][plan.window_blocks(slot.window)].sum())
                orders[slot.window] = shuffled(number, key=mix_key(plan.key, slot.window))
            place = np.argsort(orders[slot.window])[batch.window_rows]
            assert (np.diff(place) > 0).all()
    heads = {tuple(order[order < 30].tolist()) for order in orders.values()}
    assert len(heads) == len(orders) > 4


def test_the_order_of_molecules_is_frozen(made_sets):
    """Golden vector of order version 3, packs included: see test_plan.py."""
    shard_set = copy.copy(made_sets["many"])
    shard_set.manifest = replace(shard_set.manifest, fingerprint="0123456789abcdef" * 4)
    loader = Loader(shard_set, config_for(shard_set, seed=5, num_lanes=3, window_molecules=40))
    digest = hashlib.sha256()
    for step in loader:
        for lane, slot, batch in zip(step.lanes, step.slots, step.batches, strict=True):
            digest.update(f"{step.step} {lane} {slot and (slot.window, slot.pack)} {batch.window_rows.tolist()}\n".encode())
    assert digest.hexdigest()[:16] == GOLDEN_ORDER
