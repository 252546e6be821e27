"""Threads that run parts of one compiled loop side by side.

One decision: plain Python threads that stay, one pool for the process. Numba's own threads may not be started from two Python
threads at once, and torch's cannot be handed a loop. The price: some 20 us to hand out parts, so small loops stay on one thread.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Thread, current_thread

_MAX_THREADS = 32
_pool: tuple[ThreadPoolExecutor, list[Thread]] | None = None


def run_parts(function: Callable[..., object], parts: Sequence[tuple]) -> None:
    """function(*part) for every part: the first on this thread, the others beside it; returns when all are done.

    `function` must release the GIL to gain anything. Raises what it raises.
    """
    others = [_threads().submit(function, *part) for part in parts[1:]]
    try:
        function(*parts[0])
    finally:
        # they write into the caller's arrays
        for other in others:
            other.exception()
    for other in others:
        other.result()


def _threads() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603
    # threads do not live on in a forked process
    if _pool is None or not all(thread.is_alive() for thread in _pool[1]):
        started: list[Thread] = []
        _pool = ThreadPoolExecutor(_MAX_THREADS, "kernels", lambda: started.append(current_thread())), started
    return _pool[0]
