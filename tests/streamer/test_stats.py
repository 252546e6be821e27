"""What a stream says about itself adds up, and agrees with the index."""

import mmap
import threading
import time

import numpy as np
import pytest

from molstream.shards.format.reader import ShardSet
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import NUM_STEPS_AHEAD, Loader
from molstream.streamer.stages import STAGES, Stages
from molstream.streamer.stats import StreamStats, rss_bytes

FRACTIONS = ("data_wait_fraction", "queue_fraction", "atom_fill_fraction", "edge_fill_fraction", "graph_fill_fraction")


def run(loader: Loader, steps: int | None = None, pause: float = 0) -> StreamStats:
    stats = StreamStats(loader)
    stats.begin()
    for step in loader:
        stats.add(step)
        if stats.steps == steps:
            break
        time.sleep(pause)
    return stats


def loader_for(shard_set: ShardSet, lanes: int = 3, **options) -> Loader:
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=256), num_lanes=lanes, window_molecules=50)
    return Loader(shard_set, config, **options)


@pytest.fixture(scope="module")
def long_s(made_sets) -> float:
    """Long beside the making of a step on this machine as it is now."""
    facts = run(loader_for(made_sets["many"])).read()
    return max(0.02, 20 * facts["seconds"] / facts["steps"])


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("encodings", [(), ("rw16", "lap8")])
def test_fractions_are_fractions_and_stages_are_parts_of_the_threads_time(made_sets, threads, encodings):
    facts = run(loader_for(made_sets["many"], num_threads=threads, encodings=encodings)).read()
    for name in [*FRACTIONS, "padding_fraction", *(f"{stage}_fraction" for stage in STAGES)]:
        assert 0 <= facts[name] <= 1, name
    assert 0 < sum(facts[f"{stage}_fraction"] for stage in STAGES) <= 1.05
    for stage in STAGES:
        assert (facts[f"{stage}_fraction"] > 0) == (stage != "encode" or bool(encodings))
    assert facts["seconds"] >= facts["first_step_s"] > 0


def test_counts_are_those_of_the_set(sample_set):
    loader = loader_for(sample_set)
    stats = run(loader)
    facts, totals = stats.read(), sample_set.manifest.splits["train"]
    assert (facts["molecules"], stats.atoms, stats.edges) == (totals["molecules"], totals["atoms"], 2 * totals["bonds"])
    assert facts["labels"] == sum(by_split["train"] for by_split in sample_set.manifest.labels.values())
    assert facts["steps"] * 3 == facts["packs"]
    assert facts["skipped_molecules"] == 0
    budget, full = loader.config.budget, facts["packs"] - facts["masked_packs"]
    assert facts["atom_fill_fraction"] == pytest.approx(totals["atoms"] / (full * (budget.atoms - 1)))
    assert facts["edge_fill_fraction"] == pytest.approx(2 * totals["bonds"] / (full * budget.edges))
    assert facts["graph_fill_fraction"] == pytest.approx(totals["molecules"] / (full * (budget.graphs - 1)))
    assert facts["padding_fraction"] == pytest.approx(1 - totals["atoms"] / (facts["packs"] * budget.atoms))
    for name in ("molecules", "labels", "bytes_read"):
        assert facts[f"{name}_per_s"] == pytest.approx(facts[name] / facts["seconds"])


def test_bytes_read_in_an_epoch_are_those_of_the_index_and_twice_in_two(sample_set):
    loader = loader_for(sample_set, with_ids=True)
    members, blocks = sample_set.index.members, sample_set.blocks("train")
    an_epoch = sum(int(members[f"{group}_bytes"][blocks].sum()) for group in loader.selection.groups)
    for epoch in (1, 2):
        assert run(loader).read()["bytes_read"] == epoch * an_epoch
    assert loader.stages.bytes_decompressed > loader.stages.bytes_read


def test_a_loop_that_is_slow_waits_little_and_one_that_is_fast_waits_long(made_sets, monkeypatch, long_s):
    slow_loop = run(loader_for(made_sets["many"]), steps=8, pause=long_s).read()
    assert slow_loop["data_wait_fraction"] < 0.5
    assert slow_loop["queue_fraction"] > 0.5
    read = ShardSet.read_members

    def slowly(self, block, groups):
        time.sleep(long_s)
        return read(self, block, groups)

    monkeypatch.setattr(ShardSet, "read_members", slowly)
    slow_disk = run(loader_for(made_sets["many"]), steps=4).read()
    assert slow_disk["data_wait_fraction"] > 0.5
    assert slow_disk["read_fraction"] > max(slow_disk[f"{stage}_fraction"] for stage in STAGES[1:])


def test_steps_that_are_ready_are_counted_up_to_what_is_read_ahead(made_sets, long_s):
    loader = loader_for(made_sets["many"])
    iterator = iter(loader)
    next(iterator)
    time.sleep(NUM_STEPS_AHEAD * long_s)
    assert next(iterator).num_ready == NUM_STEPS_AHEAD
    rest = list(iterator)
    # of the last steps there are fewer after them
    assert [step.num_ready for step in rest][-1] <= 1
    assert all(0 <= step.num_ready <= NUM_STEPS_AHEAD for step in rest)


def test_queue_fraction_counts_the_steps_ahead_and_not_the_one_asked_for(made_sets, long_s):
    """It is a share of NUM_STEPS_AHEAD, so it can be no more than 1, however much is ready."""
    facts = run(loader_for(made_sets["many"]), steps=8, pause=long_s).read()
    assert 0.5 < facts["queue_fraction"] <= 1


def test_before_anything_is_streamed_there_is_nothing(made_sets):
    facts = StreamStats(loader_for(made_sets["many"])).read()
    assert not any(facts[name] for name in ("steps", "molecules", "packs", "bytes_read", "data_wait_fraction", "first_step_s"))
    assert facts["rss_bytes"] > 10e6
    assert all(np.isfinite(value) for value in facts.values())


def test_stages_add_up_over_threads_and_survive_errors():
    stages = Stages()

    def work() -> None:
        for _ in range(200):
            with stages.time("read"):
                pass
            stages.count(bytes_read=1, bytes_decompressed=2, windows=3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (stages.bytes_read, stages.bytes_decompressed, stages.windows) == (800, 1600, 2400)
    with pytest.raises(RuntimeError, match="boom"), stages.time("decode"):  # noqa: PT012
        time.sleep(0.01)
        raise RuntimeError("boom")
    assert stages.seconds["decode"] >= 0.01
    with pytest.raises(KeyError, match="nothing"), stages.time("nothing"):
        pass


def test_resident_memory_is_what_the_kernel_says():
    import psutil

    before = rss_bytes()
    # not from memory that an allocator has kept
    block = mmap.mmap(-1, 30_000_000)
    np.frombuffer(block, np.uint8)[:] = 1
    assert 25e6 < rss_bytes() - before < 40e6
    assert abs(rss_bytes() - psutil.Process().memory_info().rss) < 5e6
    del block
