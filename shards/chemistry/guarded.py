"""Featurising under limits: a child process runs RDKit, and a molecule that takes too much of anything costs only itself.

The child notes in shared memory which row it is at and its CPU time when it began; the parent looks while it waits, and kills a
child that is over the limit. Then what came before the row is done again, the row gets one more try alone in a fresh child, and
if that fails too it is rejected with the reason. Twice the memory is a limit of the system's own (RLIMIT_AS), for what grows
faster than the parent looks; not once, because RDKit answers some failed allocations as if the SMILES were wrong. A crash is only
an exit status.
"""

import atexit
import gc
import mmap
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import psutil

from molstream.shards.errors import WorkerError
from molstream.shards.store.writing import make_scratch
from molstream.shards.workers.process import Child, describe_exit

MEMORY_EXIT = 71
"""How a child ends that ran out of the memory it may have."""
LOOK_EVERY_S = 0.05
ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=200", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""RDKit makes and frees some hundred small objects a molecule: with more than seven of a size cached it is an eighth faster, and
without the thread that pyarrow starts when it is imported, malloc takes no locks."""
_NOTE_BYTES = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Featurized:
    """What became of a batch of SMILES."""

    parts: list[tuple[int, Any]]
    """(entry of the batch at which it starts, Structures), in order."""
    rejects: dict[int, str]
    """Entry of the batch -> why it was given up; what RDKit itself refuses is in the parts' rejects."""


@dataclass(frozen=True, slots=True)
class _Failure:
    row: int
    """At which entry of what was sent, -1 if at none."""
    reason: str


class Featurizer:
    """A persistent child that featurises batches of SMILES. One for each thread that asks."""

    def __init__(self, *, molecule_s: float, molecule_bytes: int):
        self.molecule_s, self.molecule_bytes = molecule_s, molecule_bytes
        self._options: dict[str, bool] = {}
        self._file = make_scratch(_NOTE_BYTES)
        self._note = memoryview(mmap.mmap(self._file.fileno(), _NOTE_BYTES)).cast("q")
        self._child: Child | None = None
        self._asked = False
        self._idle_bytes = 0

    def run(
        self, batches: Iterable[tuple[T, list[str | None]]], *, with_bond_order: bool = False, with_inchi: bool = False
    ) -> Iterator[tuple[T, Featurized]]:
        """(anything, SMILES) -> (the same, what became of them), in order. The options are those of `featurize`.

        The child works on a batch while the caller reads the next one and handles the one before.
        """
        self._options = {"with_bond_order": with_bond_order, "with_inchi": with_inchi}
        source = iter(batches)
        current = next(source, None)
        if current is not None:
            self._send(current[1])
        while current is not None:
            upcoming = next(source, None)
            done = self._receive(current[1])
            if upcoming is not None:
                self._send(upcoming[1])
            yield current[0], done
            current = upcoming

    def featurize(self, smiles: list[str | None]) -> Featurized:
        """One batch."""
        ((_, done),) = self.run([(None, smiles)])
        return done

    def match(self, kept: str, other: str) -> Any:
        """`match_atoms`; None also if it takes too much of anything."""
        self._send((kept, other))
        answer = self._wait()
        return None if isinstance(answer, _Failure) else answer

    def close(self) -> None:
        """End the child; the next batch starts another."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        self._asked = False

    def __del__(self) -> None:
        self.close()
        self._file.close()

    def _send(self, request: list[str | None] | tuple[str, str]) -> None:
        if self._asked:
            # somebody stopped listening, by an interruption: the answer on its way is not to this question
            self.close()
        if self._child is None:
            self._child = self._start()
        self._note[0] = -1
        self._asked = True
        # an error means that it has died meanwhile: `_wait` will find out
        with suppress(OSError):
            self._child.connection.send((request, self._options))

    def _start(self) -> Child:
        note = self._file.fileno()
        child = Child(serve, note, self.molecule_bytes, descriptors=(note,), environment=ENVIRONMENT)
        try:
            self._idle_bytes = child.connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerError(f"the process that runs RDKit did not start: {describe_exit(child.kill())}") from error
        return child

    def _receive(self, smiles: list[str | None]) -> Featurized:
        """The answer to what was sent last, however many tries it takes."""
        parts: list[tuple[int, Any]] = []
        rejects: dict[int, str] = {}
        # last in, first out: (start, end, whether this is its last try)
        todo = [(0, len(smiles), False)]
        sent = True
        while todo:
            start, end, last = todo.pop()
            if not sent:
                self._send(smiles[start:end])
            sent = False
            answer = self._wait()
            if not isinstance(answer, _Failure):
                parts.append((start, answer))
            elif last:
                rejects[start] = answer.reason
            else:
                # if it was between two molecules, halves will tell
                row = start + answer.row if 0 <= answer.row < end - start else (start + end) // 2
                todo += [(a, b, b - a == 1) for a, b in ((row + 1, end), (row, row + 1), (start, row)) if b > a]
        return Featurized(parts, rejects)

    def _wait(self) -> Any:
        """Structures, or a _Failure after which there is no child."""
        assert self._child is not None
        child = self._child
        try:
            while not child.connection.poll(LOOK_EVERY_S):
                row, began = self._note[0], self._note[1] / 1e9
                process = psutil.Process(child.pid)
                times = process.cpu_times()
                if row >= 0 and process.memory_info().rss - self._idle_bytes > self.molecule_bytes:
                    return self._give_up(f"took RDKit more than {self.molecule_bytes // 2**20} MiB of memory")
                # the note may have moved on between the two looks: then the time is that of a new row, and small
                if row >= 0 and row == self._note[0] and times.user + times.system - began > self.molecule_s:
                    return self._give_up(f"took RDKit more than {self.molecule_s:g} s")
            answer = child.connection.recv()
        except (EOFError, OSError, psutil.Error):
            return self._give_up(None)
        self._asked = False
        if isinstance(answer, str):
            return _Failure(self._note[0], answer)
        return answer

    def _give_up(self, reason: str | None) -> _Failure:
        assert self._child is not None
        row = self._note[0]
        self._child.connection.close()
        if reason is None:
            # it closed its end, so it is about to be gone
            try:
                self._child.process.wait(timeout=5)
            except Exception:
                reason = "RDKit stopped answering"
        status = self._child.kill()
        self._child = None
        self._asked = False
        if reason is None:
            memory = f"took RDKit more than {self.molecule_bytes // 2**20} MiB of memory"
            reason = memory if status == MEMORY_EXIT else f"crashed RDKit ({describe_exit(status)})"
        return _Failure(row, reason)


def serve(connection: Connection, note_descriptor: int, molecule_bytes: int) -> None:
    """The child: answer lists of SMILES with Structures and pairs with how their atoms match, or either with a reason for an
    error that left the process in order."""
    from molstream.shards.chemistry.parser import featurize, match_atoms

    cells = memoryview(mmap.mmap(note_descriptor, _NOTE_BYTES)).cast("q")
    clock = time.process_time_ns

    def note(row: int) -> None:
        cells[1] = clock()
        cells[0] = row

    # whatever is compiled or loaded on first use is no molecule's fault
    featurize(["C", "[CH3:0][OH:1]", "F/C=C/F", "C[C@H](O)F", "[2H]C", "not a molecule"], lambda row: None)
    gc.freeze()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        limit = psutil.Process().memory_info().vms + 2 * molecule_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    connection.send(psutil.Process().memory_info().rss)
    while True:
        request, options = connection.recv()
        try:
            if isinstance(request, tuple):
                note(0)
                answer: Any = match_atoms(*request)
            else:
                answer = featurize(request, note, **options)
        except MemoryError:
            os._exit(MEMORY_EXIT)
        except Exception as error:
            answer = f"RDKit: {type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"
        connection.send(answer)


_SHARED: dict[tuple[float, int], Featurizer] = {}
# before the interpreter is half gone
atexit.register(_SHARED.clear)


def shared_featurizer(*, molecule_s: float = 10.0, molecule_bytes: int = 1 << 30) -> Featurizer:
    """This process's featuriser with these limits, started once: a start takes longer than a small table."""
    key = (molecule_s, molecule_bytes)
    if key not in _SHARED:
        _SHARED.clear()
        _SHARED[key] = Featurizer(molecule_s=molecule_s, molecule_bytes=molecule_bytes)
    return _SHARED[key]
