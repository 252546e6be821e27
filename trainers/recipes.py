"""The recipes: one function each, named after what they are for."""

from collections.abc import Callable

from trainers.config import Recipe
from trainers.errors import RunError


def sample() -> Recipe:
    """The embedded sample on a laptop: two to three minutes on two CPU cores."""
    return Recipe(
        name="sample",
        hidden=128,
        num_layers=4,
        head_hidden=128,
        num_lanes=1,
        atoms_a_pack=1024,
        num_steps=5000,
        learning_rate=1e-3,
        warmup_steps=100,
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
        head_hidden=32,
        num_lanes=2,
        atoms_a_pack=512,
        num_steps=30,
        learning_rate=2e-3,
        warmup_steps=5,
        eval_steps=10,
        log_steps=5,
        cpu_threads=1,
        deterministic=True,
    )


def pm6_gine() -> Recipe:
    """PM6_83M, after arXiv 2310.04292: GINE 704 x 4, without its positional encodings (not built yet). Never run at full size.

    AdamW stands for the paper's MuAdam. About 2,600 molecules a step, 32,000 steps an epoch, 50 epochs, 10 of them warm-up.
    """
    return Recipe(
        name="pm6-gine",
        hidden=704,
        num_layers=4,
        head_hidden=32,
        num_lanes=8,
        atoms_a_pack=8192,
        num_steps=1_600_000,
        learning_rate=1e-4,
        warmup_steps=320_000,
        eval_steps=5000,
        log_steps=50,
        precision="bf16",
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"sample": sample, "smoke": smoke, "pm6-gine": pm6_gine}


def get_recipe(name: str) -> Recipe:
    """A recipe by name. Raises RunError, listing what there is."""
    if name not in RECIPES:
        raise RunError(f"recipe {name!r}: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()
