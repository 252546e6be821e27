"""Run one of the benchmarks in benchmarks/, from a checkout: loader, packing, plan, memory, ... Without a name, list them."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer


class BenchError(ValueError):
    """A benchmark that does not exist here."""

    exit_code = 2


FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Which one; further arguments go to its script.")] = None,
) -> None:
    scripts = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
    if not scripts:
        raise BenchError(f"{FOLDER}: no benchmarks; they are part of a checkout of the repository, not of an installation")
    if name is None:
        for stem, path in scripts.items():
            summary = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n", 1)[0]
            typer.echo(f"{stem:18}{summary}")
        return
    if name not in scripts:
        raise BenchError(f"bench: no benchmark {name!r}, there are {', '.join(scripts)}")
    done = subprocess.run([sys.executable, scripts[name], *context.args], cwd=FOLDER.parent, check=False)
    raise typer.Exit(done.returncode)
