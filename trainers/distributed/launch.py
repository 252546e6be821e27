"""Start a run as several processes of this machine, which find each other as those of torchrun do.

Not torchrun: it ends with 1 whatever its processes end with, and reports with its own stack what the process that failed has said
in a line. The store by which they meet is this process's, at a port the system chose, so none is taken from another program.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch.distributed import TCPStore

from molstream.trainers.distributed.process_group import STOPPED
from molstream.trainers.errors import RunError

GRACE_S = 15.0
"""Seconds that other processes have to end by themselves after one has failed."""
FORWARDED = {signal.SIGTERM: signal.SIGTERM, signal.SIGUSR1: signal.SIGUSR1, signal.SIGINT: signal.SIGTERM}
"""What is passed on as what. Ctrl-C reaches all processes of a terminal by itself, and a second one would stop them at once."""
# the interpreter's own path, so that a folder of data beside the caller hides no package of ours
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from molstream.trainers.distributed.launch import enter; enter(); from molstream.tools.main import main; main()"
)


def count_processes(asked: int | None, device: str, num_lanes: int) -> int:
    """How many processes to start here: as many as asked for, else one a visible GPU, at most one a lane; 1 where a launcher has
    started this one. Raises RunError where that has started another number than asked for."""
    if (started := os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS"))) is not None:
        if asked is not None and started != str(asked):
            raise RunError(f"--processes {asked}, but {started} were started by torchrun, accelerate or srun; leave it out")
        return 1
    if asked is not None:
        return asked
    gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 1
    return max(1, min(gpus, num_lanes))


def enter() -> None:
    """Called in a process that `launch` has started: it is to end with the one that did."""
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def launch(argv: Sequence[str], num_processes: int) -> int:
    """Run `molstream argv` as that many processes and wait. Returns the exit code of the first that failed, else 0.

    SIGTERM, SIGUSR1 and SIGINT are passed on.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5))
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
    }
    command = [sys.executable, "-c", _START, json.dumps(sys.path), *argv]
    processes: list[subprocess.Popen] = []

    received: list[int] = []

    def forward(number: int, frame: object = None) -> None:
        received.append(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(FORWARDED[signal.Signals(number)])

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        for rank in range(num_processes):
            numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env=os.environ | shared | numbers))
        for number in tuple(received):
            # those that were started since
            forward(number)
        return _wait(processes, received)
    finally:
        _end(processes)
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: list[subprocess.Popen], received: list[int]) -> int:
    """Wait for all; once one has failed, the others have `GRACE_S`. Returns the exit code of all together.

    `received`: signals that were passed on so far. A process that one of them ended had not started to work yet.
    """
    deadline, code, stopped = None, 0, {STOPPED}
    while any(process.poll() is None for process in processes):
        time.sleep(0.05)
        # one that was stopped is no failure: the first process may still have to save
        stopped |= {-FORWARDED[signal.Signals(number)] for number in received}
        failed = [process.returncode for process in processes if process.returncode not in (None, 0, *stopped)]
        if failed and deadline is None:
            deadline, code = time.monotonic() + GRACE_S, failed[0]
        if deadline is not None and time.monotonic() > deadline:
            break
    for rank, process in enumerate(processes):
        if process.returncode not in stopped and (number := -(process.returncode or 0)) > 0:
            name = signal.Signals(number).name
            what = f"process {rank} of {len(processes)} was ended by {name}; go on with the same command and --resume"
            print(f"molstream: error: {what}", file=sys.stderr)
            return 1
    codes = [process.returncode or 0 for process in processes]
    return code or next((c for c in codes if c not in (0, *stopped)), STOPPED if any(codes) else 0)


def _end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()
