"""Options grouped in dataclasses: Typer sees each field as an option, the command gets the dataclasses filled in."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from molstream.tools.groups import grouped


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    width: Annotated[int, typer.Option("--width", min=1, help="Across.")] = 2
    names: Annotated[list[str] | None, typer.Option("--name", help="One per call.")] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Colour:
    colour: Annotated[str, typer.Option("--colour", help="Must be given.")]


@pytest.fixture
def call():
    """call(*argv): run a grouped command; returns the result of the runner and what the command was called with."""

    def run(*argv: str):
        calls = []

        @grouped
        def command(
            path: Annotated[str, typer.Argument()] = "here",
            *,
            size: Size,
            colour: Colour,
            last: Annotated[bool, typer.Option("--last", help="Comes last.")] = False,
        ) -> None:
            """Does nothing."""
            calls.append((path, size, colour, last))

        app = typer.Typer(rich_markup_mode=None)
        app.command()(command)
        return CliRunner().invoke(app, argv), calls

    return run


def test_groups_are_filled_from_their_options_and_defaults(call):
    assert call("--colour", "red")[1] == [("here", Size(), Colour(colour="red"), False)]
    given = ("there", "--name", "a", "--last", "--width", "3", "--name", "b", "--colour", "blue")
    assert call(*given)[1] == [("there", Size(width=3, names=["a", "b"]), Colour(colour="blue"), True)]


def test_options_keep_their_checks_their_order_and_their_help(call):
    for argv, expected in (((), "Missing option '--colour'"), (("--colour", "red", "--width", "0"), "--width")):
        result, calls = call(*argv)
        assert (result.exit_code, calls) == (2, [])
        assert expected in result.output
    text = call("--help")[0].output
    places = [text.index(words) for words in ("Does nothing.", "Across.", "One per call.", "Must be given.", "Comes last.")]
    assert places == sorted(places)


def test_two_groups_cannot_share_a_name():
    def command(*, one: Size, two: Size) -> None:
        pass

    with pytest.raises(ValueError, match="duplicate parameter name: 'width'"):
        grouped(command)
