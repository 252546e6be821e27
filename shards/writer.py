"""Writing: blocks into a shard, and any file so that it is there whole or not at all."""

import os
from pathlib import Path

from shards import format, index
from shards.types import Molecules


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, sync, rename."""
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def write_shard(folder: Path, split: str, number: int, blocks: list[Molecules]) -> list[dict]:
    """Write one shard and return its index rows, a row a block."""
    rows, parts, at = [], [], 0
    for k, molecules in enumerate(blocks):
        contents = format.encode_block(molecules)
        row = {"split": split, "shard": number, "block": k} | index.describe_block(molecules)
        for group in format.GROUPS:
            data = format.compress(contents[group])
            member = format.tar_member(format.member_name(split, number, k, group), data)
            fields = index.describe_member(data, at + format.TAR_BLOCK)
            row |= {f"{group}_{field}": value for field, value in fields.items()}
            parts.append(member)
            at += len(member)
        row["content_sha256"] = index.hash_contents(contents)
        rows.append(row)
    write_atomic(folder / format.shard_name(split, number), b"".join([*parts, format.TAR_END]))
    return rows
