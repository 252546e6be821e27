"""A batch: one pack as tensors. All batches of a run have the same shapes and dtypes.

Shape suffixes: G graph slots, A atom slots, E directed edge slots, B bond slots (E / 2), P slots of pairs of atoms, F atom
features, T tasks of a level, 2 directions, K numbers of an encoding, L slots of listed labels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from molstream.kernels.packing.collate import structure_arrays
from molstream.shards.columns import COLUMN_GROUPS, Column, Row, named_sizes
from molstream.shards.tasks import LEVELS, Level
from molstream.streamer.buffers import align
from molstream.streamer.config import Budget

SUFFIXES = {
    "atom_codes": "AF",
    "edge_index": "2E",
    "edge_codes": "E",
    "edge_order": "E",
    "edge_ptr": "A",
    "graph_of_atom": "A",
    "atom_ptr": "G",
    "graph_mask": "G",
    "atom_mask": "A",
    "edge_mask": "E",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Molecules of one pack, padded to the budget. Masked packs are all padding and may share one object: do not change them in
    place.

    All tensors are views of one piece of memory, so a batch travels to a device in one copy.
    """

    atom_codes_AF: Tensor
    """uint8: category codes, with features in the manifest's order."""
    edge_index_2E: Tensor
    """int32: source and destination atom; edge 2b is bond b from its smaller to its larger atom, 2b + 1 is the reverse; padding
    edges loop on the last atom."""
    edge_codes_E: Tensor
    """uint8: bond features as one mixed-radix number."""
    edge_order_E: Tensor
    """int32: edges sorted by destination."""
    edge_ptr_A: Tensor
    """int32 (A + 1): edges into atom a are edge_order[edge_ptr[a]:edge_ptr[a + 1]]."""
    graph_of_atom_A: Tensor
    """int32: padding atoms belong to the last graph slot."""
    atom_ptr_G: Tensor
    """int32 (G + 1): atoms of graph g are atom_ptr[g]:atom_ptr[g + 1]."""
    graph_mask_G: Tensor
    """bool: real molecules."""
    atom_mask_A: Tensor
    edge_mask_E: Tensor
    graph_labels_GT: Tensor
    """float32, raw units, NaN where absent or padding. (G, 0) if labels are listed."""
    atom_labels_AT: Tensor
    bond_labels_BT2: Tensor
    """float32 (E / 2, T, 2), raw units, NaN where absent or padding: labels of directed edges 2b and 2b + 1. A label that the
    input gives once for both directions is that of edge 2b."""
    num_graph_labels_T: Tensor
    """int32: real labels of each graph-level task."""
    num_atom_labels_T: Tensor
    num_bond_labels_T: Tensor
    """int32: labels of both directions, also in the next field."""
    num_pair_labels_T: Tensor
    pair_index_2P: Tensor | None = None
    """int32: atom slots i <= j of each pair of atoms of one molecule, molecule by molecule, by j, then i; padding pairs are the
    last atom and itself. None unless the budget has pairs, like the next field."""
    pair_labels_PT2: Tensor | None = None
    """float32, raw units, NaN where absent or padding: labels of i to j and of j to i; a label for both is that of i to j."""
    label_graph_L: Tensor | None = None
    """int32: graph slot of each listed label, ascending; padding has the last slot. None unless the budget has labels."""
    label_task_L: Tensor | None = None
    """int32: task of each listed label, ascending inside a graph; 0 for padding."""
    label_value_L: Tensor | None = None
    """float32, raw units, NaN for padding."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Columns of the encodings that were asked for, by name and suffix, like "rwse_AK"; what each holds and what padding is, is
    said in `shards.columns`."""
    ids: np.ndarray | None = None
    """uint64 (molecules): ids of graph slots 0, 1, ...; None unless the loader was asked for them."""
    window_rows: np.ndarray | None = None
    """int64 (molecules): places of graph slots 0, 1, ... in the unshuffled window."""
    storage: Tensor
    """uint8: the memory of which all tensors are views."""
    layout: "Layout"

    def __reduce__(self) -> tuple:
        # the memory once, not once per tensor
        return make_batch, (self.storage, self.layout, self.ids, self.window_rows)

    @property
    def num_graphs(self) -> int:
        """Number of real molecules, known on the host without synchronisation."""
        return 0 if self.window_rows is None else len(self.window_rows)

    @property
    def num_atoms(self) -> int:
        """Number of real atoms, for a batch on the host."""
        return int(self.atom_ptr_G[self.num_graphs])

    @property
    def num_edges(self) -> int:
        """Number of real directed edges, for a batch on the host: all but those into the last atom, which is padding."""
        return int(self.edge_ptr_A[-2])

    def dense_graph_labels(self) -> Tensor:
        """(G, T) float32 with NaN for absent labels, made from listed labels if there are any."""
        if self.label_value_L is None:
            return self.graph_labels_GT
        assert self.label_graph_L is not None
        assert self.label_task_L is not None
        shape = (len(self.graph_mask_G), len(self.num_graph_labels_T))
        dense = torch.full(shape, math.nan, device=self.label_value_L.device)
        # padding is NaN in the last graph slot, which is padding too: no value is looked at, so there is no wait for a device
        if dense.numel():
            dense[self.label_graph_L.long(), self.label_task_L.long()] = self.label_value_L
        return dense

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`, by one copy, which does not wait if the memory is pinned."""
        storage = self.storage.to(device, non_blocking=True)
        if storage is self.storage:
            return self
        return make_batch(storage, self.layout, self.ids, self.window_rows)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor of a batch lies in its memory."""

    fields: dict[str, tuple[Any, tuple[int, ...], int]]
    """NumPy dtype, shape, offset in bytes, by the name of the field."""
    num_bytes: int
    columns: tuple[str, ...]
    """Of these the ones in `Batch.columns`."""

    @classmethod
    def of(
        cls,
        budget: Budget,
        *,
        num_features: int,
        num_tasks: Mapping[Level, int] = MappingProxyType({}),
        encodings: Sequence[str] = (),
    ) -> "Layout":
        """Layout of batches of this shape with these columns; pair-level labels are among them if the budget has pairs."""
        structure = structure_arrays(graphs=budget.graphs, atoms=budget.atoms, edges=budget.edges, num_features=num_features)
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {f"{n}_{SUFFIXES[n]}": shape for n, shape in structure.items()}
        slots: dict[Row, int] = {"molecule": budget.graphs, "atom": budget.atoms, "bond": budget.edges // 2}
        if budget.pairs:
            slots["pair"] = budget.pairs
            shapes["pair_index_2P"] = np.int32, (2, budget.pairs)
        if budget.labels:
            for name, dtype in (("graph", np.int32), ("task", np.int32), ("value", np.float32)):
                shapes[f"label_{name}_L"] = dtype, (budget.labels,)
        sizes = named_sizes(num_features, num_tasks)
        for level in LEVELS:
            shapes[f"num_{level}_labels_T"] = np.int32, (sizes[f"{level}_tasks"],)
        if budget.labels:
            sizes["graph_tasks"] = 0
        groups = [group for name, group in COLUMN_GROUPS.items() if group.level is not None or name in encodings]
        columns = [column for group in groups for column in group.columns if column.rows in slots]
        shapes |= {field_of(column): (column.dtype, column.shape(slots[column.rows], sizes)) for column in columns}
        extra = tuple(field_of(column) for group in groups if group.level is None for column in group.columns)
        fields, at = {}, 0
        for name, (dtype, shape) in shapes.items():
            fields[name] = (np.dtype(dtype), shape, at)
            at += align(math.prod(shape) * np.dtype(dtype).itemsize)
        return cls(fields, at, extra)

    def allocate(self, *, pin_memory: bool = False) -> Tensor:
        """Memory for a batch; PyTorch reuses pinned memory for the next one once no copy from it is under way."""
        return torch.empty(self.num_bytes, dtype=torch.uint8, pin_memory=pin_memory)

    def arrays(self, storage: Tensor) -> dict[str, np.ndarray]:
        """Views of memory on the host, as NumPy arrays."""
        memory = storage.numpy()
        return {name: np.ndarray(shape, dtype, memory, at) for name, (dtype, shape, at) in self.fields.items()}

    def tensors(self, storage: Tensor) -> dict[str, Tensor]:
        """Views of memory on any device."""
        return {
            name: storage[at : at + math.prod(shape) * dtype.itemsize].view(_TORCH[dtype.name]).view(shape)
            for name, (dtype, shape, at) in self.fields.items()
        }


def field_of(column: Column) -> str:
    """Name of a column in a batch, like "rwse_AK"."""
    return f"{column.name}_{column.suffix}"


def make_batch(
    storage: Tensor,
    layout: Layout,
    ids: np.ndarray | None,
    window_rows: np.ndarray | None,
    *,
    tensors: dict[str, Tensor] | None = None,
) -> Batch:
    """A batch whose tensors are views of `storage`, which is filled; `tensors`: these views, if they have been made."""
    tensors = layout.tensors(storage) if tensors is None else tensors
    columns = {name: tensors.pop(name) for name in layout.columns}
    return Batch(**tensors, columns=columns, ids=ids, window_rows=window_rows, storage=storage, layout=layout)


_TORCH = {
    name: getattr(torch, name) for name in ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool")
}
