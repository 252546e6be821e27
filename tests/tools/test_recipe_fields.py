"""molstream pretrain --set and --fields: every field can be another one, what cannot be is one line and leaves nothing behind."""

import json
import math
import re

import pytest

from molstream.trainers.config import Recipe, describe_fields
from molstream.trainers.recipes import RECIPES, get_recipe

TINY = "hidden=16 num_layers=1 encoder_hidden=16 encoder_out=8 bond_hidden=8 head_hidden=8 atoms_a_pack=512 num_lanes=2".split()


def sets(*assignments: str) -> list[str]:
    return [word for text in assignments for word in ("--set", text)]


def written(run) -> dict:
    return json.loads((run / "config.json").read_text())["recipe"]


def test_fields_of_every_type_are_written_with_the_run_and_used(succeed, shard_set, tmp_path):
    given = {
        "hidden": ("16", 16),
        "window_molecules": ("1_000", 1000),
        "learning_rate": ("5e-4", 5e-4),
        "dropout": ("0", 0.0),
        "residual": ("false", False),
        "virtual_node": ("True", True),
        "pooling": ("mean", "mean"),
        "layer": ("gin", "gin"),
        "weighting": ("uncertainty", "uncertainty"),
        "encodings": ("rw16, lap8", ["rw16", "lap8"]),
        "task_sets": ("n7,g62", ["n7", "g62"]),
        "losses": ("g62:mse,n7:huber", {"g62": "mse", "n7": "huber"}),
        "head_hiddens": ("n7:8", {"n7": 8}),
        "num_steps": ("2", 2),
    }
    assignments = sets(*(f"{name}={text}" for name, (text, _) in given.items()))
    done = succeed("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke", *assignments)
    expected = get_recipe("smoke").resolve(1).to_json() | {name: value for name, (_, value) in given.items()}
    assert written(tmp_path / "run") == expected
    assert "gin 16 x 2" in done.err
    assert "encodings rw16, lap8" in done.err
    assert re.search(r"g62 \(62, graph, mse\).*n7 \(7, atom, huber\)", done.err)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == 2


def test_the_last_of_several_values_of_a_field_counts_and_lists_can_be_emptied(succeed, tmp_path):
    lines = succeed("pretrain", "--fields", "--recipe", "pm6-gcn", *sets("hidden=8", "encodings=", "hidden=24")).lines
    rows = {words[0]: words[1] for line in lines if len(words := line.split()) > 1}
    assert (rows["hidden"], rows["encodings"]) == ("24", "Positional")


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["hiden=16"], "--set hiden=16: a recipe has no field 'hiden'; near it: hidden"),
        (["name=mine"], "a recipe has no field 'name'; near it: atoms_a_pack, bond_hidden, "),
        (["hidden"], "--set hidden: expected FIELD=VALUE, like learning_rate=3e-4"),
        (["hidden=1.5"], "--set hidden=1.5: got '1.5', expected a whole number"),
        (["dropout=some"], "--set dropout=some: got 'some', expected a number"),
        (["residual=maybe"], "--set residual=maybe: got 'maybe', expected true or false"),
        (["head_hiddens=:8"], "expected name:value,name:value"),
        (["head_hiddens=g62:wide"], "--set head_hiddens=g62:wide: got 'wide', expected a whole number"),
        (["hidden=0"], "hidden is 0, expected at least 1"),
        (["layer=mpnn", "virtual_node=true"], "virtual_node is True, expected False with mpnn, which has one built in"),
        (["losses=g62:bce"], "recipe smoke: losses say bce for g62, whose tasks are regression; expected mae, mse, huber"),
        (["task_sets=n7", "losses=g62:mse"], "losses or head_hiddens name g62, trained are n7"),
        (
            ["task_sets=g62,pcba,n4"],
            "no task set pcba, n4: asked for g62, pcba, n4, the set has g62, n7; choose another recipe, or name some of these "
            "with --set task_sets=g62,n7",
        ),
        (["atoms_a_pack=100000000"], "atoms_a_pack is 100000000, expected less than 2097152"),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_one_line_and_nothing_is_left_behind(
    molstream, shard_set, tmp_path, everything_in, assignments, expected
):
    out = tmp_path / "run"
    before = everything_in(tmp_path)
    done = molstream("pretrain", shard_set, "--out", out, "--recipe", "smoke", "--steps", 2, *sets(*assignments))
    assert (done.code, done.out) == (2, "")
    assert expected in done.error
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("options", [("--set", "task_sets=pcba"), ("--recipe", "toymix-gine"), ("--set", "losses=g62:bce")])
@pytest.mark.parametrize("there", [False, True])
def test_a_run_refused_on_the_embedded_sample_leaves_no_packed_sample(molstream, tmp_path, everything_in, options, there):
    if there:
        (tmp_path / "run").mkdir()
    before = everything_in(tmp_path)
    done = molstream("pretrain", "--out", tmp_path / "run", *options)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert everything_in(tmp_path) == before


def test_a_recipe_for_other_data_names_what_it_wants_and_what_the_set_has(molstream, kinds_set, tmp_path):
    done = molstream("pretrain", kinds_set, "--out", tmp_path / "run", "--recipe", "largemix-gine")
    assert (done.code, done.out) == (2, "")
    assert "asked for g25, n4, pcba, vcap.l1000, mcf7.l1000, the set has graph, graph_binary, " in done.error
    assert not (tmp_path / "run").exists()


def test_listed_labels_beside_labels_of_pairs_are_refused_by_the_name_of_the_field(molstream, succeed, kinds_set, tmp_path):
    call = ("pretrain", kinds_set, "--out", tmp_path / "run", "--recipe", "smoke", "--steps", 1, *sets("list_labels=true"))
    done = molstream(*call)
    assert (done.code, done.out) == (2, "")
    assert "list_labels is True, expected False where there are labels of pairs" in done.error
    assert not (tmp_path / "run").exists()
    succeed(*call, *sets("task_sets=graph,graph_binary,atom"))


def test_a_run_does_not_go_on_with_other_fields_which_are_named(molstream, shard_set, copy_run, everything_in, tmp_path):
    before = everything_in(tmp_path)
    for assignments, expected in (
        (["hidden=16"], ["hidden 32 there, 16 here"]),
        (["pooling=mean", "losses=g62:mse"], ["pooling sum there, mean here", "losses {} there, {'g62': 'mse'} here"]),
        (["task_sets=n7"], ["task_sets [] there, ['n7'] here"]),
        (["num_epochs=2"], ["num_epochs 0.0 there, 2.0 here", "num_steps 12 there, 8 here"]),
    ):
        done = molstream("pretrain", shard_set, "--out", copy_run, "--resume", *sets(*assignments))
        assert (done.code, done.out) == (2, "")
        assert f"{copy_run}: holds another run: " in done.error
        for words in expected:
            assert words in done.error
    assert everything_in(tmp_path) == before


def test_a_length_in_epochs_is_written_in_steps(succeed, shard_set, tmp_path):
    done = succeed("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke", *sets("num_epochs=1.5"))
    steps_per_epoch = int(re.search(r"(\d+) steps per epoch", done.err)[1])
    recipe = written(tmp_path / "run")
    assert (recipe["num_epochs"], recipe["num_steps"]) == (1.5, round(1.5 * steps_per_epoch))
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == recipe["num_steps"]
    # and goes on as it is, in either words
    for words in ((), sets("num_epochs=1.5")):
        assert "resumed at step" in succeed("pretrain", shard_set, "--out", tmp_path / "run", "--resume", *words).err


@pytest.mark.parametrize("how", ["--steps", "--set"])
def test_steps_stand_above_the_epochs_of_a_recipe(succeed, shard_set, tmp_path, how):
    length = ("--steps", 2) if how == "--steps" else sets("num_steps=2")
    call = ("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "pm6-gine", *sets("precision=f32", *TINY))
    done = succeed(*call, *length)
    recipe = written(tmp_path / "run")
    assert (recipe["name"], recipe["num_steps"], recipe["num_epochs"]) == ("pm6-gine", 2, 50)
    assert (recipe["hidden"], recipe["mup_base_hidden"], recipe["task_sets"]) == (16, 704, ["g62", "n7"])
    assert "gine 16 x 1" in done.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["step"], sorted(results["tasks"])) == (2, ["g62", "n7"])
    assert math.isfinite(results["loss"])


@pytest.mark.parametrize("name", list(RECIPES)[::4])
def test_the_fields_of_a_recipe_are_listed_with_value_and_meaning_without_a_folder(succeed, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = succeed("pretrain", "--fields", "--recipe", name)
    assert done.lines[0].strip() == f"recipe {name}"
    meanings = describe_fields()
    assert list(meanings) == list(Recipe.__dataclass_fields__)
    text, at = " ".join(done.out.split()), 0
    for field, meaning in meanings.items():
        assert meaning
        assert re.search(rf"^{field} ", done.out, re.MULTILINE), field
        # in their order, each beside the first words of its meaning
        at = text.index(f" {field} ", at)
        assert meaning.split(".")[0][:30] in text[at:], field
    assert list(tmp_path.iterdir()) == []


def test_fields_refuse_what_a_run_would(molstream):
    done = molstream("pretrain", "--fields", *sets("hidden=0"))
    assert (done.code, done.out, done.error) == (2, "", "recipe sample: hidden is 0, expected at least 1")


def test_without_a_folder_for_the_run_nothing_is_done(molstream, shard_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for directory in ([], [shard_set]):
        done = molstream("pretrain", *directory)
        assert (done.code, done.out, done.error) == (2, "", "pretrain: no folder for the run; add --out RUN")
    assert list(tmp_path.iterdir()) == []
