"""The subcommands of `molstream`, one function each. Apart from `tools.main`, which runs before Typer is imported."""

from typing import Annotated

import typer

app = typer.Typer(
    name="molstream",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Streaming, out-of-core pre-training on billion-label molecular data. Each command has a --help of its own.",
)


def register() -> None:
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
