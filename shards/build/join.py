"""The merge phase of a join: rows of one identity, from all tables, become one molecule that carries the labels of all.

    map spills, by identity     table 0: | A  C  C' | ...     table 1: | B  A' | ...        (one partition)
    groups, by row number       A A'    B    C C'
    merged spill, by split      A: atoms and row of the first; labels of A, where absent those of A', in the order of A's atoms

The first row that names a molecule gives its id and structure, and its split too, unless tables have splits of their own: then a
molecule goes to the most held-out split of its rows. A label of a later row that differs from an earlier one is a conflict: the
first stays, and conflicts are counted by task. Rows of one stored SMILES agree atom by atom: the k-th atom of a SMILES is one
place of one graph however it was written. Rows that only share an InChI are matched atom by atom; a row that does not match stays
a molecule of its own.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa

from molstream.shards.build.job import BuildJob
from molstream.shards.build.spill import MAPPING_SCHEMA, Spill, write_spill
from molstream.shards.chemistry.guarded import shared_featurizer
from molstream.shards.columns import COLUMNS, named_sizes
from molstream.shards.molecules import Molecules, concat_molecules, offsets, ragged_rows
from molstream.shards.schema import ATOM_FEATURES
from molstream.shards.tasks import LEVELS, Level


@dataclass(slots=True)
class _Groups:
    """N rows: those of one molecule are neighbours, and the one with the lowest row number comes first."""

    first: np.ndarray
    """int64 (N): place of the first row of its molecule."""
    rank: np.ndarray
    """int64 (N): 0 for that row, 1 for the next of the same molecule, ..."""
    atoms: dict[int, np.ndarray] = field(default_factory=dict)
    """Row -> which of its atoms each atom of the first row is, for rows whose atoms are in another order."""
    unmatched: int = 0
    """Number of rows of one identity that do not match."""


def merge_partition(job: BuildJob, number: int, on_rows: Callable[[int], None]) -> None:
    """Write the merged spill file of one partition by identity. `on_rows` is told how many rows are merged."""
    plan = job.plan
    molecules, table, identity = _collect(job, number)
    order = np.lexsort((molecules.ids, identity[:, 1], identity[:, 0]))
    molecules, table, identity = molecules.take(order), table[order], identity[order]
    groups = _group(job, molecules, identity)
    merged, conflicts = _merge(molecules, groups, plan.num_tasks)
    splits = job.assign_splits(molecules)
    chosen = plan.splits.of_molecules(splits, groups.first)
    facts = _count(table, groups) | {"across_splits": int((splits != chosen).sum())}
    facts |= {"conflicts": conflicts.tolist(), "rows": len(molecules)}
    kept = np.flatnonzero(groups.rank == 0)
    by_row = np.argsort(molecules.ids)
    mapping = pa.table([pa.array(ids[by_row]) for ids in (molecules.ids, molecules.ids[groups.first])], schema=MAPPING_SCHEMA)

    def batches():
        if len(merged):
            yield merged, job.partition(merged, chosen[kept])
        on_rows(len(molecules))

    facts["molecules"] = len(merged)
    write_spill(job.merge_path(number), len(plan.partitions), batches(), lambda: (mapping, facts))


def _collect(job: BuildJob, number: int) -> tuple[Molecules, np.ndarray, np.ndarray]:
    """Rows of the partition with the label columns of all tables, the table of each row, and their identities."""
    plan = job.plan
    parts: list[Molecules] = []
    tables: list[np.ndarray] = []
    identities: list[np.ndarray] = []
    for (path, layout), rows in zip(job.mapped(), plan.ranges, strict=True):
        table = plan.files[rows.file].table
        for molecules, identity in Spill(path).read(number, layout):
            parts.append(_widen(job, molecules, table))
            tables.append(np.full(len(molecules), table))
            assert identity is not None, "spill files of a join have it"
            identities.append(identity)
    if not parts:
        empty = Molecules.empty(atom_features=len(ATOM_FEATURES), num_tasks=plan.num_tasks, identifiers=plan.has_identifiers)
        return empty, np.empty(0, np.int64), np.empty((0, 2), np.uint64)
    return concat_molecules(parts), np.concatenate(tables), np.concatenate(identities)


def _widen(job: BuildJob, molecules: Molecules, table: int) -> Molecules:
    """Label columns of one table -> those of all."""
    columns: dict[str, np.ndarray] = {}
    for level, num_tasks in job.plan.num_tasks.items():
        if not num_tasks:
            continue
        column = COLUMNS[f"{level}_labels"]
        shape = column.shape(int(molecules.row_ptr(column.rows)[-1]), named_sizes(0, job.plan.num_tasks))
        wide = np.full(shape, column.pad, column.dtype)
        labels = molecules.labels(level)
        if labels is not None:
            wide[:, job.plan.columns_of(table, level)] = labels
        columns[f"{level}_labels"] = wide
    if job.plan.has_identifiers and molecules.identifiers is None:
        columns["identifiers"] = np.full(len(molecules), "", object)
    return molecules.replace(**columns)


def _group(job: BuildJob, molecules: Molecules, identity: np.ndarray) -> _Groups:
    """Which rows are one molecule; `molecules` are sorted by identity and row."""
    n = len(molecules)
    starts = np.ones(n, bool)
    starts[1:] = (identity[1:] != identity[:-1]).any(axis=1)
    heads = np.flatnonzero(starts)
    ends = np.append(heads[1:], n)
    number = np.cumsum(starts) - 1
    first = heads[number]
    groups = _Groups(first, np.arange(n) - first)
    other = np.flatnonzero(molecules.smiles != molecules.smiles[first]) if n else first
    for k in np.unique(number[other]).tolist():
        _match(job, molecules, groups, int(heads[k]), int(ends[k]))
    return groups


def _match(job: BuildJob, molecules: Molecules, groups: _Groups, head: int, end: int) -> None:
    """Sort out rows head:end, which are of one identity and written in several ways."""
    featurizer = shared_featurizer(molecule_s=job.work.molecule_s, molecule_bytes=job.work.molecule_bytes)
    ways: dict[str, tuple[int, np.ndarray | None]] = {}
    members: Counter[int] = Counter()
    kept: list[int] = []
    for row in range(head, end):
        text = molecules.smiles[row]
        if text not in ways:
            found = ((k, featurizer.match(molecules.smiles[k], text)) for k in kept)
            ways[text] = next(((k, atoms) for k, atoms in found if atoms is not None), (row, None))
            if ways[text][0] == row:
                kept.append(row)
                groups.unmatched += row != head
        place, atoms = ways[text]
        groups.first[row], groups.rank[row] = place, members[place]
        members[place] += 1
        if atoms is not None and place != row:
            groups.atoms[row] = atoms


def _merge(molecules: Molecules, groups: _Groups, num_tasks: dict[Level, int]) -> tuple[Molecules, np.ndarray]:
    """The first row of each group with the labels of all, and how many labels of each task differ from an earlier one."""
    kept = np.flatnonzero(groups.rank == 0)
    merged = molecules.take(kept)
    place = np.full(len(molecules), -1)
    place[kept] = np.arange(len(kept))
    columns: dict[str, np.ndarray] = {}
    conflicts = []
    # rows rank by rank: a molecule that occurs a thousand times must not cost a thousand passes over the others
    by_rank = np.argsort(groups.rank, kind="stable")
    rank_ptr = offsets(np.bincount(groups.rank))
    is_reordered = np.zeros(len(molecules), bool)
    is_reordered[list(groups.atoms)] = True
    for level in LEVELS:
        labels = molecules.labels(level)
        if labels is None:
            conflicts.append(np.zeros(num_tasks[level], np.int64))
            continue
        out = columns[f"{level}_labels"] = merged.labels(level).copy()  # type: ignore[union-attr]
        count = np.zeros(num_tasks[level], np.int64)
        source_ptr, target_ptr = molecules.label_ptr(level), merged.label_ptr(level)
        for start, end in pairwise(rank_ptr[1:].tolist()):
            rows = by_rank[start:end]
            targets, _ = ragged_rows(target_ptr, place[groups.first[rows]])
            sources, ptr = ragged_rows(source_ptr, rows)
            found = labels[sources]
            for k in np.flatnonzero(is_reordered[rows]).tolist():
                row = int(rows[k])
                found[ptr[k] : ptr[k + 1]] = _reorder(molecules, groups, row, level, found[ptr[k] : ptr[k + 1]])
            before = out[targets]
            if level in ("bond", "pair"):
                clash = _mixed_forms(found, before, ptr, level)
                count += clash.sum(axis=0)
                found[np.repeat(clash, np.diff(ptr), axis=0)] = np.nan
            differ = ~np.isnan(found) & ~np.isnan(before) & (found != before)
            count += differ.sum(axis=tuple(k for k in range(differ.ndim) if k != 1))
            out[targets] = np.where(np.isnan(before), found, before)
        conflicts.append(count)
    if molecules.identifiers is not None:
        columns["identifiers"] = _first_texts(molecules.identifiers, groups, kept)
    return merged.replace(**columns), np.concatenate(conflicts)


def _mixed_forms(found: np.ndarray, before: np.ndarray, ptr: np.ndarray, level: Level) -> np.ndarray:
    """bool (rows, T): lists of a later row that are labelled in both directions where the first ones are not, or vice versa.

    Such lists cannot be merged; each counts as one conflict.
    """

    def any_of(mask: np.ndarray) -> np.ndarray:
        total = np.concatenate([np.zeros((1, mask.shape[1]), np.int64), np.cumsum(mask, axis=0)])
        return total[ptr[1:]] > total[ptr[:-1]]

    def both_ways(labels: np.ndarray) -> np.ndarray:
        return any_of(~np.isnan(labels[..., 1]) | (~np.isnan(labels[..., 0]) & diagonal[:, None]))

    diagonal = np.zeros(len(found), bool)
    if level == "pair":
        place = np.arange(len(found)) - np.repeat(ptr[:-1], np.diff(ptr))
        larger = ((np.sqrt(8.0 * place + 1) - 1) / 2).astype(np.int64)
        diagonal = place == larger * (larger + 1) // 2 + larger
    some = any_of(~np.isnan(found).all(axis=2)) & any_of(~np.isnan(before).all(axis=2))
    return some & (both_ways(found) != both_ways(before))


def _reorder(molecules: Molecules, groups: _Groups, row: int, level: Level, labels: np.ndarray) -> np.ndarray:
    """Labels of a row in the order of the first row's atoms, bonds or pairs."""
    atoms = groups.atoms[row]
    if level == "graph":
        return labels
    if level == "atom":
        return labels[atoms]
    if level == "bond":
        there, here = (molecules.bond_atoms[molecules.bond_ptr[k] : molecules.bond_ptr[k + 1]] for k in (row, groups.first[row]))
        wanted = atoms[here.astype(np.int64)]
        number = {(int(u), int(v)): k for k, (u, v) in enumerate(there)}
        places = np.array([number[int(min(u, v)), int(max(u, v))] for u, v in wanted], np.int64).reshape(-1)
    else:
        j, i = np.tril_indices(len(atoms))
        wanted = atoms[np.stack([i, j], axis=1)]
        low, high = wanted.min(axis=1), wanted.max(axis=1)
        places = high * (high + 1) // 2 + low
    out = labels[places]
    # if the two atoms are in the other order, so are their labels; a label for both directions stays in its place
    both_ways = ~np.isnan(out[..., 1])
    if level == "pair":
        both_ways |= (wanted[:, 0] == wanted[:, 1])[:, None] & ~np.isnan(out[..., 0])
    turned = (wanted[:, 0] > wanted[:, 1])[:, None] & both_ways.any(axis=0)
    out[turned] = out[turned][:, ::-1]
    return out


def _first_texts(texts: np.ndarray, groups: _Groups, kept: np.ndarray) -> np.ndarray:
    """The first identifier of each group that is not empty."""
    named: dict[int, str] = {}
    for row in np.flatnonzero(texts != "").tolist():
        named.setdefault(int(groups.first[row]), texts[row])
    out = np.empty(len(kept), object)
    out[:] = [named.get(int(k), "") for k in kept]
    return out


def _count(table: np.ndarray, groups: _Groups) -> dict:
    """Of each table: rows, molecules, and rows that repeat one of its molecules; and rows of one identity that do not match."""
    counts: dict[str, list[int]] = {}
    for number in np.unique(table).tolist():
        rows = groups.first[table == number]
        distinct = len(np.unique(rows))
        counts[str(number)] = [len(rows), distinct, len(rows) - distinct]
    return {"tables": counts, "unmatched": groups.unmatched}
