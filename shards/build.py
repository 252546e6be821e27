"""Building a shard set out of core: a sort-based shuffle.

Map: rows are read in order, featurised, and each is appended to one spill file by its split and by a hash of its row. Reduce: one
spill file, at most some fifty thousand molecules, is sorted by that hash and becomes one shard. The order is random globally,
memory holds one batch of rows or one partition, and the bytes depend on the input and the options alone.
"""

import fcntl
import hashlib
import io
import math
import re
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kernels.hashing import hash_skeletons, hash_u64, mix_key
from shards import format, index, schema
from shards.errors import FeaturizeError, InputError, OutputError, SchemaError
from shards.manifest import BUILDING, INDEX, MANIFEST, REJECTS, Manifest, Statistics, fingerprint
from shards.splits import SPLITS, SplitFractions
from shards.statistics import Moments
from shards.tables import DATASETS, Dataset, InputFile, Rows, check_input, iter_rows, resolve_inputs
from shards.types import Molecules, concat_molecules
from shards.writer import write_atomic, write_shard

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """What decides the bytes of a shard set, besides its input."""

    dataset: str = "pm6"
    """Which columns the input has."""
    split_fractions: SplitFractions = field(default_factory=lambda: SplitFractions.parse("98,1,1"))
    """Shares of train, val and test."""
    seed: int = 0
    """Decides the order of molecules and which skeleton goes to which split."""
    block_molecules: int = 0
    """Molecules a block, the unit of reading; 0: 4096, less where a split would have fewer than 32 blocks, at least 64."""
    shard_molecules: int = 49_152
    """Molecules a shard, about: the most that are in memory at once while it is written."""

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            raise InputError(f"dataset {self.dataset!r}: expected one of {', '.join(DATASETS)}")
        if self.block_molecules < 0 or self.shard_molecules < 1:
            raise InputError("block_molecules must not be negative and shard_molecules at least 1")


SPILL_LEVEL = 1
"""zstd level of spill files: read once, soon."""
MAP_ROWS = 16_384
"""Rows that are featurised together: bounds the memory of the map phase."""


def build(
    inputs: list[str], out: str | Path, options: BuildOptions, progress: Progress = lambda phase, done, total: None
) -> Manifest:
    """Build the shard set `out` from the tables `inputs` (paths, globs or URLs) and return its manifest.

    A row that cannot become a molecule goes to rejects.parquet with its number and a reason; ids of the others do not move.
    On any error or interruption `out` is left as it was found. Raises InputError, SchemaError, OutputError.
    """
    dataset = DATASETS[options.dataset]()
    urls = resolve_inputs(inputs)
    total = sum(Path(u).stat().st_size for u in urls if Path(u).is_file())
    hashed = [0]

    def on_bytes(n: int) -> None:
        hashed[0] += n
        progress("check", hashed[0], max(total, hashed[0]))

    files = [check_input(url, dataset, on_bytes) for url in urls]
    if not sum(f.num_rows for f in files):
        raise SchemaError(f"{', '.join(urls)}: no rows")
    with _Output(Path(out)) as output:
        spill = _Spill(output.work, sum(f.num_rows for f in files), options)
        rejects, dropped = _map(files, dataset, options, spill, progress)
        num_rows = sum(f.num_rows for f in files)
        if spill.num_molecules + len(rejects) != num_rows:
            raise SchemaError(
                f"{spill.num_molecules + len(rejects)} rows read, {num_rows} counted: an input changed while it was read"
            )
        if not spill.num_molecules:
            reason, count = Counter(r["reason"] for r in rejects).most_common(1)[0]
            raise SchemaError(f"{', '.join(urls)}: none of {len(rejects)} rows can become a molecule; {count} of them: {reason}")
        manifest = _reduce(output.path, files, dataset, options, spill, rejects, dropped, progress)
        output.commit(manifest)
    return manifest


class _Output:
    """The output folder: claimed on entry, committed by its manifest, otherwise put back as it was."""

    _OURS = re.compile(r"(\w+-\d{5,}\.tar|index\.parquet|rejects\.parquet|manifest\.json)(\.part)?")

    def __init__(self, path: Path):
        self.path, self.work, self.committed = path, path / BUILDING, False

    def __enter__(self) -> "_Output":
        # innermost first; what is not there yet is removed again on failure
        self.made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path}: a file, expected a folder to write to")
        if (self.path / MANIFEST).exists():
            raise OutputError(f"{self.path}: already holds a shard set; choose another folder or remove it first")
        if not self.made and any(self.path.iterdir()) and not self.work.exists():
            raise OutputError(f"{self.path}: not empty and not a shard set; choose another folder")
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            # the system lets go of the lock when the process ends, however it does
            self.lock = (self.work / "lock").open("w")
        except OSError as error:
            self._unmake()
            raise OutputError(f"{self.path}: cannot be written to: {error.strerror or error}") from error
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.lock.close()
            raise OutputError(f"{self.path}: another build is writing to it; wait for it or choose another folder") from error
        if (self.path / MANIFEST).exists():
            self.lock.close()
            raise OutputError(f"{self.path}: already holds a shard set; choose another folder or remove it first")
        # what a killed build left behind is ours to remove
        self._remove_ours()
        for path in self.work.iterdir():
            if path.name != "lock":
                path.unlink()
        return self

    def _remove_ours(self) -> None:
        for path in self.path.iterdir():
            if self._OURS.fullmatch(path.name):
                path.unlink()

    def commit(self, manifest: Manifest) -> None:
        write_atomic(self.path / MANIFEST, manifest.encode())
        self.committed = True
        shutil.rmtree(self.work)

    def __exit__(self, *error) -> None:
        if not self.committed:
            self._remove_ours()
            shutil.rmtree(self.work, ignore_errors=True)
            self._unmake()
        self.lock.close()

    def _unmake(self) -> None:
        for path in self.made:
            with suppress(OSError):
                path.rmdir()


class _Spill:
    """Files of encoded molecules, one for each partition of each split."""

    _LENGTHS = struct.Struct(f"<I{len(format.GROUPS)}I")

    def __init__(self, folder: Path, num_rows: int, options: BuildOptions):
        self.folder, self.options = folder, options
        self.num_molecules = 0
        self.key = mix_key(options.seed, 1)
        fractions = asdict(options.split_fractions)
        self.expected = {split: num_rows * fractions[split] for split in SPLITS}
        self.partitions = {s: max(1, math.ceil(n / options.shard_molecules)) for s, n in self.expected.items()}

    def append(self, molecules: Molecules) -> None:
        """Send each molecule to its split and partition."""
        skeletons = hash_skeletons(
            molecules.atom_ptr,
            molecules.bond_ptr,
            molecules.atom_codes[:, 0],
            molecules.bond_atoms,
            key=mix_key(self.options.seed, 2),
        )
        split = self.options.split_fractions.assign(skeletons)
        order = hash_u64(self.key, molecules.ids)
        for s, name in enumerate(SPLITS):
            partition = (order % np.uint64(self.partitions[name])).astype(np.int64)
            for p in np.unique(partition[split == s]):
                self._append(name, int(p), molecules.take(np.flatnonzero((split == s) & (partition == p))))
        self.num_molecules += len(molecules)

    def _path(self, split: str, partition: int) -> Path:
        return self.folder / f"{split}-{partition:05d}"

    def _append(self, split: str, partition: int, molecules: Molecules) -> None:
        contents = [format.compress(c, level=SPILL_LEVEL) for c in format.encode_block(molecules).values()]
        with self._path(split, partition).open("ab") as file:
            file.write(self._LENGTHS.pack(len(molecules), *(len(c) for c in contents)))
            file.writelines(contents)

    def read(self, split: str, partition: int, dataset: Dataset) -> Molecules | None:
        """All molecules of a partition in their final order, None if there are none."""
        if not self._path(split, partition).exists():
            return None
        parts = []
        with self._path(split, partition).open("rb") as file:
            while head := file.read(self._LENGTHS.size):
                count, *lengths = self._LENGTHS.unpack(head)
                contents = {g: format.decompress(file.read(n)) for g, n in zip(format.GROUPS, lengths, strict=True)}
                parts.append(
                    format.decode_block(
                        contents,
                        num_molecules=count,
                        num_atom_features=len(schema.ATOM_FEATURES),
                        num_graph_tasks=len(dataset.columns("graph")),
                        num_atom_tasks=len(dataset.columns("atom")),
                    )
                )
        molecules = concat_molecules(parts)
        return molecules.take(np.lexsort((molecules.ids, hash_u64(self.key, molecules.ids))))

    def block_molecules(self, split: str) -> int:
        """Molecules a block of this split."""
        return self.options.block_molecules or min(4096, max(64, math.ceil(self.expected[split] / 32)))


def _map(
    files: list[InputFile], dataset: Dataset, options: BuildOptions, spill: _Spill, progress: Progress
) -> tuple[list[dict], np.ndarray]:
    total, done = sum(f.num_rows for f in files), 0
    rejects: list[dict] = []
    dropped = np.zeros(len(dataset.tasks), np.int64)
    for rows in iter_rows(files, dataset, batch_rows=MAP_ROWS):
        molecules, more = featurize_rows(rows, partial(_add_progress, progress, done, total))
        rejects += more
        done += len(rows.smiles)
        if len(molecules):
            labels = (molecules.graph_labels, molecules.atom_labels)
            dropped += np.concatenate([np.isinf(x).sum(axis=0) for x in labels])
            for x in labels:
                x[np.isinf(x)] = np.nan
            spill.append(molecules)
    return rejects, dropped


def _add_progress(progress: Progress, done: int, total: int, more: int) -> None:
    progress("featurize", done + more, total)


def featurize_rows(rows: Rows, on_row: Callable[[int], None] = lambda n: None) -> tuple[Molecules, list[dict]]:
    """Rows -> molecules with labels (infinite ones still in place) and the rejected rows: row, smiles, reason."""
    from shards.featurize import parse_molecule, stack_molecules  # RDKit is needed here and nowhere else

    parsed, kept, atom_labels, rejects = [], [], [], []
    for i, smiles in enumerate(rows.smiles):
        if i % 256 == 0:
            on_row(i)
        try:
            molecule = parse_molecule(smiles or "")
            atom_labels.append(_atom_labels(molecule, [lists.values[lists.ptr[i] : lists.ptr[i + 1]] for lists in rows.atom]))
        except FeaturizeError as error:
            rejects.append({"row": rows.first_row + i, "smiles": smiles, "reason": str(error)})
            continue
        parsed.append(molecule)
        kept.append(i)
    on_row(len(rows.smiles))
    with np.errstate(over="ignore"):
        graph_labels = rows.graph[kept].astype(np.float32)
    ids = np.array(kept, np.uint64) + np.uint64(rows.first_row)
    return stack_molecules(parsed, ids, graph_labels=graph_labels, atom_labels=atom_labels), rejects


def _atom_labels(molecule, lists: list[np.ndarray]) -> np.ndarray:
    """Atom lists of one row -> float32 (n, T) in stored order. Raises FeaturizeError when a list does not fit the molecule."""
    out = np.full((len(molecule.atom_codes), len(lists)), np.nan, np.float32)
    for t, values in enumerate(lists):
        if np.isnan(values).all():
            continue
        if molecule.label_index is None:
            raise FeaturizeError(molecule.map_problem)
        if values.size not in (molecule.num_heavy, molecule.num_all):
            raise FeaturizeError(
                f"atom list of {values.size} values for {molecule.num_heavy} heavy atoms ({molecule.num_all} with hydrogens)"
            )
        # hydrogens that are stored (isotopes) have an entry in lists over all atoms only
        has = (molecule.label_index >= 0) & (molecule.label_index < values.size)
        with np.errstate(over="ignore"):
            out[has, t] = values[molecule.label_index[has]]
    return out


def _reduce(
    out: Path,
    files: list[InputFile],
    dataset: Dataset,
    options: BuildOptions,
    spill: _Spill,
    rejects: list[dict],
    dropped: np.ndarray,
    progress: Progress,
) -> Manifest:
    rows: list[dict] = []
    moments = {split: Moments.empty(len(dataset.tasks)) for split in SPLITS}
    total, done = sum(spill.partitions.values()), 0
    for split in SPLITS:
        number = 0
        for partition in range(spill.partitions[split]):
            progress("write", done, total)
            molecules = spill.read(split, partition, dataset)
            done += 1
            if molecules is None:
                continue
            num_blocks = math.ceil(len(molecules) / spill.block_molecules(split))
            blocks = [molecules.take(part) for part in np.array_split(np.arange(len(molecules)), num_blocks)]
            for block in blocks:
                moments[split].add_block(block.graph_labels, block.atom_labels)
            rows += write_shard(out, split, number, blocks)
            number += 1
    progress("write", total, total)

    index_bytes = index.encode_index(rows)
    write_atomic(out / INDEX, index_bytes)
    reject_schema = pa.schema([("row", pa.uint64()), ("smiles", pa.string()), ("reason", pa.string())])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rejects, reject_schema), sink, compression="zstd")
    write_atomic(out / REJECTS, sink.getvalue())
    return Manifest(
        fingerprint=fingerprint(
            dataset.tasks,
            schema.ATOM_FEATURES,
            schema.BOND_FEATURES,
            [(r["split"], r["content_sha256"]) for r in rows],
        ),
        index_sha256=hashlib.sha256(index_bytes).hexdigest(),
        rejects_sha256=hashlib.sha256(sink.getvalue()).hexdigest(),
        tasks=dataset.tasks,
        task_sets=dataset.task_sets,
        atom_features=schema.ATOM_FEATURES,
        bond_features=schema.BOND_FEATURES,
        column_groups=format.GROUP_ARRAYS,
        statistics={
            task.name: Statistics(
                count=int(moments["train"].count[t]), mean=float(moments["train"].mean[t]), std=float(moments["train"].std[t])
            )
            for t, task in enumerate(dataset.tasks)
        },
        splits=_split_totals(rows),
        labels={t.name: {s: int(moments[s].count[k]) for s in SPLITS} for k, t in enumerate(dataset.tasks)},
        dropped_labels={t.name: int(n) for t, n in zip(dataset.tasks, dropped, strict=True) if n},
        # numbers in a reason are the row's own: rejects.parquet has them
        rejects=dict(sorted(Counter(re.sub(r"\d+", "N", r["reason"]) for r in rejects).items())),
        provenance={
            "inputs": [{"name": f.name, "rows": f.num_rows, "bytes": f.num_bytes, "sha256": f.sha256} for f in files],
            "options": asdict(options),
            "versions": _versions(),
        },
    )


def _split_totals(rows: list[dict]) -> dict[str, dict[str, int]]:
    out = {}
    for split in SPLITS:
        mine = [r for r in rows if r["split"] == split]
        if mine:
            out[split] = {
                "shards": len({r["shard"] for r in mine}),
                "blocks": len(mine),
                "molecules": sum(r["num_molecules"] for r in mine),
                "atoms": sum(r["num_atoms"] for r in mine),
                "bonds": sum(r["num_bonds"] for r in mine),
                "bytes": sum(r[f"{g}_bytes"] for r in mine for g in format.GROUPS),
            }
    return out


def _versions() -> dict[str, str]:
    from shards.featurize import rdkit_version

    return {"rdkit": rdkit_version(), "zstd": ".".join(map(str, format.zstandard.ZSTD_VERSION)), "pyarrow": pa.__version__}
