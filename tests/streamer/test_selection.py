"""What is read and what is in a batch: levels, tasks by name or pattern, encodings."""

import os
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molstream.shards.format import reader
from molstream.shards.format.archive import TAR_BLOCK
from molstream.shards.format.reader import ShardSet
from molstream.shards.tasks import Task
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.errors import CallError
from molstream.streamer.loader import Loader
from molstream.streamer.plan import Plan
from molstream.streamer.selection import Selection


def loader_for(shard_set: ShardSet, *, lanes: int = 2, window: int = 60, **options) -> Loader:
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=512), num_lanes=lanes, window_molecules=window)
    return Loader(shard_set, config, **options)


def member_bytes(shard_set: ShardSet, groups: tuple[str, ...], split: str = "train") -> int:
    """Compressed bytes of some members of a split, by the index."""
    return sum(int(shard_set.index.members[f"{group}_bytes"][shard_set.blocks(split)].sum()) for group in groups)


SELECTIONS = {
    "graph labels": ({"levels": ("graph",)}, ("sizes", "structure", "graph_labels")),
    "atom labels": ({"levels": ("atom",)}, ("sizes", "structure", "atom_labels")),
    "no labels": ({"tasks": ()}, ("sizes", "structure")),
    "no levels": ({"levels": ()}, ("sizes", "structure")),
    "one atom task": ({"tasks": ("node_T0_spin",)}, ("sizes", "structure", "atom_labels")),
    "ids": ({"tasks": (), "with_ids": True}, ("sizes", "structure", "ids")),
    "computed encodings": ({"levels": ("graph",), "encodings": ("rw16", "lap8")}, ("sizes", "structure", "graph_labels")),
    "everything": ({"with_ids": True}, ("sizes", "structure", "graph_labels", "atom_labels", "ids")),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_only_the_members_of_what_is_asked_for_are_read(sample_set, name):
    """Each block once an epoch and by its rank alone, windows that several lanes share too."""
    options, groups = SELECTIONS[name]
    loader = loader_for(sample_set, **options)
    assert loader.selection.groups == groups
    molecules = sum(batch.num_graphs for step in loader for batch in step.batches)
    assert molecules == sample_set.manifest.splits["train"]["molecules"]
    assert loader.stages.bytes_read == member_bytes(sample_set, groups)
    assert loader.stages.windows == Plan.make(sample_set, loader.config, 0).num_windows


def test_the_bytes_that_are_read_are_read_from_the_disk(sample_set, monkeypatch):
    """Those of graph labels lie one after another, with a tar header and less than a header of padding between them."""
    reads = Counter()
    pread = os.pread

    def spy(descriptor, size, offset):
        data = pread(descriptor, size, offset)
        # parts of the index are read when they are first asked for, by whichever test comes first
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".tar"):
            reads["bytes"] += len(data)
            reads["calls"] += 1
        return data

    loader = loader_for(sample_set, levels=("graph",))
    # it looks at the shards first
    monkeypatch.setattr(ShardSet, "check_shards", lambda self, split: None)
    monkeypatch.setattr(reader.os, "pread", spy)
    list(loader)
    blocks = len(sample_set.blocks("train"))
    assert reads["calls"] == blocks
    assert 0 <= reads["bytes"] - loader.stages.bytes_read <= 2 * 2 * TAR_BLOCK * blocks
    # and that is less than would be without the selection
    assert reads["bytes"] + 2 * 2 * TAR_BLOCK * blocks < member_bytes(sample_set, sample_set.groups)


def test_a_rank_reads_the_windows_of_its_lanes_and_the_shared_ones_once(sample_set):
    """So the ranks together read the set once, and each window that they share once more a rank that shares it."""
    world = 3
    loaders = [loader_for(sample_set, lanes=6, window=40, rank=r, world_size=world, levels=("graph",)) for r in range(world)]
    plan = loaders[0].plan
    for loader in loaders:
        windows = {slot.window for lane in loader.lanes for slot in plan.iter_lane(lane) if slot is not None}
        blocks = np.concatenate([plan.window_blocks(w) for w in windows])
        list(loader)
        assert loader.stages.windows == len(windows)
        assert loader.stages.bytes_read == sum(
            int(sample_set.index.members[f"{group}_bytes"][blocks].sum()) for group in loader.selection.groups
        )


def columns(batch, level: str) -> tuple[torch.Tensor, torch.Tensor]:
    return getattr(batch, f"{level}_labels_{level[0].upper()}T"), getattr(batch, f"num_{level}_labels_T")


def check_subset(shard_set: ShardSet, tasks: tuple[str, ...]) -> None:
    full, part = loader_for(shard_set), loader_for(shard_set, tasks=tasks)
    names = {level: [t.name for t in part.selection.tasks[level]] for level in ("graph", "atom")}
    for a, b in zip(full, part, strict=True):
        for whole, some in zip(a.batches, b.batches, strict=True):
            for level in ("graph", "atom"):
                places = [k for k, t in enumerate(full.selection.tasks[level]) if t.name in names[level]]
                assert len(places) == len(names[level])
                assert [full.selection.tasks[level][k].name for k in places] == names[level], "order is the set's"
                for x, y in zip(columns(whole, level), columns(some, level), strict=True):
                    assert x.dtype == y.dtype
                    assert np.array_equal(x[..., places], y, equal_nan=y.is_floating_point())
            assert torch.equal(whole.edge_index_2E, some.edge_index_2E)
            assert torch.equal(whole.atom_codes_AF, some.atom_codes_AF)
            assert whole.window_rows.tolist() == some.window_rows.tolist()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_subset_of_tasks_is_these_columns_of_all(sample_set, data):
    names = [t.name for t in sample_set.manifest.tasks if t.level in ("graph", "atom")]
    check_subset(sample_set, tuple(data.draw(st.permutations(names)))[: data.draw(st.integers(0, 8))])


@pytest.mark.parametrize(
    "patterns",
    [
        ("*energy_total", "node_*"),
        ("graph_[ST]0_alpha_????", "graph_T0_alpha_gap"),
        ("*",),
    ],
)
def test_patterns_select_what_they_match_once(sample_set, patterns):
    check_subset(sample_set, patterns)


def test_the_order_and_number_of_patterns_is_no_matter(sample_set):
    a = Selection.resolve(sample_set, tasks=("node_*", "graph_T0_*", "graph_T0_alpha_gap"))
    b = Selection.resolve(sample_set, tasks=("graph_T0_alpha_gap", "graph_T0_*", "node_*"))
    assert a.names == b.names
    assert len(set(a.names)) == len(a.names)
    assert [t.level for level in ("graph", "atom") for t in a.tasks[level]] == ["graph"] * 10 + ["atom"] * 7


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"tasks": ("graph_T0_alpha_gop",)},
            r"tasks: 'graph_T0_alpha_gop' names none of the 69 tasks; near it: graph_T0_alpha_gap, ",
        ),
        ({"tasks": ("zzz",)}, r"tasks: 'zzz' names none of the 69 tasks; near it: graph_S0_alpha_homo, .*, "),
        ({"tasks": ("graph_*", "")}, r"tasks: '' names none of the 69 tasks"),
        ({"tasks": ("GRAPH_*",)}, r"tasks: 'GRAPH_\*' names none of the 69 tasks"),
        (
            {"tasks": ("node_*",), "levels": ("graph",)},
            r"tasks: node_\w+ is of level atom, whose labels are not asked for",
        ),
        ({"tasks": ("graph_*",), "levels": ()}, r"tasks: graph_\w+ is of level graph, whose labels are not asked for"),
        ({"levels": ("graph", "node")}, r"levels: got 'node', batches carry labels of graph, atom, bond, pair"),
        ({"encodings": ("rw8",)}, r"encodings: got 'rw8', expected some of rw16, lap8"),
    ],
)
def test_what_is_not_there_is_named_in_one_line(sample_set, options, match):
    with pytest.raises(CallError, match=match) as error:
        loader_for(sample_set, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["tasks", "levels", "encodings"])
def test_a_string_in_place_of_a_list_of_names_is_refused(sample_set, name):
    """A string is a sequence of strings too, of one letter each; '*' would be everything."""
    for text in ("graph", "*", "rw16"):
        with pytest.raises(CallError, match=rf"{name}: got '{re.escape(text)}', expected a list of names"):
            loader_for(sample_set, **{name: text})


@pytest.fixture(scope="module")
def levels_set(random_set) -> ShardSet:
    """Labels on molecules, atoms, bonds and pairs."""
    rng = np.random.default_rng(8)
    tasks = tuple(
        Task(name=f"{level}{k}", level=level, kind="regression", unit="1", source="made")
        for level in ("graph", "atom", "bond", "pair")
        for k in range(2)
    )

    def label(molecules):
        num = {level: int(molecules.label_ptr(level)[-1]) for level in ("graph", "atom", "bond", "pair")}
        draw = {level: rng.normal(size=(n, 2)).astype(np.float32) for level, n in num.items()}
        both = {level: np.stack([draw[level], np.full_like(draw[level], np.nan)], axis=-1) for level in ("bond", "pair")}
        return molecules.replace(
            graph_labels=draw["graph"],
            atom_labels=draw["atom"],
            bond_labels=both["bond"],
            pair_labels=both["pair"],
        )

    return random_set(60, seed=9, block=20, largest=12, edit=label, tasks=tasks)


@pytest.mark.parametrize("level", ["bond", "pair"])
def test_a_pattern_of_labels_of_other_levels_says_so(levels_set, level):
    with pytest.raises(CallError, match=rf"tasks: {level}0 is of level {level}, whose labels are not asked for$"):
        loader_for(levels_set, tasks=(f"{level}*",), levels=("graph", "atom"))


def test_labels_of_bonds_and_pairs_that_are_not_asked_for_are_neither_read_nor_in_the_way(levels_set):
    loader = loader_for(levels_set, levels=("graph", "atom"))
    assert loader.selection.names == ("graph0", "graph1", "atom0", "atom1")
    assert loader.selection.groups == ("sizes", "structure", "graph_labels", "atom_labels")
    assert sum(int(b.num_graph_labels_T.sum()) for step in loader for b in step.batches) == 120
    assert loader.stages.bytes_read == member_bytes(levels_set, loader.selection.groups)
    # a pattern that matches labels of several levels takes those that are asked for
    assert loader_for(levels_set, tasks=("*0",), levels=("graph", "bond")).selection.names == ("graph0", "bond0")


def test_a_selection_does_not_move_a_molecule_and_is_in_no_cursor(sample_set):
    full, part = loader_for(sample_set), loader_for(sample_set, tasks=("graph_qed",), encodings=("rw16",), with_ids=True)
    next(iter(full))
    part.load_state_dict(full.state_dict())
    assert (part.epoch, part.step) == (0, 1)
    assert full.state_dict() == part.state_dict()


def test_a_name_that_looks_like_a_pattern_is_a_name(random_set):
    tasks = tuple(Task(name=n, level="graph", kind="regression", unit="eV", source="made") for n in ("homo [eV]", "homo e", "*"))
    edit = lambda m: m.replace(graph_labels=np.tile(m.graph_labels, (1, 3)), atom_labels=None)  # noqa: E731
    shard_set = random_set(20, seed=10, block=20, edit=edit, tasks=tasks)
    assert Selection.resolve(shard_set, tasks=("homo [eV]",)).names == ("homo [eV]",)
    assert Selection.resolve(shard_set, tasks=("homo [e]",)).names == ("homo e",)
    assert Selection.resolve(shard_set, tasks=("[*]",)).names == ("*",)
