"""Labels go into training as the recipe says and come back as they were; metrics are in raw units too."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from molstream.shards.build.build import build
from molstream.shards.build.options import BuildOptions
from molstream.shards.format.manifest import Statistics
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.statistics import LabelMoments, ValueCounts, _bins_of
from molstream.shards.inputs.datasets import TableSpec
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader, sequential
from molstream.trainers.jobs.evaluate import evaluate_checkpoint
from molstream.trainers.label_transform import LabelTransform, clipped_scale, is_too_coarse, rank_knots
from molstream.trainers.models.export import Encoder, load_encoder
from molstream.trainers.models.label_scale import LabelScale
from molstream.trainers.models.loss import Targets
from molstream.trainers.runs.checkpoint import load_checkpoint
from molstream.trainers.spec import DataSpec, HeadSpec
from molstream.trainers.training.trainer import pretrain

FAR = 30_000.0


def statistics_of(values: np.ndarray) -> Statistics:
    values = values.astype(np.float32)
    counts = ValueCounts(1)
    counts._add(0, *np.unique(_bins_of(values), return_counts=True))
    return Statistics.of(LabelMoments.measure(values[:, None]), counts, 0)


def head_of(*statistics: Statistics, transform: str) -> HeadSpec:
    n = len(statistics)
    tasks = tuple(f"t{k}" for k in range(n))
    return HeadSpec(
        name="a",
        level="graph",
        kind="regression",
        num_classes=0,
        tasks=tasks,
        columns=tuple(range(n)),
        units=("1",) * n,
        trained=(True,) * n,
        **LabelTransform.parse(transform).scales(tasks, statistics)._asdict(),
    )


@pytest.mark.parametrize("text", ["", "clip", "clip:", "clip:1.5", "clip:nan", "clip:inf", "clip:x", "rank:3", "Rank"])
def test_other_words_are_refused(text, tiny):
    with pytest.raises(ValueError, match=r"label_transform is '.*', expected none, rank, or clip:K with K standard deviations"):
        replace(tiny, label_transform=text)


def test_one_value_far_out_does_not_set_the_scale_of_all_others():
    values = np.random.default_rng(0).normal(3.0, 2.0, 100_000)
    values[7] = 3.0 + 300 * np.sqrt(100_000) * 2.0
    found = statistics_of(values)
    assert found.std > 100
    mean, std = clipped_scale(found, 5.0)
    assert mean == pytest.approx(3.0, abs=0.1)
    assert std == pytest.approx(2.0, rel=0.15)
    # what has no such value keeps its scale
    usual = statistics_of(values[8:])
    assert clipped_scale(usual, 5.0) == pytest.approx((usual.mean, usual.std), rel=0.1)


@pytest.mark.parametrize("ratio", [0.0, 5.0, 20.0, 30.0, 40.0, 100.0, 1_000.0, 10_000.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_labels_that_vary_little_beside_their_mean_are_transformed_well_or_refused(ratio, sign):
    for seed in range(3):
        found = statistics_of(sign * (ratio + np.random.default_rng(seed).normal(size=20_000)))
        if is_too_coarse(found):
            assert ratio > 25
            continue
        assert ratio < 50
        mean, std = clipped_scale(found, 5.0)
        assert abs(mean - found.mean) < 0.3 * found.std
        assert std == pytest.approx(found.std, rel=0.1)
        assert len(rank_knots(found)) > 10


def test_what_is_no_number_comes_back_as_none():
    scale = LabelScale(head_of(statistics_of(np.arange(100.0)), transform="rank"))
    found = scale.inverse(torch.tensor([[torch.inf], [-torch.inf], [torch.nan], [0.0]]))
    assert torch.isnan(found[:3]).all()
    assert torch.isfinite(found[3]).all()


@settings(max_examples=100)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=300), st.sampled_from(["none", "clip:3", "rank"]))
def test_labels_come_back_and_keep_their_order(values, transform):
    labels = np.array(values, np.float32)
    assume(transform == "none" or not is_too_coarse(statistics_of(labels)))
    scale = LabelScale(head_of(statistics_of(labels), statistics_of(-labels), transform=transform))
    raw = torch.from_numpy(np.stack([np.sort(labels), -np.sort(labels)], axis=1))
    raw = torch.cat([raw, torch.full((1, 2), torch.nan)])
    there = scale(raw)
    assert torch.isnan(there[-1]).all()
    assert torch.isfinite(there[:-1]).all()
    assert (there[1:-1, 0] >= there[:-2, 0]).all()
    assert (there[1:-1, 1] <= there[:-2, 1]).all()
    back = scale.inverse(there)[:-1]
    if transform == "rank":
        # ties and neighbours within a bin may share a score
        span = float(raw[:-1, 0].max() - raw[:-1, 0].min())
        assert (back - raw[:-1]).abs().max() <= 1e-4 * span + raw[:-1].abs().max() * 2e-5 + 1e-6
        assert there[:-1].abs().max() < 5
    else:
        assert (back - raw[:-1]).abs().max() <= 1e-5 * (raw[:-1].abs().max() + 1e-3) + 1e-5 * float(scale.std.max())


def test_ranks_of_a_heavy_tailed_distribution_are_normal():
    values = np.exp(3 * np.random.default_rng(1).normal(size=50_000))
    scale = LabelScale(head_of(statistics_of(values), transform="rank"))
    scores = scale(torch.from_numpy(values.astype(np.float32))[:, None]).numpy()
    assert scores.mean() == pytest.approx(0.0, abs=0.1)
    assert scores.std() == pytest.approx(1.0, abs=0.1)
    assert np.quantile(scores, 0.99) == pytest.approx(2.33, abs=0.1)


def test_a_task_whose_quantiles_are_too_coarse_is_named():
    fine, coarse = np.random.default_rng(0).normal(size=(2, 1000))
    for transform in ("clip:5", "rank"):
        with pytest.raises(ValueError, match=rf"label_transform {transform[:4]}: 1 tasks, first t1, vary too little beside"):
            head_of(statistics_of(fine), statistics_of(1e4 + coarse), transform=transform)


@pytest.fixture(scope="module")
def far_set(tmp_path_factory) -> ShardSet:
    """300 molecules, `y` grows with their size, but one in a hundred is far out; `grade` is a class."""
    folder = tmp_path_factory.mktemp("far")
    lines = ["smiles,y,grade"]
    for k in range(300):
        y = FAR if k % 100 == 50 else k % 20 + 0.01 * (k % 7)
        lines.append(f"{'C' * (k % 20 + 1)}{('N', 'O', 'S', '[Se]')[k // 20 % 4]}{'C' * (k // 80)},{y},{k % 2}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    table = TableSpec(dataset="table", graph_columns=("y", "grade"), task_kinds=(("grade", "binary", 2),))
    build([str(folder / "table.csv")], folder / "set", BuildOptions(tables=(table,), splits="position", block_molecules=64))
    return ShardSet(folder / "set")


@pytest.mark.parametrize("transform", ["none", "clip:4", "rank"])
def test_predictions_and_metrics_are_in_raw_units(far_set, tiny, tmp_path, transform, reporter):
    recipe = replace(tiny, label_transform=transform, num_lanes=1, dropout=0.0)
    pretrain(far_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    results = evaluate_checkpoint(load_checkpoint(tmp_path / "run"), far_set, split="train")
    encoder = load_encoder(tmp_path / "run" / "model")
    assert isinstance(encoder, Encoder)
    head = next(h for h in encoder.spec.heads if h.kind == "regression")
    config = sequential(StreamConfig(budget=Budget.suggest(far_set, atoms=512), split="train"))
    errors, targets = [], Targets(encoder.spec)
    with torch.inference_mode():
        for step in Loader(far_set, config):
            (batch,) = step.batches
            mask = targets.all(batch)[head.name][1]
            raw = batch.dense_graph_labels()[:, list(head.columns)]
            errors += (encoder.predict(batch)[head.name] - raw)[mask].abs().tolist()
    (task,) = results.tasks[head.name]
    assert task.count == len(errors)
    assert task.values["mae_raw"] == pytest.approx(math.fsum(errors) / len(errors), rel=1e-4)
    assert max(errors) > FAR / 2


def test_clipped_labels_are_counted(far_set, tiny, tmp_path, reporter):
    recipe = replace(tiny, num_lanes=1, label_transform="clip:4", dropout=0.0)
    pretrain(far_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    spec = DataSpec.of(far_set, label_transform="clip:4")
    head = next(h for h in spec.heads if h.kind == "regression")
    assert 0 < head.std[0] < 100
    # the three that are far out, of some six hundred labels
    shares = [values["clipped_fraction"] for _, values in reporter.steps]
    assert 0 < max(shares) < 0.1
    pretrain(far_set, tmp_path / "plain", replace(recipe, label_transform="none"), resume=False, reporter=reporter)
    assert "clipped_fraction" not in reporter.steps[-1][1]


def test_another_transform_is_another_run(far_set, tiny, tmp_path):
    recipe = replace(tiny, num_lanes=1, num_steps=1, label_transform="rank")
    pretrain(far_set, tmp_path / "run", recipe, resume=False)
    with pytest.raises(ValueError, match="label_transform rank there, clip:4 here"):
        pretrain(far_set, tmp_path / "run", replace(recipe, label_transform="clip:4"), resume=True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["label_transform"] == "rank"
