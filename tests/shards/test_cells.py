"""Labels as text."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molstream.shards.inputs.cells import parse_list


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[0.5, null, 1e-3]", [0.5, None, 1e-3]),
        ("[0.1, None, nan]", [0.1, None, math.nan]),
        ("[0.1, NULL, NaN, <NA>, NA]", [0.1, None, math.nan, None, None]),
        ("[np.float64(0.1), np.float32(nan), None]", [0.1, math.nan, None]),
        ("[0.1 nan 2. ]", [0.1, math.nan, 2.0]),
        ("[0.1  None\n  1.e-03]", [0.1, None, 1e-3]),
        ("[inf, -inf]", [math.inf, -math.inf]),
        ("[True, False, None]", [1.0, 0.0, None]),
        ("[None]", [None]),
        ("[]", []),
        ("[ ]", []),
    ],
)
def test_lists_as_pandas_numpy_and_duckdb_print_them_are_read(text, values):
    found = parse_list(text)
    assert found is not None
    assert [type(v) for v in found] == [type(v) for v in values]
    assert np.array_equal(np.array(found, float), np.array(values, float), equal_nan=True)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "0.5", "[0.5", "[0.5)", "None", "[,]", "[1,,2]", "[1, 2,]", "[1 2, 3]", "[1_0, None]", "[x, None]"),
        *("[0.1 0.2 ... 0.9]", "[0.1, ..., 0.9]", "[1 2]", "[1 nan]", "[1. 2]", "(1.0, None)", "()", "{1.0, None}"),
        *("[[1.0, None]]", "[np.float64(1.0, None]", "array([1.0, None])"),
    ],
)
def test_text_that_is_no_whole_list_of_numbers_is_none(text):
    assert parse_list(text) is None


@given(st.lists(st.none() | st.floats(width=32), max_size=6))
def test_what_python_prints_of_a_list_is_that_list(values):
    assert [repr(v) for v in parse_list(str(values))] == [repr(v) for v in values]
