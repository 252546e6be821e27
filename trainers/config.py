"""A recipe: every choice of a run except its data and its folder."""

import ast
import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from molstream.shards.store.fields import to_json
from molstream.trainers.errors import RunError
from molstream.trainers.label_transform import LabelTransform
from molstream.trainers.layer_table import LAYERS

Pooling = Literal["sum", "mean", "max"]
LOSSES = {
    "regression": ("mae", "mse", "huber"),
    "binary": ("bce",),
    "ordinal": ("hybrid", "cross_entropy"),
    "multiclass": ("cross_entropy",),
}
"""Losses of each kind of task, the default first."""
MAX_WIDTH, MAX_LAYERS = 65_536, 1000
"""Far beyond any network of the field: who claims more is wrong, and is refused before there is memory for it."""
FREE = ("eval_steps", "eval_packs", "log_steps", "save_steps", "keep_checkpoints", "nonfinite")
"""Fields that may change when a run is resumed: no weight depends on them, except that `nonfinite` may end the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A resolved recipe is written into every run and every checkpoint."""

    name: str
    """Its name on the command line."""
    task_sets: tuple[str, ...] = ()
    """Task sets to train on, by name; empty: all that the shard set has."""
    layer: str = "gine"
    """Kind of message passing."""
    hidden: int
    """Width of atom states."""
    num_layers: int
    """Number of message-passing layers."""
    encodings: tuple[str, ...] = ()
    """Positional encodings of atoms: rw16 (random walks), lap8 (Laplacian eigenvectors, whose signs training flips at random)."""
    encoder_hidden: int = 256
    """Width at which atom features and positional encodings meet."""
    encoder_out: int = 64
    """Width between the input encoder and the atom states."""
    bond_hidden: int = 32
    """Width of bond embeddings, and of bond states where the layer has them."""
    pooling: Pooling = "sum"
    """How the states of atoms become that of their molecule."""
    residual: bool = True
    """Add the input of each layer to its output."""
    norm: bool = True
    """Layer normalisation after each layer."""
    virtual_node: bool = False
    """A state of each molecule that all its atoms read and write, between layers that have none built in."""
    dropout: float = 0.1
    """Share of channels dropped after each layer."""
    head_hidden: int = 32
    """Hidden width of a task set's head."""
    head_hiddens: Mapping[str, int] = field(default_factory=dict)
    """Other values of head_hidden for some task sets, by name."""
    losses: Mapping[str, str] = field(default_factory=dict)
    """Loss of some task sets, by name. Default by kind: mae (or mse, huber), bce, hybrid (or cross_entropy), cross_entropy."""
    label_transform: str = "none"
    """How regression labels are transformed for training: none; clip:K, clipped K standard deviations from the mean, like clip:5;
    rank, to a normal distribution. Predictions come back in raw units."""
    weighting: Literal["mean", "uncertainty"] = "mean"
    """Total loss: the mean of the task sets' losses, or each weighted by a learned uncertainty."""
    list_labels: bool = False
    """Read graph-level labels as lists, for thousands of tasks of which each molecule has few."""
    num_lanes: int
    """Packs per step: lanes times `atoms_a_pack` is the batch size. It is also the largest number of processes of a run."""
    atoms_a_pack: int
    """Atom slots per pack; the slots of edges and graphs follow from the index."""
    window_molecules: int = 16_384
    """Least molecules that are shuffled together."""
    num_steps: int = 0
    """Optimizer steps of the run, over which the learning rate falls to 0. 0: the steps of `num_epochs`."""
    num_epochs: float = 0.0
    """Length of the run in passes over the training split; it counts if `num_steps` is 0."""
    learning_rate: float
    """Learning rate at its peak, after warm-up."""
    warmup_fraction: float = 0.02
    """Share of the run in which the learning rate rises from 0."""
    mup_base_hidden: int = 0
    """Maximal update parametrisation: the `hidden` for which `learning_rate` was chosen, which then fits any width. 0: off."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    clip_norm: float = 1.0
    """Norm to which larger gradients are clipped."""
    eval_steps: int
    """Steps between validations, each preceded by a checkpoint."""
    eval_packs: int = 256
    """Packs of the validation split that a validation uses; the last one uses all."""
    log_steps: int = 10
    """Steps between log lines."""
    save_steps: int = 0
    """Steps between additional checkpoints; 0: only those before validations."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept, besides the best."""
    ema_decay: float = 0.0
    """Share that a moving average of the weights keeps at each step, like 0.999; validation, export and embeddings then use the
    average. 0: no average."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite changes no weight and is written to nonfinite.jsonl. Then: stop, or skip it."""
    seed: int = 0
    """Seed of the order of molecules, initial weights, dropout and signs."""
    precision: Literal["auto", "f32", "bf16", "fp16", "f64"] = "auto"
    """Precision of matrix products and of the messages between atoms; states, sums over molecules, losses and weights are f32.
    auto: bf16 on a GPU, f32 on a CPU. fp16 scales losses. f64 applies to everything and is for checks."""
    compile: Literal["off", "default", "cudagraphs"] = "off"
    """torch.compile of the network, if there is a compiler; cudagraphs: also replay its kernels as one CUDA graph."""
    cpu_threads: int = 0
    """Torch's threads on a CPU; 0: torch decides. In small models more than one help little, and they wait for each other in busy
    loops that collapse beside any other work on the machine (benchmarks/threads.md)."""
    deterministic: bool = False
    """Refuse operations whose result depends on timing: same steps, same bits, on a CPU with the same number of threads."""

    def __post_init__(self) -> None:
        for name in (
            "hidden",
            "num_layers",
            "encoder_hidden",
            "encoder_out",
            "bond_hidden",
            "head_hidden",
            "num_lanes",
            "atoms_a_pack",
            "window_molecules",
            "eval_steps",
            "eval_packs",
            "log_steps",
            "keep_checkpoints",
        ):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("hidden", "encoder_hidden", "encoder_out", "bond_hidden", "head_hidden", "mup_base_hidden"):
            self._require(getattr(self, name) <= MAX_WIDTH, name, f"at most {MAX_WIDTH:,}")
        self._require(self.num_layers <= MAX_LAYERS, "num_layers", f"at most {MAX_LAYERS:,}")
        self._require(self.num_lanes <= MAX_WIDTH, "num_lanes", f"at most {MAX_WIDTH:,}")
        self._require(self.atoms_a_pack < 1 << 21, "atoms_a_pack", "less than 2097152, as budgets are")
        for name in ("num_epochs", "learning_rate", "warmup_fraction", "dropout", "weight_decay", "clip_norm", "ema_decay"):
            self._require(math.isfinite(getattr(self, name)), name, "a finite number")
        for name in ("num_steps", "num_epochs", "mup_base_hidden", "weight_decay", "cpu_threads", "seed", "save_steps"):
            self._require(getattr(self, name) >= 0, name, "at least 0")
        for name in ("learning_rate", "clip_norm"):
            self._require(getattr(self, name) > 0, name, "more than 0")
        self._require(self.seed < 2**63, "seed", "less than 2^63")
        self._require(self.cpu_threads <= 4096, "cpu_threads", "at most 4096")
        for name in ("dropout", "ema_decay"):
            self._require(0 <= getattr(self, name) < 1, name, "a share in [0, 1)")
        self._require(0 <= self.warmup_fraction <= 1, "warmup_fraction", "a share in [0, 1]")
        self._require(self.num_steps > 0 or self.num_epochs > 0, "num_steps", "at least 1, or num_epochs above 0")
        self._require(all(v >= 1 for v in self.head_hiddens.values()), "head_hiddens", "widths of at least 1")
        self._require(all(v <= MAX_WIDTH for v in self.head_hiddens.values()), "head_hiddens", f"widths of at most {MAX_WIDTH:,}")
        self._require(set(self.encodings) <= {"rw16", "lap8"}, "encodings", "some of rw16, lap8")
        for name, values in choices().items():
            self._require(getattr(self, name) in values, name, f"one of {', '.join(values)}")
        losses = tuple(dict.fromkeys(loss for losses in LOSSES.values() for loss in losses))
        self._require(set(self.losses.values()) <= set(losses), "losses", f"of each task set one of {', '.join(losses)}")
        try:
            LabelTransform.parse(self.label_transform)
        except ValueError as error:
            raise RunError(f"recipe {self.name}: label_transform is {error}") from error
        is_twice = self.virtual_node and LAYERS[self.layer].has_molecule_state
        self._require(not is_twice, "virtual_node", f"False with {self.layer}, which has one built in")

    def _require(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise RunError(f"recipe {self.name}: {name} is {getattr(self, name)!r}, expected {expected}")

    @property
    def warmup_steps(self) -> int:
        """Steps of warm-up of a resolved recipe."""
        return round(self.warmup_fraction * self.num_steps)

    def resolve(self, steps_an_epoch: int, device: str = "cpu") -> "Recipe":
        """The same recipe with its number of steps, and its precision on a kind of device."""
        steps = self.num_steps or max(1, round(self.num_epochs * steps_an_epoch))
        precision = ("bf16" if device == "cuda" else "f32") if self.precision == "auto" else self.precision
        return replace(self, num_steps=steps, precision=precision)

    def override(self, assignments: Sequence[str]) -> "Recipe":
        """The same recipe with other values for some fields, each given as text, 'field=value'. Raises RunError.

        Lists are 'a,b' (nothing for an empty one), mappings 'name:value,name:value'.
        """
        # a recipe with other values keeps its name
        kinds = {name: kind for name, kind in get_type_hints(Recipe).items() if name != "name"}
        values: dict[str, Any] = {}
        for text in assignments:
            name, equals, value = text.partition("=")
            if not equals:
                raise RunError(f"--set {text}: expected FIELD=VALUE, like learning_rate=3e-4")
            if name not in kinds:
                near = difflib.get_close_matches(name, kinds, n=3) or sorted(kinds)
                raise RunError(f"--set {text}: a recipe has no field {name!r}; near it: {', '.join(near)}")
            values[name] = _parse(text, value.strip(), kinds[name])
        if values.get("num_epochs") and "num_steps" not in values:
            values["num_steps"] = 0
        return replace(self, **values)

    def differences(self, there: "Recipe") -> list[str]:
        """How a run with another recipe is another run: fields that differ, but for those that may change on the way."""
        mine, theirs = self.to_json(), there.to_json()
        return [f"{k} {theirs[k]} there, {v} here" for k, v in mine.items() if theirs[k] != v and k not in FREE]

    def to_json(self) -> dict:
        """JSON types."""
        return to_json(self)


def _parse(text: str, value: str, kind: Any) -> Any:
    """One value from the command line as what a field holds."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal or kind is str:
        return value
    if origin is tuple:
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if origin is Mapping:
        pairs = [part.rpartition(":") for part in value.split(",") if part.strip()]
        if not all(name.strip() for name, _, _ in pairs):
            raise RunError(f"--set {text}: got {value!r}, expected name:value,name:value")
        return {name.strip(): _parse(text, of_it.strip(), inside[1]) for name, _, of_it in pairs}
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
        return int(value.replace("_", "")) if kind is int else float(value)
    except RunError:
        raise
    except (KeyError, ValueError) as error:
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise RunError(f"--set {text}: got {value!r}, expected {expected}") from error


def choices() -> dict[str, dict[str, str]]:
    """{field: {value: what it is called elsewhere, or nothing}} of the fields that have a few values."""
    literals = {name: kind for name, kind in get_type_hints(Recipe).items() if get_origin(kind) is Literal}
    return {name: dict.fromkeys(get_args(kind), "") for name, kind in literals.items()} | {
        "layer": {name: layer.title for name, layer in LAYERS.items()}
    }


def describe_fields() -> dict[str, str]:
    """What each field of a recipe means: the strings under them in this file, and the values of those that have a few."""
    body = ast.parse(inspect.getsource(Recipe)).body[0]
    assert isinstance(body, ast.ClassDef)
    names = {f.name for f in fields(Recipe)}
    out = {}
    for line, text in zip(body.body, body.body[1:]):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id in names:
            assert isinstance(text, ast.Expr)
            assert isinstance(text.value, ast.Constant)
            out[line.target.id] = " ".join(str(text.value.value).split())
    for name, values in choices().items():
        out[name] += f" One of {', '.join(f'{value} ({title})' if title else value for value, title in values.items())}."
    return out
