"""The processes of a run: who am I, how many are we. A process alone needs no group."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from trainers.errors import RunError


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of its run."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def here(cls) -> "Ranks":
        """As the process group of torch.distributed says; alone without one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, the same bits in each; a tensor on the CPU. Collective."""
        if self.world_size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(parts, values)
        return torch.stack(parts).sum(dim=0)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun, accelerate launch or Slurm's srun with their variables have started, until the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield Ranks.here()
        return
    try:
        # metrics are summed on the CPU
        dist.init_process_group("gloo")
    except ValueError as error:
        # a variable that is missing
        raise RunError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, which says that there are more processes: {error}") from error
    try:
        yield Ranks.here()
    finally:
        dist.destroy_process_group()
