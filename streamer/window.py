"""A window in memory: its blocks decoded into one set of columns, shuffled and packed. The plan alone determines it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from molstream.kernels.packing.collate import PackColumns, collate_pack, collate_pairs, collate_rows, count_labels
from molstream.kernels.packing.packs import PackingError, num_packs, pack_molecules
from molstream.kernels.packing.triples import LabelRows, Triples, collate_triples, concat_rows
from molstream.kernels.rng.hashing import mix_key
from molstream.kernels.rng.permutation import shuffled
from molstream.shards.chemistry.encodings import compute_columns
from molstream.shards.columns import COLUMN_GROUPS, COLUMNS, ROWS, Row, named_sizes
from molstream.shards.errors import FormatError
from molstream.shards.format.codings import Place
from molstream.shards.format.reader import ShardSet
from molstream.shards.molecules import Molecules, offsets
from molstream.shards.tasks import LEVELS
from molstream.streamer.batch import SUFFIXES, Batch, Layout, field_of, make_batch
from molstream.streamer.buffers import WindowMemory, align
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.plan import Plan
from molstream.streamer.selection import Selection
from molstream.streamer.stages import Stages


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Molecules in the order of their packs: those of a pack are contiguous, so that collation reads memory in order."""

    molecules: Molecules
    label_rows: LabelRows | None = None
    """Graph-level labels if they are listed; they stay in stored order."""
    pack_ptr: np.ndarray
    """int64 (packs + 1): pack p is molecules pack_ptr[p]:pack_ptr[p + 1]; molecules after the last pack are left out."""
    place: np.ndarray
    """int64 (N): where each molecule was in stored order."""
    ptrs: Mapping[Row, np.ndarray]
    """int64 (N + 1): which rows of the columns of each kind belong to which molecule."""
    skipped: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """Ids of oversize molecules."""

    @classmethod
    def of(cls, molecules: Molecules, packed: tuple[np.ndarray, np.ndarray]) -> "Window":
        """Make a window of molecules in stored order and the result of `pack_window`."""
        taken = molecules.take(packed[1])
        return cls(
            molecules=taken,
            pack_ptr=packed[0],
            place=packed[1],
            ptrs={row: taken.row_ptr(row) for row in ROWS},
        )


def load_window(
    shard_set: ShardSet,
    plan: Plan,
    window: int,
    *,
    config: StreamConfig,
    selection: Selection,
    stages: Stages,
    memory: WindowMemory,
) -> Window:
    """Read, shuffle and pack one window of a plan, with its columns in `memory`.

    Sizes are decoded first and decide the places of molecules; then all columns are decoded to these places. Raises ShardError
    for damaged data.
    """
    blocks = plan.window_blocks(window).tolist()
    contents, rows = _read_blocks(shard_set, blocks, config.budget, selection, stages)
    stages.count(windows=1)
    with stages.time("decode"):
        sizes = [shard_set.decode_sizes(block, content["sizes"]) for block, content in zip(blocks, contents, strict=True)]
        num_atoms, num_bonds = (np.concatenate(parts).astype(np.int64) for parts in zip(*sizes, strict=True))
    fits = _fits(num_atoms, num_bonds, rows, config)
    with stages.time("pack"):
        packed = pack_window(
            num_atoms,
            num_bonds,
            None if rows is None else np.diff(rows.ptr),
            fits=fits,
            num_packs=int(plan.window_packs[window]),
            budget=config.budget,
            key=mix_key(plan.key, window) if plan.shuffle else None,
            where=f"epoch {plan.epoch}, window {window}",
        )
    left_out = np.empty(0, np.int64) if fits is None else np.flatnonzero(~fits)
    order = np.concatenate([packed[1], left_out]) if left_out.size else packed[1]
    sizes_in_order = Molecules(atom_ptr=offsets(num_atoms[order]), bond_ptr=offsets(num_bonds[order]))
    ptrs = {row: sizes_in_order.row_ptr(row) for row in ROWS}
    rows_of = {row: int(ptr[-1]) for row, ptr in ptrs.items()}
    columns = memory.arrays(_shapes(shard_set, rows_of, config.budget, selection))
    starts = {row: np.empty(len(order), np.int64) for row in ptrs}
    for row, ptr in ptrs.items():
        starts[row][order] = ptr[:-1]
    at = 0
    with stages.time("decode"):
        for block, content, (block_sizes, _) in zip(blocks, contents, sizes, strict=True):
            here = {row: start[at : at + len(block_sizes)] for row, start in starts.items()}
            shard_set.decode(block, content, tasks=selection.columns, place=Place(columns=columns, starts=here))
            at += len(block_sizes)
    molecules = Molecules(atom_ptr=ptrs["atom"], bond_ptr=ptrs["bond"], **columns)
    if computed := tuple(name for name in selection.encodings if name not in selection.groups):
        with stages.time("encode"):
            for name, column in compute_columns(molecules, computed).items():
                columns[name][:] = column
    return Window(
        molecules=molecules,
        label_rows=rows,
        pack_ptr=packed[0],
        place=order,
        ptrs=ptrs,
        skipped=_ids_of(shard_set, blocks, left_out, stages) if left_out.size else np.empty(0, np.uint64),
    )


def _read_blocks(
    shard_set: ShardSet, blocks: list[int], budget: Budget, selection: Selection, stages: Stages
) -> tuple[list[dict[str, bytes]], LabelRows | None]:
    """Decompressed members of blocks, and their graph-level labels if these are listed."""
    contents: list[dict[str, bytes]] = []
    label_rows: list[LabelRows] = []
    listed = budget.labels is not None and "graph_labels" in selection.groups
    for block in blocks:
        contents.append(_read(shard_set, block, selection.groups, stages))
        if listed:
            with stages.time("decode"):
                content = contents[-1].pop("graph_labels")
                label_rows.append(shard_set.decode_label_rows(block, content, tasks=selection.columns["graph"]))
    return contents, concat_rows(label_rows) if listed else None


def _read(shard_set: ShardSet, block: int, groups: tuple[str, ...], stages: Stages) -> dict[str, bytes]:
    with stages.time("read"):
        members = shard_set.read_members(block, groups)
    with stages.time("decompress"):
        contents = shard_set.decompress(block, members)
    stages.count(bytes_read=sum(map(len, members.values())), bytes_decompressed=sum(map(len, contents.values())))
    return contents


def _fits(num_atoms: np.ndarray, num_bonds: np.ndarray, rows: LabelRows | None, config: StreamConfig) -> np.ndarray | None:
    """Which molecules are not oversize, bool (N); None if that was checked at the start."""
    if config.oversize == "error":
        return None
    capacity = config.budget.capacity
    fits = (num_atoms <= config.budget.max_atoms) & (2 * num_bonds <= capacity.edges)
    if rows is not None and capacity.labels is not None:
        fits &= np.diff(rows.ptr) <= capacity.labels
    return fits


def _shapes(
    shard_set: ShardSet, num_rows: Mapping[Row, int], budget: Budget, selection: Selection
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes and dtypes of the columns of so many rows: molecules, atoms, bonds and pairs."""
    num_tasks = {level: len(tasks) for level, tasks in selection.tasks.items()}
    sizes = named_sizes(len(shard_set.manifest.atom_features), num_tasks)
    names = {*selection.groups, *selection.encodings} - ({"graph_labels"} if budget.labels is not None else set())
    columns = [column for name, group in COLUMN_GROUPS.items() if name in names for column in group.columns]
    return {column.name: (column.shape(num_rows[column.rows], sizes), column.dtype) for column in columns}


def window_bytes(shard_set: ShardSet, num_rows: Mapping[Row, int], *, budget: Budget, selection: Selection) -> int:
    """Bytes of the columns of a window of so many rows, as in `_shapes`; listed labels are not among them."""
    shapes = _shapes(shard_set, num_rows, budget, selection)
    return sum(align(math.prod(shape) * np.dtype(dtype).itemsize) for shape, dtype in shapes.values())


def _ids_of(shard_set: ShardSet, blocks: list[int], places: np.ndarray, stages: Stages) -> np.ndarray:
    """Ids of the molecules at some places in the stored order of blocks. They are few, so ids are read only for them."""
    ends = np.cumsum(shard_set.index.counts["num_molecules"][blocks], dtype=np.int64)
    ids = []
    for block, part, end in zip(blocks, np.split(places, np.searchsorted(places, ends[:-1])), ends, strict=True):
        if part.size:
            contents = _read(shard_set, block, ("sizes", "ids"), stages)
            ids.append(shard_set.decode(block, contents).ids[part - end + shard_set.index.counts["num_molecules"][block]])
    return np.concatenate(ids)


def pack_window(
    num_atoms: np.ndarray,
    num_bonds: np.ndarray,
    num_labels: np.ndarray | None = None,
    *,
    fits: np.ndarray | None = None,
    num_packs: int,
    budget: Budget,
    key: int | None,
    where: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Pack molecules of these sizes (those in `fits`, or all) into exactly `num_packs` packs; `key` shuffles them first.

    Returns offsets and molecules, as `kernels.packing.packs.pack_molecules`. Raises FormatError if there are too few packs, which
    cannot be unless the index they were planned from is that of other molecules.
    """
    order = np.arange(len(num_atoms)) if key is None else shuffled(len(num_atoms), key=key)
    try:
        return pack_molecules(
            num_atoms,
            num_bonds,
            order if fits is None else order[fits[order]],
            num_packs=num_packs,
            capacity=budget.capacity,
            labels=num_labels,
        )
    except PackingError as error:
        raise FormatError(f"{where}: {error}; the index does not describe these molecules, build the set again") from error


def iter_batches(molecules: Molecules, *, atoms_a_pack: int, encodings: tuple[str, ...] = ()) -> Iterator[Batch]:
    """Batches of molecules that come from no shard set but, for example, from rows of a table: one shape for all, without labels,
    with positional encodings."""
    sizes, bonds = molecules.num_atoms, molecules.num_bonds
    if not len(molecules):
        return
    budget = Budget.fit(
        atoms=atoms_a_pack,
        num_molecules=len(molecules),
        num_atoms=int(sizes.sum()),
        num_bonds=int(bonds.sum()),
        max_atoms=int(sizes.max()),
        max_bonds=int(bonds.max()),
    )
    packs = num_packs(sizes, bonds, capacity=budget.capacity)
    packed = pack_window(sizes, bonds, num_packs=packs, budget=budget, key=None, where="table")
    window = Window.of(molecules.replace(**compute_columns(molecules, encodings)), packed)
    layout = Layout.of(budget, num_features=molecules.atom_codes.shape[1], encodings=encodings)
    for pack in range(packs):
        yield collate(window, pack, layout=layout)


def collate(window: Window | None, pack: int, *, layout: Layout, pin_memory: bool = False) -> Batch:
    """One pack as a batch; without a window it is a masked pack. Label columns that the layout has but the window lacks are
    absent."""
    storage = layout.allocate(pin_memory=pin_memory)
    out = layout.arrays(storage)
    if window is None:
        molecules, rows, first, last, place = _no_molecules(out["atom_codes_AF"].shape[1]), None, 0, 0, np.empty(0, np.int64)
        ptrs: Mapping[Row, np.ndarray] = dict.fromkeys(ROWS, np.zeros(1, np.int64))
    else:
        molecules, rows, place, ptrs = window.molecules, window.label_rows, window.place, window.ptrs
        first, last = window.pack_ptr[pack : pack + 2].tolist()
    members = np.arange(first, last)
    columns = PackColumns(
        molecules.atom_ptr, molecules.bond_ptr, molecules.atom_codes, molecules.bond_atoms, molecules.bond_codes
    )
    graphs, atoms, edges = (len(out[name]) for name in ("graph_mask_G", "atom_mask_A", "edge_mask_E"))
    structure = {name: out[f"{name}_{suffix}"] for name, suffix in SUFFIXES.items()}
    collate_pack(members, columns, graphs=graphs, atoms=atoms, edges=edges, out=structure)
    for column in COLUMNS.values():
        if (target := out.get(field_of(column))) is not None and column.name not in SUFFIXES:
            _gather(members, ptrs[column.rows], molecules.columns.get(column.name), target, column.pad)
    if "pair_index_2P" in out:
        index = out["pair_index_2P"]
        collate_pairs(members, molecules.atom_ptr, atoms=atoms, pairs=index.shape[1], out=index)
    for level in LEVELS:
        number, labels = out[f"num_{level}_labels_T"], out.get(field_of(COLUMNS[f"{level}_labels"]))
        if level == "graph" and "label_value_L" in out:
            listed = Triples(out["label_graph_L"], out["label_task_L"], out["label_value_L"], number)
            shape = {"capacity": len(listed.value), "graphs": graphs, "num_tasks": len(number)}
            collate_triples(place[first:last], rows or _no_rows(len(molecules)), **shape, out=listed)
        elif labels is None:
            number[:] = 0
        else:
            count_labels(labels, out=number)
    ids = None if molecules.ids is None else molecules.ids[first:last].copy()
    # of arrays, as views of a tensor cost four times as much
    tensors = {name: torch.from_numpy(array) for name, array in out.items()}
    return make_batch(storage, layout, ids, place[first:last].copy(), tensors=tensors)


def _gather(members: np.ndarray, ptr: np.ndarray, rows: np.ndarray | None, out: np.ndarray, pad: float) -> None:
    if rows is None:
        out[:] = pad
    else:
        collate_rows(members, ptr, rows, out=out, pad=pad)


def _no_rows(num_molecules: int) -> LabelRows:
    return LabelRows(np.zeros(num_molecules + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


def _no_molecules(num_features: int) -> Molecules:
    return Molecules(
        atom_ptr=np.zeros(1, np.int64),
        bond_ptr=np.zeros(1, np.int64),
        atom_codes=np.empty((0, num_features), np.uint8),
        bond_atoms=np.empty((0, 2), np.uint16),
        bond_codes=np.empty(0, np.uint8),
        ids=np.empty(0, np.uint64),
    )
