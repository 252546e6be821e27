"""Several processes or workers that each would give all molecules are told so."""

import logging

import pytest
from torch.utils.data import DataLoader, IterableDataset

from molstream.streamer import launched
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")


def loader_for(shard_set, **options) -> Loader:
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=256), num_lanes=4, window_molecules=60)
    return Loader(shard_set, config, with_ids=True, **options)


class Steps(IterableDataset):
    """Ids of the batches of a loader that is made by `make` in each worker, or before."""

    def __init__(self, make):
        self.make = make

    def __iter__(self):
        for step in self.make():
            yield from (batch.ids.tolist() for batch in step.batches)


@pytest.mark.parametrize("when", ["before", "in the worker"])
def test_a_loader_in_a_worker_of_a_dataloader_is_refused_with_what_to_do(made_sets, when):
    made = loader_for(made_sets["many"])
    steps = Steps((lambda: made) if when == "before" else lambda: loader_for(made_sets["many"]))
    with pytest.raises(Exception, match=r"worker \d of 2 of a DataLoader, where each .*webdataset\.packs, or make it in_worker"):
        list(DataLoader(steps, batch_size=None, num_workers=2))
    # in this process it is what it was
    assert sum(map(len, DataLoader(steps, batch_size=None, num_workers=0))) == 601


def test_a_loader_that_was_made_for_a_worker_gives_its_share(made_sets):
    from torch.utils.data import get_worker_info

    def make() -> Loader:
        worker = get_worker_info()
        return loader_for(made_sets["many"], rank=worker.id, world_size=worker.num_workers, in_worker=True)

    ids = [i for part in DataLoader(Steps(make), batch_size=None, num_workers=2) for i in part]
    assert len(ids) == len(set(ids)) == 601


@pytest.fixture
def environ(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launched, "_said", [])
    return lambda **names: [monkeypatch.setenv(name, value) for name, value in names.items()]


@pytest.mark.parametrize(
    "names", [{"WORLD_SIZE": "2", "RANK": "0"}, {"WORLD_SIZE": "3"}, {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}]
)
def test_a_forgotten_rank_is_said_once(made_sets, environ, caplog, names):
    environ(**names)
    with caplog.at_level(logging.WARNING):
        loader_for(made_sets["lonely"])
        loader_for(made_sets["lonely"])
    (record,) = caplog.records
    assert f"every molecule in each of the {next(iter(names.values()))} processes that {next(iter(names))} says" in record.message


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ({}, {}),
        ({"WORLD_SIZE": "1", "RANK": "0"}, {}),
        # the first process says it for all
        ({"WORLD_SIZE": "2", "RANK": "1"}, {}),
        ({"WORLD_SIZE": "2", "RANK": "0"}, {"rank": 0, "world_size": 2}),
        # as it was meant
        ({"WORLD_SIZE": "2", "RANK": "0"}, {"rank": 0, "world_size": 1}),
        ({"WORLD_SIZE": "two"}, {}),
    ],
)
def test_nothing_is_said_where_nothing_was_forgotten(made_sets, environ, caplog, names, options):
    environ(**names)
    with caplog.at_level(logging.WARNING):
        loader_for(made_sets["lonely"], **options)
    assert not caplog.records
