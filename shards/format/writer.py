"""Writing: blocks into a shard."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from molstream.shards.format import index
from molstream.shards.format.block import (
    ENCODING_LEVEL,
    ENCODINGS,
    TAR_BLOCK,
    TAR_END,
    ZSTD_LEVEL,
    compress,
    encode_block,
    member_name,
    shard_name,
    tar_member,
)
from molstream.shards.molecules import Level, Molecules
from molstream.shards.store.writing import Written, write_beside


def write_shard(
    folder: Path,
    split: str,
    number: int,
    blocks: Iterable[Molecules],
    *,
    label_dtypes: Mapping[Level, str],
    scratch: Path | None = None,
) -> tuple[list[dict], Written]:
    """Write one shard, a block at a time. Returns its index rows, one per block, and what the file is. Raises StorageError."""
    rows, at = [], 0
    with write_beside(folder / shard_name(split, number), scratch=scratch) as sink:
        for k, molecules in enumerate(blocks):
            contents = encode_block(molecules, label_dtypes=label_dtypes)
            row = {"split": split, "shard": number, "block": k} | index.describe_block(molecules)
            for group, content in contents.items():
                data = compress(content, level=ENCODING_LEVEL if group in ENCODINGS else ZSTD_LEVEL)
                member = tar_member(member_name(split, number, k, group), data)
                fields = index.describe_member(data, at + TAR_BLOCK)
                row |= {f"{group}_{field}": value for field, value in fields.items()}
                sink.write(member)
                at += len(member)
            row["content_sha256"] = index.hash_contents(contents)
            rows.append(row)
        sink.write(TAR_END)
    return rows, sink.written
