"""The bytes of a shard, draft version 5. Little-endian throughout.

A shard `{split}-{number:05d}.tar` is a plain POSIX ustar archive. A block (a few thousand molecules) is one WebDataset sample:
consecutive members `{split}-{number:05d}-{block:04d}.{group}.zst`, in the order of GROUPS. All header fields but name, size and
checksum are constant (mode 0644, owner 0, time 0). Two zero blocks of 512 bytes end the archive.

    train-00003.tar
      train-00003-0000.sizes.zst          num_atoms u2|u4 (N), num_bonds u2|u4 (N)
      train-00003-0000.structure.zst      atom_rows u1 (K*F), bond_steps u1|u2 (L), bond_kinds u1 (L), tokens u1|u2|u4 (A+B)
      train-00003-0000.graph_labels.zst   encoding u1 (T), count u4 (T), coding u1 (T), planes u1 (T), argument u4 (T), bitmap u1,
                                          rows u4, table f2|f4, values u1
      train-00003-0000.rw16.zst           codes u1 (16*A)
      train-00003-0000.lap8.zst           vectors u1 (8*A), values f2 shuffled (8*A)
      train-00003-0000.bond_labels.zst    the same as graph_labels, of 2*T columns
      train-00003-0000.pair_labels.zst    the same, of 2*T columns
      train-00003-0000.atom_labels.zst    the same as graph_labels
      train-00003-0000.ids.zst            ids u8 shuffled (N)
      train-00003-0000.smiles.zst         lengths u2|u4 (N), text u1 (UTF-8)
      train-00003-0000.identifiers.zst    the same: the user's own names
      train-00003-0001.sizes.zst          ...

Every set has sizes, structure, ids and smiles; labels of the levels it has tasks of; rw16, lap8 and identifiers if it was built
with them. Each member is one zstd frame with content size and checksum. Its content is a set of named arrays:

    offset  size  field
    0       4     magic "MSA2"
    4       2     k, number of arrays
    6       2     0
    8       32*k  directory: name (16, ASCII, zero-padded), dtype (2: "u1" "u2" "u4" "u8" "f2" "f4"), transform (1: 0 none,
                  1 bytes shuffled plane by plane), 0 (5), number of elements (8)
    8+32*k  ...   the arrays, each padded with zeros to a multiple of 8 bytes

A zstd block has one code for all its bytes, so the writer begins a new one where an array or a byte plane begins, unless the last
one began less than 2048 bytes before; readers need not know.

**Structure.** Row k of `atom_rows` is the F codes of a kind of atom; entry l of `bond_steps` and `bond_kinds` is the larger minus
the smaller atom, and the code, of a kind of bond; both in order of first use. `tokens` tells each molecule atom by atom: k for an
atom, then K + l for each of its bonds to earlier atoms. Bonds are sorted by (larger atom, smaller atom).

    C1CC1, one kind of atom, bonds (1, single), (2, single):   0   0 1   0 2 1   tokens 0 0 1 0 2 1

**Labels.** `count[t]` molecules have task t: all (`encoding` 0), those with bit i & 7 of byte i >> 3 set in the next ceil(N / 8)
bytes of `bitmap` (1), or the next `count[t]` of `rows`, rising (2). At atom level such a molecule has one value an atom, in
stored order, NaN where that atom has none; at bond level one a bond; at pair level one for each pair of atoms i <= j, sorted by
(j, i). A task of bonds or pairs is two columns, 2 t: smaller to larger atom, or both ways, and 2 t + 1: larger to smaller. The
dtype of `table` is the precision of all: labels are f4, or were rounded to f2.
The key of a value is its bits as a signed integer of that width, all but the sign inverted if it is negative. Each value is
stored as a number of `planes[t]` bytes, and `coding` says of what:

    0  its bits; `planes` is the width of the dtype
    1  its place among the next `argument[t]` (at most 256) of `table`; `planes` is at most 1
    2  d >= 0 ? 2 d : -2 d - 1, where d is its key less the key of task `argument[t]` < t in the same row (where that is absent:
       of NaN, 0x7e00 or 0x7fc00000), wrapped to the width and taken as signed; `planes` is at most the width

`values` holds byte 0 of each task's numbers in turn, then byte 1 of each task of two planes or more, then bytes 2 and 3.
The feature and task lists that give F and T are in manifest.json, and which members a block has.

**Positional encodings** (`kernels.chemistry.positional` says of what, and in which units), step by step and eigenvector by
eigenvector: all atoms of step 1, then of step 2, ... `codes` of step 3 and later are stored less those of two steps before,
modulo 256. `vectors` are int8.

History: draft 1, 2026-11: first. Draft 2, 2026-11: structure as tokens; labels as f2, tables and differences; zstd blocks
cut; encodings. Draft 3, 2026-11: labels of bonds and pairs; identifiers; no members without tasks. Draft 4, 2026-11: shards as
before; in the index max_graph_labels and its molecule, row groups of 16,384 rows, checksums of pages. Draft 5, 2026-11: shards
and index as before; the manifest is a sealed document like all our JSON (`shards.store.documents`).
"""

import math
import struct
import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import zstandard

from molstream.kernels.codec.bytes import shuffle_bytes, transpose, unshuffle_bytes
from molstream.kernels.codec.labels import SparseLabels, densify_labels, plane_offsets, sparsify_labels
from molstream.kernels.codec.tokens import Tokens, decode_tokens, encode_tokens
from molstream.kernels.packing.triples import LabelRows, list_labels
from molstream.shards.errors import FormatError, LimitError
from molstream.shards.molecules import LEVELS, Level, Molecules, label_shape, offsets
from molstream.shards.schema import MAX_ATOMS

FORMAT_VERSION = 5
_LABELS = {
    "encoding": "u1",
    "count": "u4",
    "coding": "u1",
    "planes": "u1",
    "argument": "u4",
    "bitmap": "u1",
    "rows": "u4",
    "table": "f2|f4",
    "values": "u1",
}
_TEXTS = {"lengths": "u2|u4", "text": "u1"}
GROUP_ARRAYS: dict[str, dict[str, str]] = {
    "sizes": {"num_atoms": "u2|u4", "num_bonds": "u2|u4"},
    "structure": {"atom_rows": "u1", "bond_steps": "u1|u2", "bond_kinds": "u1", "tokens": "u1|u2|u4"},
    "graph_labels": _LABELS,
    "rw16": {"codes": "u1"},
    "lap8": {"vectors": "u1", "values": "f2"},
    "bond_labels": _LABELS,
    "pair_labels": _LABELS,
    "atom_labels": _LABELS,
    "ids": {"ids": "u8"},
    "smiles": _TEXTS,
    "identifiers": _TEXTS,
}
"""Column groups, in the order of their members; their arrays, in order, and the dtypes each may have."""
ENCODINGS = {"rw16": 16, "lap8": 8}
"""Groups of positional encodings, which a set has if it was asked for, and their columns."""
GROUPS = ("sizes", "structure", "ids", "smiles")
"""What every set has."""
LABEL_DTYPES: dict[Level, str] = dict.fromkeys(LEVELS, "f4")
"""How labels of each level are stored unless the caller says otherwise."""
MAGIC = b"MSA2"
TAR_BLOCK = 512
TAR_END = bytes(2 * TAR_BLOCK)
ZSTD_LEVEL = 9
ENCODING_LEVEL = 5
"""zstd level of positional encodings: as small as at 9, in less than half of the time."""
MIN_ZSTD_BLOCK = 2048
"""Bytes between two cuts, at least: shorter blocks cost more time to read than they save space."""
MAX_MEMBER_BYTES = 2**31
MAX_DENSE_BYTES = 2**34
"""Labels of a block in memory."""
_HEADER = struct.Struct("<4sHH")
_ENTRY = struct.Struct("<16s2sB5xQ")
_DTYPES: dict[str, Any] = {"u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "u8": np.uint64, "f2": np.float16, "f4": np.float32}
_CODES = {np.dtype(d): code for code, d in _DTYPES.items()}


def groups_of(num_tasks: Mapping[Level, int], *, pe: Collection[str] = (), identifiers: bool = False) -> tuple[str, ...]:
    """Column groups of a set, in the order of their members."""
    extra = {f"{level}_labels" for level, number in num_tasks.items() if number} | set(pe)
    return tuple(g for g in GROUP_ARRAYS if g in GROUPS or g in extra or (g == "identifiers" and identifiers))


def shard_name(split: str, number: int) -> str:
    """File name of a shard."""
    return f"{split}-{number:05d}.tar"


def member_name(split: str, number: int, block: int, group: str) -> str:
    """Name of a member inside its shard."""
    return f"{split}-{number:05d}-{block:04d}.{group}.zst"


# arrays <-> bytes


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


def encode_block(molecules: Molecules, *, label_dtypes: Mapping[Level, str] = LABEL_DTYPES) -> dict[str, bytes]:
    """The column groups that a block's molecules have, not compressed: {group: content}. The same molecules give the same bytes.

    `label_dtypes` says for each level whether labels are stored as they are ("f4") or rounded to float16 ("f2"). Raises
    ValueError when a finite label becomes infinite in float16.
    """
    contents = {
        "sizes": encode_arrays(
            {"num_atoms": _narrow(molecules.num_atoms, "u2", "u4"), "num_bonds": _narrow(molecules.num_bonds, "u2", "u4")}
        ),
        "structure": _encode_structure(molecules),
        "ids": encode_arrays({"ids": molecules.ids}, shuffle=frozenset({"ids"})),
        "smiles": _encode_texts(molecules.smiles),
    }
    for level in LEVELS:
        labels = molecules.labels(level)
        if labels is not None and labels.shape[1]:
            flat = labels.reshape(len(labels), math.prod(labels.shape[1:]))
            contents[f"{level}_labels"] = _encode_labels(flat, molecules.label_ptr(level), label_dtypes[level])
    if molecules.identifiers is not None:
        contents["identifiers"] = _encode_texts(molecules.identifiers)
    if molecules.walks is not None:
        contents["rw16"] = _encode_walks(molecules.walks)
    if molecules.eigenvectors is not None:
        contents["lap8"] = _encode_eigenvectors(molecules.eigenvectors, molecules.eigenvalues)
    return {group: contents[group] for group in GROUP_ARRAYS if group in contents}


def _encode_texts(texts: np.ndarray) -> Content:
    data = [text.encode() for text in texts]
    lengths = _narrow(np.array([len(t) for t in data], np.int64), "u2", "u4")
    return encode_arrays({"lengths": lengths, "text": np.frombuffer(b"".join(data), np.uint8)})


def _encode_walks(walks: np.ndarray) -> Content:
    codes = np.ascontiguousarray(walks.T)
    steps = codes.copy()
    steps[2:] -= codes[:-2]
    return encode_arrays({"codes": steps.reshape(-1)}, cuts={"codes": [k * codes.shape[1] for k in range(len(codes))]})


def _encode_eigenvectors(vectors: np.ndarray, values: np.ndarray) -> Content:
    columns = np.ascontiguousarray(vectors.T).view(np.uint8)
    arrays = {"vectors": columns.reshape(-1), "values": np.ascontiguousarray(values.T).reshape(-1)}
    cuts = {"vectors": [k * columns.shape[1] for k in range(len(columns))]}
    return encode_arrays(arrays, shuffle=frozenset({"values"}), cuts=cuts)


def _encode_structure(molecules: Molecules) -> Content:
    coded = encode_tokens(
        molecules.atom_ptr, molecules.bond_ptr, molecules.atom_codes, molecules.bond_atoms, molecules.bond_codes
    )
    return encode_arrays(
        {
            "atom_rows": coded.atom_rows.reshape(-1),
            "bond_steps": _narrow(coded.bond_steps, "u1", "u2"),
            "bond_kinds": coded.bond_kinds,
            "tokens": _narrow(coded.tokens, "u1", "u2", "u4"),
        }
    )


def _encode_labels(labels: np.ndarray, ptr: np.ndarray, code: str) -> Content:
    sparse = sparsify_labels(labels, ptr, dtype=_DTYPES[code])
    return encode_arrays(sparse._asdict(), cuts={"values": plane_offsets(sparse, ptr)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Widths:
    """What the manifest says of the columns of a set: all that decoding needs beside the bytes."""

    atom_codes: tuple[int, ...]
    """Number of codes of each atom feature."""
    bond_codes: int
    """Number of codes of a bond: the product over its features."""
    num_tasks: Mapping[Level, int]


_ROW_OF_LEVEL: dict[Level, str] = {"graph": "molecule", "atom": "atom", "bond": "bond", "pair": "pair"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Columns of many blocks' molecules, and where those of one block go."""

    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Columns of `Molecules`, by name. Those that are not here are made."""
    starts: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Row where each molecule of the block begins, by what rows are: "molecule", "atom", "bond", "pair"."""

    def find(self, name: str, row: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """A column and where its rows begin; (None, None) if it is to be made."""
        return (self.columns[name], self.starts[row]) if name in self.columns else (None, None)


def decode_block(
    contents: dict[str, bytes],
    *,
    num_molecules: int,
    widths: Widths,
    tasks: Mapping[Level, np.ndarray] = MappingProxyType({}),
    place: Place | None = None,
) -> Molecules:
    """Column groups of a block -> molecules with the columns that are there; `sizes` always is.

    `tasks`: the label columns of a level that are wanted, in this order (default: all). `place`: where to write them; the columns
    of the result are then those of the place. Every length, index and code is checked before it is used. Raises FormatError, with
    the group's name first.
    """
    group = "sizes"
    try:
        atom_ptr, bond_ptr = (offsets(sizes) for sizes in _decode_sizes(contents[group], num_molecules))
        place = place or Place()
        columns: dict[str, np.ndarray] = {}
        if (group := "structure") in contents:
            columns |= _decode_structure(contents[group], atom_ptr, bond_ptr, widths, place)
        bare = Molecules(atom_ptr=atom_ptr, bond_ptr=bond_ptr)
        for level in LEVELS:
            if (group := f"{level}_labels") in contents:
                largest = int(np.diff(atom_ptr).max(initial=0))
                if level == "pair" and largest > MAX_ATOMS:
                    raise FormatError(f"pairs of a molecule of {largest} atoms, more than {MAX_ATOMS}")
                columns[group] = _decode_labels(
                    contents[group], bare.label_ptr(level), level, widths.num_tasks[level], tasks=tasks.get(level), place=place
                )
        if (group := "rw16") in contents:
            columns["walks"] = _decode_walks(contents[group], atom_ptr, place)
        if (group := "lap8") in contents:
            columns |= _decode_eigenvectors(contents[group], atom_ptr, place)
        if (group := "ids") in contents:
            columns[group] = decode_arrays(contents[group], group=group)["ids"]
            if columns[group].size != num_molecules:
                raise FormatError(f"{columns[group].size} ids for {num_molecules} molecules")
            if group in place.columns:
                place.columns[group][place.starts["molecule"]] = columns[group]
                columns[group] = place.columns[group]
        for group in ("smiles", "identifiers"):
            if group in contents:
                columns[group] = _decode_texts(contents[group], num_molecules)
    except ValueError as error:
        raise FormatError(f"member {group}: {error}") from error
    return Molecules(atom_ptr=atom_ptr, bond_ptr=bond_ptr, **columns)


def decode_sizes(content: bytes, *, num_molecules: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of atoms and bonds of a block's molecules. Raises FormatError."""
    try:
        return _decode_sizes(content, num_molecules)
    except ValueError as error:
        raise FormatError(f"member sizes: {error}") from error


def _decode_sizes(content: bytes, num_molecules: int) -> tuple[np.ndarray, np.ndarray]:
    sizes = decode_arrays(content, group="sizes")
    if sizes["num_atoms"].size != num_molecules or sizes["num_bonds"].size != num_molecules:
        raise FormatError(f"sizes of {sizes['num_atoms'].size} molecules, the index says {num_molecules}")
    return sizes["num_atoms"], sizes["num_bonds"]


def decode_label_rows(content: bytes, *, num_molecules: int, num_tasks: int, tasks: np.ndarray | None = None) -> LabelRows:
    """Graph-level labels of a block, molecule by molecule, without the absent ones. Raises FormatError."""
    try:
        sparse = SparseLabels(**decode_arrays(content, group="graph_labels"))
        if sparse.encoding.size != num_tasks:
            raise FormatError(f"labels of {sparse.encoding.size} columns, the manifest lists {num_tasks}")
        if 16 * int(sparse.count.sum(dtype=np.int64)) > MAX_DENSE_BYTES:
            raise FormatError(f"{sparse.count.sum(dtype=np.int64):,} labels, more than {MAX_DENSE_BYTES // 16:,}")
        return list_labels(sparse, num_molecules, tasks=tasks)
    except ValueError as error:
        raise FormatError(f"member graph_labels: {error}") from error


def _decode_structure(
    content: bytes, atom_ptr: np.ndarray, bond_ptr: np.ndarray, widths: Widths, place: Place
) -> dict[str, np.ndarray]:
    arrays, num_features = decode_arrays(content, group="structure"), len(widths.atom_codes)
    if arrays["atom_rows"].size % num_features:
        raise FormatError(f"{arrays['atom_rows'].size} atom codes, expected rows of {num_features}")
    arrays["atom_rows"] = arrays["atom_rows"].reshape(-1, num_features)
    # codes index embedding tables, so none may lie outside its feature
    if (arrays["atom_rows"] >= np.array(widths.atom_codes)).any() or arrays["bond_kinds"].max(initial=0) >= widths.bond_codes:
        raise FormatError("a code is outside its feature's range")
    names = ("atom_codes", "bond_atoms", "bond_codes")
    out = tuple(place.columns[name] for name in names) if names[0] in place.columns else None
    starts = (place.starts["atom"], place.starts["bond"]) if out else (None, None)
    return dict(zip(names, decode_tokens(Tokens(**arrays), atom_ptr, bond_ptr, out, starts=starts), strict=True))


def _decode_walks(content: bytes, atom_ptr: np.ndarray, place: Place) -> np.ndarray:
    steps = _columns(decode_arrays(content, group="rw16")["codes"], ENCODINGS["rw16"], int(atom_ptr[-1])).copy()
    for k in range(2, len(steps)):
        steps[k] += steps[k - 2]
    out, starts = place.find("walks", "atom")
    return transpose(steps, atom_ptr, out, starts=starts)


def _decode_eigenvectors(content: bytes, atom_ptr: np.ndarray, place: Place) -> dict[str, np.ndarray]:
    arrays = decode_arrays(content, group="lap8")
    vectors, values = (_columns(arrays[name], ENCODINGS["lap8"], int(atom_ptr[-1])) for name in ("vectors", "values"))
    columns = {"eigenvectors": vectors.view(np.int8), "eigenvalues": values}
    places = {name: place.find(name, "atom") for name in columns}
    return {name: transpose(column, atom_ptr, places[name][0], starts=places[name][1]) for name, column in columns.items()}


def _columns(values: np.ndarray, width: int, num_atoms: int) -> np.ndarray:
    if values.size != width * num_atoms:
        raise FormatError(f"{values.size} codes of an encoding, expected {width} x {num_atoms}")
    return values.reshape(width, num_atoms)


def _decode_labels(
    content: bytes, ptr: np.ndarray, level: Level, num_tasks: int, *, tasks: np.ndarray | None, place: Place
) -> np.ndarray:
    sparse = SparseLabels(**decode_arrays(content, group="graph_labels"))
    shape = label_shape(level, int(ptr[-1]), num_tasks)
    if sparse.encoding.size != math.prod(shape[1:]):
        raise FormatError(f"labels of {sparse.encoding.size} columns, the manifest lists {math.prod(shape[1:])}")
    if tasks is not None:
        shape = label_shape(level, int(ptr[-1]), len(tasks))
        # each task of bonds or pairs is two columns
        tasks = tasks if len(shape) == 2 else (2 * tasks[:, None] + np.arange(2)).reshape(-1)
    if 4 * math.prod(shape) > MAX_DENSE_BYTES:
        raise FormatError(f"labels of shape {shape}, more than {MAX_DENSE_BYTES:,} bytes")
    out, starts = place.find(f"{level}_labels", _ROW_OF_LEVEL[level])
    flat = None if out is None else out.reshape(len(out), math.prod(shape[1:]))
    labels = densify_labels(sparse, ptr, flat, starts=starts, tasks=tasks)
    return labels.reshape(len(labels), *shape[1:])


def _decode_texts(content: bytes, num_molecules: int) -> np.ndarray:
    arrays = decode_arrays(content, group="smiles")
    ptr = offsets(arrays["lengths"])
    if arrays["lengths"].size != num_molecules or ptr[-1] != arrays["text"].size:
        raise FormatError(f"{arrays['text'].size} bytes of text for {num_molecules} molecules, lengths sum to {ptr[-1]}")
    data = arrays["text"].tobytes()
    texts = np.empty(num_molecules, object)
    texts[:] = [data[a:b].decode() for a, b in pairwise(ptr)]
    return texts


# members <-> tar


def tar_header(name: str, num_bytes: int) -> bytes:
    """The 512 bytes before a member."""
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def tar_member(name: str, data: bytes) -> bytes:
    """Header, data and padding of a member: shards are nothing but these, one after another, and TAR_END."""
    return tar_header(name, len(data)) + data + bytes(-len(data) % TAR_BLOCK)
