"""Writing: blocks into a shard."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from molstream.shards.columns import COLUMN_GROUPS
from molstream.shards.format import index
from molstream.shards.format.archive import TAR_BLOCK, TAR_END, member_name, shard_name, tar_member
from molstream.shards.format.arrays import compress
from molstream.shards.format.block import encode_block
from molstream.shards.molecules import Molecules
from molstream.shards.store.writing import Written, write_beside
from molstream.shards.tasks import Level


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
                data = compress(content, level=COLUMN_GROUPS[group].zstd_level)
                member = tar_member(member_name(split, number, k, group), data)
                fields = index.describe_member(data, at + TAR_BLOCK)
                row |= {f"{group}_{field}": value for field, value in fields.items()}
                sink.write(member)
                at += len(member)
            row["content_sha256"] = index.hash_contents(contents)
            rows.append(row)
        sink.write(TAR_END)
    return rows, sink.written
