"""A recipe: every choice of a run but its data and its folder."""

from dataclasses import dataclass
from typing import Literal

from trainers.errors import RunError


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A resolved recipe is written into every run and every checkpoint."""

    name: str
    """What it is called on the command line."""
    hidden: int
    """Width of atom states."""
    num_layers: int
    """Message-passing layers."""
    head_hidden: int
    """Hidden width of each task set's head."""
    bond_hidden: int = 32
    """Width of bond embeddings before each layer's linear map."""
    dropout: float = 0.1
    """Share of channels dropped after each layer."""
    num_lanes: int
    """Packs a step; with `atoms_a_pack` the batch size. Most processes a run can use."""
    atoms_a_pack: int
    """Atom slots of a pack; edges and graphs follow from the index."""
    window_molecules: int = 16_384
    """Least molecules that are shuffled together."""
    num_steps: int
    """Optimizer steps of the run; the learning rate falls to 0 over them."""
    learning_rate: float
    """At its peak, after warm-up."""
    warmup_steps: int
    """Steps of linear warm-up."""
    weight_decay: float = 0.0
    """AdamW's."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    eval_steps: int
    """Steps between validations, each followed by a checkpoint."""
    eval_packs: int = 256
    """Packs of the validation split used between; at the end all are."""
    log_steps: int = 10
    """Steps between log lines."""
    keep_checkpoints: int = 2
    """How many of the newest stay."""
    seed: int = 0
    """Order of molecules, initial weights, dropout."""
    precision: Literal["f32", "bf16"] = "f32"
    """Of matrix products; losses and weights are always f32."""
    cpu_threads: int = 0
    """Torch's threads on a CPU; 0: as many as torch likes. More than one waste steps this small, and wait for each other in busy
    loops that collapse beside any other work on the machine (benchmarks/threads.md)."""
    deterministic: bool = False
    """Refuse operations whose result depends on timing: same steps, same bits, on CPU with the same number of threads."""

    def __post_init__(self) -> None:
        for field in (
            "hidden",
            "num_layers",
            "head_hidden",
            "num_lanes",
            "atoms_a_pack",
            "num_steps",
            "eval_steps",
            "log_steps",
            "keep_checkpoints",
        ):
            if getattr(self, field) < 1:
                raise RunError(f"recipe {self.name}: {field} is {getattr(self, field)}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise RunError(f"recipe {self.name}: dropout is {self.dropout}, expected a share in [0, 1)")
