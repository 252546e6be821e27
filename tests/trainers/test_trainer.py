"""The run: learns, stops, resumes to the same bits, survives damaged checkpoints, refuses what is not its own."""

import importlib
import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.errors import StorageError
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.splits.rules import SplitFractions
from molstream.shards.store.documents import seal_json, unseal_json
from molstream.streamer.config import StreamConfig
from molstream.streamer.loader import Loader
from molstream.trainers.jobs.evaluate import evaluate_checkpoint, plan_budget
from molstream.trainers.models.loss import Targets
from molstream.trainers.models.network import build_network
from molstream.trainers.recipes import smoke
from molstream.trainers.runs.checkpoint import (
    CHECKPOINTS,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from molstream.trainers.runs.folder import read_recipe
from molstream.trainers.spec import DataSpec
from molstream.trainers.training.trainer import pretrain

ROOT = Path(__file__).resolve().parents[2]


def losses_of(run) -> list[tuple]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    keys = ("loss", "loss_g62", "loss_n7", "gradient_norm", "learning_rate")
    return [(x["step"], *(x[k] for k in keys)) for x in lines if x["kind"] == "train"]


def stop_after(calls: int):
    count = iter(range(10**9))
    return lambda: next(count) >= calls


@pytest.mark.parametrize("stops", [[5], [3, 6]])
def test_a_resumed_run_continues_to_the_same_bits(sample_set, tiny, tmp_path, reporter, stops):
    tiny = replace(tiny, ema_decay=0.9)
    whole = pretrain(sample_set, tmp_path / "whole", tiny, resume=False, reporter=reporter)
    assert whole.finished
    run = tmp_path / "run"
    for k, stop in enumerate(stops):
        outcome = pretrain(sample_set, run, tiny, resume=k > 0, reporter=reporter, should_stop=stop_after(stop))
        assert not outcome.finished
        assert outcome.results is None
    outcome = pretrain(sample_set, run, tiny, resume=True, reporter=reporter)
    assert outcome.finished
    assert losses_of(run) == losses_of(tmp_path / "whole")
    a, b = load_checkpoint(run), load_checkpoint(tmp_path / "whole")
    assert a.step == b.step == tiny.num_steps
    assert all(torch.equal(a.model[k], b.model[k]) for k in b.model)
    assert all(torch.equal(a.average[k], b.average[k]) for k in b.model)
    for k, state in b.optimizer["state"].items():
        assert all(torch.equal(a.optimizer["state"][k][n], v) for n, v in state.items())
    assert a.cursor == b.cursor
    assert outcome.results.to_json() == whole.results.to_json()


def test_it_learns_more_than_the_mean_of_the_training_split(sample_set, tmp_path, reporter):
    recipe = replace(smoke(), hidden=64, num_layers=3, num_steps=250, eval_steps=250, learning_rate=3e-3, num_lanes=1)
    outcome = pretrain(sample_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    for name, summary in outcome.results.summary().items():
        assert summary["mae"] < 0.93 * summary["mean_mae"], name
        assert summary["pearson"] > 0.3, name
    assert outcome.results.complete
    assert outcome.results.molecules == sample_set.manifest.splits["val"]["molecules"]
    assert unseal_json((tmp_path / "run" / "results.json").read_bytes(), kind="results", version=4) == outcome.results.to_json()
    again = evaluate_checkpoint(load_checkpoint(tmp_path / "run"), sample_set, split="val")
    assert again.loss == pytest.approx(outcome.results.loss, rel=1e-6)


@pytest.mark.parametrize("damage", ["flip", "no weights", "empty"])
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_is_used(sample_set, tiny, tmp_path, reporter, damage):
    run = tmp_path / "run"
    pretrain(sample_set, run, tiny, resume=False, reporter=reporter)
    newest, before = list_checkpoints(run)[:2]
    target = newest / "model.safetensors"
    if damage == "flip":
        data = bytearray(target.read_bytes())
        data[len(data) // 2] ^= 1
        target.write_bytes(data)
    elif damage == "no weights":
        target.unlink()
    else:
        shutil.rmtree(newest)
        newest.mkdir()
    checkpoint, problems = newest_checkpoint(run)
    assert checkpoint.step == int(before.name[5:])
    assert len(problems) == 1
    assert newest.name in problems[0]
    outcome = pretrain(sample_set, run, tiny, resume=True, reporter=reporter)
    assert outcome.finished
    assert any("skipped" in m for m in reporter.messages if isinstance(m, str))
    # what was logged after the older checkpoint came again, and stands there once
    assert [line[0] for line in losses_of(run)] == list(range(1, tiny.num_steps + 1))


def test_a_half_written_checkpoint_is_never_seen(sample_set, tiny, tmp_path, reporter, monkeypatch):
    import molstream.trainers.runs.checkpoint as module

    run = tmp_path / "run"
    pretrain(sample_set, run, replace(tiny, num_steps=4, eval_steps=2), resume=False, reporter=reporter)
    steps = [p.name for p in list_checkpoints(run)]
    checkpoint = load_checkpoint(run)

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        module.write_checkpoint(run, replace(checkpoint, step=99), keep=2)
    monkeypatch.undo()
    assert [p.name for p in list_checkpoints(run)] == steps
    assert load_checkpoint(run).step == 4


def test_only_the_newest_checkpoints_stay(sample_set, tiny, tmp_path, reporter):
    run = tmp_path / "run"
    pretrain(sample_set, run, replace(tiny, eval_steps=2, keep_checkpoints=3), resume=False, reporter=reporter)
    assert [p.name for p in list_checkpoints(run)] == ["step-00000012", "step-00000010", "step-00000008"]
    assert not list((run / CHECKPOINTS).glob(".*"))


def test_another_run_is_not_continued(sample_set, tiny, tmp_path, reporter):
    run = tmp_path / "run"
    pretrain(sample_set, run, replace(tiny, num_steps=1), resume=False, reporter=reporter)
    with pytest.raises(ValueError, match="already holds a run; add --resume"):
        pretrain(sample_set, run, replace(tiny, num_steps=1), resume=False, reporter=reporter)
    with pytest.raises(ValueError, match="holds another run: num_steps 1 there, 12 here"):
        pretrain(sample_set, run, tiny, resume=True, reporter=reporter)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"holds something else \(thesis.tex\)"):
        pretrain(sample_set, tmp_path / "other", tiny, resume=False, reporter=reporter)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched(sample_set, tiny, tmp_path, reporter):
    with pytest.raises(
        ValueError, match=r"loss is not finite at step 1; this step changed no weights; its molecules are in .*nonfinite\.jsonl"
    ):
        pretrain(
            sample_set,
            tmp_path / "run",
            replace(tiny, learning_rate=1e30, clip_norm=1e30, warmup_fraction=0.0),
            resume=False,
            reporter=reporter,
        )


def test_a_step_is_normalised_by_the_labels_of_all_its_packs(sample_set, tiny, tmp_path, reporter):
    recipe = replace(tiny, dropout=0.0, num_steps=1)
    pretrain(sample_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    spec = DataSpec.of(sample_set)
    network, targets = build_network(spec, recipe), Targets(spec)
    config = StreamConfig(
        budget=plan_budget(sample_set, spec, recipe),
        seed=recipe.seed,
        num_lanes=recipe.num_lanes,
        window_molecules=recipe.window_molecules,
    )
    step = next(iter(Loader(sample_set, config)))
    assert len(step.batches) == 3
    errors = {head.name: [] for head in spec.heads}
    with torch.no_grad():
        for batch in step.batches:
            predictions = network(batch)
            for name, (target, mask) in targets(batch).items():
                errors[name] += (predictions[name] - target)[mask].abs().tolist()
    expected = sum(sum(e) / len(e) for e in errors.values()) / len(errors)
    assert reporter.steps[0][1]["loss"] == pytest.approx(expected, rel=1e-5)


def test_log_lines_carry_rates_and_shares(sample_set, tiny, tmp_path, reporter):
    pretrain(sample_set, tmp_path / "run", tiny, resume=False, reporter=reporter)
    _, values = reporter.steps[-1]
    for name in ("graphs_per_s", "atoms_per_s", "labels_per_s", "gradient_norm", "rss_bytes", "loss_g62", "loss_n7"):
        assert values[name] > 0
    assert 0 <= values["data_wait_fraction"] <= 1
    assert 0.5 < values["atom_fill_fraction"] <= 1
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_the_checkpoint_just_written_stays_whatever_later_ones_there_are(sample_set, tiny, tmp_path, reporter):
    run = tmp_path / "run"
    pretrain(sample_set, run, replace(tiny, num_steps=12, eval_steps=4), resume=False, reporter=reporter)
    checkpoint = load_checkpoint(run)
    write_checkpoint(run, replace(checkpoint, step=3), keep=2)
    assert [p.name for p in list_checkpoints(run)] == ["step-00000003"]
    write_checkpoint(run, replace(checkpoint, step=5), keep=2)
    write_checkpoint(run, replace(checkpoint, step=7), keep=2)
    assert [p.name for p in list_checkpoints(run)] == ["step-00000007", "step-00000005"]


def test_a_run_without_a_complete_checkpoint_is_not_started_anew_in_silence(sample_set, tiny, tmp_path, reporter):
    run = tmp_path / "run"
    pretrain(sample_set, run, tiny, resume=False, reporter=reporter)
    for folder in list_checkpoints(run):
        (folder / "state.json").write_text("{")
    with pytest.raises(ValueError, match="no checkpoint is complete; choose another folder"):
        pretrain(sample_set, run, tiny, resume=True, reporter=reporter)


class FullDisk:
    """A disk that is full from the n-th call of some function on."""

    def __init__(self, monkeypatch, *, at: dict[str, int]):
        for place, calls in at.items():
            module, name = place.split(":")
            owner = importlib.import_module(module)
            for part in name.split(".")[:-1]:
                owner = getattr(owner, part)
            monkeypatch.setattr(owner, name.split(".")[-1], self._fail_after(getattr(owner, name.split(".")[-1]), calls))

    def _fail_after(self, function, calls: int):
        left = iter(range(calls))

        def call(*arguments, **named):
            if next(left, None) is None:
                raise StorageError("run: cannot be written: No space left on device")
            return function(*arguments, **named)

        return call


LOG, SAVE = "molstream.trainers.runs.log:RunLog.add", "molstream.trainers.training.trainer:write_checkpoint"


@pytest.mark.parametrize(
    ("at", "what", "kept"),
    [
        ({LOG: 6}, "; step 6 is saved", 6),
        ({LOG: 6, SAVE: 1}, "; steps 5 to 6 are lost: no checkpoint of them could be written", 4),
        ({SAVE: 0}, "; steps 1 to 4 are lost: no checkpoint of them could be written", None),
        ({LOG: 4}, "; step 4 is saved", 4),
    ],
)
def test_where_a_disk_is_full_the_state_is_saved_or_said_to_be_lost(
    sample_set, tiny, tmp_path, reporter, monkeypatch, at, what, kept
):
    recipe = replace(tiny, num_steps=12, eval_steps=4, log_steps=1)
    with monkeypatch.context() as patch:
        FullDisk(patch, at=at)
        with pytest.raises(StorageError, match=f"No space left on device{what}$"):
            pretrain(sample_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    assert [c.step for c in map(read_checkpoint, list_checkpoints(tmp_path / "run"))][:1] == ([] if kept is None else [kept])
    assert pretrain(sample_set, tmp_path / "run", recipe, resume=True, reporter=reporter).finished


@pytest.mark.parametrize("after", [0, 1, 3])
def test_curves_that_cannot_be_written_end_with_a_word_and_the_run_goes_on(
    sample_set, tiny, tmp_path, reporter, monkeypatch, after
):
    messages: list[str] = []
    monkeypatch.setattr(reporter, "message", messages.append)
    FullDisk(monkeypatch, at={"molstream.trainers.runs.board:RecordWriter.write": after})
    assert pretrain(sample_set, tmp_path / "run", tiny, resume=False, reporter=reporter).finished
    assert [m for m in messages if "TensorBoard" in m] == [
        "no more curves for TensorBoard: run: cannot be written: No space left on device"
    ]


def test_a_run_leaves_no_thread_however_it_ends(sample_set, tiny, tmp_path, reporter, monkeypatch):
    before = set(threading.enumerate())
    pretrain(sample_set, tmp_path / "a", tiny, resume=False, reporter=reporter)
    assert not set(threading.enumerate()) - before
    stop = iter([False] * 3)
    assert not pretrain(
        sample_set, tmp_path / "b", tiny, resume=False, reporter=reporter, should_stop=lambda: next(stop, True)
    ).finished
    assert not set(threading.enumerate()) - before
    FullDisk(monkeypatch, at={SAVE: 0})
    with pytest.raises(StorageError, match="lost"):
        pretrain(sample_set, tmp_path / "c", tiny, resume=False, reporter=reporter)
    assert not set(threading.enumerate()) - before


def test_training_is_kept_when_validation_fails(sample_set, tiny, tmp_path, reporter):
    folder = tmp_path / "damaged"
    shutil.copytree(sample_set.path, folder)
    shard = folder / "val-00000.tar"
    data = bytearray(shard.read_bytes())
    data[int(sample_set.index.members["graph_labels_offset"][sample_set.blocks("val")[0]]) + 20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"val-00000\.tar, block \d+, member \w+: damaged"):
        pretrain(ShardSet(folder), tmp_path / "run", tiny, resume=False, reporter=reporter)
    assert load_checkpoint(tmp_path / "run").step == tiny.eval_steps


@pytest.mark.parametrize(
    "layer", ["gin", "mpnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gcn", "gine", "gated"))]
)
def test_every_layer_trains_on_every_level_and_resumes_to_the_same_bits(levels_set, tiny, tmp_path, reporter, layer):
    recipe = replace(
        tiny,
        layer=layer,
        encodings=("rw16", "lap8"),
        num_lanes=1,
        eval_steps=12,
        virtual_node=layer == "gin",
        weighting="uncertainty",
        mup_base_hidden=16,
    )
    pretrain(levels_set, tmp_path / "whole", recipe, resume=False, reporter=reporter)
    pretrain(levels_set, tmp_path / "run", recipe, resume=False, reporter=reporter, should_stop=stop_after(5))
    outcome = pretrain(levels_set, tmp_path / "run", recipe, resume=True, reporter=reporter)
    a, b = load_checkpoint(tmp_path / "run"), load_checkpoint(tmp_path / "whole")
    assert all(torch.equal(a.model[k], b.model[k]) for k in b.model)
    assert [g["lr_scale"] for g in a.optimizer["param_groups"]] == [g["lr_scale"] for g in b.optimizer["param_groups"]]
    assert {head.level for head in outcome.results.heads} == {"graph", "atom", "bond", "pair"}
    assert all(loss is not None and loss > 0 for loss in outcome.results.losses.values())
    molecules = levels_set.manifest.splits["val"]
    assert outcome.results.molecules == molecules["molecules"]
    # every label of the split is in the metrics once
    for tasks in outcome.results.tasks.values():
        for task in tasks:
            assert task.count == levels_set.manifest.labels[task.task]["val"]


def test_a_recipe_trains_the_task_sets_it_names_and_reads_no_others(sample_set, tiny, tmp_path, reporter):
    outcome = pretrain(sample_set, tmp_path / "run", replace(tiny, task_sets=("n7",)), resume=False, reporter=reporter)
    assert list(outcome.results.tasks) == ["n7"]
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.spec.task_sets == ("n7",)
    assert not any("g62" in name for name in checkpoint.model)
    with pytest.raises(ValueError, match=r"no task set pcba: asked for n7, pcba, the set has g62, n7; choose another recipe"):
        pretrain(sample_set, tmp_path / "other", replace(tiny, task_sets=("n7", "pcba")), resume=False, reporter=reporter)
    assert not (tmp_path / "other").exists()


def test_a_run_as_long_as_so_many_epochs(sample_set, tiny, tmp_path, reporter):
    recipe = replace(tiny, num_steps=0, num_epochs=0.5, eval_steps=1000)
    outcome = pretrain(sample_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    spec = DataSpec.of(sample_set)
    config = StreamConfig(
        budget=plan_budget(sample_set, spec, recipe), num_lanes=recipe.num_lanes, window_molecules=recipe.window_molecules
    )
    assert outcome.step == round(0.5 * len(Loader(sample_set, config))) > 5
    assert read_recipe(tmp_path / "run").num_steps == outcome.step


def test_listed_labels_train_and_are_all_evaluated(sample_set, tiny, tmp_path, reporter):
    for listed in (False, True):
        recipe = replace(tiny, list_labels=listed, num_steps=4)
        outcome = pretrain(sample_set, tmp_path / str(listed), recipe, resume=False, reporter=reporter)
        counts = [task.count for tasks in outcome.results.tasks.values() for task in tasks]
        assert counts == [sample_set.manifest.labels[name]["val"] for name in DataSpec.of(sample_set).tasks]


def test_log_lines_cover_every_step_whatever_the_validations_between(sample_set, tiny, tmp_path, reporter, monkeypatch):
    import molstream.trainers.training.log_interval as module

    seen = []
    monkeypatch.setattr(
        module.LogInterval, "add", lambda self, *args, add=module.LogInterval.add: (seen.append(self), add(self, *args))
    )
    recipe = replace(tiny, num_steps=20, eval_steps=8, log_steps=10)
    pretrain(sample_set, tmp_path / "run", recipe, resume=False, reporter=reporter)
    assert [step for step, _ in reporter.steps] == [10, 20]
    assert [seen.count(interval) for interval in dict.fromkeys(seen)] == [10, 10]


def test_runs_of_two_precisions_in_one_process(sample_set, tiny, tmp_path, reporter):
    for precision in ("f32", "bf16", "f32"):
        recipe = replace(tiny, num_steps=2, precision=precision)
        run = tmp_path / f"{precision}-{len(list(tmp_path.iterdir()))}"
        outcome = pretrain(sample_set, run, recipe, resume=False, reporter=reporter)
        assert outcome.results.loss > 0
        assert all(v.dtype == torch.float32 for v in load_checkpoint(run).model.values())


def test_a_field_that_a_run_was_started_without_has_its_default(sample_set, tiny, tmp_path, reporter):
    run = tmp_path / "run"
    pretrain(sample_set, run, tiny, resume=False, reporter=reporter, should_stop=stop_after(3))
    config = unseal_json((run / "config.json").read_bytes(), kind="run", version=4)
    del config["recipe"]["pooling"]
    (run / "config.json").write_bytes(seal_json(config, kind="run", version=4))
    assert pretrain(sample_set, run, tiny, resume=True, reporter=reporter).finished
    config["recipe"]["warmup_steps"] = 5
    (run / "config.json").write_bytes(seal_json(config, kind="run", version=4))
    shutil.rmtree(run / CHECKPOINTS)
    with pytest.raises(ValueError, match=r"config.json: field recipe.warmup_steps is one that no reader expects; train again"):
        pretrain(sample_set, run, tiny, resume=True, reporter=reporter)


def test_a_task_set_without_a_training_label_is_refused(build_set, tmp_path, reporter, tiny):
    rows = [{"ordered_smiles": "C" * (k % 9 + 1) + "O", "graph_mw": float(k)} for k in range(60)]
    shard_set = build_set(rows, fractions="80,10,10")
    with pytest.raises(ValueError, match="task set n7 has no label in the training split; train on others with --set task_sets"):
        pretrain(shard_set, tmp_path / "run", tiny, resume=False, reporter=reporter)
    assert not (tmp_path / "run").exists()
    assert pretrain(shard_set, tmp_path / "run", replace(tiny, task_sets=("g62",)), resume=False, reporter=reporter).finished


def test_one_of_several_task_sets_of_a_level_is_trained_on_its_own_columns(levels_set, tiny, tmp_path, reporter):
    for task_set in DataSpec.of(levels_set).task_sets:
        recipe = replace(tiny, task_sets=(task_set,), num_steps=2, num_lanes=1)
        outcome = pretrain(levels_set, tmp_path / task_set, recipe, resume=False, reporter=reporter)
        (tasks,) = outcome.results.tasks.values()
        assert [t.count for t in tasks] == [levels_set.manifest.labels[t.task]["val"] for t in tasks]
        # normalised by its own scales: predicting the mean is about as wrong as labels are wide
        if outcome.results.heads[0].kind == "regression":
            assert all(0.1 < t.values["mean_mae"] < 3 for t in tasks)


def test_a_checkpoint_is_evaluated_on_a_set_that_has_its_tasks_elsewhere(tiny, tmp_path, reporter):
    rows = [f"{'C' * (1 + k % 17)}{'O' * (k % 5)}N" for k in range(80)]
    for name, scale in (("a", 1.0), ("b", 1000.0)):
        lines = [f"{smiles},{scale * (k % 13)}" for k, smiles in enumerate(rows)]
        (tmp_path / f"{name}.csv").write_text("smiles,y\n" + "\n".join(lines) + "\n")
    sets = {}
    for order in ("ab", "ba"):
        tables = tuple(TableSpec(dataset="table", name=name, graph_columns=("y",)) for name in order)
        options = BuildOptions(tables=tables, join="smiles", split_fractions=SplitFractions.parse("80,10,10"))
        build([[str(tmp_path / f"{name}.csv")] for name in order], tmp_path / order, options)
        sets[order] = ShardSet(tmp_path / order)
    pretrain(sets["ab"], tmp_path / "run", replace(tiny, num_lanes=1), resume=False, reporter=reporter)
    checkpoint = load_checkpoint(tmp_path / "run")
    first, second = (evaluate_checkpoint(checkpoint, sets[order], split="train") for order in ("ab", "ba"))
    assert first.molecules == second.molecules > 10
    assert second.losses == pytest.approx(first.losses, rel=1e-5)
    for name, tasks in first.tasks.items():
        assert [t.values["mae_raw"] for t in second.tasks[name]] == pytest.approx([t.values["mae_raw"] for t in tasks], rel=1e-5)


@pytest.mark.slow
def test_a_compiled_network_trains_as_one_that_is_not(sample_set, tiny, tmp_path, reporter):
    recipe = replace(tiny, dropout=0.0, num_layers=1, num_steps=6, eval_steps=3, eval_packs=3)
    pretrain(sample_set, tmp_path / "plain", recipe, resume=False)
    pretrain(sample_set, tmp_path / "compiled", replace(recipe, compile="default"), resume=False)
    plain, compiled = (torch.tensor(losses_of(tmp_path / name)) for name in ("plain", "compiled"))
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


def test_without_a_compiler_a_run_says_so_and_goes_on(sample_set, tiny, tmp_path, reporter, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    pretrain(sample_set, tmp_path / "run", replace(tiny, num_steps=2, compile="default"), resume=False, reporter=reporter)
    assert "not compiled: a C++ compiler (no-such-compiler) is not here" in reporter.messages
    assert len(losses_of(tmp_path / "run")) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_memory_that_a_step_has_freed_is_used_again():
    code = """
import resource, torch
from molstream.trainers.distributed.device import keep_freed_memory
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
given_back = faults()
keep_freed_memory()
faults()
print(given_back, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    given_back, kept = map(int, done.stdout.split())
    assert kept < given_back / 20
