"""Recipes: what is refused, what --set understands, and that the paper's have its sizes."""

from dataclasses import fields, replace

import pytest
import torch

from molstream.shards.inputs.datasets import preset_dataset
from molstream.shards.schema import ATOM_FEATURES, BOND_FEATURES
from molstream.shards.store.fields import from_json
from molstream.trainers.config import Recipe, describe_fields
from molstream.trainers.models.network import Network
from molstream.trainers.recipes import RECIPES, get_recipe, smoke
from molstream.trainers.spec import DataSpec, HeadSpec


def head(task_set, prefix="") -> HeadSpec:
    """As of a shard set of the data set; scales do not matter here."""
    n = len(task_set.tasks) or 1
    return HeadSpec(
        name=prefix + task_set.name,
        level=task_set.level,
        kind=task_set.kind,
        num_classes=task_set.num_classes,
        tasks=task_set.tasks,
        columns=tuple(range(n)),
        units=("1",) * n,
        mean=(0.0,) * n,
        std=(1.0,) * n,
        clip=0.0,
        knots=(),
        trained=(True,) * n,
    )


def paper_heads() -> dict[str, HeadSpec]:
    """Task sets of the paper's data sets, with as many tasks."""
    sets = {}
    for dataset, prefix in (("pm6", ""), ("pcqm4m", ""), ("qm9", ""), ("tox21", ""), ("zinc", "")):
        for task_set in preset_dataset(dataset).task_sets:
            sets[task_set.name] = head(task_set, prefix)
    for name, count, kind, classes in (
        ("pcba", 1328, "binary", 2),
        ("vcap.l1000", 978, "ordinal", 3),
        ("mcf7.l1000", 978, "ordinal", 3),
    ):
        tasks = tuple(f"{name}{k}" for k in range(count))
        sets[name] = replace(
            sets["zinc"],
            name=name,
            kind=kind,
            num_classes=classes,
            tasks=tasks,
            columns=tuple(range(count)),
            units=("1",) * count,
            mean=(0.0,) * count,
            std=(1.0,) * count,
        )
    return sets


def count_parameters(recipe: Recipe) -> int:
    heads = paper_heads()
    spec = DataSpec(
        atom_features={f.name: f.num_codes for f in ATOM_FEATURES},
        bond_features={f.name: f.num_codes for f in BOND_FEATURES},
        heads=tuple(heads[name] for name in recipe.task_sets),
    )
    with torch.device("meta"):
        return Network(spec, recipe).num_parameters


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        # 4 to 6 million, 10 million, 150,000; each within a tenth
        ("pm6-gine", 3.6e6, 6.6e6),
        ("pm6-gcn", 3.6e6, 6.6e6),
        ("pm6-gin", 3.6e6, 6.6e6),
        ("largemix-gine", 9e6, 11e6),
        ("toymix-gine", 135e3, 165e3),
    ],
)
def test_presets_have_about_as_many_parameters_as_the_papers(name, least, most):
    assert least <= count_parameters(get_recipe(name)) <= most


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_carries_its_name(name):
    recipe = get_recipe(name)
    assert recipe.name == name
    assert from_json(Recipe, recipe.to_json()) == recipe


def test_pm6_recipes_are_for_both_task_sets_and_for_each_alone():
    for layer in ("gine", "gcn", "gin"):
        assert get_recipe(f"pm6-{layer}").task_sets == ("g62", "n7")
        assert get_recipe(f"pm6-{layer}-g62").task_sets == ("g62",)
        assert get_recipe(f"pm6-{layer}-n7").task_sets == ("n7",)
    paper = get_recipe("pm6-gine")
    assert (paper.hidden, paper.num_layers, paper.head_hidden, paper.dropout) == (704, 4, 32, 0.1)
    assert (paper.learning_rate, paper.num_epochs, paper.warmup_fraction) == (1e-4, 50, 0.2)
    assert paper.encodings == ("rw16", "lap8")


def test_every_field_says_what_it_means():
    texts = describe_fields()
    assert list(texts) == [f.name for f in fields(Recipe)]
    assert all(len(text) > 5 for text in texts.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0, expected at least 1, or num_epochs above 0"),
        ({"dropout": 1.0}, r"dropout is 1.0, expected a share in \[0, 1\)"),
        ({"hidden": 0}, "hidden is 0, expected at least 1"),
        ({"num_layers": 10**9}, "num_layers is 1000000000, expected at most 1,000"),
        ({"num_lanes": 2 * 10**9}, "num_lanes is 2000000000, expected at most 65,536"),
        ({"atoms_a_pack": 2**21}, "atoms_a_pack is 2097152, expected less than 2097152"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected more than 0"),
        ({"warmup_fraction": 2.0}, r"warmup_fraction is 2.0, expected a share in \[0, 1\]"),
        ({"layer": "gat"}, "layer is 'gat', expected one of gcn, gin, gine, gated, mpnn"),
        ({"pooling": "min"}, "pooling is 'min', expected one of sum, mean, max"),
        ({"encodings": ("rw32",)}, r"encodings is \('rw32',\), expected some of rw16, lap8"),
        ({"losses": {"g62": "l1"}}, "losses is {'g62': 'l1'}, expected of each task set one of mae, mse, huber, bce"),
        ({"head_hiddens": {"g62": 0}}, "head_hiddens is {'g62': 0}, expected widths of at least 1"),
        ({"layer": "mpnn", "virtual_node": True}, "virtual_node is True, expected False with mpnn, which has one built in"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=f"recipe smoke: {message}"):
        replace(smoke(), **change)


def test_fields_are_set_from_text():
    recipe = smoke().override(
        [
            "layer=gated",
            "hidden=1_024",
            "learning_rate=3e-4",
            "residual=false",
            "virtual_node=True",
            "encodings=rw16, lap8",
            "losses=g62:huber,a.b:mse",
            "head_hiddens=pcba:64",
            "num_epochs=2.5",
        ]
    )
    assert (recipe.layer, recipe.hidden, recipe.learning_rate) == ("gated", 1024, 3e-4)
    assert (recipe.residual, recipe.virtual_node, recipe.encodings) == (False, True, ("rw16", "lap8"))
    assert (recipe.losses, recipe.head_hiddens) == ({"g62": "huber", "a.b": "mse"}, {"pcba": 64})
    # a length in epochs replaces one in steps
    assert (recipe.num_epochs, recipe.num_steps) == (2.5, 0)
    assert recipe.resolve(10).num_steps == 25
    assert recipe.resolve(10).warmup_steps == round(0.15 * 25)
    assert smoke().override(["encodings="]).encodings == ()
    assert smoke().override([]) == smoke()
    assert smoke().resolve(10) == replace(smoke(), precision="f32")
    assert smoke().resolve(10, "cuda") == replace(smoke(), precision="bf16")
    assert replace(smoke(), precision="fp16").resolve(10, "cuda").precision == "fp16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden", "--set hidden: expected FIELD=VALUE"),
        ("hiden=3", "a recipe has no field 'hiden'; near it: hidden"),
        ("name=x", "a recipe has no field 'name'"),
        ("hidden=wide", "--set hidden=wide: got 'wide', expected a whole number"),
        ("dropout=a lot", "got 'a lot', expected a number"),
        ("residual=maybe", "got 'maybe', expected true or false"),
        ("head_hiddens=pcba", "--set head_hiddens=pcba: got 'pcba', expected name:value,name:value"),
        ("hidden=0", "recipe smoke: hidden is 0"),
    ],
)
def test_what_set_does_not_understand_is_one_line(text, message):
    with pytest.raises(ValueError, match=message):
        smoke().override([text])


def test_an_unknown_recipe_lists_what_there_is():
    with pytest.raises(ValueError, match="recipe 'huge': expected one of sample, smoke, pm6-gine, pm6-gine-g62"):
        get_recipe("huge")
