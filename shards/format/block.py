"""The bytes of a shard, draft version 5. Little-endian throughout.

A shard `{split}-{number:05d}.tar` is a plain POSIX ustar archive. A block (a few thousand molecules) is one WebDataset sample:
consecutive members `{split}-{number:05d}-{block:04d}.{group}.zst`, in the order of
`COLUMN_GROUPS`; a dot in the name of a split is a + there, since a sample's key ends at the first dot. All header fields but
name, size and checksum are constant (mode 0644, owner 0, time 0). Two zero blocks of 512 bytes end the archive.

    train-00003.tar
      train-00003-0000.sizes.zst          num_atoms u2|u4 (N), num_bonds u2|u4 (N)
      train-00003-0000.structure.zst      atom_rows u1 (K*F), bond_steps u1|u2 (L), bond_kinds u1 (L), tokens u1|u2|u4 (A+B)
      train-00003-0000.graph_labels.zst   encoding u1 (T), count u4 (T), coding u1 (T), planes u1 (T), argument u4 (T), bitmap u1,
                                          rows u4, table f2|f4, values u1
      train-00003-0000.rw16.zst           rwse u1 (16*A)
      train-00003-0000.lap8.zst           eigenvectors u1 (8*A), eigenvalues f2 shuffled (8*A)
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

**Labels.** `count[t]` molecules have task t: all (`presence` 0), those with bit i & 7 of byte i >> 3 set in the next ceil(N / 8)
bytes of `bitmap` (1), or the next `count[t]` of `rows`, rising (2). At atom level such a molecule has one value per atom, in
stored order, NaN where that atom has none; at bond level one per bond; at pair level one for each pair of atoms i <= j, sorted by
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
eigenvector: all atoms of step 1, then of step 2, ... `rwse` of step 3 and later are stored less those of two steps before,
modulo 256. `eigenvectors` are int8.

History: draft 1, 2026-11: first. Draft 2, 2026-11: structure as tokens; labels as f2, tables and differences; zstd blocks
cut; encodings. Draft 3, 2026-11: labels of bonds and pairs; identifiers; no members without tasks. Draft 4, 2026-11: shards as
before; in the index max_graph_labels and its molecule, row groups of 16,384 rows, checksums of pages. Draft 5, 2026-12: arrays
of encodings are named as columns; the manifest is a sealed document like all our JSON (`shards.store.documents`); in the index
labels_size and labels_count.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from molstream.kernels.codec.labels import SparseLabels
from molstream.kernels.packing.triples import LabelRows, list_labels
from molstream.shards.columns import COLUMN_GROUPS, ColumnWidths
from molstream.shards.errors import FormatError
from molstream.shards.format.arrays import decode_arrays
from molstream.shards.format.codings import (
    CODINGS,
    MAX_DENSE_BYTES,
    Block,
    Place,
    arrays_of,
    check_num_columns,
    read_sizes,
)
from molstream.shards.molecules import Molecules, offsets
from molstream.shards.tasks import LEVELS, Level

FORMAT_VERSION = 5
LABEL_DTYPES: dict[Level, str] = dict.fromkeys(LEVELS, "f4")
"""How labels of each level are stored unless the caller says otherwise."""


def encode_block(molecules: Molecules, *, label_dtypes: Mapping[Level, str] = LABEL_DTYPES) -> dict[str, bytes]:
    """The column groups that a block's molecules have, not compressed: {group: content}. The same molecules give the same bytes.

    `label_dtypes` says for each level whether labels are stored as they are ("f4") or rounded to float16 ("f2"). Raises
    ValueError when a finite label becomes infinite in float16.
    """
    contents: dict[str, bytes] = {}
    for name, group in COLUMN_GROUPS.items():
        columns = [molecules.columns.get(column.name) for column in group.columns]
        # a group of labels without a task is none
        if all(column is not None and 0 not in column.shape[1:] for column in columns):
            dtype = "" if group.level is None else label_dtypes[group.level]
            contents[name] = CODINGS[group.coding].encode(group, molecules, dtype)
    return contents


def decode_block(
    contents: dict[str, bytes],
    *,
    num_molecules: int,
    widths: ColumnWidths,
    tasks: Mapping[Level, np.ndarray] = MappingProxyType({}),
    place: Place | None = None,
) -> Molecules:
    """Column groups of a block -> molecules with the columns that are there; `sizes` always is.

    `tasks`: the label columns of a level that are wanted, in this order (default: all). `place`: where to write them; the columns
    of the result are then those of the place. Every length, index and code is checked before it is used. Raises FormatError, with
    the group's name first.
    """
    name = "sizes"
    try:
        atom_ptr, bond_ptr = (offsets(sizes) for sizes in read_sizes(contents[name], num_molecules))
        sizes = Molecules(atom_ptr=atom_ptr, bond_ptr=bond_ptr)
        block = Block(sizes=sizes, widths=widths, tasks=tasks, place=place or Place())
        columns: dict[str, np.ndarray] = {}
        for name, group in COLUMN_GROUPS.items():
            if name in contents:
                columns |= CODINGS[group.coding].decode(group, contents[name], block)
    except ValueError as error:
        raise FormatError(f"member {name}: {error}") from error
    return Molecules(atom_ptr=atom_ptr, bond_ptr=bond_ptr, **columns)


def decode_sizes(content: bytes, *, num_molecules: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of atoms and bonds of a block's molecules. Raises FormatError."""
    try:
        return read_sizes(content, num_molecules)
    except ValueError as error:
        raise FormatError(f"member sizes: {error}") from error


def decode_label_rows(content: bytes, *, num_molecules: int, num_tasks: int, tasks: np.ndarray | None = None) -> LabelRows:
    """Graph-level labels of a block, molecule by molecule, without the absent ones. Raises FormatError."""
    try:
        sparse = SparseLabels(**decode_arrays(content, arrays_of("graph_labels")))
        check_num_columns(sparse, num_tasks)
        if 16 * int(sparse.count.sum(dtype=np.int64)) > MAX_DENSE_BYTES:
            raise FormatError(f"{sparse.count.sum(dtype=np.int64):,} labels, more than {MAX_DENSE_BYTES // 16:,}")
        return list_labels(sparse, num_molecules, tasks=tasks)
    except ValueError as error:
        raise FormatError(f"member graph_labels: {error}") from error
