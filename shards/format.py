"""The bytes of a shard, draft version 1. Little-endian throughout.

A shard `{split}-{number:05d}.tar` is a plain POSIX ustar archive. A block (a few thousand molecules) is one WebDataset sample:
consecutive members `{split}-{number:05d}-{block:04d}.{group}.zst`, in the order of GROUPS. All header fields but name, size and
checksum are constant (mode 0644, owner 0, time 0). Two zero blocks of 512 bytes end the archive.

    train-00003.tar
      train-00003-0000.sizes.zst          num_atoms u2|u4 (N), num_bonds u2|u4 (N)
      train-00003-0000.structure.zst      atom_codes u1 (F*A, feature by feature), bond_high u1|u2 (B), bond_step u1|u2 (B),
                                          bond_codes u1 (B)
      train-00003-0000.graph_labels.zst   encoding u1 (T), count u4 (T), bitmap u1, rows u4, values f4 shuffled
      train-00003-0000.atom_labels.zst    the same
      train-00003-0000.ids.zst            ids u8 shuffled (N)
      train-00003-0000.smiles.zst         lengths u2|u4 (N), text u1 (UTF-8)
      train-00003-0001.sizes.zst          ...

Each member is one zstd frame with content size and checksum. Its content is a set of named arrays:

    offset  size  field
    0       4     magic "MSA1"
    4       2     k, number of arrays
    6       2     0
    8       32*k  directory: name (16, ASCII, zero-padded), dtype (2: "u1" "u2" "u4" "u8" "f4"), transform (1: 0 none, 1 bytes
                  shuffled plane by plane), 0 (5), number of elements (8)
    8+32*k  ...   the arrays, each padded with zeros to a multiple of 8 bytes

Bonds are sorted by (larger atom, smaller atom): `bond_high` is the larger, `bond_step` larger minus smaller (almost always 1, so
it costs next to nothing). Labels are those of `kernels.labels.SparseLabels`; at atom level a present molecule has one value an
atom, in stored order, NaN where that atom has none. The feature and task lists that give F and T are in manifest.json.

History: draft 1, 2026-11: first.
"""

import struct
import tarfile
from itertools import pairwise
from typing import Any

import numpy as np
import zstandard

from kernels.bytes import shuffle_bytes, unshuffle_bytes
from kernels.labels import SparseLabels, densify_labels, sparsify_labels
from shards.errors import FormatError
from shards.types import Molecules, offsets

FORMAT_VERSION = 1
_LABELS = {"encoding": "u1", "count": "u4", "bitmap": "u1", "rows": "u4", "values": "f4"}
GROUP_ARRAYS: dict[str, dict[str, str]] = {
    "sizes": {"num_atoms": "u2|u4", "num_bonds": "u2|u4"},
    "structure": {"atom_codes": "u1", "bond_high": "u1|u2", "bond_step": "u1|u2", "bond_codes": "u1"},
    "graph_labels": _LABELS,
    "atom_labels": _LABELS,
    "ids": {"ids": "u8"},
    "smiles": {"lengths": "u2|u4", "text": "u1"},
}
"""Column groups, in the order of their members; their arrays, in order, and the dtypes each may have."""
GROUPS = tuple(GROUP_ARRAYS)
MAGIC = b"MSA1"
TAR_BLOCK = 512
TAR_END = bytes(2 * TAR_BLOCK)
ZSTD_LEVEL = 9
MAX_MEMBER_BYTES = 2**31
_HEADER = struct.Struct("<4sHH")
_ENTRY = struct.Struct("<16s2sB5xQ")
_DTYPES: dict[str, Any] = {"u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "u8": np.uint64, "f4": np.float32}
_CODES = {np.dtype(d): code for code, d in _DTYPES.items()}


def shard_name(split: str, number: int) -> str:
    """File name of a shard."""
    return f"{split}-{number:05d}.tar"


def member_name(split: str, number: int, block: int, group: str) -> str:
    """Name of a member inside its shard."""
    return f"{split}-{number:05d}-{block:04d}.{group}.zst"


# arrays <-> bytes


def encode_arrays(arrays: dict[str, np.ndarray], *, shuffle: frozenset[str] = frozenset()) -> bytes:
    """Named flat arrays -> content of a member (not yet compressed). Names in `shuffle` are stored byte plane by byte plane."""
    head, body = [_HEADER.pack(MAGIC, len(arrays), 0)], []
    for name, array in arrays.items():
        data = shuffle_bytes(array).tobytes() if name in shuffle else np.ascontiguousarray(array).tobytes()
        head.append(_ENTRY.pack(name.encode(), _CODES[array.dtype].encode(), name in shuffle, array.size))
        body.append(data + bytes(-len(data) % 8))
    return b"".join(head + body)


def decode_arrays(content: bytes, *, group: str) -> dict[str, np.ndarray]:
    """Content of a member of `group` -> its arrays, read-only views where no transform applies.

    Every length, name and dtype is checked before an array is made. Raises FormatError.
    """
    expect = GROUP_ARRAYS[group]
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
        dtype = np.dtype(_DTYPES[code])
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
    """One zstd frame, with content size and checksum."""
    return zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True).compress(content)


def decompress(data: bytes) -> bytes:
    """Inverse of `compress`; zstd verifies its checksum. Raises FormatError."""
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= MAX_MEMBER_BYTES:
            raise FormatError(f"zstd frame announces {size} bytes, allowed are 0 to {MAX_MEMBER_BYTES}")
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise FormatError(f"not a zstd frame: {error}") from error


# column groups <-> contents


def _narrow(values: np.ndarray, *codes: str) -> np.ndarray:
    """The first of the dtypes that holds every value."""
    largest = int(values.max()) if values.size else 0
    return values.astype(next(_DTYPES[c] for c in codes if largest <= np.iinfo(_DTYPES[c]).max))


def encode_block(molecules: Molecules) -> dict[str, bytes]:
    """All column groups of a block, not compressed: {group: content}. The same molecules give the same bytes."""
    high = molecules.bond_atoms[:, 1]
    text = [s.encode() for s in molecules.smiles]
    graph_ptr = np.arange(len(molecules) + 1)
    return {
        "sizes": encode_arrays(
            {"num_atoms": _narrow(molecules.num_atoms, "u2", "u4"), "num_bonds": _narrow(molecules.num_bonds, "u2", "u4")}
        ),
        "structure": encode_arrays(
            {
                "atom_codes": np.ascontiguousarray(molecules.atom_codes.T).reshape(-1),
                "bond_high": _narrow(high, "u1", "u2"),
                "bond_step": _narrow(high - molecules.bond_atoms[:, 0], "u1", "u2"),
                "bond_codes": molecules.bond_codes,
            }
        ),
        "graph_labels": _encode_labels(molecules.graph_labels, graph_ptr),
        "atom_labels": _encode_labels(molecules.atom_labels, molecules.atom_ptr),
        "ids": encode_arrays({"ids": molecules.ids}, shuffle=frozenset({"ids"})),
        "smiles": encode_arrays(
            {
                "lengths": _narrow(np.array([len(t) for t in text], np.int64), "u2", "u4"),
                "text": np.frombuffer(b"".join(text), np.uint8),
            }
        ),
    }


def _encode_labels(labels: np.ndarray, ptr: np.ndarray) -> bytes:
    return encode_arrays(sparsify_labels(labels, ptr)._asdict(), shuffle=frozenset({"values"}))


def decode_block(
    contents: dict[str, bytes], *, num_molecules: int, num_atom_features: int, num_graph_tasks: int, num_atom_tasks: int
) -> Molecules:
    """Column groups of a block -> molecules with the columns that are there; `sizes` always is.

    Raises FormatError, with the group's name first.
    """
    group = "sizes"
    try:
        sizes = decode_arrays(contents[group], group=group)
        if sizes["num_atoms"].size != num_molecules or sizes["num_bonds"].size != num_molecules:
            raise FormatError(f"sizes of {sizes['num_atoms'].size} molecules, the index says {num_molecules}")
        atom_ptr, bond_ptr = offsets(sizes["num_atoms"]), offsets(sizes["num_bonds"])
        columns: dict[str, np.ndarray] = {}
        if (group := "structure") in contents:
            columns |= _decode_structure(contents[group], atom_ptr, bond_ptr, num_atom_features)
        if (group := "graph_labels") in contents:
            columns[group] = _decode_labels(contents[group], np.arange(num_molecules + 1), num_graph_tasks)
        if (group := "atom_labels") in contents:
            columns[group] = _decode_labels(contents[group], atom_ptr, num_atom_tasks)
        if (group := "ids") in contents:
            columns[group] = decode_arrays(contents[group], group=group)["ids"]
            if columns[group].size != num_molecules:
                raise FormatError(f"{columns[group].size} ids for {num_molecules} molecules")
        if (group := "smiles") in contents:
            columns[group] = _decode_smiles(contents[group], num_molecules)
    except ValueError as error:
        raise FormatError(f"member {group}: {error}") from error
    return Molecules(atom_ptr=atom_ptr, bond_ptr=bond_ptr, **columns)


def _decode_structure(content: bytes, atom_ptr: np.ndarray, bond_ptr: np.ndarray, num_features: int) -> dict[str, np.ndarray]:
    arrays = decode_arrays(content, group="structure")
    num_atoms, num_bonds = int(atom_ptr[-1]), int(bond_ptr[-1])
    if arrays["atom_codes"].size != num_features * num_atoms:
        raise FormatError(f"{arrays['atom_codes'].size} atom codes, expected {num_features} x {num_atoms}")
    for name in ("bond_high", "bond_step", "bond_codes"):
        if arrays[name].size != num_bonds:
            raise FormatError(f"{arrays[name].size} entries in {name}, expected {num_bonds}")
    high, step = arrays["bond_high"].astype(np.int32), arrays["bond_step"].astype(np.int32)
    limit = np.repeat(np.diff(atom_ptr), np.diff(bond_ptr))
    if num_bonds and ((high >= limit).any() or (step > high).any() or (step == 0).any()):
        raise FormatError("a bond leads outside its molecule or from an atom to itself")
    return {
        "atom_codes": np.ascontiguousarray(arrays["atom_codes"].reshape(num_features, num_atoms).T),
        "bond_atoms": np.stack([high - step, high], axis=1).astype(np.uint16),
        "bond_codes": arrays["bond_codes"],
    }


def _decode_labels(content: bytes, ptr: np.ndarray, num_tasks: int) -> np.ndarray:
    sparse = SparseLabels(**decode_arrays(content, group="graph_labels"))
    if sparse.encoding.size != num_tasks:
        raise FormatError(f"labels of {sparse.encoding.size} tasks, the manifest lists {num_tasks}")
    return densify_labels(sparse, ptr)


def _decode_smiles(content: bytes, num_molecules: int) -> np.ndarray:
    arrays = decode_arrays(content, group="smiles")
    ptr = offsets(arrays["lengths"])
    if arrays["lengths"].size != num_molecules or ptr[-1] != arrays["text"].size:
        raise FormatError(f"{arrays['text'].size} bytes of SMILES for {num_molecules} molecules, lengths sum to {ptr[-1]}")
    text = arrays["text"].tobytes()
    smiles = np.empty(num_molecules, object)
    smiles[:] = [text[a:b].decode() for a, b in pairwise(ptr)]
    return smiles


# members <-> tar


def tar_header(name: str, num_bytes: int) -> bytes:
    """The 512 bytes before a member."""
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def tar_member(name: str, data: bytes) -> bytes:
    """Header, data and padding of a member: shards are nothing but these, one after another, and TAR_END."""
    return tar_header(name, len(data)) + data + bytes(-len(data) % TAR_BLOCK)
