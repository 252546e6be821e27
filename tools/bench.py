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


_START = """
import runpy, sys
from molstream.tools.output import protected
sys.path[0] = sys.argv.pop(1)
del sys.argv[0]
with protected():
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.stdout.flush()
"""
"""A script as it runs by itself, but with what it prints protected."""
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
            summary = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n", 1)[0]
            typer.echo(f"{stem:18}{summary}")
        return
    if name not in scripts:
        raise BenchError(f"bench: no benchmark {name!r}, there are {', '.join(scripts)}")
    command = [sys.executable, "-c", _START, str(FOLDER), str(scripts[name]), *context.args]
    done = subprocess.run(command, cwd=FOLDER.parent, check=False)
    raise typer.Exit(done.returncode)
