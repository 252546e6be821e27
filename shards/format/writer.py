"""Writing: blocks into a shard, and any file so that it is there whole or not at all."""

import hashlib
import io
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from molstream.shards.columns import COLUMN_GROUPS
from molstream.shards.errors import StorageError
from molstream.shards.format import index
from molstream.shards.format.archive import TAR_BLOCK, TAR_END, member_name, shard_name, tar_member
from molstream.shards.format.arrays import compress
from molstream.shards.format.block import encode_block
from molstream.shards.molecules import Molecules
from molstream.shards.tasks import Level


@contextmanager
def write_beside(path: Path, *, scratch: Path | None = None) -> Iterator[BinaryIO]:
    """A file that takes the name `path` when the block ends, on disk by then; if the block fails there is nothing.

    Until then it lies in `scratch`, a folder of the same file system, or beside: for a process that is killed leaves it there.
    The name beside is of its own: two that write the same file, as after a lost node, do not meet. Raises StorageError.
    """
    beside = (scratch or path.parent) / (f"{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise StorageError(f"{path}: cannot be written: {error.strerror or error}; run again to go on from here") from error
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, sync, rename."""
    with write_beside(path) as file:
        file.write(data)


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], *, group_rows: int = 16_384) -> None:
    """Write tables as one Parquet file, holding not much more than a row group of `group_rows` rows in memory."""
    with write_beside(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table)
            if sum(map(len, waiting)) >= group_rows:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if sum(map(len, waiting)):
            writer.write_table(pa.concat_tables(waiting))


def read_parquet(path: Path) -> pa.Table:
    """The whole file. Not read_table: the threads it leaves behind abort a process that exits soon after (pyarrow 26)."""
    return pq.ParquetFile(io.BytesIO(path.read_bytes())).read(use_threads=False)


def hash_file(path: Path) -> str:
    """SHA-256, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_shard(
    folder: Path,
    split: str,
    number: int,
    blocks: Iterable[Molecules],
    *,
    label_dtypes: Mapping[Level, str],
    scratch: Path | None = None,
) -> list[dict]:
    """Write one shard, a block at a time, and return its index rows, a row a block."""
    rows, at = [], 0
    with write_beside(folder / shard_name(split, number), scratch=scratch) as file:
        for k, molecules in enumerate(blocks):
            contents = encode_block(molecules, label_dtypes=label_dtypes)
            row = {"split": split, "shard": number, "block": k} | index.describe_block(molecules)
            for group, content in contents.items():
                data = compress(content, level=COLUMN_GROUPS[group].zstd_level)
                member = tar_member(member_name(split, number, k, group), data)
                fields = index.describe_member(data, at + TAR_BLOCK)
                row |= {f"{group}_{field}": value for field, value in fields.items()}
                file.write(member)
                at += len(member)
            row["content_sha256"] = index.hash_contents(contents)
            rows.append(row)
        file.write(TAR_END)
    return rows
