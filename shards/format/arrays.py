"""Named flat arrays as the content of a member, and its zstd frame. The layout is in the docstring of `shards.format.block`."""

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import zstandard

from molstream.kernels.codec.bytes import shuffle_bytes, unshuffle_bytes
from molstream.shards.errors import FormatError, LimitError

MAGIC = b"MSA2"
ZSTD_LEVEL = 9
ZSTD_VERSION: tuple[int, ...] = zstandard.ZSTD_VERSION
MIN_ZSTD_BLOCK = 2048
"""Bytes between two cuts, at least: shorter blocks cost more time to read than they save space."""
MAX_MEMBER_BYTES = 2**31
MIN_ZSTD_BLOCK_BYTES, MAX_ZSTD_BLOCK = 4, 1 << 17
"""A block of a zstd frame is a header of 3 bytes and at least one more, and becomes at most 128 KiB (RFC 8878, 3.1.1.2)."""
_HEADER = struct.Struct("<4sHH")
_ENTRY = struct.Struct("<16s2sB5xQ")
DTYPES: dict[str, Any] = {"u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "u8": np.uint64, "f2": np.float16, "f4": np.float32}
"""By the code that a directory has for each."""
_CODES = {np.dtype(d): code for code, d in DTYPES.items()}


class Content(bytes):
    """Content of a member that knows where its statistics change, which is where `compress` may cut it."""

    cuts: tuple[int, ...] = ()


def encode_arrays(
    arrays: dict[str, np.ndarray], *, shuffle: frozenset[str] = frozenset(), cuts: Mapping[str, list[int]] = MappingProxyType({})
) -> Content:
    """Named flat arrays -> content of a member (not yet compressed). Names in `shuffle` are stored byte plane by byte plane.

    `cuts` are offsets inside arrays where their statistics change, besides those between planes.
    """
    head, body, at, places = [_HEADER.pack(MAGIC, len(arrays), 0)], [], _HEADER.size + len(arrays) * _ENTRY.size, []
    for name, array in arrays.items():
        data = shuffle_bytes(array).tobytes() if name in shuffle else np.ascontiguousarray(array).tobytes()
        head.append(_ENTRY.pack(name.encode(), _CODES[array.dtype].encode(), name in shuffle, array.size))
        body.append(data + bytes(-len(data) % 8))
        starts = [k * array.size for k in range(array.itemsize)] if name in shuffle else cuts.get(name, [0])
        places += [at + start for start in starts]
        at += len(body[-1])
    content = Content(b"".join(head + body))
    content.cuts = tuple(places)
    return content


def decode_arrays(content: bytes, expect: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Content of a member -> its arrays, read-only views where no transform applies.

    `expect`: names of the arrays, in order, and the dtypes each may have ("u2|u4").

    Every length, name and dtype is checked before an array is made. Raises FormatError.
    """
    if len(content) < _HEADER.size:
        raise FormatError(f"{len(content)} bytes, too short for a header")
    magic, count, zero = _HEADER.unpack_from(content)
    if magic != MAGIC or zero:
        raise FormatError(f"starts with {magic!r}, expected {MAGIC!r}")
    at = _HEADER.size + count * _ENTRY.size
    if len(content) < at:
        raise FormatError(f"{len(content)} bytes, too short for a directory of {count} arrays")
    arrays = {}
    for k in range(count):
        raw, code, transform, size = _ENTRY.unpack_from(content, _HEADER.size + k * _ENTRY.size)
        name, code = raw.rstrip(b"\0").decode("latin-1"), code.decode("latin-1")
        if name not in expect or code not in expect[name].split("|") or transform > 1:
            raise FormatError(f"array {name!r} of dtype {code!r}, transform {transform}; expected {expect}")
        dtype = np.dtype(DTYPES[code])
        num_bytes = size * dtype.itemsize
        if at + num_bytes + (-num_bytes % 8) > len(content):
            raise FormatError(f"array {name!r} of {size} {dtype.name} runs over the end of the member")
        data = np.frombuffer(content, np.uint8, num_bytes, at)
        arrays[name] = unshuffle_bytes(data, dtype) if transform else data.view(dtype)
        at += num_bytes + (-num_bytes % 8)
    if at != len(content):
        raise FormatError(f"{len(content) - at} bytes after the last array")
    if list(arrays) != list(expect):
        raise FormatError(f"holds arrays {list(arrays)}, expected {list(expect)}")
    return arrays


def compress(content: bytes, *, level: int = ZSTD_LEVEL) -> bytes:
    """One zstd frame, with content size and checksum; a new zstd block at the cuts of a `Content`.

    Raises LimitError for more than can be read again.
    """
    if len(content) > MAX_MEMBER_BYTES:
        raise LimitError(
            f"{len(content):,} bytes in one piece, at most {MAX_MEMBER_BYTES:,} can be read; build with fewer "
            f"--block-molecules or --shard-molecules"
        )
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    stream, start, parts, view = compressor.compressobj(size=len(content)), 0, [], memoryview(content)
    for cut in getattr(content, "cuts", ()):
        if cut - start >= MIN_ZSTD_BLOCK:
            parts += [stream.compress(view[start:cut]), stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
            start = cut
    return b"".join([*parts, stream.compress(view[start:]), stream.flush()])


def decompress(data: bytes) -> bytes:
    """Inverse of `compress`; zstd verifies its checksum. Raises FormatError, before memory is taken for what cannot be in it."""
    try:
        size, most = zstandard.frame_content_size(data), len(data) // MIN_ZSTD_BLOCK_BYTES * MAX_ZSTD_BLOCK
        if not 0 <= size <= MAX_MEMBER_BYTES:
            raise FormatError(f"zstd frame announces {size} bytes, allowed are 0 to {MAX_MEMBER_BYTES}")
        if size > most:
            raise FormatError(f"zstd frame of {len(data):,} bytes announces {size:,}, of which it has room for {most:,}")
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise FormatError(f"not a zstd frame: {error}") from error


def narrow(values: np.ndarray, *codes: str) -> np.ndarray:
    """Whole numbers in the first of the dtypes that holds every one."""
    largest = int(values.max()) if values.size else 0
    return values.astype(next(DTYPES[c] for c in codes if largest <= np.iinfo(DTYPES[c]).max))
