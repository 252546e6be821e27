"""One pack as tensors. Every batch of a run has the same shapes and dtypes.

Shape suffixes: G graph slots, A atom slots, E directed edge slots, F atom features, T tasks of a level.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Molecules of one pack, padded to the budget. Masked packs are all padding."""

    atom_codes_AF: Tensor
    """uint8: category codes, features in the manifest's order."""
    edge_index_2E: Tensor
    """int32: source and destination atom; the reverse of edge i is i ^ 1; padding edges loop on the last atom."""
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
    """float32, raw units, NaN where absent or padding."""
    atom_labels_AT: Tensor
    num_graph_labels_T: Tensor
    """int32: real labels of each graph-level task."""
    num_atom_labels_T: Tensor
    ids: np.ndarray | None = None
    """uint64 (molecules): ids of graph slots 0, 1, ...; None unless the loader was asked for them."""
    members: np.ndarray | None = None
    """int64 (molecules): places of graph slots 0, 1, ... in the unshuffled window."""

    @property
    def num_graphs(self) -> int:
        """Real molecules (no synchronisation: known on the host)."""
        return 0 if self.members is None else len(self.members)

    @property
    def num_atoms(self) -> int:
        """Real atoms of a batch on the host."""
        return int(self.atom_ptr_G[self.num_graphs])

    @property
    def num_edges(self) -> int:
        """Real directed edges of a batch on the host: all but those into the last atom, which is padding."""
        return int(self.edge_ptr_A[-2])

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`."""
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                moved[f.name] = value.to(device, non_blocking=True)
        return replace(self, **moved)
