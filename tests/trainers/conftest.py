"""A shard set of real molecules, and small recipes."""

from dataclasses import replace

import pytest
import torch

from shards import ShardSet
from shards.build import BuildOptions, build
from shards.sample import sample_path
from shards.splits import SplitFractions
from trainers.checkpoint import load_checkpoint
from trainers.config import Recipe
from trainers.recipes import smoke
from trainers.trainer import pretrain


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


@pytest.fixture
def tiny() -> Recipe:
    """The smoke recipe with dropout, three lanes and a log line every step."""
    return replace(
        smoke(), num_steps=12, eval_steps=4, log_steps=1, warmup_steps=2, num_lanes=3, dropout=0.2, window_molecules=300
    )


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(sample_set, tmp_path_factory):
    """A checkpoint of a few steps."""
    run = tmp_path_factory.mktemp("trained") / "run"
    pretrain(sample_set, run, replace(smoke(), num_steps=3), resume=False, reporter=Silent())
    return load_checkpoint(run)
