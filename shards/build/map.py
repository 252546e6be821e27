"""The map phase: a range of rows is read, featurised, labelled, and written as one spill file, sorted by partition."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from molstream.kernels.tables.align import FITS, UNREADABLE, FlatLists, align_bonds, align_lists, align_pairs
from molstream.kernels.tables.moments import measure_f16_errors
from molstream.shards import schema
from molstream.shards.build.job import BuildJob
from molstream.shards.build.spill import REJECT_SCHEMA, write_spill
from molstream.shards.chemistry.guarded import Featurized, shared_featurizer
from molstream.shards.chemistry.identity import hash_texts
from molstream.shards.format.statistics import LabelMoments, flat_labels
from molstream.shards.inputs.atom_order import has_maps, interleaved_entries, writes_hydrogens
from molstream.shards.inputs.datasets import Dataset
from molstream.shards.inputs.rows import Rows
from molstream.shards.inputs.tables import TableReader
from molstream.shards.molecules import Molecules, concat_molecules
from molstream.shards.splits.assignment import NO_SPLIT
from molstream.shards.tasks import LEVELS, Level

BATCH_ROWS = 2_048
"""Rows that are read and featurised together, and done again when a molecule takes the child down."""
PAIR_BATCH_ROWS = 128
"""The same for pair-level labels, which take a hundred times the memory."""
MAX_PAIR_ATOMS = 512
"""Most atoms of a molecule if its pairs have labels, which then take a megabyte per task."""


def map_range(job: BuildJob, number: int, on_rows: Callable[[int], None]) -> None:
    """Write the spill file of range `number`. `on_rows` is told how many more rows are done."""
    plan, rows_of = job.plan, job.plan.ranges[number]
    source = plan.files[rows_of.file]
    dataset = plan.datasets[source.table]
    featurizer = shared_featurizer(molecule_s=job.work.molecule_s, molecule_bytes=job.work.molecule_bytes)
    wanted = {"with_bond_order": dataset.num_tasks("bond") > 0, "with_inchi": plan.options.join == "inchi"}
    read = _reader(job).iter_rows(source, rows_of)
    rejects: list[dict] = []
    tally = _Tally(dataset)

    def batches() -> Iterator[tuple]:
        for rows, done in featurizer.run(((rows, rows.smiles) for rows in read), **wanted):
            molecules, identity, more = label_molecules(rows, done)
            split = job.assign_splits(molecules)
            if (out := split == NO_SPLIT).any():
                more += _leave_out(molecules.take(np.flatnonzero(out)))
                more.sort(key=lambda reject: reject["row"])
                molecules, split = molecules.take(np.flatnonzero(~out)), split[~out]
                identity = None if identity is None else identity[~out]
            rejects.extend(more)
            tally.add(rows, molecules, left_out=int(out.sum()))
            if len(molecules):
                yield _partitioned(job, molecules, split, identity)
            on_rows(len(rows.smiles))
            if (count := len(rejects) - tally.left_out) > job.max_rejects:
                job.refuse_rejects(count, next(r for r in reversed(rejects) if r["reason"] != LEFT_OUT))

    def finish() -> tuple[pa.Table, dict]:
        return pa.Table.from_pylist(rejects, REJECT_SCHEMA), tally.facts(rejects)

    partitions = plan.merges or len(plan.partitions)
    write_spill(job.spill_path(number), partitions, batches(), finish)


LEFT_OUT = "in no split"
"""The reason of a row that the split file does not name. Such rows are not faulty, so they do not count as rejected."""


def _leave_out(molecules: Molecules) -> list[dict]:
    names = [None] * len(molecules) if molecules.identifiers is None else molecules.identifiers.tolist()
    return [
        {"row": row, "identifier": name or None, "smiles": smiles, "reason": LEFT_OUT}
        for row, name, smiles in zip(molecules.ids.tolist(), names, molecules.smiles, strict=True)
    ]


def _partitioned(job: BuildJob, molecules: Molecules, split: np.ndarray, identity: np.ndarray | None) -> tuple:
    """Arguments of `SpillWriter.add`."""
    if not job.plan.options.join:
        return molecules, job.partition(molecules, split)
    if identity is None:
        identity = hash_texts(molecules.smiles)
    return molecules, (identity[:, 0] % np.uint64(job.plan.merges)).astype(np.int64), identity


_READER: dict[str, TableReader] = {}
"""The reader that this process has open, by plan."""


def _reader(job: BuildJob) -> TableReader:
    if job.plan.map_id not in _READER:
        close_reader()
        pairs = any(dataset.num_tasks("pair") for dataset in job.plan.datasets)
        _READER[job.plan.map_id] = TableReader(
            job.plan.datasets, batch_rows=min(BATCH_ROWS, PAIR_BATCH_ROWS if pairs else BATCH_ROWS)
        )
    return _READER[job.plan.map_id]


def close_reader() -> None:
    """Close the input that this process has open, if any."""
    for reader in _READER.values():
        reader.close()
    _READER.clear()


class _Tally:
    """Counts and moments of one range."""

    def __init__(self, dataset: Dataset):
        num_tasks = len(dataset.tasks)
        self.num_tasks = {level: dataset.num_tasks(level) for level in LEVELS}
        self.rows = self.molecules = self.left_out = 0
        self.infinite, self.nan = np.zeros(num_tasks, np.int64), np.zeros(num_tasks, np.int64)
        self.moments = LabelMoments.empty(num_tasks)
        self.f16_error = np.zeros(num_tasks)

    def add(self, rows: Rows, molecules: Molecules, *, left_out: int) -> None:
        self.rows += len(rows.smiles)
        self.molecules += len(molecules)
        self.left_out += left_out
        self.infinite += rows.infinite
        self.nan += rows.nan
        levels = flat_labels(molecules, self.num_tasks)
        self.moments.merge(LabelMoments.measure(*levels))
        self.f16_error += np.concatenate([measure_f16_errors(labels) for labels in levels])

    def facts(self, rejects: list[dict]) -> dict:
        return {
            "rows": self.rows,
            "molecules": self.molecules,
            "left_out": self.left_out,
            # numbers in a reason belong to one row: rejects.parquet has them
            "rejects": dict(Counter(re.sub(r"\d+", "N", r["reason"]) for r in rejects)),
            "infinite": self.infinite.tolist(),
            "nan": self.nan.tolist(),
            "moments": {name: column.tolist() for name, column in asdict(self.moments).items()},
            "f16_error": self.f16_error.tolist(),
        }


def label_molecules(rows: Rows, done: Featurized) -> tuple[Molecules, np.ndarray | None, list[dict]]:
    """The results of a batch of rows: molecules with labels, whose ids are row numbers; their identities if these were asked for;
    and the rejected rows, in order."""
    reasons = dict(done.rejects)
    parts, identities = [], []
    for start, found in done.parts:
        reasons |= {start + entry: reason for entry, reason in found.rejects.items()}
        structures, sizes = found, np.diff(found.atom_ptr)
        if "pair" in rows.lists and (large := sizes > MAX_PAIR_ATOMS).any():
            why = f"more than {MAX_PAIR_ATOMS} in a set with labels of pairs"
            reasons |= {int(start + found.rows[m]): f"{sizes[m]} atoms, {why}" for m in np.flatnonzero(large)}
            structures = found.take(np.flatnonzero(~large))
        molecules, misfits = _label_structures(rows, start, structures)
        reasons |= {int(start + structures.rows[m]): reason for m, reason in misfits.items()}
        if misfits:
            fits = np.setdiff1d(np.arange(len(molecules)), list(misfits))
            molecules = molecules.take(fits)
        parts.append(molecules)
        if structures.identity is not None:
            identities.append(structures.identity[fits] if misfits else structures.identity)
    rejects = [
        {
            "row": rows.first_row + i,
            "identifier": None if rows.identifiers is None else rows.identifiers[i],
            "smiles": rows.smiles[i],
            "reason": reasons[i],
        }
        for i in sorted(reasons)
    ]
    if not parts:
        num_tasks: dict[Level, int] = {level: len(columns) for level, columns in rows.lists.items()}
        num_tasks["graph"] = rows.graph.shape[1]
        features = len(schema.ATOM_FEATURES)
        parts = [Molecules.empty(atom_features=features, num_tasks=num_tasks, identifiers=rows.identifiers is not None)]
    identity = np.concatenate(identities) if identities else None
    return concat_molecules(parts) if len(parts) > 1 else parts[0], identity, rejects


def _label_structures(rows: Rows, start: int, structures: Any) -> tuple[Molecules, dict[int, str]]:
    """Molecules of one part of a batch, and the reasons why the lists of some do not fit, by molecule."""
    entries = start + structures.rows
    molecules = Molecules(
        atom_ptr=structures.atom_ptr,
        bond_ptr=structures.bond_ptr,
        atom_codes=structures.atom_codes,
        bond_atoms=structures.bond_atoms,
        bond_codes=structures.bond_codes,
        ids=(entries + rows.first_row).astype(np.uint64),
        smiles=structures.smiles,
    )
    columns: dict[str, Any] = {}
    if rows.graph.shape[1]:
        columns["graph_labels"] = rows.graph[entries]
    if rows.identifiers is not None:
        columns["identifiers"] = np.array([rows.identifiers[i] or "" for i in entries], object)
    readable = np.ones(len(entries), bool)
    readable[list(structures.map_problems)] = False
    atoms = {"atom_ptr": structures.atom_ptr, "label_index": structures.label_index, "readable": readable}
    problems: dict[int, str] = {}
    for level, lists in rows.lists.items():
        flat = [FlatLists(x.values, x.ptr[:-1][entries], np.diff(x.ptr)[entries]) for x in lists]
        num_heavy, num_all = structures.num_heavy, structures.num_all
        if level == "atom":
            index, shorter, longer = _list_order(rows, entries, structures)
            laid = atoms | {"label_index": index, "num_heavy": shorter, "num_all": longer}
            columns["atom_labels"], status = align_lists(flat, **laid)
        elif level == "bond":
            columns["bond_labels"], status = align_bonds(
                flat, bond_ptr=structures.bond_ptr, bond_index=structures.bond_index, is_reversed=structures.is_reversed
            )
        else:
            columns["pair_labels"], status = align_pairs(flat, pair_ptr=molecules.pair_ptr, num_heavy=num_heavy, **atoms)
        for m in np.flatnonzero(status[:, 0] != FITS).tolist():
            problem, size = status[m].tolist()
            if problem == UNREADABLE:
                reason = structures.map_problems[m]
            elif level == "atom":
                reason = f"atom list of {size} values for {num_heavy[m]} heavy atoms ({num_all[m]} with hydrogens)"
                if rows.atom_order:
                    reason += f", expected {shorter[m]} by --atom-order {rows.atom_order}"
                elif size == num_all[m] and longer[m] != size:
                    reason += (
                        ", and hydrogens are written in the SMILES: where they stand in the list is not known; say it with "
                        "--atom-order hydrogens-last or interleaved"
                    )
            elif level == "bond":
                a, b = molecules.bond_ptr[m : m + 2]
                count = int((structures.bond_index[a:b] >= 0).sum())
                reason = f"bond list of {size} values for {count} bonds of heavy atoms, expected one or two per bond"
            else:
                n = int(num_heavy[m])
                reason = f"pair list of {size} values for {n} heavy atoms, expected {n * n} or {n * (n - 1) // 2}"
            problems.setdefault(m, reason)
    return molecules.replace(**columns), problems


def _list_order(rows: Rows, entries: np.ndarray, structures: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How lists of atoms are laid onto molecules: the entry of each atom, and the two lengths that a list may have, which are one
    where the call says what lists run over."""
    num_heavy, num_all, index = structures.num_heavy, structures.num_all, structures.label_index
    if rows.atom_order == "heavy":
        return index, num_heavy, num_heavy
    texts = [rows.smiles[i] or "" for i in entries]
    written = [m for m, text in enumerate(texts) if not has_maps(text) and writes_hydrogens(text)]
    if not rows.atom_order:
        longer = num_all.copy()
        longer[written] = num_heavy[written]
        return index, num_heavy, longer
    if rows.atom_order == "interleaved":
        index = index.copy()
        for m in written:
            atoms = index[structures.atom_ptr[m] : structures.atom_ptr[m + 1]]
            places = interleaved_entries(texts[m])
            # a molecule of hydrogens alone is listed as it is
            if len(places) == num_heavy[m]:
                atoms[atoms >= 0] = places[atoms[atoms >= 0]]
    return index, num_all, num_all


def featurize_smiles(smiles: list[str | None], first_row: int) -> tuple[Molecules, dict[int, str]]:
    """SMILES of consecutive rows -> molecules without labels, with row numbers as ids, and the reasons of failed rows, by row."""
    none = np.zeros(0, np.int64)
    rows = Rows(first_row=first_row, smiles=smiles, graph=np.empty((len(smiles), 0), np.float32), infinite=none, nan=none)
    molecules, _, rejects = label_molecules(rows, shared_featurizer().featurize(smiles))
    return molecules, {r["row"]: r["reason"] for r in rejects}
