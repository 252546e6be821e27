"""Peak memory of this process and all below it."""

import threading

import psutil

LOOK_EVERY_S = 1.0


class PeakMemory:
    """Looks once a second while its block runs. Shared pages are counted once (PSS) where the system tells, as Linux does."""

    def __init__(self) -> None:
        self.peak_bytes = self.num_processes = 0
        self.measure = "PSS" if hasattr(psutil.Process().memory_full_info(), "pss") else "RSS"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _look(self) -> None:
        while not self._done.wait(LOOK_EVERY_S):
            self._sample()

    def _sample(self) -> None:
        me = psutil.Process()
        total = count = 0
        for process in [me, *me.children(recursive=True)]:
            try:
                total += getattr(process.memory_full_info(), self.measure.lower())
                count += 1
            except psutil.Error:
                # ended meanwhile
                continue
        if total > self.peak_bytes:
            self.peak_bytes, self.num_processes = total, count
