"""Hundreds of sparse graph-level tasks, listed as (graph, task, value) instead of in a matrix."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molstream.shards.format.reader import ShardSet
from molstream.shards.tasks import Task
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.errors import BudgetError, CursorError
from molstream.streamer.loader import Loader


def loader_for(shard_set: ShardSet, budget: Budget, **options) -> Loader:
    names = ("num_lanes", "window_molecules", "oversize", "seed")
    config = {"num_lanes": 3, "window_molecules": 70} | {k: options.pop(k) for k in names if k in options}
    return Loader(shard_set, StreamConfig(budget=budget, **config), **({"with_ids": True} | options))


def rows_of(loader: Loader) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{id: (graph labels, atom labels)} of an epoch."""
    rows: dict[int, tuple] = {}
    for step in loader:
        for batch in step.batches:
            dense = batch.dense_graph_labels().numpy()
            assert np.isnan(dense[batch.num_graphs :]).all()
            for g, molecule in enumerate(batch.ids.tolist()):
                first, last = batch.atom_ptr_G[g : g + 2].tolist()
                assert molecule not in rows
                rows[molecule] = dense[g], batch.atom_labels_AT[first:last].numpy()
    return rows


def suggest(shard_set: ShardSet, atoms: int = 512, tasks: tuple[str, ...] | None = None) -> Budget:
    return Budget.suggest(shard_set, atoms=atoms, list_labels=True, tasks=tasks)


def number_of_labels(shard_set: ShardSet) -> dict[int, int]:
    """Graph-level labels of each molecule."""
    return {
        int(i): int(n)
        for block in shard_set.iter_blocks()
        for i, n in zip(block.ids, np.count_nonzero(~np.isnan(block.graph_labels), axis=1), strict=True)
    }


def same_rows(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(x, y, equal_nan=True) for k in a for x, y in zip(a[k], b[k], strict=True))


@pytest.mark.parametrize("tasks", [None, ("a*", "b001"), ("b*", "a"), ("a008",), ("a",), ()])
def test_listed_labels_are_those_of_the_matrix_molecule_by_molecule(wide_set, tasks):
    names = None if tasks is None else Loader(wide_set, StreamConfig(budget=suggest(wide_set)), tasks=tasks).selection.names
    listed = loader_for(wide_set, suggest(wide_set, tasks=names), tasks=tasks)
    dense = loader_for(wide_set, Budget.suggest(wide_set, atoms=512), tasks=tasks)
    assert listed.selection.names == dense.selection.names
    a, b = rows_of(listed), rows_of(dense)
    assert len(a) == 300
    assert {len(graph) for graph, _ in a.values()} == {len(listed.selection.tasks["graph"])}
    assert same_rows(a, b)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some=st.sets(st.integers(0, 419), max_size=60),
    atoms=st.sampled_from([64, 256, 1024]),
    lanes=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_any_selection_and_shape_gives_the_same_labels(wide_set, some, atoms, lanes, seed):
    tasks = tuple(f"{'ab'[k % 2]}{k:03d}" for k in some)
    options = {"tasks": tasks, "num_lanes": lanes, "seed": seed}
    listed = loader_for(wide_set, suggest(wide_set, atoms, tasks), **options)
    assert same_rows(rows_of(listed), rows_of(loader_for(wide_set, Budget.suggest(wide_set, atoms=256), **options)))


def test_shapes_are_fixed_and_padding_is_marked(wide_set):
    budget = suggest(wide_set)
    loader = loader_for(wide_set, budget, num_lanes=7)
    shapes, masked = set(), 0
    for step in loader:
        for batch in step.batches:
            shapes.add(tuple((n, v.dtype, tuple(v.shape)) for n in batch.layout.fields for v in [getattr(batch, n)]))
            graph, task, value = batch.label_graph_L, batch.label_task_L, batch.label_value_L
            real = int(batch.num_graph_labels_T.sum())
            assert not torch.isnan(value[:real]).any()
            assert torch.isnan(value[real:]).all()
            assert (graph[real:] == budget.graphs - 1).all()
            assert (task[real:] == 0).all()
            # sorted by graph, then task, each pair once
            keys = graph[:real].long() * 420 + task[:real]
            assert (keys.diff() > 0).all()
            assert not real or 0 <= int(graph[:real].max()) < batch.num_graphs
            assert torch.equal(batch.num_graph_labels_T.long(), torch.bincount(task[:real], minlength=420))
            masked += batch.num_graphs == 0
            assert batch.num_graphs or not real
    assert masked
    ((*fields,),) = shapes
    sizes = {name: shape for name, _, shape in fields}
    assert {sizes[f"label_{name}_L"] for name in ("graph", "task", "value")} == {(budget.labels,)}
    assert (sizes["graph_labels_GT"], sizes["num_graph_labels_T"]) == ((budget.graphs, 0), (420,))


def test_listed_labels_fit_on_any_world_size_and_after_a_resume(wide_set):
    budget = suggest(wide_set, 256)
    whole = [(s.step, lane, b.ids.tolist()) for s in loader_for(wide_set, budget) for lane, b in zip(s.lanes, s.batches)]
    first = loader_for(wide_set, budget, num_threads=1)
    for step in first:
        if step.step == 2:
            break
    rows = []
    for rank in range(2):
        loader = loader_for(wide_set, budget, rank=rank, world_size=2)
        loader.load_state_dict(first.state_dict())
        rows += [(s.step, lane, b.ids.tolist()) for s in loader for lane, b in zip(s.lanes, s.batches) if lane >= 0]
    assert sorted(rows) == sorted(row for row in whole if row[0] > 2)


def test_too_few_slots_for_one_molecule_are_refused_at_the_start_by_name(wide_set):
    labels = number_of_labels(wide_set)
    most = max(labels.values())
    budget = replace(suggest(wide_set), labels=24)
    with pytest.raises(BudgetError, match=rf"molecule \d+ has {most} graph-level labels, usable are 24; give 32, ") as error:
        loader_for(wide_set, budget)
    assert labels[int(str(error.value).split("molecule ")[1].split()[0])] == most
    # exactly enough for it is enough
    assert len(loader_for(wide_set, replace(budget, labels=8 * -(-most // 8)))) > 0


def test_few_slots_for_labels_take_more_packs_and_all_find_room(wide_set):
    suggested = suggest(wide_set)
    planned = [loader_for(wide_set, replace(suggested, labels=labels)).plan.num_packs for labels in (suggested.labels, 80, 40)]
    assert planned[0] < planned[1] < planned[2]
    whole = rows_of(loader_for(wide_set, suggested))
    for labels in (40, 80):
        assert same_rows(rows_of(loader_for(wide_set, replace(suggested, labels=labels))), whole)


def test_too_few_slots_for_a_subset_are_refused_at_the_start_where_the_index_cannot_rule_them_out(wide_set):
    """The index counts all labels of a molecule, so it cannot tell how many of some tasks it has."""
    tasks = tuple(f"a{k:03d}" for k in range(0, 420, 2))
    most = max(number_of_labels(wide_set).values())
    match = rf"has {most} graph-level labels, up to 210 of selected tasks, usable are 16; give 32, select"
    with pytest.raises(BudgetError, match=match):
        loader_for(wide_set, replace(suggest(wide_set), labels=16), tasks=tasks)
    # of two tasks no molecule has more than two
    assert len(rows_of(loader_for(wide_set, replace(suggest(wide_set), labels=8), tasks=("a000", "b001")))) == 300


@pytest.mark.parametrize("dense", ["val", "train"])
def test_a_budget_is_suggested_for_the_densest_split_and_serves_all(random_set, dense):
    """All molecules of one split have 40 labels, those of the other few."""
    tasks = tuple(Task(name=f"t{k}", level="graph", kind="regression", unit="1", source="made") for k in range(40))
    rng = np.random.default_rng(5)

    def label(molecules):
        labels = np.where(rng.random((len(molecules), 40)) < 0.05, 1, np.nan).astype(np.float32)
        labels[slice(350, None) if dense == "val" else slice(350)] = 1
        return molecules.replace(graph_labels=labels, atom_labels=None)

    shard_set = random_set(400, seed=3, block=30, edit=label, tasks=tasks, num_val=50)
    budget = suggest(shard_set, 256)
    for split in ("train", "val"):
        loader = Loader(shard_set, StreamConfig(budget=budget, split=split, window_molecules=50, num_lanes=2))
        molecules = sum(b.num_graphs for s in loader for b in s.batches)
        assert molecules == shard_set.manifest.splits[split]["molecules"] > 0


def test_pairs_are_suggested_for_the_split_with_larger_molecules(random_set):
    shard_set = random_set(300, seed=4, block=30, by_size=True, num_val=60)
    budget = Budget.suggest(shard_set, atoms=128, pairs=True)
    large = shard_set.index.split_codes == shard_set.index.split_names.index("val")
    sizes = np.concatenate([block.num_atoms for block in shard_set.iter_blocks("val")])
    assert budget.pairs >= 128 * (sizes * (sizes + 1) // 2).sum() / sizes.sum()
    assert large.sum() == 2
    for split in ("train", "val"):
        loader = Loader(shard_set, StreamConfig(budget=budget, split=split, window_molecules=50, num_lanes=2))
        assert sum(b.num_graphs for s in loader for b in s.batches) == shard_set.manifest.splits[split]["molecules"]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("with_ids", [True, False])
def test_molecules_with_too_many_labels_are_left_out_and_named(random_set, world, with_ids):
    """One in ten has 40 labels, the others have up to two."""
    tasks = tuple(Task(name=f"t{k}", level="graph", kind="regression", unit="1", source="made") for k in range(60))

    def label(molecules):
        labels = np.full((len(molecules), 60), np.nan, np.float32)
        for k, row in enumerate(labels):
            row[: 40 if k % 10 == 3 else k % 3] = k
        return molecules.replace(graph_labels=labels, atom_labels=None)

    shard_set = random_set(200, seed=13, block=20, edit=label, tasks=tasks)
    many = {i for i, n in number_of_labels(shard_set).items() if n == 40}
    budget = replace(suggest(shard_set, 128), labels=32, graphs=8)
    skipped: Counter = Counter()
    molecules = 0
    for rank in range(world):
        loader = loader_for(shard_set, budget, oversize="skip", rank=rank, world_size=world, with_ids=with_ids)
        for step in loader:
            skipped.update(step.skipped.tolist())
            molecules += sum(batch.num_graphs for batch in step.batches)
    assert skipped == Counter(many)
    assert (len(many), molecules) == (20, 180)
    with pytest.raises(BudgetError, match=r"molecule \d+ has 40 graph-level labels, usable are 32"):
        loader_for(shard_set, budget)
    # of these tasks none has too many
    assert not [i for step in loader_for(shard_set, budget, tasks=("t1?",), oversize="skip") for i in step.skipped.tolist()]


def test_a_cursor_is_bound_to_the_selection_only_where_labels_are_listed(wide_set):
    listed, dense = suggest(wide_set), Budget.suggest(wide_set, atoms=512)
    for budget, bound in ((listed, True), (dense, False)):
        state = loader_for(wide_set, budget, tasks=("a*",)).state_dict()
        other = loader_for(wide_set, budget, tasks=("b*", "a"))
        if bound:
            with pytest.raises(CursorError, match=r"another stream: listed_tasks 210 \(.*\) there, 210 \(.*\) here$"):
                other.load_state_dict(state)
        else:
            other.load_state_dict(state)
        # the same, by name and in another order
        loader_for(wide_set, budget, tasks=("a", *(f"a{k:03d}" for k in range(418, -1, -2)))).load_state_dict(state)
    with pytest.raises(CursorError, match=r"cursor of another stream: budget "):
        loader_for(wide_set, dense).load_state_dict(loader_for(wide_set, listed).state_dict())


def test_a_set_without_graph_labels_can_be_asked_for_lists(random_set):
    atom = Task(name="a", level="atom", kind="regression", unit="1", source="made")
    shard_set = random_set(40, seed=3, block=10, edit=lambda m: m.replace(graph_labels=None), tasks=(atom,))
    loader = loader_for(shard_set, suggest(shard_set))
    seen = 0
    for step in loader:
        for batch in step.batches:
            seen += batch.num_graphs
            assert batch.dense_graph_labels().shape == (loader.config.budget.graphs, 0)
            assert torch.isnan(batch.label_value_L).all()
    assert seen == 40


def test_a_budget_for_some_tasks_has_room_for_their_labels_only(wide_set):
    names = [task.name for task in wide_set.manifest.tasks_of("graph")]
    whole, some, none = (
        Budget.suggest(wide_set, atoms=512, list_labels=True, tasks=tasks) for tasks in (None, tuple(names[:20]), ())
    )
    assert whole.labels > some.labels > none.labels == 8
    assert whole == Budget.suggest(wide_set, atoms=512, list_labels=True, tasks=tuple(names))
