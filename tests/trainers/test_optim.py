"""Learning rate, and muP's coordinate check: what a step changes does not depend on the width."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from molstream.streamer.config import StreamConfig
from molstream.streamer.loader import Loader
from molstream.trainers.jobs.evaluate import plan_budget
from molstream.trainers.layer_table import LAYERS
from molstream.trainers.models.loss import Loss, Targets, count_labels
from molstream.trainers.models.network import Network, base_shapes, build_network
from molstream.trainers.recipes import smoke
from molstream.trainers.spec import DataSpec
from molstream.trainers.training.optim import build_optimizer, learning_rate, set_learning_rate


def test_the_learning_rate_warms_up_and_falls_to_zero():
    recipe = replace(smoke(), num_steps=100, warmup_fraction=0.1, learning_rate=1.0)
    rates = [learning_rate(s, recipe) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[99] == pytest.approx(1 / 90)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    flat = replace(recipe, warmup_fraction=0.0)
    assert learning_rate(0, flat) == 1.0


@pytest.fixture(scope="module")
def batch(sample_set):
    spec = DataSpec.of(sample_set)
    config = StreamConfig(budget=plan_budget(sample_set, spec, replace(smoke(), atoms_a_pack=256)), num_lanes=1)
    return next(iter(Loader(sample_set, config, encodings=("rw16", "lap8")))).batches[0]


def change_of(width: int, base: int, layer: str, sample_set, batch) -> tuple[float, float]:
    """How much three steps change the embeddings and the predictions of a network, root mean square."""
    spec = DataSpec.of(sample_set)
    recipe = replace(smoke(), layer=layer, hidden=width, mup_base_hidden=base, num_layers=2, dropout=0.0, encodings=("rw16",))
    network, targets, loss = build_network(spec, recipe), Targets(spec), Loss(spec, recipe)
    optimizer = build_optimizer(network, recipe, base_shapes(spec, recipe))
    counts = count_labels([batch], spec)

    def look():
        with torch.no_grad():
            return network.encode(batch)[1], torch.cat([p.flatten() for p in network(batch).values()])

    first = look()
    for _ in range(3):
        set_learning_rate(optimizer, 1e-4)
        loss(network(batch), targets(batch), counts)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    return tuple(float((a - b).square().mean().sqrt()) for a, b in zip(look(), first, strict=True))


@pytest.mark.parametrize("layer", LAYERS)
def test_with_mup_what_steps_change_does_not_grow_with_the_width_without_it_does(layer, sample_set, batch):
    widths = [32, 256]
    slopes = {}
    for base in (32, 0):
        changes = np.log2([change_of(width, base, layer, sample_set, batch) for width in widths])
        slopes[base] = (changes[-1] - changes[0]) / np.log2(widths[-1] / widths[0])
    # by how much a change grows where the width doubles, as a power of two
    assert -0.4 < slopes[32].min() <= slopes[32].max() < 0.15, slopes
    # the standard parametrisation, for comparison: larger steps in wider networks
    embeddings, predictions = slopes[0]
    # which molecules the batch holds moves it from 0.32 to 0.6
    assert embeddings > 0.25, slopes
    assert predictions > 0.6, slopes
    assert (slopes[0] - slopes[32]).min() > 0.4, slopes


def test_mup_scales_what_reads_a_widened_state_and_nothing_else(sample_set):
    spec = DataSpec.of(sample_set)
    wide = replace(smoke(), hidden=128, mup_base_hidden=32, weight_decay=0.5)
    network, plain = build_network(spec, wide), build_network(spec, replace(wide, mup_base_hidden=0))
    scales = {}
    for group in build_optimizer(network, wide, base_shapes(spec, wide)).param_groups:
        for parameter in group["params"]:
            scales[parameter] = group["lr_scale"]
        assert group["lr_scale"] * group["weight_decay"] == pytest.approx(0.5)
    named = {name: (scales[p], p, dict(plain.named_parameters())[name]) for name, p in network.named_parameters()}
    hidden = {n for n, (scale, p, _) in named.items() if p.dim() == 2 and p.shape[1] == 128}
    assert {n for n, (scale, *_) in named.items() if scale == 0.25} == hidden
    assert "layers.0.conv.mlp.0.weight" in hidden
    assert "heads.g62.state.weight" in hidden
    assert all(scale == 1 for n, (scale, *_) in named.items() if n not in hidden)
    for name, (_, mine, theirs) in named.items():
        # heads read the widened state and write 32 numbers whatever its width
        assert torch.equal(mine, theirs / 2 if name.startswith("heads") and name.endswith("state.weight") else theirs), name


def test_at_the_base_width_mup_is_the_standard_parametrisation(sample_set):
    spec, recipe = DataSpec.of(sample_set), replace(smoke(), mup_base_hidden=32)
    network, plain = build_network(spec, recipe), build_network(spec, smoke())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.parameters(), strict=True))
    groups = build_optimizer(network, recipe, base_shapes(spec, recipe)).param_groups
    assert [g["lr_scale"] for g in groups] == [1.0]
    assert isinstance(network, Network)
