import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molstream.shards.errors import InputError
from molstream.shards.splits.rules import SPLITS, SplitFractions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("98,1,1", (0.98, 0.01, 0.01)),
        ("0.8,0.1,0.1", (0.8, 0.1, 0.1)),
        ("1,0,0", (1, 0, 0)),
        (" 2 , 1 , 1 ", (0.5, 0.25, 0.25)),
        ("1e2,0,1e2", (0.5, 0, 0.5)),
    ],
)
def test_fractions_are_scaled_to_sum_to_one(text, expected):
    fractions = SplitFractions.parse(text)
    assert (fractions.train, fractions.val, fractions.test) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    "text", ["", "98", "98,1", "98,1,1,1", "a,b,c", "0,1,1", "-1,1,1", "98,-1,1", "nan,1,1", "98,inf,1", "98;1;1"]
)
def test_what_is_not_three_shares_is_refused(text):
    with pytest.raises(InputError, match=r"split fractions: got .* expected three numbers train,val,test"):
        SplitFractions.parse(text)


def test_the_unit_interval_is_cut_at_the_fractions():
    fractions = SplitFractions.parse("50,25,25")
    hashes = np.array([0, 2**63 - 2**12, 2**63, 2**63 + 2**62 - 2**12, 2**63 + 2**62, 2**64 - 1], np.uint64)
    assert [SPLITS[s] for s in fractions.assign(hashes)] == ["train", "train", "val", "val", "test", "test"]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_a_share_of_zero_gets_nothing(hashes):
    hashes = np.array(hashes, np.uint64)
    assert not SplitFractions.parse("1,0,0").assign(hashes).any()
    assert not (SplitFractions.parse("1,0,1").assign(hashes) == 1).any()
    assert not (SplitFractions.parse("1,1,0").assign(hashes) == 2).any()


def test_shares_of_many_hashes_are_those_asked_for():
    hashes = np.random.default_rng(0).integers(0, 2**64, 200_000, np.uint64)
    shares = np.bincount(SplitFractions.parse("90,7,3").assign(hashes), minlength=3) / hashes.size
    assert shares == pytest.approx([0.9, 0.07, 0.03], abs=0.003)
