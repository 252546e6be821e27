"""Building a shard set out of core: a sort-based shuffle.

Map: a range of rows is featurised and written as one spill file, sorted by partition. Reduce: one partition, at most some fifty
thousand molecules, is collected from all spill files, put in order by a hash of its row numbers, and becomes one shard. The order
is random globally, memory holds one run or one partition a worker, and the bytes depend on the input and the options alone: not
on how many workers there were, where they ran, or how often the build was killed and started again.

    inputs ──ranges──► map ──.building/*.spill──► reduce ──shards, .building/*.facts──► index, rejects, manifest
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from shards import format, index, schema
from shards.engine import Engine, InlineEngine, LocalEngine
from shards.errors import FormatError, LimitError, SchemaError
from shards.job import Job
from shards.manifest import INDEX, REJECTS, Dropped, Manifest, Statistics, fingerprint
from shards.mapper import close_reader, map_range
from shards.options import BuildOptions, WorkOptions
from shards.output import Output
from shards.plan import Plan
from shards.reducer import ShardTask, reduce_partition
from shards.spill import REJECT_SCHEMA, Spill
from shards.splits import SPLITS
from shards.statistics import Moments
from shards.tables import DATASETS, InputFile, check_input, resolve_inputs
from shards.writer import read_parquet, write_parquet

__all__ = ["BuildOptions", "WorkOptions", "build"]

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""
MAX_F16_ERROR = 5e-4
"""Mean rounding error, in standard deviations, above which a task may not be stored in 16 bits."""


def build(
    inputs: list[str],
    out: str | Path,
    options: BuildOptions,
    progress: Progress = lambda phase, done, total: None,
    *,
    work: WorkOptions | None = None,
) -> Manifest:
    """Build the shard set `out` from the tables `inputs` (paths, globs or URLs) and return its manifest.

    A row that cannot become a molecule goes to rejects.parquet with its number and a reason; ids of the others do not move.
    After a failure or an interruption the same call goes on from the last finished piece of work; where none was finished, or the
    input is at fault, `out` is left as it was found. On a set that is there already, built from the same input with the same
    options, it does nothing. Raises InputError, SchemaError, OutputError, WorkerError.
    """
    work = work or WorkOptions()
    output = Output(Path(out))
    output.committed(options)
    urls = resolve_inputs(inputs)
    before = _stamps(urls)
    files = _check_inputs(urls, options, progress)
    plan = Plan.make(files, options, _versions())
    if manifest := output.committed(options):
        return _built_before(output, manifest, plan)
    job = Job(plan, work, output.path.absolute())
    with output:
        if manifest := output.committed(options):
            return _built_before(output, manifest, plan)
        output.claim(job)
        try:
            with _make_engine(work) as engine:
                spills = _map(job, engine, progress)
                _check_unchanged(plan, before)
                _check_f16(job, spills)
                shards = _reduce(job, engine, spills, progress)
            manifest = _describe(job, spills, shards)
        except LimitError:
            raise
        except SchemaError:
            # the input has to change, and then nothing of this can be used
            output.keep = False
            raise
        finally:
            close_reader()
        output.commit(manifest)
    return manifest


def _check_inputs(urls: list[str], options: BuildOptions, progress: Progress) -> list[InputFile]:
    dataset = DATASETS[options.dataset]()
    total = sum(Path(u).stat().st_size for u in urls if Path(u).is_file())
    hashed = 0

    def on_bytes(n: int) -> None:
        nonlocal hashed
        hashed += n
        progress("check", hashed, max(total, hashed))

    files = [check_input(url, dataset, on_bytes) for url in urls]
    # workers on other machines start in other folders
    files = [f if "://" in f.url else replace(f, url=os.path.abspath(f.url)) for f in files]
    if not sum(f.num_rows for f in files):
        raise SchemaError(f"{', '.join(urls)}: no rows")
    return files


def _stamps(urls: list[str]) -> dict[str, tuple[int, int]]:
    """Size and time of change of local files: what they were when they were hashed they must be when they have been read."""
    found = {os.path.abspath(url): Path(url).stat() for url in urls if Path(url).is_file()}
    return {url: (stat.st_size, stat.st_mtime_ns) for url, stat in found.items()}


def _check_unchanged(plan: Plan, before: dict[str, tuple[int, int]]) -> None:
    now = _stamps([f.url for f in plan.files])
    for url, stamp in before.items():
        if now.get(url) != stamp:
            raise SchemaError(f"{url}: changed while it was read; build again")


def _built_before(output: Output, manifest: Manifest, plan: Plan) -> Manifest:
    output.check_same(manifest.provenance, _provenance(plan))
    return manifest


def _make_engine(work: WorkOptions) -> Engine:
    if work.engine == "ray":
        from shards.ray_engine import RayEngine

        return RayEngine(work.ray_address, max_tasks=work.workers)
    return LocalEngine(work.workers) if work.workers > 1 else InlineEngine()


def _map(job: Job, engine: Engine, progress: Progress) -> list[Spill]:
    plan = job.plan
    ranges = range(len(plan.ranges))
    spills = {k: spill for k in ranges if (spill := _finished_spill(job, k))}
    total, done = plan.num_rows, sum(plan.ranges[k].num_rows for k in spills)
    rejects = sum(s.facts["rows"] - s.facts["molecules"] for s in spills.values())
    progress("featurize", done, total)

    def report(rows: int) -> None:
        nonlocal done
        # a task that was begun twice reports twice
        done = min(total, done + rows)
        progress("featurize", done, total)

    for number, _ in engine.run(map_range, job, [k for k in ranges if k not in spills], report):
        spills[number] = Spill(job.spill_path(number))
        facts = spills[number].facts
        rejects += facts["rows"] - facts["molecules"]
        if facts["rejects"]:
            job.check_rejects(rejects, spills[number].rejects().slice(facts["rows"] - facts["molecules"] - 1).to_pylist()[0])
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


def _finished_spill(job: Job, number: int) -> Spill | None:
    """What an earlier run left of a range, if it is whole."""
    path = job.spill_path(number)
    try:
        return Spill(path) if path.exists() else None
    except FormatError:
        path.unlink()
        return None


def _check_f16(job: Job, spills: list[Spill]) -> None:
    """Refuse 16 bits for tasks they would spoil. What is mapped holds 32, so a build with other dtypes goes on from here."""
    tasks = job.plan.dataset.tasks
    moments, error = _input_moments(spills), np.sum([s.facts["f16_error"] for s in spills], axis=0)
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


def _input_moments(spills: list[Spill]) -> Moments:
    total = None
    for spill in spills:
        part = Moments(*(np.array(column) for column in spill.facts["moments"].values()))
        if total is None:
            total = part
        else:
            total.merge(part)
    assert total is not None
    return total


def _reduce(job: Job, engine: Engine, spills: list[Spill], progress: Progress) -> list[ShardTask]:
    counts = np.sum([s.molecules for s in spills], axis=0)
    shards: list[ShardTask] = []
    for partition, (split, _) in enumerate(job.plan.partitions):
        if counts[partition]:
            shards.append(ShardTask(partition, split, sum(s.split == split for s in shards)))
    done_before = [job.facts_path(s.split, s.number).exists() and job.shard_path(s.split, s.number).exists() for s in shards]
    waiting = [s for s, is_done in zip(shards, done_before, strict=True) if not is_done]
    total = int(counts.sum())
    done = total - sum(int(counts[s.partition]) for s in waiting)
    progress("write", done, total)

    def report(molecules: int) -> None:
        nonlocal done
        done = min(total, done + molecules)
        progress("write", done, total)

    for _ in engine.run(reduce_partition, job, waiting, report):
        pass
    return shards


def _describe(job: Job, spills: list[Spill], shards: list[ShardTask]) -> Manifest:
    """Write index and rejects; returns the manifest. Everything in the order of ranges and shards, a file at a time."""
    plan, dataset = job.plan, job.plan.dataset
    moments = {split: Moments.empty(len(dataset.tasks)) for split in SPLITS}
    totals: dict[str, Counter] = {}
    contents: list[tuple[str, bytes]] = []
    index_path, rejects_path = job.out / INDEX, job.out / REJECTS

    def index_tables() -> Iterator[pa.Table]:
        for shard in shards:
            table = read_parquet(job.facts_path(shard.split, shard.number))
            for part in table["moments"].to_pylist():
                moments[shard.split].merge(Moments.decode(part))
            contents.extend((shard.split, content) for content in table["content_sha256"].to_pylist())
            totals.setdefault(shard.split, Counter()).update(_totals(table))
            yield table.drop_columns("moments")

    write_parquet(index_path, index.schema_of(plan.options.groups), index_tables())
    write_parquet(rejects_path, REJECT_SCHEMA, (spill.rejects() for spill in spills))
    facts = [s.facts for s in spills]
    dropped = [np.sum([f[kind] for f in facts], axis=0) for kind in ("infinite", "nan")]
    return Manifest(
        fingerprint=fingerprint(dataset.tasks, schema.ATOM_FEATURES, schema.BOND_FEATURES, contents),
        index_sha256=hashlib.sha256(index_path.read_bytes()).hexdigest(),
        rejects_sha256=hashlib.sha256(rejects_path.read_bytes()).hexdigest(),
        tasks=dataset.tasks,
        task_sets=dataset.task_sets,
        atom_features=schema.ATOM_FEATURES,
        bond_features=schema.BOND_FEATURES,
        column_groups={group: format.GROUP_ARRAYS[group] for group in plan.options.groups},
        statistics={
            task.name: Statistics(
                count=int(moments["train"].count[t]), mean=float(moments["train"].mean[t]), std=float(moments["train"].std[t])
            )
            for t, task in enumerate(dataset.tasks)
        },
        splits={split: dict(counts) for split, counts in totals.items()},
        labels={t.name: {s: int(moments[s].count[k]) for s in SPLITS} for k, t in enumerate(dataset.tasks)},
        dropped_labels={
            task.name: Dropped(infinite=int(infinite), nan=int(nan))
            for task, infinite, nan in zip(dataset.tasks, *dropped, strict=True)
            if infinite or nan
        },
        rejects=dict(sorted(sum((Counter(f["rejects"]) for f in facts), Counter()).items())),
        provenance=_provenance(plan),
    )


def _totals(table: pa.Table) -> dict[str, int]:
    counts = {name: sum(table[f"num_{name}"].to_pylist()) for name in ("molecules", "atoms", "bonds")}
    size = sum(
        sum(table[f"{group}_bytes"].to_pylist()) for group in format.GROUP_ARRAYS if f"{group}_bytes" in table.schema.names
    )
    return {"shards": 1, "blocks": len(table)} | counts | {"bytes": size}


def _provenance(plan: Plan) -> dict:
    return {
        "inputs": [f.describe() for f in plan.files],
        "options": json.loads(json.dumps(asdict(plan.options))),
        "versions": plan.versions,
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    # by its metadata: RDKit itself runs in other processes
    return {"rdkit": version("rdkit"), "zstd": ".".join(map(str, format.zstandard.ZSTD_VERSION)), "pyarrow": pa.__version__}
