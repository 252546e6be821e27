"""The cursor, which says where a stream stands: (fingerprint, plan hash, epoch, step). All else is derived from these."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from molstream.streamer.errors import CursorError

CURSOR_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """The next step of a stream."""

    fingerprint: str
    """Fingerprint of the shard set."""
    plan_hash: str
    """Hash of everything in the stream's configuration that moves a molecule."""
    plan: dict
    """The configuration itself, so that an error can name what differs."""
    epoch: int
    step: int
    """Number of steps of the epoch that are done."""
    cursor_version: int = CURSOR_VERSION

    def encode(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def parse(cls, text: str, *, where: str = "cursor") -> "Cursor":
        """Inverse of `encode`. Raises CursorError."""
        try:
            fields = json.loads(text)
        # a number of thousands of digits is a ValueError too
        except (ValueError, RecursionError) as error:
            raise CursorError(f"{where}: not a cursor ({type(error).__name__}: {error}); remove it to start anew") from error
        return cls.of(fields, where=where)

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

    @classmethod
    def read(cls, path: Path) -> "Cursor":
        """Read a cursor file. Raises CursorError."""
        try:
            return cls.parse(path.read_text(), where=str(path))
        except UnicodeDecodeError as error:
            raise CursorError(f"{path}: not a cursor, not even text; remove it to start anew") from error

    def write(self, path: Path) -> None:
        """Replace a cursor file in one go."""
        beside = path.with_name(path.name + ".part")
        beside.write_text(self.encode())
        beside.rename(path)

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
