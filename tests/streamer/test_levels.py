"""Labels of bonds and of pairs of atoms in batches: each on its two atoms, in its direction, once an epoch."""

import pickle
from dataclasses import replace

import lookalikes as lk
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.molecules import Molecules
from molstream.shards.tasks import LEVELS, Task
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.errors import BudgetError, CallError, CursorError
from molstream.streamer.loader import Loader
from molstream.streamer.stats import StreamStats
from molstream.streamer.window import window_bytes

BONDS, PAIRS = ["bond_dir", "bond_order_sum"], ["distance", "flow"]
"""Of each, one task has a label for each direction: bond_dir, flow."""
TASKS = tuple(
    Task(name=f"{level}{k}", level=level, kind="regression", unit="1", source="made") for level in LEVELS for k in range(2)
)


@pytest.fixture(scope="module")
def own_set(tmp_path_factory) -> ShardSet:
    """A user's table with labels of all levels, of one and of two directions, built by the real build; all in one split."""
    folder = tmp_path_factory.mktemp("levels")
    look = lk.write_own(folder / "table", 150, 3)
    spec = TableSpec(
        dataset="table",
        smiles_column="mol",
        graph_columns=("y_*",),
        atom_columns=("charge_[12]",),
        bond_columns=("bond_*",),
        pair_columns=("distance", "flow"),
    )
    options = BuildOptions(tables=(spec,), atom_labels="f32", block_molecules=16)
    build([str(p) for p in look.paths], folder / "set", options, work=WorkOptions(max_reject_fraction=0.2))
    return ShardSet(folder / "set")


def label(molecules: Molecules) -> Molecules:
    """Random labels of every level in which a third is absent; each pair's differ by direction."""
    rng = np.random.default_rng(len(molecules))
    labels = {}
    for level in LEVELS:
        rows = int(molecules.label_ptr(level)[-1])
        column = rng.normal(size=(rows, 2, 2) if level in ("bond", "pair") else (rows, 2)).astype(np.float32)
        column[rng.random(column.shape) < 0.3] = np.nan
        labels[f"{level}_labels"] = column
    return molecules.replace(**labels)


@pytest.fixture(scope="module")
def made_set(random_set) -> ShardSet:
    """300 molecules of 1 to 30 atoms in blocks of 19, with labels of every level."""
    return random_set(300, seed=21, block=19, edit=label, tasks=TASKS)


def budget_for(shard_set: ShardSet, atoms: int = 256) -> Budget:
    return Budget.suggest(shard_set, atoms=atoms, pairs=True)


def loader_for(shard_set: ShardSet, budget: Budget | None = None, **options) -> Loader:
    names = ("num_lanes", "window_molecules", "oversize", "seed", "shuffle")
    config = {"num_lanes": 3, "window_molecules": 60} | {k: options.pop(k) for k in names if k in options}
    return Loader(shard_set, StreamConfig(budget=budget or budget_for(shard_set), **config), **({"with_ids": True} | options))


def stored_labels(shard_set: ShardSet, columns: dict[str, list[int]]) -> dict[int, dict]:
    """{id: {(level, way, from atom, to atom): labels}} of these tasks, as blocks hold them; no key where all are absent."""
    out = {}
    for block in shard_set.iter_blocks("train"):
        for k, number in enumerate(block.ids.tolist()):
            molecule, found = block.slice(k, k + 1), {}
            ends = {
                "bond": molecule.bond_atoms.tolist(),
                "pair": [(i, j) for j in range(int(molecule.num_atoms[0])) for i in range(j + 1)],
            }
            for level, places in ends.items():
                if columns.get(level):
                    rows = molecule.labels(level)[:, columns[level]]
                    assert len(rows) == len(places)
                    for (i, j), row in zip(places, rows, strict=True):
                        note(found, (level, "there", i, j), row[:, 0])
                        note(found, (level, "back", j, i), row[:, 1])
            out[number] = found
    return out


def note(found: dict, key: tuple, labels: np.ndarray) -> None:
    if not np.isnan(labels).all():
        assert key not in found
        # None is equal to itself
        found[key] = [None if np.isnan(x) else x for x in labels.tolist()]


def labels_of(batch) -> dict[int, dict]:
    """The same from a batch, edge by edge and pair by pair, by what its own index arrays say."""
    first_atom, graph_of = batch.atom_ptr_G.tolist(), batch.graph_of_atom_A.tolist()
    found: dict[int, dict] = {g: {} for g in range(batch.num_graphs)}
    bonds, (source, target) = batch.bond_labels_BT2.numpy(), batch.edge_index_2E.tolist()
    for e in np.flatnonzero(batch.edge_mask_E.numpy()).tolist():
        g, u, v = graph_of[source[e]], source[e], target[e]
        assert graph_of[v] == g < batch.num_graphs
        way = "there" if u < v else "back"
        note(found[g], ("bond", way, u - first_atom[g], v - first_atom[g]), bonds[e // 2, :, e % 2])
    if batch.pair_labels_PT2 is not None:
        seen = set()
        for (i, j), row in zip(batch.pair_index_2P.T.tolist(), batch.pair_labels_PT2.numpy(), strict=True):
            g = graph_of[j]
            if j == len(graph_of) - 1:
                assert i == j
                assert np.isnan(row).all()
                continue
            assert graph_of[i] == g < batch.num_graphs
            assert i <= j
            assert (i, j) not in seen
            seen.add((i, j))
            note(found[g], ("pair", "there", i - first_atom[g], j - first_atom[g]), row[:, 0])
            note(found[g], ("pair", "back", j - first_atom[g], i - first_atom[g]), row[:, 1])
        sizes = np.diff(batch.atom_ptr_G.numpy())[: batch.num_graphs]
        assert len(seen) == (sizes * (sizes + 1) // 2).sum(), "every pair has a place, whether it has a label or not"
    return {int(batch.ids[g]): labels for g, labels in found.items()}


def check_batch(batch, budget: Budget, num_tasks: dict[str, int]) -> None:
    """Shapes, padding and counts."""
    assert batch.bond_labels_BT2.shape == (budget.edges // 2, num_tasks["bond"], 2)
    assert torch.isnan(batch.bond_labels_BT2[batch.num_edges // 2 :]).all()
    assert torch.equal(batch.num_bond_labels_T.long(), (~torch.isnan(batch.bond_labels_BT2)).sum((0, 2)))
    assert batch.num_bond_labels_T.dtype == batch.num_pair_labels_T.dtype == torch.int32
    if budget.pairs is None:
        assert batch.pair_index_2P is batch.pair_labels_PT2 is None
        return
    assert (batch.pair_index_2P.dtype, batch.pair_index_2P.shape) == (torch.int32, (2, budget.pairs))
    assert (batch.pair_labels_PT2.dtype, batch.pair_labels_PT2.shape) == (torch.float32, (budget.pairs, num_tasks["pair"], 2))
    assert torch.equal(batch.num_pair_labels_T.long(), (~torch.isnan(batch.pair_labels_PT2)).sum((0, 2)))


def check_epoch(loader: Loader, stored: dict[int, dict]) -> None:
    """Every molecule once, with all its labels of bonds and pairs and no others."""
    num_tasks = {level: len(tasks) for level, tasks in loader.selection.tasks.items()}
    seen = {}
    for step in loader:
        for batch in step.batches:
            check_batch(batch, loader.config.budget, num_tasks)
            # ids of a masked pack are none
            found = labels_of(batch) if batch.num_graphs else {}
            assert not seen.keys() & found.keys()
            seen |= found
    assert seen == stored


def test_a_table_with_labels_of_all_levels_streams_each_to_its_atoms(own_set):
    loader = loader_for(own_set, budget_for(own_set, 128))
    tasks = {level: [t.name for t in loader.selection.tasks[level]] for level in LEVELS}
    assert (sorted(tasks["bond"]), sorted(tasks["pair"])) == (BONDS, PAIRS)
    stored = stored_labels(own_set, {"bond": [0, 1], "pair": [0, 1]})
    two_ways = {
        (level, k)
        for found in stored.values()
        for (level, way, *_), row in found.items()
        for k in (0, 1)
        if way == "back" and row[k] is not None
    }
    assert {tasks[level][k] for level, k in two_ways} == {"bond_dir", "flow"}
    check_epoch(loader, stored)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.sampled_from(["own", "made"]),
    some=st.sets(st.integers(0, 7)),
    atoms=st.sampled_from([40, 64, 256, 1024]),
    extra=st.integers(0, 20),
    lanes=st.integers(1, 5),
    window=st.integers(1, 200),
    threads=st.integers(1, 3),
    shuffle=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_budget_lanes_and_selection_give_the_same_labels(
    own_set, made_set, which, some, atoms, extra, lanes, window, threads, shuffle, seed
):
    shard_set = {"own": own_set, "made": made_set}[which]
    names = [[t.name for t in shard_set.manifest.tasks_of(level)] for level in LEVELS]
    columns = {level: sorted(k % 2 for k in some if k // 2 == n) for n, level in enumerate(LEVELS)}
    budget = budget_for(shard_set, atoms)
    budget = replace(budget, pairs=budget.pairs + 8 * extra)
    loader = loader_for(
        shard_set,
        budget,
        tasks=tuple(names[k // 2][k % 2] for k in some),
        num_lanes=lanes,
        window_molecules=window,
        num_threads=threads,
        shuffle=shuffle,
        seed=seed,
    )
    check_epoch(loader, stored_labels(shard_set, columns))


def test_without_pairs_in_the_budget_bonds_come_alone(made_set):
    loader = loader_for(made_set, Budget.suggest(made_set, atoms=256), levels=("graph", "atom", "bond"))
    assert sorted(loader.selection.groups) == ["atom_labels", "bond_labels", "graph_labels", "ids", "sizes", "structure"]
    check_epoch(loader, stored_labels(made_set, {"bond": [0, 1]}))


def test_no_tasks_of_these_levels_take_no_memory(made_sets):
    shard_set = made_sets["many"]
    loader = loader_for(shard_set, Budget.suggest(shard_set, atoms=256))
    batch = next(iter(loader)).batches[0]
    assert batch.bond_labels_BT2.shape[1:] == (0, 2)
    assert batch.num_bond_labels_T.shape == batch.num_pair_labels_T.shape == (0,)
    # pairs without labels of pairs: their atoms are there
    budget = budget_for(shard_set)
    batch = next(iter(loader_for(shard_set, budget))).batches[0]
    assert batch.pair_labels_PT2.shape == (budget.pairs, 0, 2)
    assert int((batch.pair_index_2P[1] < budget.atoms - 1).sum()) == sum(
        n * (n + 1) // 2 for n in batch.atom_ptr_G.diff()[: batch.num_graphs].tolist()
    )


def test_a_batch_keeps_its_labels_when_it_is_pickled_or_moved(made_set):
    names = ("bond_labels_BT2", "num_bond_labels_T", "pair_index_2P", "pair_labels_PT2", "num_pair_labels_T")
    batch = next(iter(loader_for(made_set))).batches[0]
    again, moved = pickle.loads(pickle.dumps(batch)), batch.to("meta")
    for name in names:
        field = getattr(batch, name)
        assert np.array_equal(field, getattr(again, name), equal_nan=field.is_floating_point()), name
        assert (getattr(moved, name).dtype, getattr(moved, name).shape) == (field.dtype, field.shape), name
        assert getattr(again, name).untyped_storage().data_ptr() == again.storage.untyped_storage().data_ptr()
    assert int(batch.num_pair_labels_T.sum()) > int(batch.num_bond_labels_T.sum()) > 0


def test_rates_count_labels_of_all_levels(made_set):
    loader = loader_for(made_set)
    stats = StreamStats(loader)
    stats.begin()
    for step in loader:
        stats.add(step)
    expected = sum(np.count_nonzero(~np.isnan(b.labels(level))) for b in made_set.iter_blocks() for level in LEVELS)
    assert stats.read()["labels"] == expected


# what has no room


def test_labels_of_pairs_without_room_for_them_are_refused_with_what_to_do(made_set):
    budget = Budget.suggest(made_set, atoms=256)
    match = (
        rf"tasks: pair0 is of level pair, and budget {budget} has no pairs; give one with \(G,A,E,pairs=N; "
        rf"Budget\.suggest\(pairs=True\) finds it\), or leave out the level or its 2 tasks$"
    )
    for options in ({}, {"tasks": ("pair*", "graph0")}, {"levels": ("pair",)}):
        with pytest.raises(CallError, match=match):
            loader_for(made_set, budget, **options)
    with pytest.raises(CallError, match="or leave out the level or its 1 tasks"):
        loader_for(made_set, budget, tasks=("*1",))
    # listed labels leave no room either
    with pytest.raises(CallError, match="has no pairs; give one"):
        loader_for(made_set, Budget.suggest(made_set, atoms=256, list_labels=True))
    for options in ({"levels": ("graph", "atom", "bond")}, {"tasks": ("graph*", "bond0")}, {"levels": ()}):
        assert len(loader_for(made_set, budget, **options)) > 0


def test_a_molecule_with_more_pairs_than_a_pack_is_named_before_anything_is_read(made_set, monkeypatch):
    sizes = {int(i): int(n) for b in made_set.iter_blocks("train") for i, n in zip(b.ids, b.num_atoms, strict=True)}
    monkeypatch.setattr(ShardSet, "read_members", lambda *_: pytest.fail("read"))
    budget = replace(budget_for(made_set), pairs=464)
    with pytest.raises(
        BudgetError, match=r"molecule \d+ of split train has 465 pairs, usable are 464; leave such .* 465 pairs"
    ) as error:
        loader_for(made_set, budget)
    assert sizes[int(str(error.value).split("molecule ")[1].split()[0])] == max(sizes.values()) == 30
    assert str(budget_for(made_set)) in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [8, 104, 136, 152])
@pytest.mark.parametrize("with_ids", [True, False])
def test_molecules_with_too_many_pairs_are_left_out_and_named(made_set, pairs, with_ids):
    budget = replace(budget_for(made_set, 64), pairs=pairs)
    sizes = {int(i): int(n) for b in made_set.iter_blocks("train") for i, n in zip(b.ids, b.num_atoms, strict=True)}
    too_large = {i for i, n in sizes.items() if n * (n + 1) // 2 > pairs}
    loader = loader_for(made_set, budget, oversize="skip", with_ids=with_ids)
    assert 0 < loader.plan.num_oversize == len(too_large) < 300
    skipped, seen = [], 0
    stored = stored_labels(made_set, {"bond": [0, 1], "pair": [0, 1]})
    for step in loader:
        skipped += step.skipped.tolist()
        for batch in step.batches:
            seen += batch.num_graphs
            if with_ids and batch.num_graphs:
                for number, found in labels_of(batch).items():
                    assert found == stored[number]
    assert sorted(skipped) == sorted(too_large)
    assert seen == 300 - len(too_large)


def test_a_budget_that_no_molecule_has_few_enough_pairs_for_is_refused(random_set):
    large = random_set(200, seed=5, block=50, edit=lambda m: m.take(np.flatnonzero(m.num_atoms > 10)))
    with pytest.raises(BudgetError, match="budget 64,64,128,pairs=64: no molecule of split train is small enough for a pack"):
        loader_for(large, Budget(64, 64, 128, pairs=64), oversize="skip")


def test_few_pairs_in_a_pack_take_more_packs_and_all_find_room(made_set):
    wide, narrow = (loader_for(made_set, replace(budget_for(made_set), pairs=pairs)) for pairs in (2000, 496))
    assert wide.plan.num_packs < narrow.plan.num_packs
    assert sum(batch.num_graphs for step in narrow for batch in step.batches) == 300


# budgets and cursors

SLOTS = st.integers(1, 200).map(lambda n: 8 * n)


@given(SLOTS, SLOTS, SLOTS, st.one_of(st.none(), SLOTS), st.booleans())
def test_a_budget_is_read_back_from_its_text(graphs, atoms, edges, spare, is_pairs):
    budget = Budget(graphs, atoms, edges, **({"pairs" if is_pairs else "labels": spare}))
    assert Budget.parse(str(budget)) == budget
    assert ("pairs=" in str(budget)) == (is_pairs and spare is not None)


@pytest.mark.parametrize(
    "text",
    [
        "64,1024,2304,pairs=",
        "64,1024,2304,pairs=x",
        "64,1024,2304pairs=16",
        "64,1024,pairs=16",
        "64,1024,2304,8,pairs=16",
        "64,1024,2304,8pairs=16",
        "pairs=16,64,1024,2304",
        "64,1024,2304,pairs=16,8",
        "64,1024,2304,pairs=16,pairs=16",
        "64,1024,2304,pairs==16",
        "64,1024,2304,pears=16",
        "pairs=16",
    ],
)
def test_other_texts_are_no_budget(text):
    with pytest.raises(BudgetError, match=r"budget: got .*, expected three numbers graphs,atoms,edges, .* or pairs=N") as error:
        Budget.parse(text)
    assert "\n" not in str(error.value)


def test_listed_labels_and_pairs_at_once_are_refused():
    with pytest.raises(BudgetError, match=r"budget: got 16 labels and 24 pairs, expected one of both at most$"):
        Budget(64, 64, 64, 16, 24)
    assert Budget(64, 64, 64).pairs is None


@given(st.integers(1, 3000))
def test_the_largest_molecule_of_a_budget_is_the_largest_whose_pairs_fit(eights):
    pairs = 8 * eights
    n = Budget(8, 65528, 8, pairs=pairs).max_atoms
    assert n * (n + 1) // 2 <= pairs < (n + 1) * (n + 2) // 2
    assert Budget(8, 16, 8, pairs=pairs).max_atoms == min(n, 15)


def test_suggested_pairs_are_a_tenth_over_the_mean_and_two_largest_molecules_of_the_densest_split(own_set, made_set):
    for shard_set in (own_set, made_set):
        for atoms in (64, 1024):
            budget = budget_for(shard_set, atoms)
            assert replace(budget, pairs=None) == Budget.suggest(shard_set, atoms=atoms)
            expected = []
            for split in shard_set.splits:
                sizes = np.concatenate([block.num_atoms for block in shard_set.iter_blocks(split)])
                mean = budget.atoms * (sizes * (sizes + 1) / 2).mean() / sizes.mean()
                expected.append(1.1 * mean + sizes.max() * (sizes.max() + 1))
            assert abs(budget.pairs - max(expected)) <= 10


def test_the_index_knows_the_pairs_of_each_block(own_set, made_sets):
    for shard_set in (own_set, made_sets["tails"], made_sets["singles"]):
        pairs = shard_set.index.histogram().num_pairs()
        expected = [sum(n * (n + 1) // 2 for n in shard_set.read_block(k).num_atoms.tolist()) for k in range(len(pairs))]
        assert (pairs.dtype, pairs.tolist()) == (np.int64, expected)


def test_windows_are_announced_with_their_labels(made_set):
    budget = budget_for(made_set)
    rows = {"molecule": 10, "atom": 100, "bond": 110, "pair": 700}
    size = {
        levels: window_bytes(made_set, rows, budget=budget, selection=loader_for(made_set, levels=levels).selection)
        for levels in ((), ("bond",), ("pair",))
    }
    assert 0 <= size["bond",] - size[()] - 110 * 2 * 2 * 4 < 64
    assert 0 <= size["pair",] - size[()] - 700 * 2 * 2 * 4 < 64
    # all of the set in one window
    loader = loader_for(made_set, window_molecules=300)
    pairs = int(made_set.index.histogram().num_pairs().sum())
    assert loader.window_bytes() >= pairs * 2 * 2 * 4


def test_a_cursor_of_another_number_of_pairs_is_refused(made_set):
    budget = budget_for(made_set)
    state = loader_for(made_set, budget).state_dict()
    for other, match in (
        (
            replace(budget, pairs=budget.pairs + 8),
            rf"budget .*'pairs': {budget.pairs}\}} there, .*'pairs': {budget.pairs + 8}\}} here",
        ),
        (replace(budget, pairs=None), rf"budget .*'pairs': {budget.pairs}\}} there, .*'labels': None\}} here"),
    ):
        loader = loader_for(made_set, other, levels=("graph",))
        with pytest.raises(CursorError, match="cursor of another stream: " + match):
            loader.load_state_dict(state)
        with pytest.raises(CursorError, match="cursor of another stream: budget"):
            loader_for(made_set, budget).load_state_dict(loader.state_dict())


def test_the_tasks_are_no_matter_of_the_cursor(made_set):
    """The molecules of a pack follow from the budget alone, whatever labels are read."""
    first = loader_for(made_set)
    next(iter(first))
    other = loader_for(made_set, levels=("graph",))
    other.load_state_dict(first.state_dict())
    assert other.step == 1
