"""A shard as an archive: names of files and members, and the bytes of a tar that holds them."""

import tarfile

TAR_BLOCK = 512
TAR_END = bytes(2 * TAR_BLOCK)


def shard_name(split: str, number: int) -> str:
    """File name of a shard."""
    return f"{split}-{number:05d}.tar"


def member_name(split: str, number: int, block: int, group: str) -> str:
    """Name of a member inside its shard. A dot of the split's name is a + here, which no such name has: to WebDataset, the key
    of a sample ends at the first dot."""
    return f"{split.replace('.', '+')}-{number:05d}-{block:04d}.{group}.zst"


def tar_header(name: str, num_bytes: int) -> bytes:
    """The 512 bytes before a member."""
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def tar_member(name: str, data: bytes) -> bytes:
    """Header, data and padding of a member: shards are nothing but these, one after another, and TAR_END."""
    return tar_header(name, len(data)) + data + bytes(-len(data) % TAR_BLOCK)
