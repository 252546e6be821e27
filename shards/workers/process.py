"""Processes of our own: started with this interpreter and this import path, talking over a socket, dying with their parent.

Not `multiprocessing`: its spawn imports the caller's main module again, which a script without a guard does not survive, and its
fork copies threads of pyarrow and Numba in whatever state they are.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import MappingProxyType

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from {module} import {name} as run; from molstream.shards.workers.process import _enter; _enter(run, *sys.argv[2:])"
)


class Child:
    """A process that runs `function(connection, *args)`, a function of a module.

    `descriptors` stay open in it, `environment` is added to ours where ours does not say otherwise.
    """

    def __init__(
        self,
        function: Callable[..., None],
        *args: int,
        descriptors: tuple[int, ...] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
    ):
        ours, theirs = socket.socketpair()
        code = _START.format(module=function.__module__, name=function.__name__)
        with theirs:
            numbers = [os.getpid(), theirs.fileno(), *args]
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", code, json.dumps(sys.path), *map(str, numbers)],
                pass_fds=(theirs.fileno(), *descriptors),
                stdin=subprocess.DEVNULL,
                env={**environment, **os.environ},
            )
        self.connection: Connection = Connection(ours.detach())

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> int:
        """End it now and return its exit status: negative for a signal, -9 if it was still running."""
        self.connection.close()
        status = self.process.poll()
        if status is None:
            self.process.kill()
            status = self.process.wait()
        return status


def describe_exit(status: int) -> str:
    """'killed by SIGSEGV' or 'exit status 3'."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _enter(function: Callable[..., None], *numbers: str) -> None:
    """Entry of a child. Ctrl-C is for the parent to handle: a terminal sends it to every process in front."""
    parent, descriptor, *args = map(int, numbers)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        # gone before we asked to be told
        sys.exit(1)
    with Connection(descriptor) as connection:
        try:
            function(connection, *args)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            # the parent has closed its end
            sys.exit(0)
