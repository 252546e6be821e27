"""The line end to end: build, size on disk, stream. What the README's estimates for PM6_83M are made from.

    python benchmarks/spine.py [PARQUET...] [--runs 5]

Input: the embedded sample, or tables in PM6_83M's columns. Build is timed against bare RDKit parsing of the same strings; size
against Parquet with BYTE_STREAM_SPLIT and zstd-9 of the same columns (InChI dropped on both sides); the stream against nothing.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.format.reader import ShardSet
from molstream.shards.sample import sample_path
from molstream.shards.splits.rules import SplitFractions
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader

EPOCHS = 20


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def parquet_bytes(table: pa.Table, path: Path) -> int:
    table = table.drop(["inchi"])
    split = [f.name for f in table.schema if pa.types.is_floating(f.type)]
    split += [f"{f.name}.list.element" for f in table.schema if pa.types.is_list(f.type)]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=9,
        use_dictionary=False,
        column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
    )
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", nargs="*", default=[str(sample_path())])
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    table = pa.concat_tables([pq.read_table(p) for p in args.inputs])
    smiles = table["ordered_smiles"].to_pylist()
    # 100,0,0: one split, so that block sizes are those of a larger set
    options = BuildOptions(split_fractions=SplitFractions(1.0, 0.0, 0.0), block_molecules=1024)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parse, whole = [], []
        for k in range(args.runs + 1):
            parse.append(timed(lambda: [Chem.MolFromSmiles(s) for s in smiles]))
            whole.append(timed(lambda k=k: build(args.inputs, root / f"set{k}", options)))
        parse_s, build_s = (statistics.median(x[1:]) for x in (parse, whole))
        n = len(smiles)
        ratio = statistics.median(p / b for p, b in zip(parse[1:], whole[1:], strict=True))
        print(f"{n:,} molecules, medians of {args.runs}")
        print(f"RDKit parse alone  {n / parse_s:10,.0f} molecules/s")
        print(f"build              {n / build_s:10,.0f} molecules/s, {ratio:.2f} of the parse rate")
        shard_set = ShardSet(root / "set0")
        members = sum(int(shard_set.index.members[f"{g}_bytes"].sum()) for g in shard_set.manifest.column_groups)
        total = sum(p.stat().st_size for p in (root / "set0").iterdir())
        reference = parquet_bytes(table, root / "reference.parquet")
        print(f"members            {members / n:10,.1f} bytes a molecule, f32 labels, structure included")
        print(f"whole folder       {total / n:10,.1f}")
        print(f"Parquet            {reference / n:10,.1f}, members are {members / reference:.2f} of it")
        for atoms in (1024, 8192):
            rates, labels, fill = [], 0, 0.0
            for _ in range(args.runs + 1):
                config = StreamConfig(budget=Budget.suggest(shard_set, atoms=atoms), num_lanes=1)
                loader = Loader(shard_set, config, num_threads=1)
                molecules = labels = slots = real = 0
                start = time.perf_counter()
                for _ in range(EPOCHS):
                    for step in loader:
                        for batch in step.batches:
                            molecules += batch.num_graphs
                            labels += int(batch.num_graph_labels_T.sum() + batch.num_atom_labels_T.sum())
                            real += int(batch.atom_ptr_G[batch.num_graphs])
                            slots += config.budget.capacity.atoms
                rates.append(molecules / (time.perf_counter() - start))
                fill = real / slots
            rate = statistics.median(rates[1:])
            print(
                f"stream {atoms:5} atoms {rate:9,.0f} molecules/s, {rate * labels / molecules:13,.0f} labels/s, one thread, "
                f"atom slots {fill:.1%} full"
            )


if __name__ == "__main__":
    main()
