"""A window in memory: its blocks decoded into one set of columns, shuffled and packed. Self-contained: needs the plan only."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.collate import Columns, collate_pack, collate_rows, count_labels
from kernels.hashing import mix_key
from kernels.packing import PackingError, num_packs, pack_molecules
from kernels.permutation import shuffled
from kernels.triples import LabelRows, Triples, collate_triples, concat_rows
from shards import Molecules, ShardSet
from shards.encodings import encode_positions
from shards.format import ENCODINGS
from shards.types import offsets
from streamer.batch import SUFFIXES, Batch, Layout
from streamer.config import Budget, StreamConfig
from streamer.errors import BudgetError
from streamer.memory import WindowMemory, align
from streamer.plan import Plan
from streamer.selection import LEVELS, Selection
from streamer.stages import Stages


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Molecules and which of them make up each pack."""

    molecules: Molecules
    label_rows: LabelRows | None = None
    """Graph-level labels, where they are listed."""
    pack_ptr: np.ndarray
    pack_molecules: np.ndarray
    graph_ptr: np.ndarray
    """int64 (N + 1): 0, 1, 2, ...: a molecule has one row of graph-level labels."""
    skipped: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """Ids of molecules that are larger than a pack."""

    @classmethod
    def of(cls, molecules: Molecules, packed: tuple[np.ndarray, np.ndarray], **more: Any) -> "Window":
        """Molecules and what `pack_window` made of them."""
        graph_ptr = np.arange(len(molecules) + 1)
        return cls(molecules=molecules, pack_ptr=packed[0], pack_molecules=packed[1], graph_ptr=graph_ptr, **more)

    def members(self, pack: int) -> np.ndarray:
        """Molecules of a pack, as places in the window."""
        return self.pack_molecules[self.pack_ptr[pack] : self.pack_ptr[pack + 1]]


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
    """Read, shuffle and pack one window of a plan, its columns in `memory`.

    Raises ShardError for damaged data, BudgetError if the packs do not hold.
    """
    blocks = plan.window_blocks(window)
    molecules, label_rows = _read_blocks(shard_set, blocks, config.budget, selection, stages, memory)
    stages.count(windows=1)
    capacity = config.budget.capacity
    fits = None
    if config.oversize == "skip":
        fits = (molecules.num_atoms <= capacity.atoms) & (2 * molecules.num_bonds <= capacity.edges)
        if label_rows is not None and capacity.labels is not None:
            fits &= np.diff(label_rows.ptr) <= capacity.labels
    with stages.time("pack"):
        packed = pack_window(
            molecules,
            label_rows,
            fits=fits,
            num_packs=int(plan.window_packs[window]),
            budget=config.budget,
            key=mix_key(plan.key, window) if plan.shuffle else None,
            where=f"epoch {plan.epoch}, window {window}",
        )
    skipped = np.empty(0, np.uint64)
    if fits is not None and not fits.all():
        skipped = _ids_of(shard_set, blocks, molecules, ~fits)
    return Window.of(molecules, packed, label_rows=label_rows, skipped=skipped)


def _read_blocks(
    shard_set: ShardSet,
    blocks: np.ndarray,
    budget: Budget,
    selection: Selection,
    stages: Stages,
    memory: WindowMemory,
) -> tuple[Molecules, LabelRows | None]:
    """The molecules of blocks, each decoded to its place in columns that hold them all, and listed labels."""
    counts, stored = shard_set.index.counts, selection.groups
    starts = {
        row: offsets(counts[name][blocks])
        for row, name in (("molecule", "num_molecules"), ("atom", "num_atoms"), ("bond", "num_bonds"))
    }
    shapes = _shapes(shard_set, {row: int(ptr[-1]) for row, ptr in starts.items()}, budget, selection)
    columns = memory.arrays({name: shape for name, (_, shape) in shapes.items()})
    computed = [name for name in selection.encodings if name not in stored]
    listed = budget.labels is not None and "graph_labels" in stored
    sizes: list[Molecules] = []
    label_rows: list[LabelRows] = []
    for k, block in enumerate(blocks.tolist()):
        with stages.time("read"):
            members = shard_set.read_members(block, stored)
        with stages.time("decompress"):
            contents = shard_set.decompress(block, members)
        stages.count(bytes_read=sum(map(len, members.values())), bytes_decompressed=sum(map(len, contents.values())))
        out = {name: columns[name][starts[row][k] : starts[row][k + 1]] for name, (row, _) in shapes.items()}
        with stages.time("decode"):
            if listed:
                label_rows.append(
                    shard_set.decode_label_rows(block, contents.pop("graph_labels"), tasks=selection.columns["graph"])
                )
            part = shard_set.decode(block, contents, tasks=selection.columns, out=out)
        if computed:
            with stages.time("encode"):
                for name, column in encode_positions(part, tuple(computed)).items():
                    out[name][:] = column
        sizes.append(part)
    atom_ptr, bond_ptr = (offsets(np.concatenate([np.diff(getattr(p, ptr)) for p in sizes])) for ptr in ("atom_ptr", "bond_ptr"))
    molecules = Molecules(atom_ptr=atom_ptr, bond_ptr=bond_ptr, **columns)
    return molecules, concat_rows(label_rows) if listed else None


def _shapes(
    shard_set: ShardSet, rows: dict[str, int], budget: Budget, selection: Selection
) -> dict[str, tuple[str, tuple[tuple[int, ...], Any]]]:
    """Columns of so many molecules, atoms and bonds: {name: (what its rows are, (shape, dtype))}."""
    molecules, atoms, bonds = rows["molecule"], rows["atom"], rows["bond"]
    shapes: dict[str, tuple[str, tuple[tuple[int, ...], Any]]] = {
        "atom_codes": ("atom", ((atoms, len(shard_set.manifest.atom_features)), np.uint8)),
        "bond_atoms": ("bond", ((bonds, 2), np.uint16)),
        "bond_codes": ("bond", ((bonds,), np.uint8)),
    }
    num_tasks = {level: len(selection.tasks[level]) for level in LEVELS}
    if num_tasks["graph"] and budget.labels is None:
        shapes["graph_labels"] = "molecule", ((molecules, num_tasks["graph"]), np.float32)
    if num_tasks["atom"]:
        shapes["atom_labels"] = "atom", ((atoms, num_tasks["atom"]), np.float32)
    if "rw16" in selection.encodings:
        shapes["walks"] = "atom", ((atoms, ENCODINGS["rw16"]), np.uint8)
    if "lap8" in selection.encodings:
        shapes["eigenvectors"] = "atom", ((atoms, ENCODINGS["lap8"]), np.int8)
        shapes["eigenvalues"] = "atom", ((atoms, ENCODINGS["lap8"]), np.float16)
    if selection.with_ids:
        shapes["ids"] = "molecule", ((molecules,), np.uint64)
    return shapes


def window_bytes(shard_set: ShardSet, rows: tuple[int, ...], *, budget: Budget, selection: Selection) -> int:
    """Bytes of the columns of a window of so many molecules, atoms and bonds; listed labels are not among them."""
    shapes = _shapes(shard_set, dict(zip(("molecule", "atom", "bond"), rows, strict=True)), budget, selection)
    return sum(align(math.prod(shape) * np.dtype(dtype).itemsize) for _, (shape, dtype) in shapes.values())


def _ids_of(shard_set: ShardSet, blocks: np.ndarray, molecules: Molecules, chosen: np.ndarray) -> np.ndarray:
    """Ids of some molecules of a window, which may not have been read."""
    if molecules.ids is not None:
        return molecules.ids[chosen]
    parts = np.split(chosen, np.cumsum(shard_set.index.counts["num_molecules"][blocks])[:-1])
    ids = [shard_set.read_block(int(b), ("ids",)).ids[part] for b, part in zip(blocks, parts, strict=True) if part.any()]
    return np.concatenate(ids)


def pack_window(
    molecules: Molecules,
    label_rows: LabelRows | None = None,
    *,
    fits: np.ndarray | None = None,
    num_packs: int,
    budget: Budget,
    key: int | None,
    where: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Pack molecules (those that `fits`, or all) into exactly `num_packs` packs; `key` shuffles them first, None does not.

    Returns offsets and molecules as `kernels.packing.pack_molecules`. Raises BudgetError.
    """
    order = np.arange(len(molecules)) if key is None else shuffled(len(molecules), key=key)
    labels = None if label_rows is None else np.diff(label_rows.ptr)
    try:
        return pack_molecules(
            molecules.num_atoms,
            molecules.num_bonds,
            order if fits is None else order[fits[order]],
            num_packs=num_packs,
            capacity=budget.capacity,
            labels=labels,
        )
    except PackingError as error:
        raise BudgetError(f"budget {budget}: {where}: {error}") from error


def iter_batches(molecules: Molecules, *, atoms_a_pack: int) -> Iterator[Batch]:
    """Batches over molecules that come from no shard set (rows of a table), one shape for all, without labels."""
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
    while (packed := _try_packs(molecules, packs, budget)) is None:
        # nothing was planned with this number, so one more pack is as good
        packs += 1
    window = Window.of(molecules, packed)
    layout = Layout.of(budget, num_features=molecules.atom_codes.shape[1])
    for pack in range(packs):
        yield collate(window, pack, layout=layout)


def _try_packs(molecules: Molecules, packs: int, budget: Budget) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        return pack_window(molecules, num_packs=packs, budget=budget, key=None, where="table")
    except BudgetError:
        return None


def collate(window: Window | None, pack: int, *, layout: Layout, pin_memory: bool = False) -> Batch:
    """One pack as a batch; a window of None gives a masked pack. Label columns of the layout that the window lacks are absent."""
    storage = layout.allocate(pin_memory=pin_memory)
    out = layout.arrays(storage)
    if window is None:
        molecules, rows = _no_molecules(out["atom_codes_AF"].shape[1]), None
        members, graph_ptr = np.empty(0, np.int64), np.zeros(1, np.int64)
    else:
        molecules, rows = window.molecules, window.label_rows
        members, graph_ptr = window.members(pack), window.graph_ptr
    columns = Columns(molecules.atom_ptr, molecules.bond_ptr, molecules.atom_codes, molecules.bond_atoms, molecules.bond_codes)
    graphs, atoms, edges = (len(out[name]) for name in ("graph_mask_G", "atom_mask_A", "edge_mask_E"))
    structure = {name: out[f"{name}_{suffix}"] for name, suffix in SUFFIXES.items()}
    collate_pack(members, columns, graphs=graphs, atoms=atoms, edges=edges, out=structure)

    gather = partial(_gather, members)
    gather(graph_ptr, molecules.graph_labels, out["graph_labels_GT"], np.nan)
    gather(molecules.atom_ptr, molecules.atom_labels, out["atom_labels_AT"], np.nan)
    count_labels(out["atom_labels_AT"], out=out["num_atom_labels_T"])
    if "label_value_L" in out:
        listed = Triples(out["label_graph_L"], out["label_task_L"], out["label_value_L"], out["num_graph_labels_T"])
        shape = {"capacity": len(listed.value), "graphs": graphs, "num_tasks": len(listed.num_labels)}
        collate_triples(members, rows or _no_rows(len(molecules)), **shape, out=listed)
    else:
        count_labels(out["graph_labels_GT"], out=out["num_graph_labels_T"])
    for name in ("walks", "eigenvectors", "eigenvalues"):
        if f"{name}_AK" in out:
            gather(molecules.atom_ptr, getattr(molecules, name), out[f"{name}_AK"], 0)
    tensors: dict[str, Tensor] = {name: torch.from_numpy(array) for name, array in out.items()}
    return Batch(
        **tensors,
        ids=None if molecules.ids is None else molecules.ids[members],
        members=members,
        storage=storage,
        layout=layout,
    )


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
