"""Ours in benchmarks/train.py: the trainer of `molstream pretrain`, as it is."""

import tempfile
import time
from itertools import islice
from pathlib import Path

from train import Rounds, parse_side, profile_steps, recipe_of

from molstream.shards.format.reader import ShardSet
from molstream.trainers.jobs.evaluate import Results
from molstream.trainers.models.loss import count_labels
from molstream.trainers.training.trainer import Trainer, pretrain


class Reporter:
    """Counts molecules; the trainer waits in here between rounds, and starts its clock when it comes back."""

    def start(self, *, step: int, num_steps: int, description: dict[str, str]) -> None:
        self.rounds = Rounds(model=description["model"], step=description["step"], device=description["device"])
        self.since = time.perf_counter()

    def progress(self, step: int, values: dict[str, float]) -> None:
        seconds = time.perf_counter() - self.since
        kept = {name: values[name] for name in ("data_wait_fraction", "gpu_bytes") if name in values}
        self.rounds.steps(values["graphs_per_s"] * seconds, seconds, **kept)
        self.since = time.perf_counter()

    def validation(self, results: Results) -> None: ...
    def message(self, text: str) -> None: ...


def main() -> None:
    args = parse_side(__doc__)
    recipe, shard_set = recipe_of(args), ShardSet(args.set)
    with tempfile.TemporaryDirectory() as root:
        if not args.profile:
            pretrain(shard_set, Path(root) / "run", recipe, resume=False, reporter=Reporter(), device=args.device)
            return
        trainer = Trainer(shard_set, Path(root) / "run", recipe, resume=False, reporter=None, num_threads=1, device=args.device)

        def steps(number: int) -> None:
            done = 0
            while done < number:
                for item in islice(trainer.loader, number - done):
                    trainer.stepper.run(item, step=done, num_labels=count_labels(item.batches, trainer.spec))
                    done += 1

        profile_steps(steps, args.device)
        trainer.close()


if __name__ == "__main__":
    main()
