"""A shard set of real molecules, one with labels of every level and kind, and small recipes."""

from dataclasses import replace

import lookalikes
import pytest
import torch

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.sample import sample_path
from molstream.shards.splits.rules import SplitFractions
from molstream.trainers.config import Recipe
from molstream.trainers.recipes import smoke
from molstream.trainers.runs.checkpoint import load_checkpoint
from molstream.trainers.training.trainer import pretrain


class Silent:
    """A reporter that remembers."""

    def __init__(self):
        self.messages, self.steps, self.validations = [], [], []

    def start(self, *, step, num_steps, description):
        self.messages.append(description)

    def progress(self, step, values):
        self.steps.append((step, values))

    def validation(self, results):
        self.validations.append(results)

    def message(self, text):
        self.messages.append(text)


@pytest.fixture
def reporter() -> Silent:
    return Silent()


@pytest.fixture(scope="session")
def sample_set(tmp_path_factory) -> ShardSet:
    """The embedded sample as a shard set."""
    folder = tmp_path_factory.mktemp("sample") / "shards"
    build([str(sample_path())], folder, BuildOptions(split_fractions=SplitFractions.parse("80,10,10")))
    return ShardSet(folder)


@pytest.fixture(scope="session")
def levels_set(tmp_path_factory) -> ShardSet:
    """A user's table: numbers, two and five classes of molecules, numbers of atoms, bonds and pairs, one and two ways."""
    folder = tmp_path_factory.mktemp("levels")
    look = lookalikes.write_own(folder / "table", 220, 5)
    table = TableSpec(
        dataset="table",
        smiles_column="mol",
        graph_columns=("y_*", "tox_a", "grade"),
        atom_columns=("charge_[12]",),
        bond_columns=("bond_*",),
        pair_columns=("distance", "flow"),
        task_kinds=(("tox_a", "binary", 2), ("grade", "ordinal", 5)),
    )
    options = BuildOptions(
        tables=(table,), atom_labels="f32", block_molecules=32, split_fractions=SplitFractions.parse("70,15,15")
    )
    build([str(p) for p in look.paths], folder / "set", options, work=WorkOptions(max_reject_fraction=0.2))
    return ShardSet(folder / "set")


@pytest.fixture
def tiny() -> Recipe:
    """The smoke recipe with dropout, three lanes and a log line every step."""
    return replace(
        smoke(), num_steps=12, eval_steps=4, log_steps=1, warmup_fraction=0.15, num_lanes=3, dropout=0.2, window_molecules=300
    )


@pytest.fixture(autouse=True)
def one_thread():
    # more wait for each other in busy loops, which collapse beside other work on the machine (benchmarks/threads.md)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(sample_set, tmp_path_factory):
    """A checkpoint of a few steps."""
    run = tmp_path_factory.mktemp("trained") / "run"
    pretrain(sample_set, run, replace(smoke(), num_steps=3), resume=False, reporter=Silent())
    return load_checkpoint(run)
