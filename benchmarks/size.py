"""Bytes a molecule on disk against Parquet, and what they cost to write and to read.

    python benchmarks/size.py [PARQUET...] [--runs 9]

Input: the embedded sample, or tables in PM6_83M's columns. Three references, each of one row group, zstd-9, InChI dropped:

    as given   the input's columns, BYTE_STREAM_SPLIT, no dictionaries
    best       the same, each column with or without BYTE_STREAM_SPLIT or dictionary, whichever is smallest
    as stored  what the set holds: SMILES without atom maps, labels in stored order, molecules shuffled; BYTE_STREAM_SPLIT

None holds the structure, which the set does. Where the four states of a table share one geometry, as in the sample, their 15
columns beside those of S0 cost nothing; "apart" says what the set takes when they differ by a percent.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.columns import ColumnWidths, computed_groups, groups_of
from molstream.shards.format.arrays import ZSTD_LEVEL, compress, decompress
from molstream.shards.format.block import decode_block, encode_block
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.datasets import preset_dataset
from molstream.shards.molecules import Molecules, concat_molecules, offsets
from molstream.shards.sample import sample_path
from molstream.shards.splits.rules import SplitFractions

GRAPH, ATOM = ([t.name for t in preset_dataset("pm6").tasks if t.level == level] for level in ("graph", "atom"))
GEOMETRY = [t for t, name in enumerate(GRAPH) if "_S0_" not in name and any(x in name for x in ("length", "spherocity", "plane"))]
NUM_TASKS = {"graph": len(GRAPH), "atom": len(ATOM), "bond": 0, "pair": 0}
GROUPS = groups_of(NUM_TASKS)
LEVELS = (1, 3, 6, 9, 12)
READ_TO_TRAIN = ("sizes", "structure", "graph_labels", "atom_labels")


def read_all(inputs: list[str]) -> Molecules:
    """All molecules of the inputs in the order of a set, labels as they are."""
    options = BuildOptions(split_fractions=SplitFractions(1.0, 0.0, 0.0), atom_labels="f32", pe=computed_groups())
    with tempfile.TemporaryDirectory() as folder:
        build(inputs, Path(folder) / "set", options)
        return concat_molecules(list(ShardSet(Path(folder) / "set").iter_blocks()))


def cut(molecules: Molecules, size: int) -> list[Molecules]:
    """Blocks of about `size`, as the builder makes them."""
    number = -(-len(molecules) // size)
    return [molecules.take(part) for part in np.array_split(np.arange(len(molecules)), number)]


def with_own_geometry(molecules: Molecules) -> Molecules:
    """The same with geometries of T0, cation and anion that differ from that of S0."""
    labels = molecules.graph_labels.copy()
    labels[:, GEOMETRY] *= 1 + np.random.default_rng(0).normal(0, 0.01, (len(labels), len(GEOMETRY))).astype(np.float32)
    return Molecules(
        atom_ptr=molecules.atom_ptr,
        bond_ptr=molecules.bond_ptr,
        graph_labels=labels,
        **{name: getattr(molecules, name) for name in ("atom_codes", "bond_atoms", "bond_codes", "atom_labels", "ids", "smiles")},
    )


def as_table(molecules: Molecules) -> pa.Table:
    """What a set stores, but for the structure, as a table in the input's columns."""
    columns: dict[str, pa.Array] = {"ordered_smiles": pa.array(molecules.smiles)}
    for t, name in enumerate(GRAPH):
        columns[name] = pa.array(molecules.graph_labels[:, t], from_pandas=True)
    for t, name in enumerate(ATOM):
        values = molecules.atom_labels[:, t]
        real = np.add.reduceat(~np.isnan(values), molecules.atom_ptr[:-1]) > 0
        ptr = offsets(np.where(real, molecules.num_atoms, 0))
        kept = pa.array(values[np.repeat(real, molecules.num_atoms)])
        columns[name] = pa.ListArray.from_arrays(pa.array(ptr, pa.int32()), kept, mask=pa.array(~real))
    return pa.table(columns)


def encodings_as_table(molecules: Molecules) -> pa.Table:
    """The stored codes: a column of lists for each step and each eigenvector, which is Parquet's best."""
    ptr = pa.array(molecules.atom_ptr, pa.int32())
    return pa.table(
        {
            f"{name}_{k}": pa.ListArray.from_arrays(ptr, pa.array(np.ascontiguousarray(codes[:, k])))
            for name in ("rwse", "eigenvectors", "eigenvalues")
            for k, codes in enumerate([getattr(molecules, name)] * getattr(molecules, name).shape[1])
        }
    )


def measure_encodings(molecules: Molecules, totals: dict, plain: dict[str, int]) -> None:
    """Sizes with positional encodings."""
    number, none = len(molecules), {"rwse": None, "eigenvectors": None, "eigenvalues": None}
    sink = io.BytesIO()
    table = encodings_as_table(molecules)
    split = [f"{f.name}.list.element" for f in table.schema if pa.types.is_floating(f.type.value_type)]
    columns = dict.fromkeys(split, "BYTE_STREAM_SPLIT")
    pq.write_table(table, sink, compression="zstd", compression_level=9, row_group_size=len(table), use_dictionary=False,
                   column_encoding=columns)  # fmt: skip
    reference = sink.tell()
    print(f"\nPositional encodings (u1, u1, f2), Parquet {reference / number:.1f} bytes a molecule")
    for cut_blocks in (cut(molecules, 1024), cut(molecules, 4096)):
        size = f"{len(cut_blocks[0]):,}"
        sizes = group_sizes(encode(cut_blocks, "f2"))
        bare = group_sizes(encode([b.replace(**none) for b in cut_blocks], "f2"))
        assert all(bare[g] == sizes[g] for g in bare)
        codes = sizes["rw16"] + sizes["lap8"]
        shares = ", ".join(
            f"atoms {atom} {(totals[size, atom][k] * number + codes) / (plain[atom] + reference):.2f}{' apart' * k}"
            for atom in ("f2", "f4")
            for k in (0, 1)
        )
        print(
            f"blocks of {size}: rw16 {sizes['rw16'] / number:.1f}, lap8 {sizes['lap8'] / number:.1f}, "
            f"{codes / reference:.2f} of Parquet; with all else, against Parquet as given: {shares}"
        )


def halve_lists(table: pa.Table) -> pa.Table:
    """Atom labels in float16."""
    half = pa.list_(pa.float16())
    return table.cast(pa.schema([pa.field(f.name, half if pa.types.is_list(f.type) else f.type) for f in table.schema]))


def parquet_sizes(table: pa.Table) -> tuple[int, int]:
    """Bytes of the file with BYTE_STREAM_SPLIT, and with the best encoding of each column."""
    split = [f.name for f in table.schema if pa.types.is_floating(f.type)]
    split += [f"{f.name}.list.element" for f in table.schema if pa.types.is_list(f.type)]
    columns: list[Counter] = []
    sizes = []
    for options in (
        {"use_dictionary": False, "column_encoding": dict.fromkeys(split, "BYTE_STREAM_SPLIT")},
        {"use_dictionary": True},
        {"use_dictionary": False},
    ):
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", compression_level=9, row_group_size=len(table), **options)
        sizes.append(sink.tell())
        group = pq.ParquetFile(sink).metadata.row_group(0)
        chunks = (group.column(c) for c in range(group.num_columns))
        columns.append(Counter({c.path_in_schema: c.total_compressed_size for c in chunks}))
    best = sum(min(c[name] for c in columns) for name in columns[0])
    return sizes[0], best + sizes[0] - sum(columns[0].values())


def encode(blocks: list[Molecules], atom: str) -> list[dict[str, bytes]]:
    return [encode_block(b, label_dtypes={"graph": "f4", "atom": atom}) for b in blocks]


def group_sizes(contents: list[dict[str, bytes]], level: int = ZSTD_LEVEL) -> Counter:
    sizes: Counter = Counter()
    for content in contents:
        sizes.update({group: len(compress(data, level=level)) for group, data in content.items()})
    return sizes


def decode(block: dict[str, bytes], num_molecules: int) -> None:
    decode_block(
        {group: decompress(data) for group, data in block.items()},
        num_molecules=num_molecules,
        widths=ColumnWidths(atom_codes=(256,) * 7, bond_codes=256, num_tasks=NUM_TASKS),
    )


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_reading(blocks: dict[str, list[Molecules]], runs: int) -> None:
    """Nanoseconds a molecule of one block, from compressed bytes to columns, group by group, interleaved."""
    groups = {g: ("sizes", g) for g in GROUPS[1:]} | {"sizes": ("sizes",), "to train": READ_TO_TRAIN}
    work, times = {}, {}
    for size, cut_blocks in blocks.items():
        for atom in ("f2", "f4"):
            frames = {group: compress(data) for group, data in encode(cut_blocks[:1], atom)[0].items()}
            for name, members in groups.items():
                work[size, atom, name] = {g: frames[g] for g in members}, len(cut_blocks[0])
                times[size, atom, name] = []
    for _ in range(runs + 1):
        for key, arguments in work.items():
            times[key].append(seconds(lambda arguments=arguments: decode(*arguments)) / arguments[1] * 1e9)
    median = {key: statistics.median(t[1:]) for key, t in times.items()}
    names = [*GROUPS, "to train"]
    print("\nns a molecule to read, decompressed and decoded (a group's less the sizes it needs); in brackets the least")
    print(f"{'blocks':8} {'atoms':5} " + " ".join(f"{n:>12}" for n in names))
    for size in blocks:
        for atom in ("f2", "f4"):
            row = [median[size, atom, n] - (median[size, atom, "sizes"] if n in GROUPS[1:] else 0) for n in names]
            print(f"{size:8} {atom:5} " + " ".join(f"{x:12,.0f}" for x in row) + f" ({min(times[size, atom, 'to train']):,.0f})")


def measure_writing(blocks: list[Molecules], runs: int) -> None:
    """Microseconds a molecule to encode and to compress at several levels, least of `runs`, interleaved."""
    number = sum(map(len, blocks))
    print("\nus a molecule to write (least of the runs), and bytes a molecule, by zstd level")
    print(f"{'atoms':5} {'encode':>7} " + " ".join(f"{f'level {level}':>16}" for level in LEVELS))
    for atom in ("f2", "f4"):
        contents = encode(blocks, atom)
        times: dict = {level: [] for level in (0, *LEVELS)}
        for _ in range(runs):
            times[0].append(seconds(lambda atom=atom: encode(blocks, atom)))
            for level in LEVELS:
                times[level].append(seconds(lambda contents=contents, level=level: group_sizes(contents, level)))
        us = {level: min(t) / number * 1e6 for level, t in times.items()}
        sizes = {level: sum(group_sizes(contents, level).values()) / number for level in LEVELS}
        print(f"{atom:5} {us[0]:7.2f} " + " ".join(f"{us[level]:7.2f} {sizes[level]:8.1f}" for level in LEVELS))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", nargs="*", default=[str(sample_path())])
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    table = pa.concat_tables([pq.read_table(p) for p in args.inputs]).combine_chunks().drop(["inchi"])
    encoded = read_all(args.inputs)
    molecules = encoded.replace(rwse=None, eigenvectors=None, eigenvalues=None)
    number = len(molecules)
    if number != len(table):
        print(f"{len(table) - number} rows were rejected; Parquet holds them all the same")
    blocks = {f"{len(b[0]):,}": b for b in (cut(molecules, 1024), cut(molecules, 4096))}
    apart = {f"{len(b[0]):,}": b for b in (cut(with_own_geometry(molecules), size) for size in (1024, 4096))}
    print(f"{number:,} molecules, {molecules.atom_ptr[-1] / number:.1f} atoms each; graph labels f4")

    print("\nbytes a molecule")
    print(f"{'blocks':8} {'atoms':5} " + " ".join(f"{g:>12}" for g in GROUPS) + f" {'total':>8} {'apart':>8}")
    totals = {}
    for size, cut_blocks in blocks.items():
        for atom in ("f2", "f4"):
            sizes = group_sizes(encode(cut_blocks, atom))
            total, other = (sum(x.values()) / number for x in (sizes, group_sizes(encode(apart[size], atom))))
            totals[size, atom] = total, other
            print(f"{size:8} {atom:5} " + " ".join(f"{sizes[g] / number:12.1f}" for g in GROUPS) + f" {total:8.1f} {other:8.1f}")

    print("\nParquet, bytes a molecule; in brackets the set's share of it, (as is, apart)")
    stored, references = as_table(molecules), {}
    for atom in ("f2", "f4"):
        given, same = (halve_lists(t) if atom == "f2" else t for t in (table, stored))
        plain, best = parquet_sizes(given)
        references[atom] = plain
        for name, reference in (("as given", plain), ("best", best), ("as stored", parquet_sizes(same)[0])):
            shares = [
                f"blocks of {size}: " + ", ".join(f"{x * number / reference:.2f}" for x in totals[size, atom]) for size in blocks
            ]
            print(f"atoms {atom}  {name:10} {reference / number:8.1f}   ({'; '.join(shares)})")

    measure_encodings(encoded, totals, references)
    measure_reading(blocks, args.runs)
    measure_writing(next(iter(blocks.values())), args.runs)


if __name__ == "__main__":
    main()
