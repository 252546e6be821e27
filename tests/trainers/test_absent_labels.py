"""A mean over nothing is none, and a task that nothing was learned of counts in no mean."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from molstream.shards.build.build import build
from molstream.shards.build.options import BuildOptions
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.datasets import TableSpec
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader, sequential
from molstream.tools.report import TerminalReporter
from molstream.trainers.distributed.process_group import ProcessGroup
from molstream.trainers.jobs.evaluate import evaluate_checkpoint, plan_budget
from molstream.trainers.models.loss import Loss, Targets, count_labels
from molstream.trainers.models.network import build_network
from molstream.trainers.runs.checkpoint import load_checkpoint
from molstream.trainers.spec import DataSpec
from molstream.trainers.training.log_interval import COUNTS, LogInterval
from molstream.trainers.training.step import StepResult
from molstream.trainers.training.trainer import pretrain

SPARSE, ONLY_VAL = 7, 1000.0


@pytest.fixture(scope="module")
def sparse_set(tmp_path_factory) -> ShardSet:
    """400 molecules: `y` on all, the class `rare` on seven of the training split, `late` on validation molecules only."""
    folder = tmp_path_factory.mktemp("sparse")
    lines, splits = ["smiles,y,rare,late"], {"train": [], "val": []}
    for k in range(400):
        is_val = k % 5 == 0
        splits["val" if is_val else "train"].append(k)
        chain = "C" * (k % 20 + 1) + ("N", "O", "S", "[Se]")[k // 20 % 4] + "C" * (k // 80)
        rare = k // 50 % 2 if k % 50 == 1 or is_val else ""
        lines.append(f"{chain},{k % 20},{rare},{ONLY_VAL + k if is_val else ''}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "splits.json").write_text(json.dumps(splits))
    table = TableSpec(dataset="table", graph_columns=("y", "late", "rare"), task_kinds=(("rare", "binary", 2),))
    options = BuildOptions(tables=(table,), splits="splits.json", block_molecules=64)
    build([str(folder / "table.csv")], folder / "set", options, split_file=str(folder / "splits.json"))
    return ShardSet(folder / "set")


@pytest.fixture
def recipe(tiny):
    """An epoch of some forty steps of one small pack."""
    return replace(tiny, num_lanes=1, atoms_a_pack=128, dropout=0.0, log_steps=1, window_molecules=64, eval_packs=1000)


def names_of(shard_set) -> tuple[str, str]:
    spec = DataSpec.of(shard_set)
    numbers, rare = (next(h.name for h in spec.heads if (h.kind == "regression") == is_number) for is_number in (True, False))
    return numbers, rare


def test_a_logged_loss_is_the_mean_over_labels_as_an_evaluations_is(sparse_set, recipe, tmp_path, reporter):
    budget = plan_budget(sparse_set, DataSpec.of(sparse_set), recipe)
    epoch = len(Loader(sparse_set, StreamConfig(budget=budget, seed=recipe.seed, num_lanes=1, window_molecules=64)))
    # weights that stand still, and one line for the epoch
    recipe = replace(recipe, learning_rate=1e-20, num_steps=epoch, log_steps=epoch)
    pretrain(sparse_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    (line,) = [x for x in map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines()) if x["kind"] == "train"]
    expected = evaluate_checkpoint(load_checkpoint(tmp_path / "run"), sparse_set, split="train")
    for name, loss in expected.losses.items():
        assert line[f"loss_{name}"] == pytest.approx(loss, rel=1e-4), name
    assert line["loss"] == pytest.approx(expected.loss, rel=1e-4)
    # what was minimised has nothing of the rare task set in most steps
    assert line["objective"] < 0.9 * line["loss"]


def test_a_step_without_a_label_of_a_task_set_logs_no_loss_of_it(sparse_set, recipe, tmp_path, reporter):
    numbers, rare = names_of(sparse_set)
    pretrain(sparse_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    lines = [x for x in map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines()) if x["kind"] == "train"]
    assert len(lines) == recipe.num_steps
    assert None in [line[f"loss_{rare}"] for line in lines]
    for line in lines:
        there = [loss for name in (numbers, rare) if (loss := line[f"loss_{name}"]) is not None]
        assert line["loss"] == pytest.approx(sum(there) / len(there))
        assert all(loss > 0 for loss in there)


@pytest.mark.parametrize("seed", range(5))
def test_an_interval_is_the_mean_over_the_labels_of_its_finite_steps(sparse_set, seed):
    rng = np.random.default_rng(seed)
    print(f"seed {seed}")
    spec = DataSpec.of(sparse_set)
    interval, steps = LogInterval(spec, torch.device("cpu")), []
    for _ in range(int(rng.integers(1, 6))):
        shares, labels = rng.random(2), rng.integers(0, 3, 2)
        shares[labels == 0] = 0.0
        is_finite = bool(rng.random() < 0.6)
        losses = torch.tensor([shares.mean(), *shares] if is_finite else [torch.nan] * 3)
        one = torch.tensor(1.0)
        norm, num_labels = one if is_finite else one * torch.inf, torch.from_numpy(labels).double()
        result = StepResult(losses, losses[:1], num_labels, torch.tensor(0), norm, one == is_finite)
        interval.add(result, [1] * len(COUNTS) + labels.tolist())
        if is_finite:
            steps.append((shares, labels))
    found = interval.read(Budget(8, 16, 32), 1, ProcessGroup.here())
    errors, labels = sum((s * n for s, n in steps), np.zeros(2)), sum((n for _, n in steps), np.zeros(2))
    expected = [e / n if n else None for e, n in zip(errors, labels, strict=True)]
    there = [x for x in expected if x is not None]
    for name, loss in zip(spec.task_sets, expected, strict=True):
        assert found[f"loss_{name}"] == (None if loss is None else pytest.approx(loss, rel=1e-6))
    assert found["loss"] == (pytest.approx(sum(there) / len(there), rel=1e-6) if there else None)
    assert found["gradient_norm"] == (1.0 if steps else None)
    assert found["objective"] == (pytest.approx(np.mean([s.mean() for s, _ in steps]), rel=1e-6) if steps else None)


def test_a_task_without_a_training_label_counts_in_no_loss_and_no_mean_and_is_named(sparse_set, recipe, tmp_path, reporter):
    numbers, _ = names_of(sparse_set)
    outcome = pretrain(sparse_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    said = [text for text in reporter.messages if isinstance(text, str) and "have no label in the training split" in text]
    assert said == [f"{numbers}: 1 of 2 tasks have no label in the training split, so they count in no loss and no mean: late"]
    results = outcome.results
    y, late = results.tasks[numbers]
    assert (y.task, late.task, y.trained, late.trained) == ("y", "late", True, False)
    assert late.count == 80
    assert late.values["mean_mae"] is None
    # what it is off by is far from what is learned of
    assert late.values["mae"] > 100
    for name in ("mae", "mean_mae", "rmse", "r2", "pearson", "mae_raw"):
        assert results.summary()[numbers][name] == y.values[name], name
        assert results.levels()["graph regression"][name] == y.values[name], name
    assert results.losses[numbers] == pytest.approx(y.values["mae"], rel=1e-6)
    assert results.to_table().filter(~results.to_table()["trained"].to_numpy())["task"].to_pylist() == ["late"]


def test_a_task_without_a_training_label_moves_no_weight(sparse_set, recipe):
    spec = DataSpec.of(sparse_set)
    network, targets, loss = build_network(spec, recipe).eval(), Targets(spec), Loss(spec, recipe)
    config = sequential(StreamConfig(budget=Budget.suggest(sparse_set, atoms=128), split="val"))
    batch = next(iter(Loader(sparse_set, config))).batches[0]
    head = next(h for h in spec.heads if h.kind == "regression")
    counts = count_labels([batch], spec)
    _, mask = targets(batch)[head.name]
    late = head.tasks.index("late")
    assert not mask[:, late].any()
    assert targets.all(batch)[head.name][1][:, late].any()
    assert counts[spec.heads.index(head)] == int(mask.sum())
    loss(network(batch), targets(batch), counts)[0].backward()
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    labels = targets(batch)
    labels[head.name][0][:, late] = 1e6
    loss(network(batch), labels, counts)[0].backward()
    assert all(map(torch.equal, gradients, (p.grad for p in network.parameters() if p.grad is not None)))


def test_a_loss_that_there_is_none_of_is_printed_as_a_dash(capsys):
    reporter = TerminalReporter()
    reporter.printed = -1e9
    reporter.start(step=0, num_steps=10, description={})
    reporter.progress(1, {"loss": None, "graphs_per_s": 1.0, "labels_per_s": 0.0, "data_wait_fraction": 0.0})
    assert "loss -  1 molecules/s" in capsys.readouterr().err
