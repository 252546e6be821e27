"""Where a stream stands: (fingerprint, plan hash, epoch, step). Everything else is derived from these.

In memory a state dict like any other; as a file of its own a sealed document, so that no flipped digit skips a molecule.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from molstream.shards.errors import FormatError
from molstream.shards.store.documents import Document
from molstream.shards.store.fields import Whole
from molstream.streamer.errors import CursorError

CURSOR_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor(Document):
    """The next step to run."""

    KIND: ClassVar[str] = "cursor"
    VERSION: ClassVar[int] = CURSOR_VERSION
    REMEDY: ClassVar[str] = "remove it to start anew"

    fingerprint: str
    """Fingerprint of the shard set."""
    plan_hash: str
    """Hash of everything in the stream's configuration that moves a molecule."""
    plan: dict
    """The configuration itself, so that a mismatch can be named."""
    epoch: Whole
    step: Whole
    """Steps of the epoch that are done."""
    cursor_version: int = CURSOR_VERSION

    @classmethod
    def of(cls, fields: dict, *, where: str = "cursor") -> "Cursor":
        """Make a cursor from its fields, as `dataclasses.asdict` gives them. Raises CursorError."""
        wrong = f"{where}: not a cursor"
        if not isinstance(fields, dict) or "cursor_version" not in fields:
            raise CursorError(f"{wrong} (it has no cursor_version); remove it to start anew")
        if fields["cursor_version"] != CURSOR_VERSION:
            raise CursorError(f"{where}: cursor version {fields['cursor_version']}, this molstream reads {CURSOR_VERSION}")
        try:
            cursor = cls(**fields)
        except TypeError as error:
            raise CursorError(f"{wrong} ({error}); remove it to start anew") from error
        numbers = (cursor.epoch, cursor.step)
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
            raise CursorError(f"{where}: epoch {cursor.epoch!r}, step {cursor.step!r}, expected non-negative whole numbers")
        for name, kind in (("fingerprint", str), ("plan_hash", str), ("plan", dict)):
            if not isinstance(getattr(cursor, name), kind):
                raise CursorError(f"{wrong} (its {name} is {getattr(cursor, name)!r}); remove it to start anew")
        return cursor

    def check(self, expected: "Cursor") -> None:
        """Refuse to continue another stream. Raises a CursorError that says what differs."""
        if self.fingerprint != expected.fingerprint:
            raise CursorError(
                f"cursor of another shard set: fingerprint {self.fingerprint[:12]}, this one has {expected.fingerprint[:12]}"
            )
        if self.plan_hash != expected.plan_hash:
            keys = sorted(set(self.plan) | set(expected.plan), key=str)
            differ = [
                f"{k} {self.plan.get(k)} there, {expected.plan.get(k)} here"
                for k in keys
                if self.plan.get(k) != expected.plan.get(k)
            ]
            raise CursorError(f"cursor of another stream: {'; '.join(differ) or 'another order version'}")


def read_cursor(path: Path) -> Cursor:
    """Read a cursor file. Raises CursorError."""
    try:
        return Cursor.read(path)
    except FormatError as error:
        raise CursorError(str(error)) from error
