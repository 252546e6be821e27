"""The plan: a pure function of the index, known before a byte of payload is read."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from molstream.kernels.packing.packs import num_packs
from molstream.shards.errors import FormatError
from molstream.shards.format.index import Histogram
from molstream.shards.molecules import Molecules
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader
from molstream.streamer.plan import Plan

# fmt: off
GOLDEN_BLOCKS = [16, 24, 14, 30, 22, 10, 21, 15, 25, 1, 17, 7, 19, 27, 23, 6, 33, 4, 31, 12, 34, 29,
    35, 8, 9, 13, 3, 26, 18, 32, 20, 28, 5, 0, 2, 11]
GOLDEN_PACKS = [5, 8, 6, 6, 7, 8]
GOLDEN_LANE = [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 7), (4, 0), (4, 3), (4, 6), (5, 2), (5, 5), None]
# fmt: on


def config_for(shard_set, **options) -> StreamConfig:
    return StreamConfig(budget=Budget.suggest(shard_set, atoms=256), **options)


@pytest.mark.parametrize("shape", ["many", "one_block", "singles", "lonely", "tails"])
@pytest.mark.parametrize("lanes", [1, 3, 8, 12])
@pytest.mark.parametrize("window", [1, 40, 10_000])
def test_lanes_end_within_one_pack_of_each_other(made_sets, shape, lanes, window):
    plan = Plan.make(made_sets[shape], config_for(made_sets[shape], num_lanes=lanes, window_molecules=window), 0)
    lengths = [plan.lane_length(lane) for lane in range(lanes)]
    assert max(lengths) - min(lengths) <= 1
    assert sum(lengths) == plan.num_packs
    assert plan.num_steps == max(lengths)
    assert plan.num_masked_packs == lanes * plan.num_steps - plan.num_packs


def test_the_number_of_packs_comes_from_the_index_and_holds_for_the_payload(made_sets):
    shard_set = made_sets["tails"]
    config = config_for(shard_set, window_molecules=60)
    plan = Plan.make(shard_set, config, 0)
    for w in range(plan.num_windows):
        blocks = [shard_set.read_block(int(b), ("sizes",)) for b in plan.window_blocks(w)]
        sizes, bonds = (np.concatenate([getattr(b, n) for b in blocks]) for n in ("num_atoms", "num_bonds"))
        expected = num_packs(sizes, bonds, capacity=config.budget.capacity)
        assert plan.window_packs[w] == expected


def test_planning_reads_no_shard(made_sets, monkeypatch):
    def refuse(*args):
        raise AssertionError("payload was read")

    monkeypatch.setattr(type(made_sets["many"]), "read_members", refuse)
    assert Plan.make(made_sets["many"], config_for(made_sets["many"]), 0).num_steps > 0


def test_the_order_is_frozen(made_sets):
    """Golden vector of order version 3: if this changes, ORDER_VERSION must, and every cursor in the world is void."""
    shard_set = copy.copy(made_sets["many"])
    # whatever the format makes of the same molecules
    shard_set.manifest = replace(shard_set.manifest, fingerprint="0123456789abcdef" * 4)
    plan = Plan.make(shard_set, config_for(made_sets["many"], num_lanes=3, window_molecules=40, seed=5), 2)
    assert plan.blocks.tolist() == GOLDEN_BLOCKS
    assert plan.window_packs.tolist() == GOLDEN_PACKS
    assert [s and (s.window, s.pack) for s in plan.iter_lane(1)] == GOLDEN_LANE


@pytest.mark.parametrize(
    ("budget", "match"),
    [
        ("512,32,512", r"molecule \d+ of split train has \d+ atoms, usable are 31; leave .* or give at least \d+ atoms"),
        ("512,256,64", r"molecule \d+ of split train has \d+ edges, usable are 64; leave .* or give at least \d+ edges"),
    ],
)
def test_a_budget_below_the_largest_molecule_is_refused_by_name(made_sets, budget, match):
    with pytest.raises(ValueError, match=match):
        Plan.make(made_sets["tails"], StreamConfig(budget=Budget.parse(budget)), 0)


@pytest.mark.parametrize("text", ["", "1,2", "8,8,8,7", "8,8,8,8,8", "a,b,c", "8,8,7", "0,8,8", "-8,8,8", "8.0,8,8"])
def test_a_malformed_budget_is_refused(text):
    with pytest.raises(ValueError, match="budget"):
        Budget.parse(text)


@pytest.mark.parametrize("atoms", [256, 1024])
def test_suggested_budgets_let_atoms_fill_up(made_sets, atoms):
    shard_set = made_sets["many"]
    budget = Budget.suggest(shard_set, atoms=atoms)
    plan = Plan.make(shard_set, StreamConfig(budget=budget, num_lanes=1), 0)
    needed = shard_set.index.counts["num_atoms"].sum() / budget.capacity.atoms
    assert plan.num_packs <= 1.12 * needed + 1


def with_a_dense_molecule(molecules: Molecules) -> Molecules:
    """The last one gets each of its bonds three times over."""
    first, atoms = int(molecules.bond_ptr[-2]), int(molecules.num_atoms[-1])
    pairs = np.array([(i, j) for j in range(atoms) for i in range(j) for _ in range(3)], np.uint16).reshape(-1, 2)
    return molecules.replace(
        bond_ptr=np.append(molecules.bond_ptr[:-1], first + len(pairs)),
        bond_atoms=np.concatenate([molecules.bond_atoms[:first], pairs]),
        bond_codes=np.append(molecules.bond_codes[:first], np.zeros(len(pairs), np.uint8)),
    )


@pytest.mark.parametrize("oversize", ["error", "skip"])
def test_one_molecule_with_very_many_bonds_does_not_make_all_packs_empty(random_set, oversize):
    shard_set = random_set(3000, seed=8, block=300, edit=with_a_dense_molecule)
    most = int(shard_set.index.counts["max_bonds"].max())
    assert most > 500
    budget = Budget(128, 512, 8 * (2 * most // 8 + 8))
    config = StreamConfig(budget=budget, num_lanes=1, oversize=oversize, window_molecules=500)
    plan = Plan.make(shard_set, config, 0)
    # and none but its own window pays for it
    for w in range(plan.num_windows):
        blocks = [shard_set.read_block(int(b), ("sizes",)) for b in plan.window_blocks(w)]
        sizes, bonds = (np.concatenate([getattr(b, n) for b in blocks]) for n in ("num_atoms", "num_bonds"))
        if bonds.max() < most:
            assert plan.window_packs[w] == num_packs(sizes, bonds, capacity=budget.capacity)
            assert plan.window_packs[w] <= sizes.sum() / budget.capacity.atoms + 1.5
    assert shard_set.index.counts["num_atoms"].sum() / (plan.num_packs * config.budget.capacity.atoms) > 0.75
    assert sum(b.num_graphs for step in Loader(shard_set, config) for b in step.batches) == 3000


@pytest.mark.parametrize("what", ["one more", "larger"])
def test_counts_of_sizes_that_are_not_those_of_the_blocks_are_refused_before_anything_is_read(made_sets, monkeypatch, what):
    """Packs rest on them: with consistent hashes an index may still say something else."""
    shard_set = made_sets["many"]
    whole = shard_set.index.histogram()
    wrong = whole.count.copy(), whole.size.copy()
    wrong[what == "larger"][0] += 1
    monkeypatch.setattr(type(shard_set.index), "histogram", lambda self: Histogram(whole.ptr, wrong[1], wrong[0]))
    match = (
        rf"block 0: num_{'atoms' if what == 'larger' else 'molecules'} is \d+, the index counts sizes of \d+; restore the index"
    )
    monkeypatch.setattr(type(shard_set), "read_members", lambda *_: pytest.fail("read before the index was checked"))
    with pytest.raises(FormatError, match=match):
        next(iter(Loader(shard_set, StreamConfig(budget=Budget(64, 256, 640)))))


def with_a_largest(atoms: int, bonds: int):
    """Molecules of up to 9 atoms, and one of so many atoms and bonds."""

    def edit(molecules: Molecules) -> Molecules:
        pairs = [(i, j) for j in range(atoms) for i in range(j)][:bonds]
        codes = np.zeros((atoms, molecules.atom_codes.shape[1]), np.uint8)
        return molecules.replace(
            atom_ptr=np.append(molecules.atom_ptr[:-1], molecules.atom_ptr[-2] + atoms),
            bond_ptr=np.append(molecules.bond_ptr[:-1], molecules.bond_ptr[-2] + bonds),
            atom_codes=np.concatenate([molecules.atom_codes[: molecules.atom_ptr[-2]], codes]),
            bond_atoms=np.concatenate([molecules.bond_atoms[: molecules.bond_ptr[-2]], np.array(pairs, np.uint16)]),
            bond_codes=np.append(molecules.bond_codes[: molecules.bond_ptr[-2]], np.zeros(bonds, np.uint8)),
            atom_labels=np.zeros((molecules.atom_ptr[-2] + atoms, 1), np.float32),
        )

    return edit


@pytest.mark.parametrize(
    ("atoms", "bonds", "refused"), [(31, 48, None), (32, 48, "atoms"), (31, 49, "edges"), (33, 40, "atoms"), (30, 50, "edges")]
)
def test_what_just_fits_is_packed_and_what_just_does_not_is_refused(random_set, atoms, bonds, refused):
    """Of 32 atoms the last is padding; of 96 edges none is."""
    shard_set = random_set(40, seed=14, block=10, largest=9, edit=with_a_largest(atoms, bonds))
    error, skip = (StreamConfig(budget=Budget(16, 32, 96), oversize=o, num_lanes=2) for o in ("error", "skip"))
    if refused:
        size = {"atoms": f"{atoms} atoms, usable are 31", "edges": f"{2 * bonds} edges, usable are 96"}[refused]
        with pytest.raises(ValueError, match=size):
            Loader(shard_set, error)
    else:
        assert sum(b.num_graphs for step in Loader(shard_set, error) for b in step.batches) == 40
    steps = list(Loader(shard_set, skip))
    assert sum(b.num_graphs for step in steps for b in step.batches) == 40 - bool(refused)
    assert sum(len(step.skipped) for step in steps) == bool(refused)
