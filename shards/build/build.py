"""Building a shard set out of core: a sort-based shuffle.

Map: a range of rows is featurised and written as one spill file, sorted by partition. Reduce: one partition, at most some fifty
thousand molecules, is collected from all spill files, put in order by a hash of its row numbers, and becomes one shard. The order
is random globally, each worker holds one sorted run or one partition in memory, and the bytes depend on the input and the options
alone: not on the number of workers, where they ran, or how often the build was killed and started again.

    inputs ──ranges──► map ──.building/*.spill──► reduce ──shards, .building/*.facts──► index, rejects, manifest
                          └─by identity─► merge ─┘           where tables are joined
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molstream.shards import schema
from molstream.shards.build.facts import is_finished, read_facts
from molstream.shards.build.job import BuildJob
from molstream.shards.build.join import merge_partition
from molstream.shards.build.map import LEFT_OUT, close_reader, map_range
from molstream.shards.build.options import BuildOptions, WorkOptions
from molstream.shards.build.output import Output
from molstream.shards.build.plan import BuildPlan
from molstream.shards.build.reduce import ShardItem, reduce_partition
from molstream.shards.build.row_splits import assign_rows, name_split_files
from molstream.shards.build.spill import MAPPING_SCHEMA, REJECT_SCHEMA, Spill
from molstream.shards.errors import FormatError, InputError, LimitError, SchemaError, WorkerError
from molstream.shards.format import index
from molstream.shards.format.arrays import ZSTD_VERSION
from molstream.shards.format.codings import arrays_of
from molstream.shards.format.manifest import (
    INDEX,
    MAPPING,
    REJECTS,
    Dropped,
    Join,
    JoinedTable,
    Manifest,
    Statistics,
    fingerprint,
)
from molstream.shards.format.statistics import LabelMoments, ValueCounts, merge_histograms
from molstream.shards.inputs.datasets import Dataset
from molstream.shards.inputs.tables import InputFile, check_input, resolve_inputs
from molstream.shards.store.documents import parse_json
from molstream.shards.store.fields import to_json
from molstream.shards.store.reading import Folder
from molstream.shards.store.tables import write_parquet
from molstream.shards.store.writing import write_beside, write_bytes
from molstream.shards.workers.local import Engine, InlineEngine, LocalEngine

__all__ = ["BuildOptions", "WorkOptions", "build"]

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""
MAX_F16_ERROR = 5e-4
"""Mean rounding error, in standard deviations, above which a task may not be stored in 16 bits."""


def build(
    inputs: Sequence[str] | Sequence[Sequence[str]],
    out: str | Path,
    options: BuildOptions,
    progress: Progress = lambda phase, done, total: None,
    *,
    work: WorkOptions | None = None,
    split_file: str | Sequence[str | None] | None = None,
) -> Manifest:
    """Build the shard set `out` from tables and return its manifest.

    `inputs`: paths, globs or URLs of the table's files; for several tables, a sequence of these for each of `options.tables`.
    `split_file`: a file that gives the split of each row, instead of `options.splits`; or for each table one of its own rows,
    None where the table's options say.
    A row that cannot become a molecule goes to rejects.parquet with its number and a reason; ids of the others do not change.
    After a failure or an interruption the same call continues from the last finished work item. If none was finished, or if the
    input is at fault, `out` is left as it was found. If `out` already holds the set of this input and these options, nothing is
    done. Raises InputError, SchemaError, OutputError, StorageError, WorkerError.
    """
    work = work or WorkOptions()
    options, split_files = name_split_files(options, split_file)
    output = Output(Path(out))
    output.committed(options)
    urls = _resolve(inputs, options)
    before = _stamps([url for table in urls for url in table])
    files, datasets = _check_inputs(urls, options, progress)
    splits, rows = assign_rows(options, files, split_files)
    plan = BuildPlan.make(files, datasets, options, splits, _versions())
    if manifest := output.committed(options):
        return _built_before(output, manifest, plan)
    job = BuildJob(plan, work, output.path.absolute())
    with output:
        if manifest := output.committed(options):
            return _built_before(output, manifest, plan)
        output.claim(job)
        if rows is not None:
            write_bytes(job.rows_path, rows.tobytes())
            rows = None
        with _make_engine(work) as engine:
            try:
                spills = _map(job, engine, progress)
                _check_unchanged(plan, before)
                _check_f16(job, spills)
                merged = _merge(job, engine, progress) if options.join else spills
                shards = _reduce(job, engine, merged, progress)
                manifest = _describe(job, spills, merged, shards)
            except LimitError:
                raise
            except SchemaError:
                # the input has to change, and then none of this work can be used
                output.keep = False
                raise
            finally:
                close_reader()
        output.commit(manifest)
    return manifest


def _resolve(inputs: Sequence[str] | Sequence[Sequence[str]], options: BuildOptions) -> list[list[str]]:
    """Files of each table."""
    tables: list[Any] = [inputs] if inputs and all(isinstance(i, str) for i in inputs) else list(inputs)
    if len(tables) != len(options.tables):
        raise InputError(f"inputs of {len(tables)} tables, the options describe {len(options.tables)}")
    urls = [resolve_inputs(list(table)) for table in tables]
    # once more over all tables, to find files that are named twice
    resolve_inputs([url for table in urls for url in table])
    return urls


def _check_inputs(urls: list[list[str]], options: BuildOptions, progress: Progress) -> tuple[list[InputFile], list[Dataset]]:
    every = [url for table in urls for url in table]
    total = sum(Path(u).stat().st_size for u in every if Path(u).is_file())
    hashed = 0

    def on_bytes(n: int) -> None:
        nonlocal hashed
        hashed += n
        progress("check", hashed, max(total, hashed))

    files: list[InputFile] = []
    datasets: list[Dataset] = []
    for number, (table, spec) in enumerate(zip(urls, options.tables, strict=True)):
        dataset = None
        for url in table:
            found, dataset = check_input(url, spec, dataset, table=number, on_bytes=on_bytes)
            # workers on other machines start in other folders
            files.append(found if "://" in url else replace(found, url=os.path.abspath(url)))
        assert dataset is not None, "a table has a file"
        datasets.append(dataset)
    if not sum(f.num_rows for f in files):
        raise SchemaError(f"{', '.join(every)}: no rows")
    return files, datasets


def _stamps(urls: list[str]) -> dict[str, tuple[int, int]]:
    """Size and time of change of local files: they must be the same when a file is hashed and after it was read."""
    found = {os.path.abspath(url): Path(url).stat() for url in urls if Path(url).is_file()}
    return {url: (stat.st_size, stat.st_mtime_ns) for url, stat in found.items()}


def _check_unchanged(plan: BuildPlan, before: dict[str, tuple[int, int]]) -> None:
    now = _stamps([f.url for f in plan.files])
    for url, stamp in before.items():
        if now.get(url) != stamp:
            raise SchemaError(f"{url}: changed while it was read; build again")


def _built_before(output: Output, manifest: Manifest, plan: BuildPlan) -> Manifest:
    output.check_same(manifest.provenance, _provenance(plan))
    return manifest


def _make_engine(work: WorkOptions) -> Engine:
    if work.engine == "ray":
        from molstream.shards.workers.ray import RayEngine

        return RayEngine(work.ray_address, max_tasks=work.workers)
    return LocalEngine(work.workers) if work.workers > 1 else InlineEngine()


def _reporter(progress: Progress, phase: str, done: int, total: int) -> Callable[[int], None]:
    """Start a phase of which an earlier call did `done`; returns a function that is told how many more are done."""
    progress(phase, done, total)

    def report(more: int) -> None:
        nonlocal done
        # a work item that was begun twice reports twice
        done = min(total, done + more)
        progress(phase, done, total)

    return report


def _map(job: BuildJob, engine: Engine, progress: Progress) -> list[Spill]:
    plan = job.plan
    ranges = range(len(plan.ranges))
    spills = {k: spill for k in ranges if (spill := _finished_spill(job.spill_path(k), plan.merges or len(plan.partitions)))}
    total, done = plan.num_rows, sum(plan.ranges[k].num_rows for k in spills)
    rejects = sum(_num_rejects(s) for s in spills.values())
    report = _reporter(progress, "featurize", done, total)
    for number, _ in engine.run(map_range, job, [k for k in ranges if k not in spills], report):
        spills[number] = Spill(job.spill_path(number))
        rejects += _num_rejects(spills[number])
        if rejects > job.max_rejects and _num_rejects(spills[number]):
            job.refuse_rejects(rejects, next(r for r in reversed(spills[number].table().to_pylist()) if r["reason"] != LEFT_OUT))
    ordered = [spills[k] for k in ranges]
    for spill, part in zip(ordered, plan.ranges, strict=True):
        if spill.facts["rows"] != part.num_rows:
            raise SchemaError(f"{spill.path}: holds {spill.facts['rows']} rows, expected {part.num_rows}; remove {job.out}")
    if not any(s.facts["molecules"] for s in ordered):
        reasons = sum((Counter(s.facts["rejects"]) for s in ordered), Counter())
        reason, count = reasons.most_common(1)[0]
        names = ", ".join(f.url for f in plan.files)
        raise SchemaError(f"{names}: none of {total} rows can become a molecule; {count} of them: {reason}")
    return ordered


def _num_rejects(spill: Spill) -> int:
    """Rows that could not become molecules."""
    return spill.facts["rows"] - spill.facts["molecules"] - spill.facts["left_out"]


def _finished_spill(path: Path, num_partitions: int) -> Spill | None:
    """The spill file that an earlier call left, if it is whole."""
    if not path.exists():
        return None
    try:
        spill = Spill(path)
        if spill.num_partitions == num_partitions:
            return spill
    except FormatError:
        pass
    path.unlink()
    return None


def _check_f16(job: BuildJob, spills: list[Spill]) -> None:
    """Refuse 16 bits for tasks they would spoil. Spill files hold 32 bits, so a build with other dtypes can continue."""
    tasks = job.plan.tasks
    moments = _input_moments(job, spills)
    error = _sum_by_task(job, spills, "f16_error")
    mean_error = error / np.maximum(moments.count, 1)
    spoiled = [
        t
        for t, task in enumerate(tasks)
        if job.plan.options.label_dtypes[task.level] == "f2" and mean_error[t] > MAX_F16_ERROR * moments.std[t]
    ]
    if spoiled:
        t = max(spoiled, key=lambda t: mean_error[t] / moments.std[t])
        more = f" and {len(spoiled) - 1} more tasks" if len(spoiled) > 1 else ""
        level = tasks[t].level
        raise LimitError(
            f"task {tasks[t].name}{more}: labels from {moments.low[t]:g} to {moments.high[t]:g} with standard deviation "
            f"{moments.std[t]:g} would change by {mean_error[t]:.3g} on average in f16, allowed are {MAX_F16_ERROR:g} standard "
            f"deviations; run again with --label-dtype {level}=f32 to go on from here"
        )


def _range_tasks(job: BuildJob) -> list[np.ndarray]:
    """Numbers of the tasks of which each range of rows has labels."""
    places = [job.plan.task_places(t) for t in range(len(job.plan.datasets))]
    return [places[job.plan.files[r.file].table] for r in job.plan.ranges]


def _input_moments(job: BuildJob, spills: list[Spill]) -> LabelMoments:
    num_tasks = len(job.plan.tasks)
    total = LabelMoments.empty(num_tasks)
    for spill, places in zip(spills, _range_tasks(job), strict=True):
        part = LabelMoments(*(np.array(column) for column in spill.facts["moments"].values()))
        total.merge(LabelMoments.scatter(part, places, num_tasks))
    return total


def _sum_by_task(job: BuildJob, spills: list[Spill], fact: str) -> np.ndarray:
    total = np.zeros(len(job.plan.tasks))
    for spill, places in zip(spills, _range_tasks(job), strict=True):
        total[places] += spill.facts[fact]
    return total


def _merge(job: BuildJob, engine: Engine, progress: Progress) -> list[Spill]:
    numbers = range(job.plan.merges)
    num_partitions = len(job.plan.partitions)
    merged = {k: spill for k in numbers if (spill := _finished_spill(job.merge_path(k), num_partitions))}
    total, done = job.plan.num_rows, sum(s.facts["rows"] for s in merged.values())
    report = _reporter(progress, "join", done, total)
    for number, _ in engine.run(merge_partition, job, [k for k in numbers if k not in merged], report):
        merged[number] = Spill(job.merge_path(number))
    return [merged[k] for k in numbers]


def _reduce(job: BuildJob, engine: Engine, spills: list[Spill], progress: Progress) -> list[ShardItem]:
    counts = np.sum([s.molecules for s in spills], axis=0)
    shards: list[ShardItem] = []
    for partition, (split, _) in enumerate(job.plan.partitions):
        if counts[partition]:
            shards.append(ShardItem(partition, split, sum(s.split == split for s in shards)))
    # what an earlier run finished, if it still is what it was then
    done_before = [is_finished(job.facts_path(s.split, s.number), shard=job.shard_path(s.split, s.number)) for s in shards]
    waiting = [s for s, is_done in zip(shards, done_before, strict=True) if not is_done]
    total = int(counts.sum())
    done = total - sum(int(counts[s.partition]) for s in waiting)
    report = _reporter(progress, "write", done, total)
    for _ in engine.run(reduce_partition, job, waiting, report):
        pass
    return shards


def _describe(job: BuildJob, spills: list[Spill], merged: list[Spill], shards: list[ShardItem]) -> Manifest:
    """Write index, rejects and mapping; returns the manifest. Everything in the order of ranges and shards, a file at a time."""
    plan, tasks = job.plan, job.plan.tasks
    moments = {split: LabelMoments.empty(len(tasks)) for split in plan.splits.names}
    values = ValueCounts(len(tasks))
    totals: dict[str, Counter] = {}
    histograms: dict[str, dict[str, int]] = {}

    def index_tables() -> Iterator[pa.Table]:
        nonlocal histograms
        for shard in shards:
            table = read_facts(job.facts_path(shard.split, shard.number))
            for part in table["moments"].to_pylist():
                moments[shard.split].merge(LabelMoments.decode(part))
            values.merge(ValueCounts.decode(table["values"][0].as_py(), len(tasks)))
            histograms = merge_histograms([histograms, *map(parse_json, table["histograms"].to_pylist())])
            totals.setdefault(shard.split, Counter()).update(_totals(table))
            yield table

    with write_beside(job.out / INDEX) as sink:
        index.write_index(sink, plan.groups, index_tables())
    written, expected = sum(t["molecules"] for t in totals.values()), sum(s.facts["molecules"] for s in merged)
    if written != expected:
        raise WorkerError(f"{job.out}: {written} molecules in shards, {expected} were to be written; remove it and build again")
    rejects = write_parquet(job.out / REJECTS, REJECT_SCHEMA, (spill.table() for spill in spills))
    facts = [s.facts for s in spills]
    contents = index.Index.open(Folder(job.out), INDEX, sha256=sink.written.sha256).iter_contents()
    dropped = [_sum_by_task(job, spills, kind).astype(np.int64) for kind in ("infinite", "nan")]
    train = moments["train"]
    return Manifest(
        fingerprint=fingerprint(tasks, schema.ATOM_FEATURES, schema.BOND_FEATURES, contents),
        index_sha256=sink.written.sha256,
        rejects_sha256=rejects.sha256,
        tasks=tasks,
        task_sets=plan.task_sets,
        atom_features=schema.ATOM_FEATURES,
        bond_features=schema.BOND_FEATURES,
        column_groups={group: arrays_of(group) for group in plan.groups},
        statistics={task.name: Statistics.of(train, values, t) for t, task in enumerate(tasks)},
        splits={split: dict(counts) for split, counts in totals.items()},
        labels={t.name: {s: int(moments[s].count[k]) for s in plan.splits.names} for k, t in enumerate(tasks)},
        dropped_labels={
            task.name: Dropped(infinite=int(infinite), nan=int(nan))
            for task, infinite, nan in zip(tasks, *dropped, strict=True)
            if infinite or nan
        },
        rejects=dict(sorted(sum((Counter(f["rejects"]) for f in facts), Counter()).items())),
        histograms=histograms,
        join=_describe_join(job, merged) if plan.options.join else None,
        provenance=_provenance(plan),
    )


def _describe_join(job: BuildJob, merged: list[Spill]) -> Join:
    plan = job.plan
    mapping = write_parquet(job.out / MAPPING, MAPPING_SCHEMA, (spill.table() for spill in merged))
    facts = [spill.facts for spill in merged]
    counts = [np.sum([f["tables"].get(str(t), [0, 0, 0]) for f in facts], axis=0) for t in range(len(plan.datasets))]
    conflicts = np.array([f["conflicts"] for f in facts], np.int64).sum(axis=0).tolist()
    return Join(
        by=plan.options.join,
        tables=tuple(
            JoinedTable(name=spec.name or spec.dataset, rows=int(rows), molecules=int(molecules), duplicates=int(duplicates))
            for spec, (rows, molecules, duplicates) in zip(plan.options.tables, counts, strict=True)
        ),
        conflicts={task.name: int(n) for task, n in zip(plan.tasks, conflicts, strict=True) if n},
        across_splits=sum(f["across_splits"] for f in facts),
        unmatched=sum(f["unmatched"] for f in facts),
        mapping_sha256=mapping.sha256,
    )


def _totals(table: pa.Table) -> dict[str, int]:
    counts = {name: sum(table[f"num_{name}"].to_pylist()) for name in ("molecules", "atoms", "bonds")}
    size = sum(sum(table[name].to_pylist()) for name in table.schema.names if name.endswith("_bytes"))
    return {"shards": 1, "blocks": len(table)} | counts | {"bytes": size}


def _provenance(plan: BuildPlan) -> dict:
    return {
        "inputs": [f.describe() for f in plan.files],
        "options": to_json(plan.options),
        "splits": to_json(plan.splits),
        "versions": plan.versions,
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    # by its metadata: RDKit itself runs in other processes
    return {"rdkit": version("rdkit"), "zstd": ".".join(map(str, ZSTD_VERSION)), "pyarrow": pa.__version__}
