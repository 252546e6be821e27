"""Parquet, read and written through the store. Never in threads: those that Arrow leaves behind abort a process that exits soon
after (pyarrow 26)."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from molstream.shards.errors import FormatError, StorageError
from molstream.shards.store.reading import LocalFile, MemoryFile, StoredFile, Stream
from molstream.shards.store.writing import Sink, Written, write_beside

GROUP_ROWS = 16_384
"""Rows of a row group."""


@contextmanager
def open_parquet(file: StoredFile, *, footer: Any = None, check_pages: bool = False) -> Iterator[pq.ParquetFile]:
    """A Parquet file, for reading in a `with` block; `footer`: its metadata, where that has been read before.

    Raises FormatError, naming the file, for whatever Arrow finds wrong inside the block.
    """
    try:
        # pre_buffer reads in threads, ahead of what is asked for
        options: dict = {"metadata": footer, "pre_buffer": False, "page_checksum_verification": check_pages}
        with pq.ParquetFile(io.BufferedReader(Stream(file)), **options) as parquet:
            yield parquet
    except (FormatError, StorageError):
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise FormatError(f"{file.where}: not readable as Parquet: {' '.join(str(error).split())}") from error


def decode_parquet(data: bytes, *, where: str) -> pa.Table:
    """The table whose bytes these are. Raises FormatError."""
    with open_parquet(MemoryFile(data, where)) as parquet:
        return parquet.read(use_threads=False)


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Some columns of a file of this machine, or (None) all. Raises FormatError, StorageError."""
    with LocalFile(path) as file, open_parquet(file) as parquet:
        return parquet.read(columns, use_threads=False)


def encode_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a file."""
    sink = io.BytesIO()
    with parquet_writer(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet_writer(sink: Sink | io.BytesIO, schema: pa.Schema, **options: Any) -> pq.ParquetWriter:
    """What writes tables into an open file, closed at the end of a `with` block; `options` are Arrow's."""
    return pq.ParquetWriter(sink, schema, **{"compression": "zstd"} | options)


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], *, group_rows: int = GROUP_ROWS) -> Written:
    """Write tables as one file, holding not much more than a row group of `group_rows` rows in memory. Raises StorageError."""
    with write_beside(path) as sink, parquet_writer(sink, schema) as writer:
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table)
            if sum(map(len, waiting)) >= group_rows:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if sum(map(len, waiting)):
            writer.write_table(pa.concat_tables(waiting))
    return sink.written
