"""The training loop: stream, step, log, validate, checkpoint; stoppable and resumable at any step.

What a step computes is a function of recipe, data and weights alone: the stream gives the same packs, dropout is seeded per pack
from (seed, step, lane), the learning rate is a function of the step, and a checkpoint holds everything else.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from kernels.hashing import mix_key
from streamer import Budget, Loader, ShardSet, Step, StreamConfig
from trainers.checkpoint import Checkpoint, newest_checkpoint, write_checkpoint
from trainers.config import Recipe
from trainers.errors import CheckpointError, RunError, TrainError
from trainers.evaluate import Results, evaluate, iter_metrics, plan_budget
from trainers.log import RunLog, check_trackers
from trainers.loss import Loss, Targets, count_labels
from trainers.model import base_shapes, build_network, use_threads
from trainers.optim import build_optimizer, learning_rate, set_learning_rate
from trainers.spec import DataSpec

CONFIG = "config.json"
RESULTS = "results.json"


class Reporter(Protocol):
    """Who is told how the run goes."""

    def start(self, *, step: int, num_steps: int, description: dict[str, str]) -> None: ...
    def progress(self, step: int, values: dict[str, float]) -> None: ...
    def validation(self, results: Results) -> None: ...
    def message(self, text: str) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a call of `pretrain` ended."""

    step: int
    num_steps: int
    """Of the whole run."""
    finished: bool
    """False when it was stopped; `--resume` goes on."""
    results: Results | None
    """Of the whole validation split; None when stopped, or when there is no such split."""


def pretrain(
    shard_set: ShardSet,
    run: Path,
    recipe: Recipe,
    *,
    resume: bool,
    reporter: Reporter,
    num_threads: int = 1,
    trackers: Sequence[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until the recipe's last step, or until `should_stop`; either way the last step is checkpointed.

    `trackers`: names of Accelerate's, such as wandb. Raises RunError for a folder that holds another run, or a recipe that does
    not fit the shard set, CheckpointError, TrainError for a gradient that is not finite.
    """
    trainer = Trainer(shard_set, run, recipe, resume=resume, reporter=reporter, num_threads=num_threads, trackers=tuple(trackers))
    with _deterministic(recipe.deterministic):
        try:
            return trainer.train(should_stop)
        finally:
            trainer.log.close()


def check_fresh(run: Path) -> None:
    """Refuse a folder that holds anything but shards. Raises RunError."""
    if run.exists() and not run.is_dir():
        raise RunError(f"{run}: a file, expected a folder to write to")
    if (run / CONFIG).exists():
        raise RunError(f"{run}: already holds a run; add --resume to go on with it, or choose another folder")
    other = sorted(p.name for p in run.iterdir() if p.name != "shards") if run.exists() else []
    if other:
        raise RunError(f"{run}: holds something else ({', '.join(other[:3])}); choose another folder")


def read_recipe(run: Path) -> Recipe | None:
    """The recipe a run was started with, None if the folder holds no run yet. Raises RunError."""
    if not (run / CONFIG).exists():
        return None
    try:
        return Recipe.from_json(_read_config(run)["recipe"])
    except TypeError as error:
        raise RunError(f"{run / CONFIG}: of another version of molstream: {error}") from error


def _read_config(run: Path) -> dict:
    try:
        config = json.loads((run / CONFIG).read_text())
        return {"recipe": dict(config["recipe"]), "data": dict(config["data"])}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run / CONFIG}: damaged: {error}; choose another folder") from error


class Trainer:
    """One run in one process."""

    def __init__(
        self,
        shard_set: ShardSet,
        run: Path,
        recipe: Recipe,
        *,
        resume: bool,
        reporter: Reporter,
        num_threads: int,
        trackers: tuple[str, ...] = (),
    ):
        self.shard_set, self.run, self.reporter, self.num_threads = shard_set, run, reporter, num_threads
        check_trackers(trackers)
        use_threads(recipe)
        self.spec = DataSpec.of(shard_set, task_sets=recipe.task_sets)
        if not self.spec.heads:
            raise TrainError(f"{shard_set.path}: a set without labels, expected something to train on")
        for head in self.spec.heads:
            if not sum(shard_set.manifest.labels[task].get("train", 0) for task in head.tasks):
                raise RunError(
                    f"{shard_set.path}: task set {head.name} has no label in the training split; train on others with --set "
                    f"task_sets=..."
                )
        self.loss = Loss(self.spec, recipe)
        self.budget = plan_budget(shard_set, self.spec, recipe)
        stream = StreamConfig(
            budget=self.budget,
            seed=recipe.seed,
            num_lanes=recipe.num_lanes,
            window_molecules=recipe.window_molecules,
        )
        # a run before this one in the same process may have had another precision
        AcceleratorState._reset_state()
        precision = "no" if recipe.precision == "f32" else recipe.precision
        self.accelerator = Accelerator(mixed_precision=precision, log_with=list(trackers) or None, project_dir=str(run))
        if self.accelerator.num_processes > 1:
            raise RunError(f"{self.accelerator.num_processes} processes: training on several is not built yet; start one")
        self.loader = Loader(
            shard_set,
            stream,
            num_threads=num_threads,
            tasks=self.spec.tasks,
            levels=self.spec.levels,
            encodings=recipe.encodings,
        )
        self.recipe = recipe = recipe.resolve(len(self.loader))
        self.device = self.accelerator.device
        self.targets = Targets(self.spec).to(self.device)
        network = build_network(self.spec, recipe)
        optimizer = build_optimizer(network, recipe, base_shapes(self.spec, recipe))
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.step = 0
        self.validation: dict = {}
        self._open(resume)
        self.log = RunLog(run, step=self.step, accelerator=self.accelerator, config=recipe.to_json())

    def _open(self, resume: bool) -> None:
        """Start a fresh run folder, or take up what it holds."""
        described = {
            "recipe": self.recipe.to_json(),
            "data": {"fingerprint": self.shard_set.manifest.fingerprint, "budget": str(self.budget)},
        }
        if not (self.run / CONFIG).exists():
            check_fresh(self.run)
            try:
                self.run.mkdir(parents=True, exist_ok=True)
                (self.run / CONFIG).write_text(json.dumps(described, indent=1) + "\n")
            except OSError as error:
                raise RunError(f"{self.run}: cannot be written to: {error.strerror or error}") from error
            return
        if not resume:
            check_fresh(self.run)
        started = read_recipe(self.run)
        assert started is not None
        there = _read_config(self.run) | {"recipe": started.to_json()}
        differ = [
            f"{key} {there[part].get(key)} there, {value} here"
            for part, values in described.items()
            for key, value in values.items()
            if there[part].get(key) != value
        ]
        if differ:
            raise RunError(f"{self.run}: holds another run: {'; '.join(differ)}")
        self._restore()

    def _restore(self) -> None:
        checkpoint, problems = newest_checkpoint(self.run)
        for problem in problems:
            self.reporter.message(f"skipped: {problem}")
        if checkpoint is None and problems:
            raise CheckpointError(f"{self.run}: no checkpoint is complete; choose another folder to start anew")
        if checkpoint is None:
            self.reporter.message(f"{self.run}: no checkpoint yet, starting from step 0")
            return
        self.network.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.loader.load_state_dict(checkpoint.cursor)
        self.step, self.validation = checkpoint.step, checkpoint.validation
        ended = ", the last one: only evaluated again" if self.step == self.recipe.num_steps else ""
        self.reporter.message(f"resumed at step {self.step}{ended}")

    def train(self, should_stop: Callable[[], bool]) -> Outcome:
        """Run steps until the last one or until told to stop."""
        recipe, plan = self.recipe, self.loader.plan
        molecules = self.shard_set.manifest.splits["train"]["molecules"]
        parameters = sum(p.numel() for p in self.network.parameters())
        self.reporter.start(
            step=self.step,
            num_steps=recipe.num_steps,
            description={
                "data": f"{self.shard_set.path} ({molecules:,} training molecules)",
                "model": f"{recipe.layer} {recipe.hidden} x {recipe.num_layers}, {parameters:,} parameters"
                + "".join(f", {text}" for text in _extras(recipe)),
                "tasks": ", ".join(f"{h.name} ({len(h.tasks)}, {h.level}, {self.loss.names[h.name]})" for h in self.spec.heads),
                "step": f"{recipe.num_lanes} packs of {self.budget} (graphs, atoms, edges), {plan.num_steps:,} steps an epoch",
                "device": f"{self.device}, {torch.get_num_threads()} threads, {recipe.precision}",
            },
        )
        meter = _Meter()
        first = saved = self.step
        while self.step < recipe.num_steps and not should_stop():
            for item in self.loader:
                meter.add(item, self._train_step(item), self.spec)
                self.step += 1
                if self.step % recipe.log_steps == 0 or self.step == recipe.num_steps:
                    values = meter.read(self.budget) | {"learning_rate": learning_rate(self.step - 1, recipe)}
                    values |= self._weights()
                    self.log.add("train", self.step, values)
                    self.reporter.progress(self.step, values)
                    meter = _Meter()
                if self.step % recipe.eval_steps == 0 and self.step < recipe.num_steps:
                    start = time.perf_counter()
                    try:
                        self._validate(max_packs=recipe.eval_packs)
                    finally:
                        # what was trained is kept whatever becomes of the validation
                        self._save()
                    saved = self.step
                    meter.start += time.perf_counter() - start
                if self.step == recipe.num_steps or should_stop():
                    break
        finished = self.step == recipe.num_steps
        try:
            results = self._validate(log=self.step > first) if finished else None
        finally:
            if saved != self.step:
                self._save()
        if results:
            (self.run / RESULTS).write_text(json.dumps(results.to_json(), indent=1) + "\n")
        return Outcome(step=self.step, num_steps=recipe.num_steps, finished=finished, results=results)

    def _train_step(self, item: Step) -> dict[str, float]:
        """One optimizer step over the packs of all lanes. Returns the loss, that of each task set, and the gradient's norm."""
        set_learning_rate(self.optimizer, learning_rate(self.step, self.recipe))
        num_labels = count_labels(item.batches, self.spec)
        losses: dict[str, torch.Tensor] = {}
        for lane, batch in zip(item.lanes, item.batches, strict=True):
            torch.manual_seed(mix_key(self.recipe.seed, self.step, lane) >> 1)
            moved = batch.to(self.device)
            with self.accelerator.autocast():
                predictions = self.network(moved)
            log_variance = self.accelerator.unwrap_model(self.network).log_variance
            loss, shares = self.loss(
                predictions, self.targets(moved), num_labels, log_variance=log_variance, num_packs=len(item.batches)
            )
            self.accelerator.backward(loss)
            for name, value in ({"loss": loss.detach()} | {f"loss_{k}": v for k, v in shares.items()}).items():
                losses[name] = losses[name] + value if name in losses else value
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        if not torch.isfinite(norm):
            raise TrainError(
                f"{self.run}: gradient is not finite at step {self.step}; this step changed no weights; start again in another "
                f"folder with a lower learning_rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {name: float(value) for name, value in losses.items()} | {"gradient_norm": float(norm)}

    def _weights(self) -> dict[str, float]:
        """Learned weights of the task sets, where they are learned."""
        log_variance = self.accelerator.unwrap_model(self.network).log_variance
        if log_variance is None:
            return {}
        return {f"weight_{name}": w for name, w in zip(self.spec.task_sets, torch.exp(-log_variance).tolist(), strict=True)}

    def _validate(self, max_packs: int | None = None, log: bool = True) -> Results | None:
        if "val" not in self.shard_set.splits:
            return None
        results = evaluate(
            self.accelerator.unwrap_model(self.network),
            self.targets,
            self.loss,
            self.shard_set,
            split="val",
            budget=self.budget,
            step=self.step,
            device=self.device,
            num_threads=self.num_threads,
            max_packs=max_packs,
        )
        found = results.to_json()
        self.validation = {name: found[name] for name in ("loss", "task_sets", "complete")}
        if log:
            self.log.add("validation", self.step, dict(iter_metrics(results)))
        self.reporter.validation(results)
        return results

    def _save(self) -> None:
        checkpoint = Checkpoint(
            step=self.step,
            recipe=self.recipe,
            spec=self.spec,
            fingerprint=self.shard_set.manifest.fingerprint,
            cursor=self.loader.state_dict(),
            budget=str(self.budget),
            validation=self.validation,
            model={k: v.detach().cpu().contiguous() for k, v in self.accelerator.unwrap_model(self.network).state_dict().items()},
            optimizer=_to_cpu(self.optimizer.state_dict()),
        )
        write_checkpoint(self.run, checkpoint, keep=self.recipe.keep_checkpoints)


def _extras(recipe: Recipe) -> list[str]:
    """What is not as in most recipes, for the description of a run."""
    out = [f"encodings {', '.join(recipe.encodings)}"] if recipe.encodings else []
    out += ["virtual node"] if recipe.virtual_node else []
    out += [f"{recipe.pooling} pooling"] if recipe.pooling != "sum" else []
    out += ["no residuals"] if not recipe.residual else []
    out += ["no norm"] if not recipe.norm else []
    return out + ([f"losses weighed by {recipe.weighting}"] if recipe.weighting != "mean" else [])


def _to_cpu(state: dict) -> dict:
    return {
        "state": {k: {n: v.cpu().contiguous() for n, v in s.items()} for k, s in state["state"].items()},
        "param_groups": state["param_groups"],
    }


class _Meter:
    """Rates and means since the last log line."""

    def __init__(self):
        self.start = time.perf_counter()
        self.steps, self.graphs, self.atoms, self.labels, self.packs, self.wait_s = 0, 0, 0, 0, 0, 0.0
        self.sums: dict[str, float] = {}

    def add(self, item: Step, values: dict[str, float], spec: DataSpec) -> None:
        self.steps += 1
        self.graphs += sum(b.num_graphs for b in item.batches)
        self.atoms += sum(b.num_atoms for b in item.batches)
        self.labels += sum(count_labels(item.batches, spec).values())
        self.packs += len(item.batches)
        self.wait_s += item.wait_s
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def read(self, budget: Budget) -> dict[str, float]:
        seconds = time.perf_counter() - self.start
        return (
            {name: value / self.steps for name, value in self.sums.items()}
            | {
                "graphs_per_s": self.graphs / seconds,
                "atoms_per_s": self.atoms / seconds,
                "labels_per_s": self.labels / seconds,
                "data_wait_fraction": self.wait_s / seconds,
                "atom_fill_fraction": self.atoms / (self.packs * (budget.atoms - 1)),
                "rss_bytes": float(psutil.Process().memory_info().rss),
            }
            | ({"gpu_bytes": float(torch.cuda.max_memory_allocated())} if torch.cuda.is_available() else {})
        )


@contextmanager
def _deterministic(on: bool):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(on or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
