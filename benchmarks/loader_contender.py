"""What the contenders of benchmarks/loader.py share: the molecules, the batch, the clock and the digest. Not run itself.

A contender is a script loader_X.py that hands `contend` a way to start a pass over its data. It runs on one core with one torch
thread. A first pass is not timed: it fills caches, compiles kernels and digests every batch. The next are timed, for two seconds
at least; their loop asks each batch how many molecules it has and does nothing else.
"""

import argparse
import json
import os
import platform
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

# this checkout, whatever the environment has installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from molstream.shards.format.reader import ShardSet
from molstream.shards.molecules import Molecules

ATOMS = 8192
"""Atoms a batch: molstream's budget; a peer's batches hold as many molecules as fit it on average."""
SPLIT = "train"
LEAST_S = 2.0
"""Passes are timed until they took this long together."""
DONE = "prepared.json"
Arrays = dict[str, np.ndarray]


def parse_args(
    doc: str, *, forms: tuple[str, ...] = ("shards",), shuffle: bool = False, **options: dict[str, Any]
) -> argparse.Namespace:
    """The command line of a contender, the last of its forms being the default; pins this process."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds the shard set, set/, and what peers made of it")
    parser.add_argument("--molecules", default="all", help="least number, rounded up to whole blocks; or 'all'")
    parser.add_argument("--form", choices=forms, default=forms[-1], help="how molecules are stored")
    parser.add_argument("--prepare", action="store_true", help="convert set/ for this loader, if not done yet, and stop")
    parser.add_argument("--cores", default="0", help="pinned to these, '0' or '0,1'")
    if shuffle:
        parser.add_argument("--shuffle", action="store_true", help="as for training; by default in stored order, which is faster")
    for name, option in options.items():
        parser.add_argument(f"--{name}", **option)
    args = parser.parse_args()
    os.sched_setaffinity(0, set(map(int, args.cores.split(","))))
    torch.set_num_threads(1)
    args.molecules = None if args.molecules == "all" else int(args.molecules)
    return args


# the molecules


class FirstBlocks(ShardSet):
    """A shard set whose splits end with the block that holds their `molecules`-th molecule (None: as they are)."""

    def __init__(self, path: Path, molecules: int | None):
        super().__init__(path)
        self.molecules = molecules

    def blocks(self, split: str) -> np.ndarray:
        """Numbers of the split's blocks."""
        blocks = super().blocks(split)
        if self.molecules is None:
            return blocks
        ends = np.cumsum(self.index.counts["num_molecules"][blocks])
        return blocks[: np.searchsorted(ends, self.molecules) + 1]


def open_set(args: argparse.Namespace) -> FirstBlocks:
    """The source of everything."""
    shard_set = FirstBlocks(args.folder / "set", args.molecules)
    widths = [len(shard_set.manifest.tasks_of(level)) for level in ("graph", "atom")]
    if widths != [FIELDS["graph_labels"][1], FIELDS["atom_labels"][1]]:
        raise SystemExit(f"{shard_set.path} has {widths} graph- and atom-level tasks, expected those of PM6_83M")
    return shard_set


def both_directions(bonds: np.ndarray) -> np.ndarray:
    """Bonds (B, 2) -> edge index int32 (2, 2 B)."""
    edges = np.empty((2, 2 * len(bonds)), np.int32)
    edges[:, ::2], edges[:, 1::2] = bonds.T, bonds.T[::-1]
    return edges


def iter_molecules(shard_set: FirstBlocks) -> Iterator[Arrays]:
    """Each molecule as arrays of its own: what a peer stores as a sample."""
    for block in shard_set.iter_blocks(SPLIT, ("structure", "graph_labels", "atom_labels")):
        for k in range(len(block)):
            atoms, bonds = (slice(ptr[k], ptr[k + 1]) for ptr in (block.atom_ptr, block.bond_ptr))
            yield {
                "atom_codes": block.atom_codes[atoms].copy(),
                "edge_index": both_directions(block.bond_atoms[bonds]),
                "edge_codes": np.repeat(block.bond_codes[bonds], 2),
                "graph_labels": block.graph_labels[k].copy(),
                "atom_labels": block.atom_labels[atoms].copy(),
            }


def batch_size(shard_set: ShardSet) -> int:
    """Molecules that have `ATOMS` atoms on average."""
    counts = shard_set.index.counts
    return round(ATOMS * counts["num_molecules"].sum() / counts["num_atoms"].sum())


def prepare(args: argparse.Namespace, peer: str, write: Callable[[Path, Iterator[Arrays]], None]) -> Path:
    """The peer's own folder, filled by `write(folder, molecules)` unless it holds just these; --prepare ends here."""
    shard_set = open_set(args)
    folder = args.folder / f"{peer}-{args.form}"
    number = int(shard_set.index.counts["num_molecules"][shard_set.blocks(SPLIT)].sum())
    done = {"fingerprint": shard_set.manifest.fingerprint, "molecules": number}
    if not (folder / DONE).exists() or json.loads((folder / DONE).read_text()) != done:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder, iter_molecules(shard_set))
        (folder / DONE).write_text(json.dumps(done))
    if args.prepare:
        print(
            json.dumps({"loader": peer, "form": args.form, **done, "bytes_a_molecule": round(folder_bytes(folder) / number, 1)})
        )
        raise SystemExit
    return folder


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


# the batch of peers that bring no graphs of their own


def collate(samples: list[Arrays]) -> dict[str, torch.Tensor]:
    """Samples of `iter_molecules` -> one batch: concatenated, edges moved to their molecule's atoms."""
    fields = {name: [s[name] for s in samples] for name in samples[0]}
    joined = {name: np.concatenate(fields[name]) for name in ("atom_codes", "edge_codes", "atom_labels")}
    joined["graph_labels"] = np.stack(fields["graph_labels"])
    return _assemble(joined, [len(x) for x in fields["atom_codes"]], fields["edge_index"])


def collate_bytes(samples: list[dict[str, bytes]]) -> dict[str, torch.Tensor]:
    """The same from samples of `to_bytes`: one join a field."""
    fields = {name: [s[name] for s in samples] for name in FIELDS}
    joined = {}
    for name, (dtype, width) in FIELDS.items():
        if name != "edge_index":
            joined[name] = np.frombuffer(bytearray(b"".join(fields[name])), dtype).reshape((-1, width) if width else -1)
    width = FIELDS["atom_codes"][1]
    edges = [np.frombuffer(x, np.int32).reshape(2, -1) for x in fields["edge_index"]]
    return _assemble(joined, [len(x) // width for x in fields["atom_codes"]], edges)


def collate_records(records: list[bytes]) -> dict[str, torch.Tensor]:
    """The same from records of `to_record`."""
    return collate_bytes([split_record(record) for record in records])


def _assemble(joined: Arrays, sizes: list[int], edges: list[np.ndarray]) -> dict[str, torch.Tensor]:
    num_atoms = np.array(sizes, np.int32)
    first_atom = np.cumsum(num_atoms, dtype=np.int32) - num_atoms
    edge_index = np.concatenate(edges, axis=1)
    edge_index += np.repeat(first_atom, [x.shape[1] for x in edges])
    graph_of_atom = np.repeat(np.arange(len(sizes), dtype=np.int32), num_atoms)
    arrays = {**joined, "edge_index": edge_index, "graph_of_atom": graph_of_atom}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


FIELDS = {
    "graph_labels": (np.float32, 62),
    "atom_labels": (np.float32, 7),
    "edge_index": (np.int32, None),
    "atom_codes": (np.uint8, 7),
    "edge_codes": (np.uint8, None),
}
"""Arrays of a molecule, in the order of a record: dtype and columns (None: 1)."""
SIZES = struct.Struct("<II")


def to_bytes(molecule: Arrays) -> dict[str, bytes]:
    """A molecule's arrays without dtypes and shapes."""
    return {name: molecule[name].tobytes() for name in FIELDS}


def to_record(molecule: Arrays) -> bytes:
    """A molecule as one string of bytes: numbers of atoms and edges, then its arrays."""
    return SIZES.pack(len(molecule["atom_codes"]), len(molecule["edge_codes"])) + b"".join(to_bytes(molecule).values())


def split_record(record: bytes) -> dict[str, bytes]:
    """A record -> its arrays, as bytes."""
    atoms, edges = SIZES.unpack_from(record)
    a = SIZES.size + 62 * 4
    b = a + atoms * 7 * 4
    c = b + edges * 2 * 4
    d = c + atoms * 7
    return {
        "graph_labels": record[SIZES.size : a],
        "atom_labels": record[a:b],
        "edge_index": record[b:c],
        "atom_codes": record[c:d],
        "edge_codes": record[d:],
    }


def num_collated(batch: dict[str, torch.Tensor]) -> int:
    """Molecules of a collated batch."""
    return len(batch["graph_labels"])


def view_collated(batch: dict[str, torch.Tensor]) -> list[Arrays]:
    """A collated batch, for `digest`."""
    return [{name: tensor.numpy() for name, tensor in batch.items()}]


# the digest

MASK = 2**64 - 1
WEIGHTS = (2 * np.arange(4096, dtype=np.uint64) + 1) * np.uint64(0x9E3779B97F4A7C15)


def digest(arrays: Arrays) -> dict[str, int]:
    """Counts, and the sum modulo 2^64 of a 64-bit hash of each molecule: its atoms and labels in order, the set of its edges.

    Depends neither on the order of molecules nor on how they are cut into batches; labels count bit by bit, all NaN being one.
    """
    graph_of_atom = arrays["graph_of_atom"].astype(np.int64)
    num_graphs = len(arrays["graph_labels"])
    atom_ptr = np.searchsorted(graph_of_atom, np.arange(num_graphs + 1))
    rank = (np.arange(len(graph_of_atom)) - atom_ptr[graph_of_atom] + 1).astype(np.uint64)
    source, target = arrays["edge_index"].astype(np.int64)
    graph_of_edge = graph_of_atom[source]
    if (np.diff(graph_of_edge) < 0).any() or (np.diff(graph_of_atom) < 0).any():
        raise ValueError("atoms or edges of a molecule are not beside each other")
    edge_ptr = np.searchsorted(graph_of_edge, np.arange(num_graphs + 1))
    first = atom_ptr[graph_of_edge]
    atoms = _weigh(arrays["atom_codes"].astype(np.uint64) + np.uint64(1)) + _weigh(_bits(arrays["atom_labels"])) * WEIGHTS[100]
    edges = (source - first) * 65_537 + (target - first) * 257 + arrays["edge_codes"].astype(np.int64) + 1
    hashes = _mix(_weigh(_bits(arrays["graph_labels"]))) * WEIGHTS[200]
    hashes += _mix(_sums(_mix(atoms * rank), atom_ptr)) * WEIGHTS[300] + _mix(_sums(_mix(edges.astype(np.uint64)), edge_ptr))
    return {
        "molecules": num_graphs,
        "atoms": len(graph_of_atom),
        "edges": len(source),
        "graph_labels": int((~np.isnan(arrays["graph_labels"])).sum()),
        "atom_labels": int((~np.isnan(arrays["atom_labels"])).sum()),
        "content": int(_mix(hashes).sum()),
    }


def _bits(labels: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(labels), np.uint32(1), np.ascontiguousarray(labels, np.float32).view(np.uint32)).astype(np.uint64)


def _weigh(rows: np.ndarray) -> np.ndarray:
    return (rows * WEIGHTS[: rows.shape[1]]).sum(axis=1)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(31))) * np.uint64(0xD6E8FEB86659FD93)
    return x ^ (x >> np.uint64(29))


def _sums(x: np.ndarray, ptr: np.ndarray) -> np.ndarray:
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(x)])
    return total[ptr[1:]] - total[ptr[:-1]]


def add_digests(digests: Iterable[dict[str, int]]) -> dict[str, int]:
    """The digest of several batches together."""
    total: dict[str, int] = {}
    for part in digests:
        total = {name: (total.get(name, 0) + value) & MASK for name, value in part.items()}
    return total


def view_block(block: Molecules) -> Arrays:
    """A block as it was read, for `digest`."""
    return {
        "atom_codes": block.atom_codes,
        "edge_index": both_directions(block.bond_atoms) + np.repeat(block.atom_ptr[:-1], 2 * block.num_bonds),
        "edge_codes": np.repeat(block.bond_codes, 2),
        "graph_of_atom": np.repeat(np.arange(len(block)), block.num_atoms),
        "graph_labels": block.graph_labels,
        "atom_labels": block.atom_labels,
    }


def expected_digest(shard_set: FirstBlocks) -> dict[str, int]:
    """The digest of the set's molecules, read block by block: what every contender must deliver."""
    return add_digests(digest(view_block(block)) for block in shard_set.iter_blocks(SPLIT))


# the clock


def peak_mib() -> int:
    """Peak resident memory of this process (the peak of getrusage would begin with that of its parent)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


def contend(
    args: argparse.Namespace,
    *,
    loader: str,
    package: str,
    start: Callable[[], Iterable[Any]],
    count: Callable[[Any], int],
    views: Callable[[Any], Iterable[Arrays]],
    settings: dict[str, Any],
    reads_ahead: bool = False,
) -> None:
    """Digest a pass, time passes, print a line of JSON.

    `start` gives what a pass iterates over, `views` a batch without its padding. The rate is that after the first batch, so that
    no cost of starting is in it; but of the whole pass for a loader that `reads_ahead` and has done later batches' work by then.
    """
    checksum = add_digests(digest(view) for batch in start() for view in views(batch))
    molecules = checksum["molecules"]
    passes = timed = 0
    seconds = first_s = 0.0
    while seconds < LEAST_S:
        begin = time.perf_counter()
        batches = iter(start())
        first = count(next(batches))
        after_first = time.perf_counter()
        rest = 0
        for batch in batches:
            rest += count(batch)
        end = time.perf_counter()
        if first + rest != molecules:
            raise SystemExit(f"{loader}: {first + rest} molecules in a timed pass, {molecules} in the first")
        if not (rest or reads_ahead):
            raise SystemExit(f"{loader}: {molecules} molecules are one batch, nothing is left to time")
        passes += 1
        first_s += after_first - begin
        timed += molecules if reads_ahead else rest
        seconds += end - (begin if reads_ahead else after_first)
    labels = checksum["graph_labels"] + checksum["atom_labels"]
    result = {
        "loader": loader,
        "form": args.form,
        "version": version(package),
        "molecules": molecules,
        "labels": labels,
        "passes": passes,
        "timed_molecules": timed,
        "seconds": round(seconds, 4),
        "first_batch_s": round(first_s / passes, 4),
        "molecules_per_s": round(timed / seconds, 1),
        "labels_per_s": round(timed / seconds * labels / molecules),
        "rss_mib": peak_mib(),
        "checksum": checksum,
        "cores": args.cores,
        "shuffle": getattr(args, "shuffle", True),
        "settings": settings,
        "environment": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    print(json.dumps(result), flush=True)
