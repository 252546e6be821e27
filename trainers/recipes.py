"""The recipes: one function each, named after what they are for. `--set field=value` changes a field of one."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from molstream.trainers.config import Recipe
from molstream.trainers.errors import RunError


def sample() -> Recipe:
    """The embedded sample on a laptop: about four minutes on two CPU cores."""
    return Recipe(
        name="sample",
        hidden=128,
        num_layers=4,
        encodings=("rw16", "lap8"),
        encoder_hidden=128,
        encoder_out=128,
        head_hidden=128,
        num_lanes=1,
        atoms_a_pack=1024,
        num_steps=5000,
        learning_rate=1e-3,
        weight_decay=1e-2,
        eval_steps=500,
        cpu_threads=1,
        deterministic=True,
    )


def smoke() -> Recipe:
    """Seconds: shows that everything runs, learns next to nothing."""
    return Recipe(
        name="smoke",
        hidden=32,
        num_layers=2,
        encoder_hidden=32,
        encoder_out=32,
        head_hidden=32,
        num_lanes=2,
        atoms_a_pack=512,
        num_steps=30,
        learning_rate=2e-3,
        warmup_fraction=0.15,
        eval_steps=10,
        log_steps=5,
        cpu_threads=1,
        deterministic=True,
    )


def _pm6(layer: str, hidden: int, task_sets: tuple[str, ...] = ("g62", "n7")) -> Recipe:
    """PM6_83M after arXiv 2310.04292: about 2,600 molecules per step, 50 epochs, 10 of them warm-up. Never run at full size."""
    return Recipe(
        name="-".join([f"pm6-{layer}", *(task_sets if len(task_sets) == 1 else ())]),
        task_sets=task_sets,
        layer=layer,
        hidden=hidden,
        num_layers=4,
        encodings=("rw16", "lap8"),
        num_lanes=8,
        atoms_a_pack=8192,
        num_epochs=50,
        warmup_fraction=0.2,
        learning_rate=1e-4,
        mup_base_hidden=hidden,
        eval_steps=5000,
        log_steps=50,
    )


def largemix_gine() -> Recipe:
    """PCQM4M_G25_N4, PCBA_1328 and both L1000, joined (docs/data.md): about 2,600 molecules per step, 100 epochs. Never run at
    full size."""
    return replace(
        _pm6("gine", 704),
        name="largemix-gine",
        task_sets=("g25", "n4", "pcba", "vcap.l1000", "mcf7.l1000"),
        hidden=928,
        mup_base_hidden=928,
        head_hiddens={"pcba": 64, "vcap.l1000": 128, "mcf7.l1000": 128},
        list_labels=True,
        num_epochs=100,
        warmup_fraction=0.1,
    )


def toymix_gine() -> Recipe:
    """QM9, Tox21 and ZINC12k, joined (docs/data.md): about 200 molecules per step, 100 epochs. Never run at full size."""
    return Recipe(
        name="toymix-gine",
        task_sets=("qm9", "tox21", "zinc"),
        encoder_hidden=128,
        hidden=96,
        num_layers=4,
        encodings=("rw16", "lap8"),
        dropout=0.18,
        num_lanes=4,
        atoms_a_pack=1024,
        num_epochs=100,
        warmup_fraction=0.1,
        learning_rate=4e-5,
        mup_base_hidden=96,
        eval_steps=1000,
    )


_PM6_WIDTHS: dict[str, int] = {"gine": 704, "gcn": 768, "gin": 768}
RECIPES: dict[str, Callable[[], Recipe]] = {
    "sample": sample,
    "smoke": smoke,
    **{
        "-".join([f"pm6-{layer}", *alone]): partial(_pm6, layer, hidden, alone or ("g62", "n7"))
        for layer, hidden in _PM6_WIDTHS.items()
        for alone in ((), ("g62",), ("n7",))
    },
    "largemix-gine": largemix_gine,
    "toymix-gine": toymix_gine,
}


def get_recipe(name: str) -> Recipe:
    """A recipe by name. Raises RunError, listing what there is."""
    if name not in RECIPES:
        raise RunError(f"recipe {name!r}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()
