"""The training loop: stream, step, log, validate, checkpoint; on any number of processes, stoppable and resumable at any step.

What a step computes is a function of recipe, data and weights alone: the stream gives the same packs, dropout is seeded per pack
from (seed, step, lane), the learning rate is a function of the step, and a checkpoint holds everything else.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from molstream.shards.errors import ShardError, StorageError
from molstream.shards.format.reader import ShardSet
from molstream.streamer.config import StreamConfig
from molstream.streamer.loader import Loader
from molstream.trainers.config import Recipe
from molstream.trainers.distributed.device import compile_network, find_device, keep_freed_memory
from molstream.trainers.distributed.process_group import ProcessGroup, Stopped
from molstream.trainers.errors import CheckpointError, OtherProcessError, RunError, TrainError
from molstream.trainers.jobs.evaluate import Results, evaluate, iter_metrics, plan_budget, write_results
from molstream.trainers.models.export import write_model
from molstream.trainers.models.loss import Loss, Targets
from molstream.trainers.models.network import base_shapes, build_network, check_weights, use_threads
from molstream.trainers.runs.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    Validation,
    add_validation,
    find_differences,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from molstream.trainers.runs.folder import RESULTS, open_run
from molstream.trainers.runs.log import RunLog, check_trackers
from molstream.trainers.spec import DataSpec
from molstream.trainers.training.ema import MovingAverage
from molstream.trainers.training.log_interval import COUNTS, LogInterval, count_step
from molstream.trainers.training.nonfinite import Fault, NonfiniteCheck, PendingStep
from molstream.trainers.training.optim import build_optimizer, check_optimizer, learning_rate
from molstream.trainers.training.reporter import Reporter, Silent
from molstream.trainers.training.step import Stepper

MODEL = "model"


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
    reporter: Reporter | None = None,
    num_threads: int = 1,
    trackers: Sequence[str] = (),
    device: str = "auto",
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until the recipe's last step, or until `should_stop`; either way the last step is checkpointed. Collective, in the
    processes of torch.distributed's group if there is one.

    `trackers`: names of Accelerate's, such as wandb; `device`: as in `find_device`. Raises RunError for a folder that holds
    another run, or a recipe that does not fit the shard set, CheckpointError, TrainError for a step that is not finite.
    """
    # before anything computes, for results that depend on timing may be in a first forward pass too
    with _deterministic(recipe.deterministic):
        trainer = Trainer(
            shard_set,
            run,
            recipe,
            resume=resume,
            reporter=reporter,
            num_threads=num_threads,
            trackers=tuple(trackers),
            device=device,
        )
        try:
            outcome = trainer.train(should_stop)
        except BaseException:
            # the same disk may be full for the log, which is not the news
            with suppress(StorageError):
                trainer.close()
            raise
        trainer.close()
        return outcome


class Trainer:
    """One process of a run."""

    def __init__(
        self,
        shard_set: ShardSet,
        run: Path,
        recipe: Recipe,
        *,
        resume: bool,
        reporter: Reporter | None,
        num_threads: int,
        trackers: tuple[str, ...] = (),
        device: str = "auto",
    ):
        """Collective: what fails in one process is raised in all."""
        self.processes = ProcessGroup.here()
        self.shard_set, self.run, self.num_threads = shard_set, run, num_threads
        self.reporter: Reporter = reporter if reporter is not None and self.processes.is_first else Silent()
        self.log: RunLog | None = None
        self._held = ExitStack()
        self.average: MovingAverage | None = None
        # what a checkpoint will say otherwise
        self.step, self.is_validated = 0, True
        try:
            with self.processes.together():
                self._prepare(recipe, trackers, device)
            with self.processes.together():
                if self.processes.is_first:
                    data = {"fingerprint": shard_set.manifest.fingerprint, "budget": str(self.budget)}
                    self._held.enter_context(open_run(run, self.recipe, data, resume=resume))
            self._start(self._restore())
        except BaseException:
            with suppress(StorageError):
                self.close()
            raise

    def _prepare(self, recipe: Recipe, trackers: tuple[str, ...], device: str) -> None:
        """All that needs neither the run's folder nor another process."""
        shard_set, processes = self.shard_set, self.processes
        check_trackers(trackers)
        self.device = find_device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.spec = DataSpec.of(shard_set, task_sets=recipe.task_sets, label_transform=recipe.label_transform)
        if not self.spec.heads:
            raise TrainError(f"{shard_set.path}: a set without labels, expected something to train on")
        for head in self.spec.heads:
            if not sum(shard_set.manifest.labels[task].get("train", 0) for task in head.tasks):
                raise RunError(
                    f"{shard_set.path}: task set {head.name} has no label in the training split; train on others with --set "
                    f"task_sets=..."
                )
        if processes.world_size > recipe.num_lanes:
            raise RunError(
                f"{processes.world_size} processes, expected at most {recipe.num_lanes}, the lanes of recipe {recipe.name}, of "
                f"which each gives a pack a step; start fewer, or add --set num_lanes={processes.world_size}, which makes a step "
                f"larger"
            )
        self.loss = Loss(self.spec, recipe)
        self.budget = plan_budget(shard_set, self.spec, recipe)
        self.stream = StreamConfig(
            budget=self.budget, seed=recipe.seed, num_lanes=recipe.num_lanes, window_molecules=recipe.window_molecules
        )
        # a run before this one in the same process may have been on another device
        AcceleratorState._reset_state(reset_partial_state=True)
        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu",
            # ours (trainers/training/step.py), so that what is not finite is seen before weights are touched
            mixed_precision="no",
            log_with=list(trackers) or None,
            project_dir=str(self.run),
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
        )
        # after Accelerate, which counts cores too
        use_threads(recipe)
        self.loader = self._held.enter_context(self._open_stream(recipe, rank=processes.rank, world_size=processes.world_size))
        self.cursor = self.loader.state_dict()
        self.recipe = recipe = recipe.resolve(len(self.loader), self.device.type)
        self.network = build_network(self.spec, recipe).to(self.device)
        self.optimizer = build_optimizer(self.network, recipe, base_shapes(self.spec, recipe))

    def _open_stream(self, recipe: Recipe, *, rank: int, world_size: int, with_ids: bool = False) -> Loader:
        return Loader(
            self.shard_set,
            self.stream,
            rank=rank,
            world_size=world_size,
            num_threads=self.num_threads,
            tasks=self.spec.tasks,
            levels=self.spec.levels,
            encodings=recipe.encodings,
            with_ids=with_ids,
            pin_memory=self.device.type == "cuda",
        )

    def _restore(self) -> Checkpoint | None:
        """Take up the newest checkpoint that is whole, if there is one; the first process chooses for all. Collective."""
        checkpoint = None
        with self.processes.together():
            if self.processes.is_first:
                checkpoint = self._choose()
        step = self.processes.share(-1 if checkpoint is None else checkpoint.step)
        with self.processes.together():
            if self.recipe.ema_decay:
                self.average = MovingAverage(self.network, self.recipe.ema_decay)
            if step < 0:
                return None
            # the first one has read it already
            checkpoint = checkpoint or read_checkpoint(self.run / CHECKPOINTS / f"step-{step:08d}")
            self.network.load_state_dict(checkpoint.model)
            if self.average is not None and checkpoint.average is not None:
                self.average.network.load_state_dict(checkpoint.average)
            self.optimizer.load_state_dict(checkpoint.optimizer)
            self.loader.load_state_dict(checkpoint.cursor)
            self.cursor, self.step = checkpoint.cursor, checkpoint.step
            self.is_validated = checkpoint.validation is not None or not self._is_due()
        return checkpoint

    def _choose(self) -> Checkpoint | None:
        """The newest checkpoint of this run that is whole; None if there is none yet."""

        def check(checkpoint: Checkpoint) -> None:
            fingerprint = self.shard_set.manifest.fingerprint
            if differ := find_differences(checkpoint, self.recipe, fingerprint, self.spec):
                raise CheckpointError(f"{self.run}: its checkpoint of step {checkpoint.step} is of another run: {differ}")
            if checkpoint.step > self.recipe.num_steps:
                raise CheckpointError(f"{self.run}: step {checkpoint.step} of {self.recipe.num_steps}; use another checkpoint")
            check_weights(checkpoint)
            check_optimizer(self.optimizer, checkpoint.optimizer)

        checkpoint, problems = newest_checkpoint(self.run, check)
        for problem in problems:
            self.reporter.message(f"skipped: {problem}")
        if checkpoint is None and problems:
            raise CheckpointError(f"{self.run}: no checkpoint is complete; choose another folder to start anew")
        return checkpoint

    def _start(self, checkpoint: Checkpoint | None) -> None:
        """Make ready for steps, after that checkpoint. Collective."""
        with self.processes.together():
            compile_network(self.network, self.recipe, self.device, self.reporter.message)
            self.targets = Targets(self.spec).to(self.device)
            if self.processes.is_first:
                self.log = RunLog(
                    self.run,
                    step=self.step,
                    is_validated=self.is_validated,
                    accelerator=self.accelerator,
                    config=self.recipe.to_json(),
                    on_problem=self.reporter.message,
                )
                self._held.callback(self.log.close)
        with warnings.catch_warnings():
            # broadcast_buffers has another name in PyTorch 2.13, which Accelerate does not know yet
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            network = self.accelerator.prepare_model(self.network)
        self.stepper = Stepper(
            network,
            self.optimizer,
            self.recipe,
            loss=self.loss,
            targets=self.targets,
            average=self.average,
            processes=self.processes,
            device=self.device,
        )
        if checkpoint is not None and checkpoint.scaler:
            self.stepper.scaler.load_state_dict(checkpoint.scaler)
        self.nonfinite = NonfiniteCheck(
            self.run,
            self.recipe,
            lambda: self._open_stream(self.recipe, rank=0, world_size=1, with_ids=True),
            processes=self.processes,
            device=self.device,
            num_skipped=0 if checkpoint is None else checkpoint.num_skipped,
        )
        self.interval, self.saved_step = LogInterval(self.spec, self.device), self.step

    def close(self) -> None:
        """Let go of threads, files and the folder. Raises StorageError."""
        self._held.close()

    def train(self, should_stop: Callable[[], bool]) -> Outcome:
        """Run steps until the last one, or until any process is told to stop."""
        self._describe()
        num_steps, results, finished = self.recipe.num_steps, None, False
        try:
            if self.step < num_steps and not self.is_validated:
                # it was stopped between a checkpoint and its validation
                self._validate(should_stop, max_packs=self.recipe.eval_packs)
            # what came before is not a matter of speed
            self.interval = LogInterval(self.spec, self.device)
            while self.step < num_steps:
                self._run_epoch(should_stop)
            self._save()
            results = self._validate(should_stop)
            with self.processes.together():
                if self.processes.is_first:
                    self._export(results)
            finished = True
        except Stopped:
            self._check(self.nonfinite.look())
            self._save()
        except ShardError as error:
            # a full disk, damaged data: between two steps
            raise type(error)(f"{error}; {self._rescue()}") from error
        return Outcome(step=self.step, num_steps=num_steps, finished=finished, results=results)

    def _run_epoch(self, should_stop: Callable[[], bool]) -> None:
        """Steps to the end of the epoch or of the run."""
        recipe, num_counts = self.recipe, len(COUNTS) + len(self.spec.heads)
        items = self.processes.in_step(iter(self.loader), lambda item: count_step(item, self.spec), num_counts, should_stop)
        for item, totals in items:
            result = self.stepper.run(item, step=self.step, num_labels=totals[len(COUNTS) :])
            self.interval.add(result, totals)
            pending = PendingStep(self.step, item.epoch, item.step, item.lanes, result)
            self._go_to(self.step + 1, item.epoch, item.step + 1)
            self._check(self.nonfinite.add(pending))
            is_last = self.step == recipe.num_steps
            is_due = self._is_due() and not is_last
            if self.step % recipe.log_steps == 0 or is_last:
                self._log_steps()
            if is_due or (recipe.save_steps and self.step % recipe.save_steps == 0):
                # before the validation, so that nothing is lost with it
                self._save()
            if is_due:
                self._validate(should_stop, max_packs=recipe.eval_packs)
            if is_last:
                return

    def _go_to(self, step: int, epoch: int, step_of_epoch: int) -> None:
        self.step = step
        self.cursor = self.cursor | {"epoch": epoch, "step": step_of_epoch}
        self.is_validated = not self._is_due()

    def _is_due(self) -> bool:
        """Whether there is a validation of the weights as they are."""
        return self.step % self.recipe.eval_steps == 0 or self.step == self.recipe.num_steps

    def _check(self, fault: Fault | None) -> None:
        """End the run at a step that was not finite, as it was before that step. Collective."""
        if fault is None:
            return
        self._go_to(fault.at.step, fault.at.epoch, fault.at.step_of_epoch)
        self._save()
        raise fault.error if self.processes.is_first else OtherProcessError(fault.error.exit_code)

    def _log_steps(self) -> None:
        self._check(self.nonfinite.look())
        values = self.interval.read(self.budget, self.recipe.num_lanes, self.processes)
        values["learning_rate"] = learning_rate(self.step - 1, self.recipe)
        values["skipped_steps"] = self.nonfinite.num_skipped
        if (log_variance := self.network.log_variance) is not None:
            weights = torch.exp(-log_variance).tolist()
            values |= {f"weight_{name}": w for name, w in zip(self.spec.task_sets, weights, strict=True)}
        if self.log is not None:
            self.log.add("train", self.step, values)
        self.reporter.progress(self.step, values)
        self.interval = LogInterval(self.spec, self.device)

    def _validate(self, should_stop: Callable[[], bool], max_packs: int | None = None) -> Results | None:
        """Validate what was saved; all of the split, or some packs of it. Collective. Raises Stopped."""
        start = time.perf_counter()
        if "val" not in self.shard_set.splits:
            return None
        results = evaluate(
            self.network if self.average is None else self.average.network,
            self.targets,
            self.loss,
            self.shard_set,
            split="val",
            budget=self.budget,
            step=self.step,
            device=self.device,
            num_threads=self.num_threads,
            # the same packs for any number of processes
            num_lanes=self.recipe.num_lanes,
            max_packs=max_packs,
            compare_packs=self.recipe.eval_packs,
            should_stop=should_stop,
        )
        with self.processes.together():
            if self.processes.is_first:
                self._note(results)
        self.is_validated = True
        self.interval.start += time.perf_counter() - start
        return results

    def _note(self, results: Results) -> None:
        if self.log is not None and not self.log.has_validation(self.step):
            self.log.add("validation", self.step, dict(iter_metrics(results)))
        if self.saved_step == self.step:
            found = results.to_json()
            noted = {k: found[k] for k in ("step", "compared_loss", "compared_packs", "loss", "complete", "task_sets")}
            add_validation(self.run, Validation(**noted))
        self.reporter.validation(results)

    def _save(self) -> None:
        """Checkpoint where the run stands, unless it has one. Collective."""
        self._check(self.nonfinite.look())
        if self.saved_step == self.step:
            return
        with self.processes.together():
            if self.processes.is_first:
                write_checkpoint(self.run, self._checkpoint(), keep=self.recipe.keep_checkpoints)
        self.saved_step = self.step

    def _rescue(self) -> str:
        """Save where the run stands, without the other processes; returns what became of it."""
        first = self.saved_step + 1
        if self.step < first:
            return f"step {self.step} is saved" if self.step else "no step was done"
        try:
            if self.processes.is_first and not self.nonfinite.pending:
                write_checkpoint(self.run, self._checkpoint(), keep=self.recipe.keep_checkpoints)
                return f"step {self.step} is saved"
        except ShardError:
            pass
        return f"steps {first} to {self.step} are lost: no checkpoint of them could be written"

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            step=self.step,
            recipe=self.recipe,
            spec=self.spec,
            fingerprint=self.shard_set.manifest.fingerprint,
            cursor=self.cursor,
            budget=str(self.budget),
            model=_to_cpu(self.network.state_dict()),
            average=None if self.average is None else _to_cpu(self.average.network.state_dict()),
            optimizer={
                "state": {k: _to_cpu(state) for k, state in self.optimizer.state_dict()["state"].items()},
                "param_groups": self.optimizer.state_dict()["param_groups"],
            },
            scaler=self.stepper.scaler.state_dict(),
            num_skipped=self.nonfinite.num_skipped,
        )

    def _export(self, results: Results | None) -> None:
        if results is not None:
            write_results(results, self.run / RESULTS)
        write_model(self.run / MODEL, self._checkpoint())

    def _describe(self) -> None:
        recipe = self.recipe
        if self.step:
            ended = ", the last one: only evaluated again" if self.step == recipe.num_steps else ""
            self.reporter.message(f"resumed at step {self.step}{ended}")
        for head in self.spec.heads:
            if lacking := [task for task, trained in zip(head.tasks, head.trained, strict=True) if not trained]:
                self.reporter.message(
                    f"{head.name}: {len(lacking)} of {len(head.tasks)} tasks have no label in the training split, so they count "
                    f"in no loss and no mean: {', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}"
                )
        molecules = self.shard_set.manifest.splits["train"]["molecules"]
        several = f"{self.processes.world_size} processes, " if self.processes.world_size > 1 else ""
        self.reporter.start(
            step=self.step,
            num_steps=recipe.num_steps,
            description={
                "data": f"{self.shard_set.path} ({molecules:,} training molecules)",
                "model": f"{recipe.layer} {recipe.hidden} x {recipe.num_layers}, {self.network.num_parameters:,} parameters"
                + "".join(f", {text}" for text in _extras(recipe)),
                "tasks": ", ".join(f"{h.name} ({len(h.tasks)}, {h.level}, {self.loss.names[h.name]})" for h in self.spec.heads),
                "step": f"{recipe.num_lanes} packs of {self.budget} (graphs, atoms, edges), {len(self.loader):,} steps per epoch",
                "device": f"{several}{self.device.type}, {torch.get_num_threads()} threads, {recipe.precision}",
            },
        )


def _extras(recipe: Recipe) -> list[str]:
    """What is not as in most recipes, for the description of a run."""
    out = [f"encodings {', '.join(recipe.encodings)}"] if recipe.encodings else []
    out += ["virtual node"] if recipe.virtual_node else []
    out += [f"{recipe.pooling} pooling"] if recipe.pooling != "sum" else []
    out += ["no residuals"] if not recipe.residual else []
    out += ["no norm"] if not recipe.norm else []
    out += [f"moving average {recipe.ema_decay}"] if recipe.ema_decay else []
    return out + ([f"losses weighed by {recipe.weighting}"] if recipe.weighting != "mean" else [])


def _to_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


@contextmanager
def _deterministic(on: bool):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(on or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
