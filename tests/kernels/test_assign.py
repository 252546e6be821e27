import numpy as np
import pytest
import twins.assign
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.kernels.tables.assign import assign_rows


@given(rows=st.lists(st.integers(0, 9), max_size=12), taken=st.lists(st.integers(0, 9), max_size=3), data=st.data())
@settings(deadline=None)
def test_rows_are_assigned_up_to_the_first_that_is_taken(rows, taken, data):
    codes = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    assignment = np.full(10, 255, np.uint8)
    assignment[taken] = 7
    twin = assignment.tolist()
    at = assign_rows(assignment, rows=np.array(rows, np.int64), codes=np.array(codes, np.uint8), free=255)
    assert at == twins.assign.assign_rows(twin, rows=rows, codes=codes, free=255)
    assert assignment.tolist() == twin


@pytest.mark.parametrize(("rows", "codes"), [([10], [0]), ([-1], [0]), ([0, 1], [0])])
def test_rows_outside_are_refused_before_anything_is_written(rows, codes):
    assignment = np.full(10, 255, np.uint8)
    with pytest.raises(ValueError, match=r"assign_rows: \d rows for \d codes, or rows outside \[0, 10\)"):
        assign_rows(assignment, rows=np.array(rows, np.int64), codes=np.array(codes, np.uint8), free=255)
    assert (assignment == 255).all()
