"""The `molstream` command: one function per subcommand, errors as one line, exit codes 0 done, 1 data or run, 2 call."""

import os
import signal
import sys
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="molstream",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Streaming, out-of-core pre-training on billion-label molecular data. Each command has a --help of its own.",
)


def _commands() -> None:
    """Register the subcommands, once. Their modules import nothing heavy until they run."""
    if app.registered_commands:
        return
    from molstream.tools import bench, build, cat, embed, evaluate, inspect, pretrain, stream, verify

    app.command("build", help=build.__doc__)(build.build)
    app.command("inspect", help=inspect.__doc__)(inspect.inspect)
    app.command("cat", help=cat.__doc__)(cat.cat)
    app.command("verify", help=verify.__doc__)(verify.verify)
    app.command("stream", help=stream.__doc__)(stream.stream)
    app.command("pretrain", help=pretrain.__doc__)(pretrain.pretrain)
    app.command("eval", help=evaluate.__doc__)(evaluate.evaluate)
    app.command("embed", help=embed.__doc__)(embed.embed)
    arguments_of_its_own = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command("bench", help=bench.__doc__, context_settings=arguments_of_its_own)(bench.bench)


_OURS = "molstream"


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        typer.echo(f"molstream {version('molstream')}")
    except PackageNotFoundError:
        typer.echo("molstream, not installed (running from a checkout)")
    raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Print a traceback with an error.")] = False,
    # eager, since it is given without a command
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _terminate(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `molstream` command."""
    args = sys.argv[1:] if argv is None else argv
    debug = "--debug" in args
    # it is a flag for every command, so it may stand anywhere
    args = ["--debug", *(a for a in args if a != "--debug")] if debug and args != ["--debug"] else args
    signal.signal(signal.SIGTERM, _terminate)
    _commands()
    command = typer.main.get_command(app)
    try:
        code = _run(command, list(args), debug)
    except (BrokenPipeError, SystemExit) as error:
        # rich exits with 1, and only for a broken pipe
        if isinstance(error, SystemExit) and error.code != 1:
            raise
        # the reader of our output has exited, as in `molstream cat ... | head` (rich then exits); buffered output is dropped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _run(command: Any, args: list[str], debug: bool) -> int:
    """Parse and run; returns the exit code."""
    try:
        # app(...) would handle interrupts and broken pipes in its own way; the arguments are passed on for a command that starts
        # itself as several processes
        with command.make_context("molstream", list(args), obj=list(args)) as context:
            command.invoke(context)
        return 0
    except typer.Exit as done:
        return done.exit_code
    except KeyboardInterrupt:
        print("molstream: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        return _explain(error)


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
    if isinstance(error, MemoryError):
        print(f"molstream: error: not enough memory{f' ({error})' if str(error) else ''}", file=sys.stderr)
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
