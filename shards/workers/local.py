"""Where tasks run: in this process, in processes of this machine, or on Ray. The same tasks, the same files, in any order.

A task is a module-level function of (job, task, report) that writes files under names of their own and returns something small.
It may run twice: a worker that dies is replaced and its task starts over.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from molstream.shards.errors import WorkerError
from molstream.shards.workers.process import Child, describe_exit

Function = Callable[[Any, Any, Callable[[int], None]], Any]
MAX_TRIES = 3
"""How often a task is begun, if the processes that run it die."""


class Engine(Protocol):
    """Runs tasks; a context manager that ends its workers."""

    def run(self, function: Function, job: Any, tasks: Sequence[Any], report: Callable[[int], None]) -> Iterator[tuple[Any, Any]]:
        """Yield (task, its result) as they end. `report` is told what tasks report, about in time."""

    def __enter__(self) -> "Engine": ...

    def __exit__(self, *error: object) -> None: ...


class InlineEngine:
    """One task after another, in this process."""

    def run(self, function: Function, job: Any, tasks: Sequence[Any], report: Callable[[int], None]) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            yield task, function(job, task, report)

    def __enter__(self) -> "InlineEngine":
        return self

    def __exit__(self, *error: object) -> None:
        pass


class LocalEngine:
    """Several processes on this machine."""

    def __init__(self, num_workers: int):
        self.num_workers = num_workers
        self._workers: list[Child] = []

    def run(self, function: Function, job: Any, tasks: Sequence[Any], report: Callable[[int], None]) -> Iterator[tuple[Any, Any]]:
        # last in, first out
        waiting = [(task, 1) for task in reversed(tasks)]
        running: dict[Connection, tuple[Child, Any, int]] = {}
        idle = list(self._workers)
        while waiting or running:
            while waiting and len(running) < self.num_workers:
                task, tries = waiting.pop()
                worker = idle.pop() if idle else self._start()
                running[worker.connection] = worker, task, tries
                # an error means that it is dead already: reading from it tells
                with suppress(OSError):
                    worker.connection.send((function, job, task))
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                worker, task, tries = running[connection]
                try:
                    kind, value = connection.recv()
                except (EOFError, OSError):
                    del running[connection]
                    self._workers.remove(worker)
                    how = describe_exit(worker.kill())
                    if tries == MAX_TRIES:
                        raise WorkerError(
                            f"worker processes died {tries} times over the same task, the last {how}; if that is for want of "
                            f"memory, use fewer workers or smaller shards; run again to go on from here"
                        ) from None
                    waiting.append((task, tries + 1))
                    continue
                if kind == "report":
                    report(value)
                    continue
                del running[connection]
                idle.append(worker)
                if kind == "error":
                    raise value
                yield task, value

    def _start(self) -> Child:
        self._workers.append(Child(serve))
        return self._workers[-1]

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers.clear()


def serve(connection: Connection) -> None:
    """A worker: run what is sent, one task at a time."""
    while True:
        function, job, task = connection.recv()
        try:
            answer = "done", function(job, task, lambda value: connection.send(("report", value)))
        except Exception as error:
            if not isinstance(error, (ValueError, OSError)):
                # our bug: the traceback would be lost on the way
                traceback.print_exc()
            answer = "error", error
        connection.send(answer)
