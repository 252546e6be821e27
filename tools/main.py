"""The `molstream` command: signals, what is printed, errors as one line, exit codes 0 done, 1 data or run, 2 call, 130 stopped.

It imports nothing heavy, so that a signal in the first moments ends it like any other.
"""

import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

STOPPED = 130
_OURS = "molstream"
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def main(argv: list[str] | None = None) -> NoReturn:
    """Entry point of the `molstream` command. `argv`: of a call from Python, which gets its handlers of signals back."""
    interrupts = _Interrupts()
    before = {number: signal.signal(number, interrupts) for number in _STOPPING}
    args = sys.argv[1:] if argv is None else argv
    try:
        from molstream.tools.output import protected

        with protected():
            code = _run(list(args), interrupts)
    except KeyboardInterrupt:
        code = interrupts.code = STOPPED
        with suppress(OSError):
            print("molstream: stopped", file=sys.stderr)
    finally:
        if argv is not None:
            for number, handler in before.items():
                signal.signal(number, handler)
    interrupts.code = code
    if code == STOPPED and argv is None:
        # all is closed by now; the interpreter would wait for threads that were left in the middle, and end by SIGINT itself
        # where it came while a module made code of text
        os._exit(code)
    sys.exit(code)


class _Interrupts:
    """Handler of the signals that end a command: KeyboardInterrupt while it runs, the end at once when it has its exit code."""

    def __init__(self) -> None:
        self.has_come = False
        self.code: int | None = None

    def __call__(self, number: int, frame: Any) -> None:
        if self.code is not None:
            os._exit(self.code)
        if self.has_come and number != signal.SIGINT:
            # a launcher passes on what has reached its processes already
            return
        self.has_come = True
        raise KeyboardInterrupt


def _run(args: list[str], interrupts: _Interrupts) -> int:
    """Parse and run; returns the exit code."""
    is_debug = "--debug" in args
    if is_debug and args != ["--debug"]:
        # it is a flag for every command, so it may stand anywhere
        args = ["--debug", *(a for a in args if a != "--debug")]
    try:
        code = _call(args)
        # what is still buffered may not fit on a disk
        sys.stdout.flush()
        return code
    except BaseException as error:
        if interrupts.has_come or isinstance(error, KeyboardInterrupt):
            # some libraries make another error of an interrupt
            interrupts.code = STOPPED
            with suppress(ValueError):
                sys.stdout.flush()
            print("molstream: stopped", file=sys.stderr)
            return STOPPED
        if is_debug or not isinstance(error, Exception):
            raise
        return _explain(error)


def _call(args: list[str]) -> int:
    import typer

    from molstream.tools.app import app, register

    register()
    try:
        # app(...) would handle interrupts and broken pipes in its own way; the arguments are passed on for a command that starts
        # itself as several processes
        with typer.main.get_command(app).make_context("molstream", list(args), obj=list(args)) as context:
            context.command.invoke(context)
        return 0
    except typer.Exit as done:
        return done.exit_code


def _explain(error: Exception) -> int:
    """Print an error a user can cause as one line and return its exit code; anything else is our bug and is raised."""
    usage_code = getattr(error, "exit_code", None)
    if isinstance(error, ValueError) or hasattr(error, "format_message"):
        if usage_code is None:
            raise error
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(text)
        elif text:
            print("molstream: error: " + " ".join(text.split()), file=sys.stderr)
        return usage_code
    # PyTorch has errors of its own for it, on a CPU a plain one
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
        text = " ".join(str(error).split())
        print(f"molstream: error: not enough memory{f' ({text})' if text else ''}", file=sys.stderr)
        return 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        print(f"molstream: error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != _OURS:
        # a training node has no RDKit, a building node no torch
        name = error.name.split(".")[0]
        print(f"molstream: error: this needs the package {name}, which is not installed here", file=sys.stderr)
        return 1
    raise error


if __name__ == "__main__":
    main()
