"""molstream eval: every task of a split, from a run or from one checkpoint."""

import json
import math
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.format.manifest import Manifest
from molstream.shards.format.reader import ShardSet
from molstream.trainers.metrics.metrics import CLASSES, REGRESSION
from molstream.trainers.runs.checkpoint import list_checkpoints


def test_all_tasks_are_written_with_out(succeed, shard_set, run, tmp_path):
    done = succeed("eval", shard_set, "--checkpoint", run, "--out", tmp_path / "all.json")
    results, manifest = json.loads((tmp_path / "all.json").read_text()), ShardSet(shard_set).manifest
    assert (results["split"], results["step"], results["complete"]) == ("test", 12, True)
    assert results["molecules"] == manifest.splits["test"]["molecules"]
    for task_set in manifest.task_sets:
        found = results["tasks"][task_set.name]
        assert [task["task"] for task in found] == list(task_set.tasks)
        assert {task["task"]: task["count"] for task in found} == {name: manifest.labels[name]["test"] for name in task_set.tasks}
    assert done.lines[-1] == f"all tasks: {tmp_path / 'all.json'}"


def test_the_validation_split_gives_what_the_run_ended_with(succeed, shard_set, run, tmp_path):
    succeed("eval", shard_set, "--checkpoint", run, "--split", "val", "--out", tmp_path / "val.json")
    assert json.loads((tmp_path / "val.json").read_text()) == json.loads((run / "results.json").read_text())


def test_a_checkpoint_can_be_named_instead_of_its_run(succeed, shard_set, run):
    newest, before = list_checkpoints(run)
    assert succeed("eval", shard_set, "--checkpoint", newest).out == succeed("eval", shard_set, "--checkpoint", run).out
    assert ", step 10, " in succeed("eval", shard_set, "--checkpoint", before).lines[0]


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(succeed, shard_set, copy_run, flip):
    newest = list_checkpoints(copy_run)[0]
    flip(newest / "model.safetensors", -5)
    done = succeed("eval", shard_set, "--checkpoint", copy_run)
    assert ", step 10, " in done.lines[0]
    assert str(newest) in done.err


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "hashes.json"])
def test_a_damaged_checkpoint_that_was_named_is_an_error(molstream, shard_set, copy_run, flip, name):
    checkpoint = list_checkpoints(copy_run)[0]
    flip(checkpoint / name, 9)
    done = molstream("eval", shard_set, "--checkpoint", checkpoint)
    assert done.code == 1
    assert str(checkpoint) in done.error


def test_a_run_without_a_complete_checkpoint_says_what_is_wrong_with_each(molstream, shard_set, copy_run, flip):
    for checkpoint in list_checkpoints(copy_run):
        flip(checkpoint / "model.safetensors", -5)
    done = molstream("eval", shard_set, "--checkpoint", copy_run)
    assert done.code == 1
    assert "no complete checkpoint here" in done.error
    for checkpoint in list_checkpoints(copy_run):
        assert f"{checkpoint / 'model.safetensors'}: damaged" in done.error


def test_a_shard_set_given_as_a_checkpoint_is_told_what_was_expected(molstream, shard_set):
    done = molstream("eval", shard_set, "--checkpoint", shard_set)
    assert done.code == 1
    assert "expected a run of `molstream pretrain` or one of its checkpoints" in done.error


def test_an_out_that_cannot_be_written_is_refused_before_the_work(molstream, shard_set, run, tmp_path):
    done = molstream("eval", shard_set, "--checkpoint", run, "--out", tmp_path / "no" / "all.json")
    assert (done.code, done.out) == (2, "")
    assert f"no folder {tmp_path / 'no'}" in done.error


# what is printed and what is written


def written(succeed, *call: object) -> tuple[dict, pa.Table, list[str]]:
    """FILE.json, FILE.parquet and the lines of one call with --every-task."""
    folder = call[-1]
    files = folder / "all.json", folder / "all.parquet"
    done = succeed("eval", *call[:-1], "--every-task", "--out", files[0], "--out", files[1])
    assert done.lines[-2:] == [f"all tasks: {file}" for file in files]
    assert sorted(p.name for p in folder.iterdir()) == ["all.json", "all.parquet"]
    return json.loads(files[0].read_text(), parse_constant=pytest.fail), pq.read_table(files[1]), done.lines


@pytest.fixture(params=["pm6", "kinds"])
def evaluated(request, succeed, tmp_path):
    """(shard set, JSON, Parquet, lines) of a test split: of PM6's many tasks, of one task of every kind and level."""
    names = {"pm6": ("shard_set", "run"), "kinds": ("kinds_set", "kinds_run")}[request.param]
    shard_set, run = map(request.getfixturevalue, names)
    return ShardSet(shard_set), *written(succeed, shard_set, "--checkpoint", run, tmp_path)


def test_json_and_parquet_hold_the_same_of_every_task(evaluated):
    opened, results, table, _ = evaluated
    manifest = opened.manifest
    rows = table.to_pylist()
    assert len(rows) == len(manifest.tasks)
    of_task = {row["task"]: row for row in rows}
    for task_set in manifest.task_sets:
        metrics = REGRESSION if task_set.kind == "regression" else CLASSES
        for task in results["tasks"][task_set.name]:
            row = of_task.pop(task["task"])
            assert {name: row[name] for name in ("split", "step", "task_set", "level", "kind", "unit", "trained")} == {
                "split": "test",
                "step": results["step"],
                "task_set": task_set.name,
                "level": task_set.level,
                "kind": task_set.kind,
                "unit": task["unit"],
                "trained": True,
            }
            assert (row["labels"], row["nonfinite"]) == (task["count"], task["nonfinite"])
            assert task["count"] == manifest.labels[task["task"]]["test"]
            assert list(task["values"]) == list(metrics)
            assert {name: row.get(name) for name in (*REGRESSION, *CLASSES)} == dict.fromkeys((*REGRESSION, *CLASSES)) | task[
                "values"
            ]
    assert not of_task
    there = {name for task_set in manifest.task_sets for name in (REGRESSION if task_set.kind == "regression" else CLASSES)}
    for name in there:
        assert table.schema.field(name).type == pa.float64()
    described = {"split", "step", "task_set", "level", "kind", "task", "unit", "trained", "labels", "nonfinite"}
    assert set(table.schema.names) == described | there


def test_every_task_is_printed_as_it_is_written(evaluated):
    _, results, table, lines = evaluated
    assert lines[0] == f"test: {results['molecules']} molecules, step {results['step']}, loss {results['loss']:.4f}"
    printed = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ")}

    def cells(values, names):
        return ["-" if values[name] is None else f"{values[name]:.4f}" for name in names]

    for row in table.to_pylist():
        if row["kind"] == "regression":
            expected = cells(row, ("mae", "mean_mae", "rmse", "pearson", "r2", "mae_raw")) + [row["unit"]] * bool(row["unit"])
        else:
            expected = cells(row, ("auroc", "ap", "accuracy"))
        assert printed[row["task"]] == [f"{row['labels']:,}", *expected]
    assert not any(word in "".join(lines) for word in ("best:", "worst:"))
    assert results["loss"] == pytest.approx(
        math.fsum(s["loss"] for s in results["task_sets"].values()) / len(results["task_sets"])
    )


def test_task_sets_and_levels_are_means_of_their_tasks(evaluated):
    opened, results, _, lines = evaluated
    sets = opened.manifest.task_sets
    for name, together in [(s.name, [s]) for s in sets] + [
        (key, [s for s in sets if f"{s.level} {s.kind}" == key]) for key in results["levels"]
    ]:
        values = results["task_sets"].get(name) or results["levels"][name]
        tasks = [task for s in together for task in results["tasks"][s.name]]
        for metric in CLASSES if together[0].kind != "regression" else ("mae", "mean_mae", "rmse", "pearson", "r2"):
            there = [task["values"][metric] for task in tasks if task["values"][metric] is not None]
            assert values[metric] == (math.fsum(there) / len(there) if there else None)
    for s in sets:
        assert any(line.startswith(f"{s.name} ({len(s.tasks)} {s.level} task") for line in lines)


def test_without_every_task_the_two_best_and_the_two_worst_are_named(succeed, shard_set, run, tmp_path):
    results, _, _ = written(succeed, shard_set, "--checkpoint", run, tmp_path)
    lines = succeed("eval", shard_set, "--checkpoint", run).lines
    for name in ("g62", "n7"):
        ranked = sorted(
            (task["values"]["r2"], task["task"]) for task in results["tasks"][name] if task["values"]["r2"] is not None
        )
        at = next(k for k, line in enumerate(lines) if line.startswith(f"{name} ("))
        shown = [tuple(line.split()[:2]) for line in lines[at + 1 : at + 5]]
        best, worst = [task for _, task in ranked[:-3:-1]], [task for _, task in ranked[1::-1]]
        assert shown == [("best:", best[0]), ("best:", best[1]), ("worst:", worst[0]), ("worst:", worst[1])]


def test_a_split_without_labels_is_evaluated_to_nothing(succeed, tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlabelled")
    rows = [f"{'C' * (1 + k % 13)}{'O' * (k % 4)}N,{k / 7:.3f}" for k in range(60)]
    (folder / "a.csv").write_text("smiles,y\n" + "\n".join(rows) + "\n")
    own = ("--dataset", "table", "--graph-columns", "y", "--split-fractions", "60,20,20")
    succeed("build", folder / "a.csv", "--out", folder / "set", *own)
    succeed("pretrain", folder / "set", "--out", folder / "run", "--recipe", "smoke", "--steps", 1)
    bare = [row.split(",")[0] + "," for row in rows]
    bare[0] = rows[0]
    (folder / "a.csv").write_text("smiles,y\n" + "\n".join(bare) + "\n")
    succeed("build", folder / "a.csv", "--out", folder / "bare", *own)
    manifest = ShardSet(folder / "bare").manifest
    split = next(name for name, number in manifest.labels["y"].items() if not number)
    results, table, lines = written(succeed, folder / "bare", "--checkpoint", folder / "run", "--split", split, tmp_path)
    assert results["molecules"] == manifest.splits[split]["molecules"] > 0
    assert results["loss"] is results["task_sets"]["graph"]["loss"] is None
    assert results["tasks"]["graph"][0]["count"] == 0
    assert set(results["tasks"]["graph"][0]["values"].values()) == {None}
    assert table.to_pylist()[0]["mae"] is None
    assert lines[0] == f"{split}: {results['molecules']} molecules, step 1, loss -"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all.csv", "--out all.csv: expected a name that ends in .json or .parquet"),
        ("all", "--out all: expected a name that ends in .json or .parquet"),
        ("no/all.parquet", "--out no/all.parquet: no folder no"),
        ("folder.json", "--out folder.json: a folder, expected a file to write"),
    ],
)
def test_a_file_that_cannot_be_is_refused_before_the_work(
    molstream, shard_set, run, tmp_path, monkeypatch, everything_in, name, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    before = everything_in(tmp_path)
    done = molstream("eval", shard_set, "--checkpoint", run, "--out", "good.json", "--out", name)
    assert (done.code, done.out, done.error) == (2, "", expected)
    assert everything_in(tmp_path) == before


# checkpoint and data that do not fit


@pytest.mark.parametrize(
    ("options", "columns", "expected"),
    [
        (
            "--graph-columns y",
            {},
            "the model predicts graph, graph_binary, graph_ordinal3, graph_multiclass4, atom, bond, pair, ",
        ),
        ("", {}, "the data has no task sets"),
        ("ALL", {"y": "z"}, "task set graph has tasks 1 (y ...) in the model, 1 (z ...) in the data"),
        ("ALL grade=ordinal:5", {}, "the data has graph, graph_binary, graph_ordinal5, "),
    ],
)
def test_a_set_that_lacks_what_the_model_predicts_is_refused(
    molstream, build_kinds, kinds_run, tmp_path, options, columns, expected
):
    names = {name: name for name in ("y", "charge", "order", "distance")} | columns
    words = options.split()
    if words[:1] == ["ALL"]:
        grade = words[1] if len(words) > 1 else "grade=ordinal:3"
        words = f"--graph-columns {names['y']},tox,grade,class --atom-columns charge --bond-columns order".split()
        words += ["--pair-columns", names["distance"], "--task-kind", "tox=binary", "--task-kind", grade]
        words += ["--task-kind", "class=multiclass:4"]
    other = build_kinds(*words, columns=columns)
    done = molstream("eval", other, "--checkpoint", kinds_run, "--out", tmp_path / "all.json")
    assert (done.code, done.out) == (1, "")
    assert done.error.startswith(f"checkpoint and {other} do not fit: ")
    assert expected in done.error
    assert list(tmp_path.iterdir()) == []


def test_a_set_with_other_classes_is_refused(molstream, kinds_set, kinds_run, tmp_path):
    other = shutil.copytree(kinds_set, tmp_path / "set")
    manifest = Manifest.read(kinds_set / "manifest.json")
    assert manifest.task_sets[2].name == "graph_ordinal3"
    for what, value in (("num_classes", 7), ("kind", "multiclass")):
        sets = tuple(replace(s, **{what: value}) if s.name == "graph_ordinal3" else s for s in manifest.task_sets)
        tasks = tuple(replace(t, **{what: value}) if t.name == "grade" else t for t in manifest.tasks)
        (other / "manifest.json").write_bytes(replace(manifest, task_sets=sets, tasks=tasks).encode())
        done = molstream("eval", other, "--checkpoint", kinds_run)
        there = {"num_classes": 3, "kind": "ordinal"}[what]
        assert (done.code, done.out) == (1, "")
        assert f"graph_ordinal3 has {what.replace('_', ' ')} {there} in the model, {value} in the data" in done.error


def test_a_set_with_more_task_sets_is_evaluated_on_those_of_the_model(succeed, kinds_set, tmp_path):
    succeed(
        "pretrain",
        kinds_set,
        "--out",
        tmp_path / "run",
        "--recipe",
        "smoke",
        "--steps",
        1,
        "--set",
        "task_sets=bond,graph_binary",
    )
    (tmp_path / "out").mkdir()
    results, table, _ = written(succeed, kinds_set, "--checkpoint", tmp_path / "run", tmp_path / "out")
    assert sorted(results["tasks"]) == ["bond", "graph_binary"]
    assert sorted(table["task"].to_pylist()) == ["order", "tox"]
