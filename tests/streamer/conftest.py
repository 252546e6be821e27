"""Shard sets of made-up molecules, written with the real writer, for tests of order."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from molstream.shards import schema
from molstream.shards.columns import COLUMN_GROUPS, computed_groups, groups_of
from molstream.shards.format.block import LABEL_DTYPES
from molstream.shards.format.codings import arrays_of
from molstream.shards.format.index import encode_index
from molstream.shards.format.manifest import INDEX, MANIFEST, Manifest, Statistics, fingerprint
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.statistics import count_structure
from molstream.shards.format.writer import write_shard
from molstream.shards.molecules import Molecules, offsets
from molstream.shards.store.writing import write_bytes
from molstream.shards.tasks import Task, TaskSet

TASKS = (
    Task(name="g", level="graph", kind="regression", unit="1", source="made"),
    Task(name="a", level="atom", kind="regression", unit="1", source="made"),
)


def random_molecules(num: int, *, seed: int, largest: int = 30) -> Molecules:
    """Chains with a few ring closures; the graph label is the id, atom labels count atoms through the set."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, largest + 1, num)
    bonds, bond_sizes = [], []
    for n in sizes:
        pairs = {(i - 1, i) for i in range(1, n)} | {tuple(sorted(rng.choice(n, 2, replace=False))) for _ in range(n // 12)}
        bonds += sorted(pairs, key=lambda p: (p[1], p[0]))
        bond_sizes.append(len(pairs))
    total = int(sizes.sum())
    ids = rng.permutation(10 * num)[:num].astype(np.uint64)
    smiles = np.empty(num, object)
    smiles[:] = ["C" * int(n) for n in sizes]
    codes = np.stack([rng.integers(0, f.num_codes, total) for f in schema.ATOM_FEATURES], axis=1).astype(np.uint8)
    atom_labels = np.arange(total, dtype=np.float32)[:, None].copy()
    atom_labels[rng.random(total) < 0.2] = np.nan
    return Molecules(
        atom_ptr=offsets(sizes),
        bond_ptr=offsets(np.array(bond_sizes)),
        atom_codes=codes,
        bond_atoms=np.array(bonds, np.uint16).reshape(-1, 2),
        bond_codes=rng.integers(0, schema.NUM_BOND_CODES, len(bonds)).astype(np.uint8),
        graph_labels=ids.astype(np.float32)[:, None],
        atom_labels=atom_labels,
        ids=ids,
        smiles=smiles,
    )


def write_set(
    folder: Path,
    molecules: Molecules,
    *,
    block: int,
    blocks_per_shard: int = 4,
    tasks: tuple[Task, ...] = TASKS,
    num_val: int = 0,
) -> ShardSet:
    """Write `molecules` as the train split of a shard set, the last `num_val` as split val; encodings they have are stored."""
    folder.mkdir()
    num_train = len(molecules) - num_val
    rows, totals, labels = [], {}, {}
    for split, first, last in (("train", 0, num_train), ("val", num_train, len(molecules)))[: 1 + bool(num_val)]:
        here = molecules.take(np.arange(first, last))
        parts = [here.take(np.arange(i, min(i + block, len(here)))) for i in range(0, len(here), block)]
        for number, i in enumerate(range(0, len(parts), blocks_per_shard)):
            rows += write_shard(folder, split, number, parts[i : i + blocks_per_shard], label_dtypes=LABEL_DTYPES)[0]
        sizes = {"molecules": len(here), "atoms": int(here.atom_ptr[-1]), "bonds": int(here.bond_ptr[-1])}
        totals[split] = {"shards": rows[-1]["shard"] + 1, "blocks": len(parts)} | sizes
        for level in {task.level for task in tasks}:
            column = here.labels(level)
            counts = np.count_nonzero(~np.isnan(column), axis=(0, *range(2, column.ndim)))
            names = [task.name for task in tasks if task.level == level]
            for name, count in zip(names, counts, strict=True):
                labels.setdefault(name, {})[split] = int(count)
    index = encode_index(rows)
    write_bytes(folder / INDEX, index)
    num_tasks = Counter(task.level for task in tasks)
    stored = [name for name in computed_groups() if COLUMN_GROUPS[name].columns[0].name in molecules.columns]
    manifest = Manifest(
        fingerprint=fingerprint(
            tasks, schema.ATOM_FEATURES, schema.BOND_FEATURES, [(r["split"], r["content_sha256"]) for r in rows]
        ),
        index_sha256=hashlib.sha256(index).hexdigest(),
        rejects_sha256="",
        tasks=tasks,
        task_sets=tuple(TaskSet(name=t.name, level=t.level, kind=t.kind, source=t.source, tasks=(t.name,)) for t in tasks),
        atom_features=schema.ATOM_FEATURES,
        bond_features=schema.BOND_FEATURES,
        column_groups={g: arrays_of(g) for g in groups_of(num_tasks, pe=stored)},
        statistics={t.name: Statistics(count=1, mean=0.0, std=1.0, min=0.0, max=0.0, quantiles={}) for t in tasks},
        splits=totals,
        labels=labels,
        dropped_labels={},
        rejects={},
        histograms=count_structure(molecules),
        join=None,
        provenance={"inputs": [], "options": {"tables": []}, "splits": {"rule": "made"}},
    )
    manifest.write(folder / MANIFEST)
    return ShardSet(folder)


@pytest.fixture(scope="session")
def made_sets(tmp_path_factory) -> dict[str, ShardSet]:
    """Sets of several shapes: many small blocks, one block, blocks of one molecule, one molecule, heavy tails."""
    root = tmp_path_factory.mktemp("sets")
    return {
        "many": write_set(root / "many", random_molecules(601, seed=1), block=17),
        "one_block": write_set(root / "one_block", random_molecules(90, seed=2), block=90),
        "singles": write_set(root / "singles", random_molecules(40, seed=3), block=1),
        "lonely": write_set(root / "lonely", random_molecules(1, seed=4), block=1),
        "tails": write_set(root / "tails", random_molecules(300, seed=5, largest=120), block=25),
    }


@pytest.fixture(scope="session")
def random_set(tmp_path_factory) -> Callable[..., ShardSet]:
    """random_set(num, seed=, block=, largest=30, by_size=False, edit=None, tasks=TASKS, num_val=0) -> ShardSet, made up.

    `by_size` sorts them by atoms, so that blocks differ; `edit` gets the molecules and returns others to write.
    """
    root = tmp_path_factory.mktemp("random")

    def make(
        num: int,
        *,
        seed: int,
        block: int,
        largest: int = 30,
        by_size: bool = False,
        edit: Callable[[Molecules], Molecules] | None = None,
        tasks: tuple[Task, ...] = TASKS,
        num_val: int = 0,
    ) -> ShardSet:
        molecules = random_molecules(num, seed=seed, largest=largest)
        if by_size:
            molecules = molecules.take(np.argsort(molecules.num_atoms, kind="stable"))
        folder = root / str(len(list(root.iterdir())))
        return write_set(folder, molecules if edit is None else edit(molecules), block=block, tasks=tasks, num_val=num_val)

    return make


@pytest.fixture(scope="session")
def wide_set(random_set) -> ShardSet:
    """300 molecules with 420 sparse graph-level tasks, of which a molecule has from none to 30, and an atom-level one."""
    rng = np.random.default_rng(6)
    tasks = tuple(replace(TASKS[0], name=f"{'ab'[k % 2]}{k:03d}") for k in range(420))

    def label(molecules: Molecules) -> Molecules:
        labels = np.full((len(molecules), len(tasks)), np.nan, np.float32)
        for row in labels:
            some = rng.choice(len(tasks), rng.integers(0, 31), replace=False)
            row[some] = rng.normal(size=some.size).astype(np.float32)
        # a task without a label, one that all have, and one with few values
        labels[:, 7], labels[:, 8], labels[:, 9] = np.nan, 1.5, rng.integers(0, 2, len(molecules))
        return molecules.replace(graph_labels=labels)

    return random_set(300, seed=7, block=23, edit=label, tasks=(*tasks, TASKS[1]))
