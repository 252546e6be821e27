"""Elastic determinism: the ledger of a stream in one piece is that of its pieces, at any world sizes, threads and cuts."""

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.format.reader import ShardSet
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.plan import Plan

BUDGET = "8,72,176"
WINDOW = 8
"""Two molecules a pack, nine packs a window, 21 windows: one or two of each lane's own, the others shared."""


@dataclass
class Piece:
    """One call a rank, from a cursor to another."""

    ledger: pa.Table
    """Of all ranks."""
    facts: list[dict]
    """By rank: the JSON."""
    states: list[str]
    """By rank: the cursor."""

    def packs(self) -> dict[tuple, list[int]]:
        """{(epoch, step, lane): ids in the order of the pack}."""
        return packs_of(self.ledger)


def packs_of(ledger: pa.Table) -> dict[tuple, list[int]]:
    packs: dict[tuple, list[int]] = {}
    for epoch, step, lane, _, molecule in zip(*ledger.to_pydict().values(), strict=True):
        packs.setdefault((epoch, step, lane), []).append(molecule)
    return packs


@pytest.fixture(scope="module")
def grid_set(small_blocks) -> Path:
    """340 molecules."""
    return small_blocks(300, 340, shard_molecules=64)


@pytest.fixture(scope="module")
def run_piece(grid_set, succeed, tmp_path_factory):
    """run_piece(lanes, world, state=None, steps=None, threads=2, ...) -> Piece: every rank from one cursor, so many steps."""
    folder, names = tmp_path_factory.mktemp("pieces"), count()

    def run(*, lanes: int, world: int, state: str | None = None, steps: int | None = None, threads: int = 2, seed: int = 3):
        tables, facts, states = [], [], []
        for rank in range(world):
            ledger, cursor = (folder / f"{next(names)}" for _ in range(2))
            if state is not None:
                cursor.write_text(state)
            argv = ["--lanes", lanes, "--budget", BUDGET, "--window-molecules", WINDOW, "--seed", seed, "--epochs", 2, "--json"]
            argv += ["--world-size", world, "--rank", rank, "--threads", threads, "--ledger", ledger, "--state", cursor]
            argv += [] if steps is None else ["--max-steps", steps]
            facts.append(succeed("stream", grid_set, *argv).json)
            tables.append(pq.read_table(ledger))
            states.append(cursor.read_text())
        return Piece(pa.concat_tables(tables), facts, states)

    return run


@pytest.fixture(scope="module")
def whole(run_piece):
    """whole(lanes) -> the stream of two epochs in one piece, on one rank, with one thread."""
    made: dict[int, Piece] = {}

    def get(lanes: int) -> Piece:
        if lanes not in made:
            made[lanes] = run_piece(lanes=lanes, world=1, threads=1)
        return made[lanes]

    return get


def plan_of(folder: Path, lanes: int, epoch: int = 0, seed: int = 3) -> Plan:
    config = StreamConfig(budget=Budget.parse(BUDGET), num_lanes=lanes, window_molecules=WINDOW, seed=seed)
    return Plan.make(ShardSet(folder), config, epoch)


def check_joined(pieces: list[Piece], expected: Piece) -> None:
    """The pieces' packs are those of the whole, each once, molecule by molecule; ranks agree on steps and cursors."""
    got: dict[tuple, list[int]] = {}
    for piece in pieces:
        packs = piece.packs()
        assert not got.keys() & packs.keys(), "a pack that came twice"
        got |= packs
        assert len({facts["steps"] for facts in piece.facts}) == 1, "every rank runs the same number of steps"
        assert len({facts["packs"] for facts in piece.facts}) == 1, "every rank runs the same number of packs"
        assert len(set(piece.states)) == 1, "the cursor knows nothing of ranks"
    assert got == expected.packs()


@pytest.mark.parametrize(("lanes", "world"), [(8, 3), (12, 8)])
def test_any_world_size_gives_the_same_packs_and_masks_what_is_short(run_piece, whole, grid_set, lanes, world):
    piece = run_piece(lanes=lanes, world=world, threads=1 + world % 3)
    check_joined([piece], whole(lanes))
    plans = [plan_of(grid_set, lanes, epoch) for epoch in range(2)]
    steps, packs = sum(p.num_steps for p in plans), sum(p.num_packs for p in plans)
    packs_per_step = -(-lanes // world)
    assert [facts["packs"] for facts in piece.facts] == [steps * packs_per_step] * world
    # ranks with a lane less run masked packs in its place
    assert sum(facts["masked_packs"] for facts in piece.facts) == world * steps * packs_per_step - packs
    assert sum(facts["molecules"] for facts in piece.facts) == whole(lanes).facts[0]["molecules"]


CHAINS = {
    "in the first window, then in the next": [(1, lambda s: 1), (2, lambda s: 1), (3, None)],
    "in the middle, then at the edge": [(2, lambda s: s // 2), (4, lambda s: s - s // 2), (8, None)],
    "inside the last window, twice, then at the edge": [(3, lambda s: s - 3), (8, lambda s: 1), (1, lambda s: 2), (4, None)],
    "before the last step, then over the edge": [(8, lambda s: s - 1), (3, lambda s: 2), (2, None)],
    "at the edge, then after it": [(4, lambda s: s), (8, lambda s: 1), (1, None)],
    "nothing, then nothing, then all": [(1, lambda s: 0), (3, lambda s: 0), (4, None)],
    "in the second epoch": [(2, lambda s: s + 2), (3, lambda s: 1), (8, None)],
}
"""World size and number of steps of each piece, of an epoch of s steps; None: to the end of the second epoch."""


FAST = {"in the middle, then at the edge": 8, "inside the last window, twice, then at the edge": 12}
"""Chain -> lanes of those that the fast suite has."""


@pytest.mark.parametrize(
    ("chain", "lanes"),
    [
        pytest.param(chain, lanes, marks=[] if FAST.get(chain) == lanes else [pytest.mark.slow])
        for chain in CHAINS
        for lanes in (8, 12)
    ],
)
def test_a_stream_in_pieces_at_other_world_sizes_is_the_stream_in_one(run_piece, whole, grid_set, lanes, chain):
    num_steps = plan_of(grid_set, lanes).num_steps
    state, pieces = None, []
    for k, (world, number) in enumerate(CHAINS[chain]):
        steps = number and number(num_steps)
        pieces.append(run_piece(lanes=lanes, world=world, state=state, steps=steps, threads=1 + k))
        assert steps is None or {facts["steps"] for facts in pieces[-1].facts} == {steps}
        # whichever rank wrote it
        state = pieces[-1].states[-1 if k % 2 else 0]
    check_joined(pieces, whole(lanes))
    assert json.loads(state)["epoch"] == 2


@pytest.mark.parametrize("world", [1, 3])
def test_molecules_left_out_come_once_an_epoch_over_all_ranks_and_pieces(succeed, grid_set, tmp_path, world):
    """Those with 24 atoms and more do not fit; cut inside windows whose first pack, which reports them, has gone."""
    shard_set = ShardSet(grid_set)
    sizes = {
        int(i): int(n)
        for block in shard_set.iter_blocks("train", ("sizes", "ids"))
        for i, n in zip(block.ids, block.num_atoms, strict=True)
    }
    too_large = sorted(i for i, n in sizes.items() if n > 23)
    assert 20 < len(too_large) < len(sizes) - 20
    argv = ["--lanes", 4, "--budget", "8,24,176", "--window-molecules", WINDOW, "--epochs", 2, "--json"]
    argv += ["--oversize", "skip", "--world-size", world]
    rows, skipped = [], 0
    for rank in range(world):
        steps: list[int | None] = [1, 2, None]
        for k, number in enumerate(steps):
            ledger = tmp_path / f"{rank}-{k}.parquet"
            some = [] if number is None else ["--max-steps", number]
            done = succeed("stream", grid_set, *argv, "--rank", rank, "--state", tmp_path / f"{rank}", "--ledger", ledger, *some)
            assert f"{len(too_large):,} molecules have more than 23 atoms and are left out" in done.err
            table = pq.read_table(ledger)
            rows += zip(*(table[name].to_pylist() for name in ("epoch", "lane", "id")), strict=True)
            mine = np.count_nonzero(table["lane"].to_numpy() == -1)
            assert done.json["skipped_molecules"] == mine
            assert done.json["molecules"] == table.num_rows - mine
            assert ("left out, larger than the budget: " in done.err) == (mine > 0)
            skipped += mine
    for epoch in range(2):
        assert sorted(i for e, lane, i in rows if e == epoch and lane == -1) == too_large
        assert sorted(i for e, lane, i in rows if e == epoch and lane >= 0) == sorted(sizes.keys() - set(too_large))
    assert skipped == 2 * len(too_large)
