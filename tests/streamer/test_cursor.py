"""The cursor: small, versioned, bound to its stream, and never a crash for what is none."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molstream.shards.store.documents import seal_json
from molstream.streamer import plan as plan_module
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.cursor import read_cursor
from molstream.streamer.errors import CursorError
from molstream.streamer.loader import Loader


@pytest.fixture(scope="module")
def config(made_sets) -> StreamConfig:
    return StreamConfig(budget=Budget.suggest(made_sets["many"], atoms=256), num_lanes=4, window_molecules=50)


@pytest.fixture
def loader(made_sets, config) -> Loader:
    return Loader(made_sets["many"], config)


def test_a_cursor_is_a_few_hundred_bytes_of_json_with_version_and_fingerprint(loader):
    for _ in zip(range(3), loader, strict=False):
        pass
    data = loader.cursor.encode()
    fields = json.loads(data)
    assert len(data) < 800
    assert (fields["format"], fields["format_version"], fields["cursor_version"]) == ("molstream cursor", 2, 2)
    assert fields["fingerprint"] == loader.shard_set.manifest.fingerprint
    assert (fields["epoch"], fields["step"]) == (0, loader.step)
    assert json.loads(json.dumps(loader.state_dict())) == loader.state_dict()


OTHERS = {
    "seed": ({"seed": 1}, "seed 0 there, 1 here"),
    "lanes": ({"num_lanes": 3}, "num_lanes 4 there, 3 here"),
    "window": ({"window_molecules": 51}, "window_molecules 50 there, 51 here"),
    "shuffle": ({"shuffle": False}, "shuffle True there, False here"),
    "oversize": ({"oversize": "skip"}, "oversize error there, skip here"),
    "budget": ({"budget": Budget(64, 512, 1024)}, r"budget \{.*\} there, \{.*'atoms': 512.*\} here"),
    "listed labels": (
        {"budget": Budget(64, 512, 1024, 64)},
        r"budget \{.*\} there, \{.*'labels': 64.*\} here; listed_tasks None",
    ),
    "two": ({"seed": 2, "num_lanes": 2}, "num_lanes 4 there, 2 here; seed 0 there, 2 here"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_cursor_of_another_stream_is_refused_with_what_differs(made_sets, config, loader, name):
    changes, match = OTHERS[name]
    other = Loader(made_sets["many"], replace(config, **changes))
    next(iter(loader))
    with pytest.raises(CursorError, match="cursor of another stream: " + match) as error:
        other.load_state_dict(loader.state_dict())
    assert "\n" not in str(error.value)
    assert (other.epoch, other.step) == (0, 0)
    # and the other way
    with pytest.raises(CursorError, match="cursor of another stream: "):
        loader.load_state_dict(other.state_dict())


def test_a_cursor_of_another_set_is_refused_by_fingerprint(made_sets, config, loader):
    other = Loader(made_sets["tails"], replace(config, budget=Budget.suggest(made_sets["tails"], atoms=256)))
    with pytest.raises(CursorError, match=f"another shard set: fingerprint {loader.cursor.fingerprint[:12]}, this one has"):
        other.load_state_dict(loader.state_dict())


def test_a_cursor_of_another_split_is_refused(sample_set):
    budget = Budget.suggest(sample_set, atoms=512)
    train, val = (Loader(sample_set, StreamConfig(budget=budget, split=split)) for split in ("train", "val"))
    with pytest.raises(CursorError, match="split train there, val here"):
        val.load_state_dict(train.state_dict())


def test_a_cursor_of_another_order_is_refused(loader, monkeypatch):
    state = loader.state_dict()
    monkeypatch.setattr(plan_module, "ORDER_VERSION", plan_module.ORDER_VERSION + 1)
    with pytest.raises(CursorError, match="cursor of another stream: another order version"):
        loader.load_state_dict(state)


def test_what_moves_no_molecule_is_in_no_cursor(made_sets, config):
    options = [
        {"num_threads": 5},
        {"world_size": 3, "rank": 2},
        {"levels": ("graph",)},
        {"encodings": ("rw16",)},
        {"tasks": ("a",)},
    ]
    states = [Loader(made_sets["many"], config, **o).state_dict() for o in [{}, *options]]
    assert all(state == states[0] for state in states)


@pytest.mark.parametrize("state", [{}, None, [], "cursor", 7])
def test_what_is_no_cursor_is_refused(loader, state):
    with pytest.raises(CursorError, match="not a cursor"):
        loader.load_state_dict(state)


@pytest.mark.parametrize("field", ["fingerprint", "plan_hash", "plan", "epoch", "step"])
def test_a_cursor_without_one_of_its_fields_is_refused(loader, field):
    state = loader.state_dict()
    del state[field]
    with pytest.raises(CursorError, match=f"not a cursor .*'{field}'.*remove it to start anew"):
        loader.load_state_dict(state)


def test_a_cursor_with_a_field_too_many_is_refused(loader):
    with pytest.raises(CursorError, match=r"not a cursor .*'rank'"):
        loader.load_state_dict(loader.state_dict() | {"rank": 3})


@pytest.mark.parametrize("field", ["epoch", "step"])
@pytest.mark.parametrize("value", [-1, True, False, "0", 1.0, float("nan"), None, [], {}])
def test_a_place_that_is_no_whole_number_is_refused(loader, field, value):
    with pytest.raises(CursorError, match="expected non-negative whole numbers"):
        loader.load_state_dict(loader.state_dict() | {field: value})
    assert (loader.epoch, loader.step) == (0, 0)


@pytest.mark.parametrize("field", ["fingerprint", "plan_hash", "plan"])
@pytest.mark.parametrize("value", [0, True, None, [], "", 1.5, {}, {1: 2, "a": 3}, {"budget": {"atoms": []}}])
def test_other_fields_of_other_types_are_refused(loader, field, value):
    state = loader.state_dict() | {field: value}
    if field == "plan" and isinstance(value, dict):
        # said again for people to read; the hash is what counts
        return loader.load_state_dict(state)
    with pytest.raises(CursorError, match="cursor"):
        loader.load_state_dict(state)
    return None


def test_a_hash_that_differs_is_refused_whatever_its_plan_says(loader):
    for plan in ({}, {1: 2, "a": 3}, loader.state_dict()["plan"]):
        with pytest.raises(CursorError, match="cursor of another stream"):
            loader.load_state_dict(loader.state_dict() | {"plan_hash": "0" * 16, "plan": plan})


def test_a_step_beyond_the_epoch_is_refused_and_its_end_is_the_next_one(loader):
    steps = len(loader)
    loader.load_state_dict(loader.state_dict() | {"step": steps})
    assert (loader.epoch, loader.step) == (1, 0)
    with pytest.raises(CursorError, match=rf"cursor at step {10**30} of an epoch of \d+ steps"):
        loader.load_state_dict(loader.state_dict() | {"epoch": 5, "step": 10**30})
    assert (loader.epoch, loader.step) == (1, 0)


@pytest.mark.parametrize("epoch", [1, 10**6, 2**31, 2**63, 2**64 + 1, 10**30])
def test_any_epoch_can_be_gone_to(loader, epoch):
    loader.load_state_dict(loader.state_dict() | {"epoch": epoch})
    step = next(iter(loader))
    assert (step.epoch, step.step) == (epoch, 0)
    loader.close()


def test_a_refused_cursor_leaves_the_iteration_that_is_under_way_alone(made_sets, config, loader):
    iterator = iter(loader)
    next(iterator)
    for bad in ({"step": 10**6}, {"plan_hash": "0"}, {"fingerprint": "0"}, {"epoch": -1}):
        with pytest.raises(CursorError, match="cursor"):
            loader.load_state_dict(loader.state_dict() | bad)
    assert next(iterator).step == 1
    iterator.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_a_flipped_bit_or_a_cut_is_an_error_that_names_the_file_and_moves_nothing(loader, tmp_path, at, bit, cut):
    data = bytearray(loader.cursor.encode())
    at %= len(data)
    data[at] ^= 1 << bit
    path = tmp_path / "state.json"
    path.write_bytes(data[:at] if cut else data)
    with pytest.raises(CursorError, match=r"state\.json: .*; remove it to start anew$"):
        loader.seek(read_cursor(path))
    assert (loader.epoch, loader.step) == (0, 0)


def test_a_cursor_file_comes_back_as_it_was(loader, tmp_path):
    next(iter(loader))
    loader.cursor.write(tmp_path / "state.json")
    assert read_cursor(tmp_path / "state.json") == loader.cursor
    loader.close()


def test_a_cursor_file_of_another_version_or_of_nothing_is_refused(tmp_path):
    path = tmp_path / "state.json"
    for data, match in (
        (seal_json({}, kind="cursor", version=3), "cursor version 3, this molstream reads 2"),
        # as it was before there were seals
        (b'{"fingerprint": "", "cursor_version": 1}', "no cursor of version 2, or a damaged one"),
        (b"3", "no cursor"),
        (b"[" * 100_000, "damaged .*nested too deep"),
    ):
        path.write_bytes(data)
        with pytest.raises(CursorError, match=rf"state\.json: {match}.*; remove it to start anew$"):
            read_cursor(path)
    path.unlink()
    with pytest.raises(CursorError, match=r"state\.json: missing"):
        read_cursor(path)
