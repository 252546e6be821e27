"""A dry run ends where it is told to, between two steps, and what it handed out is counted and in its ledger."""

import pyarrow.parquet as pq
import pytest

from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.cursor import Cursor
from molstream.streamer.dry_run import dry_run
from molstream.streamer.loader import Loader


def loader_for(shard_set) -> Loader:
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=256), num_lanes=2, window_molecules=50)
    return Loader(shard_set, config, with_ids=True)


@pytest.mark.parametrize("epochs", [1, 3])
def test_epochs_are_counted_from_the_first(made_sets, epochs):
    loader, calls = loader_for(made_sets["many"]), []
    stats = dry_run(loader, epochs=epochs, on_step=lambda done, total: calls.append((done, total)))
    assert (loader.epoch, loader.step) == (epochs, 0)
    assert stats.molecules == epochs * made_sets["many"].manifest.splits["train"]["molecules"]
    assert [done for done, _ in calls] == list(range(1, stats.steps + 1))
    assert calls[-1] == (stats.steps, stats.steps)
    assert dry_run(loader, epochs=epochs).steps == 0, "they are done"


def test_it_stops_after_the_step_in_which_it_is_told_to_and_goes_on_from_there(made_sets, tmp_path):
    whole = dry_run(loader_for(made_sets["many"]), ledger=tmp_path / "whole.parquet")
    loader, done = loader_for(made_sets["many"]), []
    parts = [
        dry_run(loader, ledger=tmp_path / "0.parquet", max_steps=1),
        dry_run(
            loader,
            ledger=tmp_path / "1.parquet",
            should_stop=lambda: len(done) == 2,
            on_step=lambda step, total: done.append(step),
        ),
        dry_run(loader, ledger=tmp_path / "2.parquet"),
    ]
    assert [part.steps for part in parts] == [1, 2, whole.steps - 3]
    rows = [row for k in range(3) for row in pq.read_table(tmp_path / f"{k}.parquet").to_pylist()]
    assert rows == pq.read_table(tmp_path / "whole.parquet").to_pylist()


@pytest.mark.parametrize("options", [{"max_steps": 0}, {"should_stop": lambda: True}])
def test_nothing_is_streamed_where_it_is_to_stop_at_once(made_sets, options):
    loader = loader_for(made_sets["many"])
    assert dry_run(loader, **options).steps == loader.step == 0


def test_a_cursor_is_written_over_another_and_read_back(made_sets, tmp_path):
    loader, path = loader_for(made_sets["many"]), tmp_path / "state.json"
    for steps in (0, 2):
        dry_run(loader, max_steps=steps)
        loader.cursor.write(path)
        assert Cursor.read(path) == loader.cursor
    assert list(tmp_path.iterdir()) == [path]
