"""The processes of a run: how many there are, which is this one, and how they agree. A process alone needs no group.

What one process alone could meet, a damaged shard, a full disk or a signal, is agreed upon before any process goes on:
`together` around what all do once, `in_step` around what they do step by step. So no process waits for one that has failed.

Where a process waits for others it waits in Python, so a signal is seen at once and not when the others have come.
"""

import gc
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch

# imported before there is a group: its functions keep the one they find then as their default, and a group's threads that outlive
# it abort the interpreter now and then as it ends. DistributedDataParallel imports it otherwise, too late
import torch.distributed.nn.functional
from torch import Tensor
from torch import distributed as dist

from molstream.trainers.errors import OtherProcessError, RunError

T = TypeVar("T")
POLL_S = 2e-5
"""Seconds between two looks at whether the others have come; a step takes a thousand times that."""
JOIN_POLL_S = 0.05
JOIN_S = 1800.0
"""Seconds that a process waits for the others to start."""
STOPPED = 130
"""Exit code of a process that was told to stop."""
_held: list[object] = []
"""What the last collective worked on. Gloo's thread lets go of it some time after it is done. Were that thread the last to, it
would wait for the interpreter's lock, which is held by the one that takes the group down and waits for this thread."""
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Read error", "Socket closed", "Timed out")
"""What gloo and the store say when another process has ended."""


class Stopped(Exception):
    """A process of the run was told to stop, so all do."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among those of its run."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def here(cls) -> "ProcessGroup":
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
        with lost_as_error():
            work = dist.all_gather(parts, values, async_op=True)
            _held[:] = work, parts, values
            while not work.is_completed():
                time.sleep(POLL_S)
            work.wait()
        return torch.stack(parts).sum(dim=0)

    def share(self, value: int) -> int:
        """The first process's value, in all. Collective."""
        return int(self.sum(torch.tensor(value if self.is_first else 0)))

    @contextmanager
    def together(self) -> Iterator[None]:
        """What all do once, or none goes on: where it fails in some, the first of them raises, the others OtherProcessError.

        Collective, so what is inside must not be.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        mine = torch.zeros(self.world_size, dtype=torch.int64)
        # an error's exit code, plus one
        mine[self.rank] = 0 if error is None else 1 + getattr(error, "exit_code", 1)
        codes = self.sum(mine).tolist()
        first = next((rank for rank, code in enumerate(codes) if code), None)
        if first is None:
            return
        if error is not None and first == self.rank:
            raise error
        raise OtherProcessError(exit_code=codes[first] - 1) from error

    def in_step(
        self,
        items: Iterator[T],
        count: Callable[[T], Sequence[int]],
        num_counts: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[T, list[int]]]:
        """Items of all processes side by side, each with what `count` says of it, summed over processes. Collective.

        All processes must have the same number of items. Raises Stopped where `should_stop` is true in any, with its next item
        not yet given out; where one cannot get its next item, that one raises the reason, the others OtherProcessError.
        """
        while True:
            error, item = None, None
            try:
                item = next(items, None)
            except Exception as caught:
                error = caught
            if item is None and error is None:
                return
            counts = [0] * num_counts if item is None else list(count(item))
            stop, failed, *totals = self.sum(
                torch.tensor([should_stop(), error is not None, *counts], dtype=torch.int64)
            ).tolist()
            if error is not None:
                raise error
            if failed:
                raise OtherProcessError
            if stop:
                raise Stopped
            assert item is not None
            yield item, totals


@contextmanager
def lost_as_error() -> Iterator[None]:
    """Raise OtherProcessError for what torch.distributed raises when another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if dist.is_initialized() and any(text in str(error) for text in _LOST):
            raise OtherProcessError from error
        raise


@contextmanager
def joined(device: str = "cpu") -> Iterator[ProcessGroup]:
    """Join the processes that `molstream pretrain`, torchrun, accelerate launch or Slurm's srun have started, until the end.

    `device`: "cuda" for a group that also reduces gradients on GPUs. Raises RunError for variables that make no sense.
    """
    join_slurm()
    world_size = _number("WORLD_SIZE", 1)
    if world_size == 1 or dist.is_initialized():
        yield ProcessGroup.here()
        return
    rank, local = _number("RANK", 0), _number("LOCAL_WORLD_SIZE", world_size)
    if not 0 <= rank < world_size:
        raise RunError(f"RANK is {rank}, expected 0 to {world_size - 1}, as WORLD_SIZE is {world_size}")
    # several processes with as many threads each as the machine has cores would wait for each other
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) // local)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    store = _meet(rank, world_size)
    # counts and metrics are summed on the CPU
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=world_size)
    try:
        yield ProcessGroup.here()
    except KeyboardInterrupt:
        # a group waits for what is under way before it goes, and the others may not answer
        if rank == 0:
            print("molstream: stopped", file=sys.stderr, flush=True)
        os._exit(STOPPED)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        # DistributedDataParallel is part of a cycle and holds the group, whose threads must end
        gc.collect()
        _held.clear()


def _meet(rank: int, world_size: int) -> dist.Store:
    """Wait until all processes are here. Returns the store that they share, at MASTER_ADDR and MASTER_PORT. Raises RunError."""
    if lacking := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise RunError(f"WORLD_SIZE is {world_size}, which says that there are more processes: {', '.join(lacking)} not set")
    host, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT", 0)
    # torchrun and our launcher hold the store themselves, through all its attempts
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    deadline = time.monotonic() + JOIN_S
    is_master = rank == 0 and not is_agents
    while not (is_master or _answers(host, port)):
        _wait(deadline, f"no answer at {host}:{port}, where the first process is to be")
    timeout = timedelta(seconds=JOIN_S)
    try:
        store = dist.TCPStore(host, port, is_master=is_master, wait_for_workers=False, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"no store for the processes at {host}:{port}: {str(error).splitlines()[0]}") from error
    shared = dist.PrefixStore(f"molstream {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    shared.set(f"{rank} is here", "")
    while not shared.check([f"{other} is here" for other in range(world_size)]):
        _wait(deadline, f"not all {world_size} have come")
    return shared


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait(deadline: float, why: str) -> None:
    if time.monotonic() > deadline:
        raise RunError(f"waited {JOIN_S:,.0f} s for the other processes: {why}")
    time.sleep(JOIN_POLL_S)


def join_slurm() -> None:
    """Where srun has started this as one of several tasks, set the variables of torch.distributed from Slurm's."""
    if "WORLD_SIZE" in os.environ or _number("SLURM_STEP_NUM_TASKS", 1) == 1:
        # in a batch script, outside srun, there is one process whatever the job has asked for
        return
    lacking = [name for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID") if name not in os.environ]
    if lacking or not ({"MASTER_ADDR", "SLURM_LAUNCH_NODE_IPADDR"} & os.environ.keys()):
        raise RunError(
            f"SLURM_STEP_NUM_TASKS says that there are several tasks, but {', '.join(lacking) or 'SLURM_LAUNCH_NODE_IPADDR'} is "
            f"not set; start with srun, or set WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
        )
    os.environ["WORLD_SIZE"] = os.environ["SLURM_STEP_NUM_TASKS"]
    os.environ["RANK"], os.environ["LOCAL_RANK"] = os.environ["SLURM_PROCID"], os.environ["SLURM_LOCALID"]
    os.environ.setdefault("MASTER_ADDR", os.environ.get("SLURM_LAUNCH_NODE_IPADDR", ""))
    # the same in all tasks, and another for each job
    os.environ.setdefault("MASTER_PORT", str(20000 + _number("SLURM_JOB_ID", 0) % 20000))


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.strip().isdecimal():
        raise RunError(f"{variable} is {text!r}, expected a whole number")
    return int(text)
