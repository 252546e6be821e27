"""Names inside options."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molstream.shards.errors import InputError
from molstream.tools.names import about_table, list_of_each, one_of_each, split_names, unquote


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("a, b ,,c,", ["a", "b", "c"]),
        ("", []),
        (",", []),
        ('"a,b",c', ["a,b", "c"]),
        ('c , "a, b" , d', ["c", "a, b", "d"]),
        ('" a"', [" a"]),
        ('"say ""x""",y', ['say "x"', "y"]),
        ('5" pipe,y', ['5" pipe', "y"]),
        ('"y_*"', ["y_*"]),
        ('"a=b"', ["a=b"]),
    ],
)
def test_names_are_separated_by_commas_that_are_not_in_quotes(text, names):
    assert split_names("--graph-columns", text) == names


@pytest.mark.parametrize("text", ['"a', '"a"b', 'x,"a', '"a""'])
def test_a_quote_that_is_not_closed_is_refused(text):
    with pytest.raises(InputError, match=r"^--graph-columns .*: a double quote that is not closed, or text after it"):
        split_names("--graph-columns", text)


@given(st.lists(st.text(min_size=1).filter(str.strip)))
def test_names_that_csv_quotes_are_these_names_again(names):
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="").writerow(names)
    assert split_names("--graph-columns", line.getvalue()) == names


def test_what_is_about_a_table_names_it_first():
    tables = ["qm9", "zinc", "mine"]
    assert about_table("--x", "zinc=SA,logp", tables) == ("zinc", "SA,logp")
    assert about_table("--x", "zinc=a=b", tables) == ("zinc", "a=b")
    assert about_table("--x", "SA,logp", tables) == ("", "SA,logp")
    assert about_table("--x", '"zinc=SA"', tables) == ("", '"zinc=SA"')
    assert about_table("--x", "y_*=z", tables) == ("", "y_*=z")
    # one table needs no name
    assert about_table("--x", "zinc=SA", []) == ("", "zinc=SA")
    with pytest.raises(
        InputError, match=r"^--x zink=SA: no table zink, there are qm9, zinc, mine; a column whose name has = in it"
    ):
        about_table("--x", "zink=SA", tables)
    with pytest.raises(InputError, match="two tables zinc"):
        about_table("--x", "zinc=SA", ["zinc", "zinc"])


def test_options_are_taken_apart_by_table_and_one_name_may_be_given_once():
    tables = ["qm9", "zinc"]
    assert one_of_each("--x", ["mol", 'zinc="a=b"'], tables) == {"": "mol", "zinc": "a=b"}
    assert one_of_each("--x", [""], tables) == {}
    assert list_of_each("--x", ["a,b", "zinc=c", "d", 'zinc="e,f"'], tables) == {"": ("a", "b", "d"), "zinc": ("c", "e,f")}
    assert (unquote("--x", "a,b"), unquote("--x", '"a,b"'), unquote("--x", "")) == ("a,b", "a,b", "")
    with pytest.raises(InputError, match=r"^--x b: the second, expected one column"):
        one_of_each("--x", ["a", "b"], tables)
    with pytest.raises(InputError, match=r"^--x zinc=b: the second of table zinc, expected one column"):
        one_of_each("--x", ["zinc=a", "zinc=b"], tables)
