"""Tasks on a Ray cluster (extra `molstream[ray]`): the same functions as anywhere else. The only file that imports Ray.

Every node sees the inputs and the output folder under the same paths. A task whose node is lost runs again on another; what it
had begun is a `.part` file that is never read.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from molstream.shards.errors import InputError, WorkerError
from molstream.shards.workers.local import MAX_TRIES, Function

STORE_BYTES = 128 << 20
"""Ray's object store, where we start Ray: only paths and counts pass through it."""


class RayEngine:
    """An existing cluster, or a Ray of its own on this machine."""

    def __init__(self, address: str | None, *, max_tasks: int):
        """`max_tasks` at once, 0 for as many as the cluster has CPUs."""
        self.address, self.max_tasks = address, max_tasks

    def __enter__(self) -> "RayEngine":
        if self.address:
            _check_reachable(self.address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            options |= {"include_dashboard": False, "num_cpus": self.max_tasks or None, "object_store_memory": STORE_BYTES}
        try:
            ray.init(address=self.address or "local", **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"Ray at {self.address}: {' '.join(str(error).split())[:300]}") from error
        return self

    def run(self, function: Function, job: Any, tasks: Sequence[Any], report: Callable[[int], None]) -> Iterator[tuple[Any, Any]]:
        """As `Engine.run`; reports come with a task's end."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        # a node that is lost is not the task's fault, so that is not counted as a try of many
        remote = ray.remote(max_retries=MAX_TRIES)(_run)
        shared = ray.put(job)
        limit = self.max_tasks or max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = list(reversed(tasks))
        running: dict[Any, Any] = {}
        while waiting or running:
            while waiting and len(running) < limit:
                task = waiting.pop()
                running[remote.remote(function, shared, task)] = task
            (reference, *_), _ = ray.wait(list(running))
            task = running.pop(reference)
            try:
                result, reported = ray.get(reference)
            except RayTaskError as error:
                raise error.cause from None
            except RayError as error:
                text = " ".join(str(error).split())[:300]
                raise WorkerError(f"Ray gave up on a task: {text}; run again to go on from here") from error
            report(reported)
            yield task, result

    def __exit__(self, *error: object) -> None:
        import ray

        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself waits for minutes. 'auto' and the like are its own to resolve."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"Ray at {address}: cannot be reached: {error}") from error


def _run(function: Function, job: Any, task: Any) -> tuple[Any, int]:
    reports: list[int] = []
    return function(job, task, reports.append), sum(reports)
