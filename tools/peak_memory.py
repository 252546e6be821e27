"""Peak memory of this process and all its descendants."""

import threading

import psutil

LOOK_EVERY_S = 1.0


class PeakMemory:
    """Samples memory once per second while its block runs. Shared pages count once (PSS) if the system reports that, as Linux
    does."""

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
                # the process has ended
                continue
        if total > self.peak_bytes:
            self.peak_bytes, self.num_processes = total, count
