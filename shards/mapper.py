"""The map phase: a range of rows is read, featurised, labelled, and written as one spill file, sorted by partition."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np

from kernels.align import FITS, UNREADABLE, align_lists
from kernels.hashing import hash_skeletons, hash_u64
from kernels.moments import measure_f16_errors
from shards import schema
from shards.featurizer import Featurized, shared_featurizer
from shards.job import Job
from shards.spill import write_spill
from shards.statistics import Moments
from shards.tables import Rows, TableReader
from shards.types import Molecules, concat_molecules

BATCH_ROWS = 2_048
"""Rows that are read and featurised together; what is done again when a molecule takes the child down."""


def map_range(job: Job, number: int, on_rows: Callable[[int], None]) -> dict:
    """Write the spill file of range `number`; returns its facts. `on_rows` is told how many more rows are done."""
    plan, rows_of = job.plan, job.plan.ranges[number]
    dataset = plan.dataset
    featurizer = shared_featurizer(molecule_s=job.work.molecule_s, molecule_bytes=job.work.molecule_bytes)
    source = _reader(job).iter_rows(plan.files[rows_of.file], rows_of)
    rejects: list[dict] = []
    tally = _Tally(len(dataset.tasks))

    def batches() -> Iterator[tuple[Molecules, np.ndarray]]:
        for rows, done in featurizer.run((rows, rows.smiles) for rows in source):
            molecules, more = label_molecules(rows, done)
            rejects.extend(more)
            tally.add(rows, molecules)
            if len(molecules):
                yield molecules, _partition(job, molecules)
            on_rows(len(rows.smiles))
            job.check_rejects(len(rejects), rejects[-1] if rejects else None)

    def finish() -> tuple[list[dict], dict]:
        return rejects, tally.facts(rejects)

    write_spill(job.spill_path(number), len(plan.partitions), batches(), finish)
    return tally.facts(rejects) | {"child_peak_bytes": featurizer.peak_bytes()}


_READER: dict[str, TableReader] = {}
"""The one this process has open, by plan."""


def _reader(job: Job) -> TableReader:
    if job.plan.map_id not in _READER:
        close_reader()
        _READER[job.plan.map_id] = TableReader(job.plan.dataset, batch_rows=BATCH_ROWS)
    return _READER[job.plan.map_id]


def close_reader() -> None:
    """Let go of the input that this process has open, if it has."""
    for reader in _READER.values():
        reader.close()
    _READER.clear()


def _partition(job: Job, molecules: Molecules) -> np.ndarray:
    skeletons = hash_skeletons(
        molecules.atom_ptr,
        molecules.bond_ptr,
        molecules.atom_codes[:, 0],
        molecules.bond_atoms,
        key=job.plan.split_key,
    )
    split = job.plan.options.split_fractions.assign(skeletons)
    return job.plan.partition_of(split, hash_u64(job.plan.order_key, molecules.ids))


class _Tally:
    """Counts and moments of one range."""

    def __init__(self, num_tasks: int):
        self.rows = self.molecules = 0
        self.infinite, self.nan = np.zeros(num_tasks, np.int64), np.zeros(num_tasks, np.int64)
        self.moments = Moments.empty(num_tasks)
        self.f16_error = np.zeros(num_tasks)

    def add(self, rows: Rows, molecules: Molecules) -> None:
        self.rows += len(rows.smiles)
        self.molecules += len(molecules)
        self.infinite += rows.infinite
        self.nan += rows.nan
        levels = (molecules.graph_labels, molecules.atom_labels)
        self.moments.merge(Moments.measure(*levels))
        self.f16_error += np.concatenate([measure_f16_errors(labels) for labels in levels])

    def facts(self, rejects: list[dict]) -> dict:
        return {
            "rows": self.rows,
            "molecules": self.molecules,
            # numbers in a reason are the row's own: rejects.parquet has them
            "rejects": dict(Counter(re.sub(r"\d+", "N", r["reason"]) for r in rejects)),
            "infinite": self.infinite.tolist(),
            "nan": self.nan.tolist(),
            "moments": {name: column.tolist() for name, column in asdict(self.moments).items()},
            "f16_error": self.f16_error.tolist(),
        }


def label_molecules(rows: Rows, done: Featurized) -> tuple[Molecules, list[dict]]:
    """What became of a batch of rows: molecules with labels and row numbers as ids, and the rejected rows, in order."""
    reasons = dict(done.rejects)
    parts = []
    for start, structures in done.parts:
        reasons |= {start + entry: reason for entry, reason in structures.rejects.items()}
        entries = start + structures.rows
        readable = np.ones(len(entries), bool)
        readable[list(structures.map_problems)] = False
        atom_labels, status = align_lists(
            [(lists.values, lists.ptr[:-1][entries], np.diff(lists.ptr)[entries]) for lists in rows.atom],
            atom_ptr=structures.atom_ptr,
            label_index=structures.label_index,
            readable=readable,
            num_heavy=structures.num_heavy,
            num_all=structures.num_all,
        )
        molecules = Molecules(
            atom_ptr=structures.atom_ptr,
            bond_ptr=structures.bond_ptr,
            atom_codes=structures.atom_codes,
            bond_atoms=structures.bond_atoms,
            bond_codes=structures.bond_codes,
            graph_labels=rows.graph[entries],
            atom_labels=atom_labels,
            ids=(entries + rows.first_row).astype(np.uint64),
            smiles=structures.smiles,
        )
        misfits = np.flatnonzero(status[:, 0] != FITS)
        for m in misfits.tolist():
            problem, size = status[m].tolist()
            reasons[int(entries[m])] = (
                structures.map_problems[m]
                if problem == UNREADABLE
                else f"atom list of {size} values for {structures.num_heavy[m]} heavy atoms "
                f"({structures.num_all[m]} with hydrogens)"
            )
        parts.append(molecules.take(np.flatnonzero(status[:, 0] == FITS)) if len(misfits) else molecules)
    rejects = [{"row": rows.first_row + i, "smiles": rows.smiles[i], "reason": reasons[i]} for i in sorted(reasons)]
    parts = parts or [
        Molecules.empty(atom_features=len(schema.ATOM_FEATURES), graph_tasks=rows.graph.shape[1], atom_tasks=len(rows.atom))
    ]
    return concat_molecules(parts) if len(parts) > 1 else parts[0], rejects


def featurize_smiles(smiles: list[str | None], first_row: int) -> tuple[Molecules, dict[int, str]]:
    """SMILES of consecutive rows -> molecules without labels, ids being row numbers, and why other rows failed, by row."""
    rows = Rows(first_row, smiles, np.empty((len(smiles), 0), np.float32), [], np.zeros(0, np.int64), np.zeros(0, np.int64))
    molecules, rejects = label_molecules(rows, shared_featurizer().featurize(smiles))
    return molecules, {r["row"]: r["reason"] for r in rejects}
