"""The paper's recipes, narrow, on look-alikes of its data sets as joined by the commands in docs/data.md."""

from dataclasses import replace

import lookalikes as lk
import pytest

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.splits.rules import SplitFractions
from molstream.trainers.jobs.evaluate import evaluate_checkpoint
from molstream.trainers.recipes import get_recipe
from molstream.trainers.runs.checkpoint import load_checkpoint
from molstream.trainers.training.trainer import pretrain

SIZE = (120, 7)
JOINS = {
    "largemix-gine": [
        (lk.write_pcqm4m, TableSpec(dataset="pcqm4m")),
        (lk.write_pcba, TableSpec(dataset="pcba")),
        (lk.write_l1000, TableSpec(dataset="l1000", name="vcap")),
        (lambda *args: lk.write_l1000(*args, cell="MCF7"), TableSpec(dataset="l1000", name="mcf7")),
    ],
    "toymix-gine": [
        (lk.write_qm9, TableSpec(dataset="qm9")),
        (lk.write_tox21, TableSpec(dataset="tox21")),
        (lk.write_zinc, TableSpec(dataset="zinc")),
    ],
}


@pytest.mark.parametrize("name", [pytest.param("largemix-gine", marks=pytest.mark.slow), "toymix-gine"])
def test_a_recipe_for_joined_sets_trains_evaluates_and_reports_every_task_set(name, tmp_path, reporter):
    looks = [(write(tmp_path, *SIZE), spec) for write, spec in JOINS[name]]
    options = BuildOptions(
        tables=tuple(spec for _, spec in looks),
        atom_labels="f32",
        join="smiles",
        split_fractions=SplitFractions.parse("80,10,10"),
        block_molecules=32,
    )
    paths = [[str(path) for path in look.paths] for look, _ in looks]
    build(paths, tmp_path / "set", options, work=WorkOptions(max_reject_fraction=0.5))
    shard_set = ShardSet(tmp_path / "set")
    narrow = {"hidden": 16, "mup_base_hidden": 16, "encoder_hidden": 16, "atoms_a_pack": 512, "num_lanes": 1}
    recipe = replace(get_recipe(name), **narrow, num_epochs=0, num_steps=2, window_molecules=64, precision="f32")
    outcome = pretrain(shard_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    assert tuple(outcome.results.tasks) == load_checkpoint(tmp_path / "run").spec.task_sets
    assert set(outcome.results.tasks) == set(recipe.task_sets)
    results = evaluate_checkpoint(load_checkpoint(tmp_path / "run"), shard_set, split="train")
    for head in results.heads:
        counts = {task.task: task.count for task in results.tasks[head.name]}
        assert counts == {task: shard_set.manifest.labels[task]["train"] for task in head.tasks}
        assert sum(counts.values()) > 0
        metric = "mae" if head.kind == "regression" else "auroc"
        defined = [task.values[metric] for task in results.tasks[head.name] if task.values[metric] is not None]
        assert defined, f"{head.name}: no task with a defined {metric}"
        assert results.summary()[head.name][metric] == pytest.approx(sum(defined) / len(defined))
    assert results.complete
