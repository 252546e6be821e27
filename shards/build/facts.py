"""Facts of finished shards: what index and manifest are made of, and what the shard's file is, so that a build that goes on can
tell whether it still is that.

{reduce_id}-{shard}.facts           sealed JSON: size and SHA-256 of the shard and of the table, written last
{reduce_id}-{shard}.facts.parquet   the shard's index rows, of each block moments (binary) and histograms (JSON), and with
                                    the first the shard's counts of values (binary)
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from molstream.shards.errors import ChecksumError, FormatError
from molstream.shards.store.documents import Document
from molstream.shards.store.reading import hash_file, read_file
from molstream.shards.store.tables import decode_parquet, write_parquet
from molstream.shards.store.writing import Written


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts(Document):
    """Files of one finished shard."""

    KIND: ClassVar[str] = "facts of a shard"
    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "run again to write the shard anew"

    shard: Written
    table: Written


def write_facts(path: Path, *, shard: Written, table: pa.Table) -> None:
    """Note a shard as finished, once it is. Raises StorageError."""
    Facts(shard=shard, table=write_parquet(_table_path(path), table.schema, [table])).write(path)


def read_facts(path: Path) -> pa.Table:
    """The table of a finished shard. Raises FormatError where it is not the one that was written."""
    facts, place = Facts.read(path), _table_path(path)
    data = read_file(place)
    if hashlib.sha256(data).hexdigest() != facts.table.sha256:
        raise ChecksumError(f"{place}: damaged (its SHA-256 differs); {Facts.REMEDY}")
    return decode_parquet(data, where=str(place))


def is_finished(path: Path, *, shard: Path) -> bool:
    """Whether a shard and its facts are as they were written. Reads both whole."""
    try:
        facts = Facts.read(path)
        return facts.shard.sha256 == hash_file(shard) and facts.table.sha256 == hash_file(_table_path(path))
    except FormatError:
        return False


def _table_path(path: Path) -> Path:
    return path.with_name(path.name + ".parquet")
