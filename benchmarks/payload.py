"""Flat little-endian arrays or Arrow IPC as the content of a member? Size and decoding time of the same columns, side by side.

    python benchmarks/payload.py

One block: the training molecules of the embedded sample. Both are one zstd frame of the same level; Arrow holds each array as a
list in a batch of one row, since columns of a batch must have one length. Byte shuffling is applied to both, or to neither.
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.format.arrays import compress, decode_arrays, decompress
from molstream.shards.format.block import shuffle_bytes, unshuffle_bytes
from molstream.shards.format.codings import arrays_of
from molstream.shards.format.reader import ShardSet
from molstream.shards.sample import sample_path


def arrow_encode(arrays: dict[str, np.ndarray]) -> bytes:
    batch = pa.record_batch([pa.array([a]) for a in arrays.values()], names=list(arrays))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def arrow_decode(content: bytes) -> dict[str, np.ndarray]:
    with pa.ipc.open_stream(content) as reader:
        batch = reader.read_next_batch()
    return {name: batch.column(name).flatten().to_numpy() for name in batch.schema.names}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        build([str(sample_path())], Path(folder) / "set", BuildOptions(block_molecules=4096))
        shard_set = ShardSet(Path(folder) / "set")
        contents = shard_set.read_contents(0)
    print(f"{shard_set.index.counts['num_molecules'][0]} molecules, medians of {runs}")
    print(f"{'group':14} {'flat B':>9} {'arrow B':>9} {'flat us':>9} {'arrow us':>9} {'arrow/flat':>10}")
    totals = np.zeros(4)
    for group, content in contents.items():
        arrays = decode_arrays(content, arrays_of(group))
        # what arrow stores: the same bytes, shuffled where the flat layout shuffles
        stored = {k: shuffle_bytes(a) if k in ("values", "ids") else a for k, a in arrays.items()}
        dtypes = {k: a.dtype for k, a in arrays.items()}
        flat, arrow = compress(content), compress(arrow_encode(stored))

        def decode_flat(data=flat, group=group) -> None:
            decode_arrays(decompress(data), arrays_of(group))

        def decode_arrow(data=arrow, dtypes=dtypes) -> None:
            for k, a in arrow_decode(decompress(data)).items():
                if k in ("values", "ids"):
                    unshuffle_bytes(a, dtypes[k])

        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(runs + 1):
            for k, decode in enumerate((decode_flat, decode_arrow)):
                start = time.perf_counter()
                decode()
                times[k].append((time.perf_counter() - start) * 1e6)
        row = [len(flat), len(arrow), *(statistics.median(t[1:]) for t in times)]
        totals += row
        print(f"{group:14} {row[0]:9,} {row[1]:9,} {row[2]:9,.0f} {row[3]:9,.0f} {row[3] / row[2]:10.2f}")
    print(f"{'all':14} {totals[0]:9,.0f} {totals[1]:9,.0f} {totals[2]:9,.0f} {totals[3]:9,.0f} {totals[3] / totals[2]:10.2f}")


if __name__ == "__main__":
    main()
