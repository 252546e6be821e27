"""A window in memory: its blocks decoded into one set of columns, shuffled and packed. Self-contained: needs the plan only."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kernels.collate import Columns, collate_labels, collate_pack
from kernels.hashing import mix_key
from kernels.packing import PackingError, num_packs, pack_molecules
from kernels.permutation import shuffled
from shards import Molecules, ShardSet
from shards.types import concat_molecules
from streamer.batch import Batch
from streamer.config import Budget
from streamer.errors import BudgetError
from streamer.plan import Plan


@dataclass(frozen=True, slots=True)
class Window:
    """Molecules and which of them make up each pack."""

    molecules: Molecules
    pack_ptr: np.ndarray
    pack_molecules: np.ndarray

    def members(self, pack: int) -> np.ndarray:
        """Molecules of a pack, as places in the window."""
        return self.pack_molecules[self.pack_ptr[pack] : self.pack_ptr[pack + 1]]


def load_window(shard_set: ShardSet, plan: Plan, window: int, *, budget: Budget, groups: tuple[str, ...]) -> Window:
    """Read, shuffle and pack one window of a plan. Raises ShardError for damaged data, BudgetError if the packs do not hold."""
    molecules = concat_molecules([shard_set.read_block(int(b), groups) for b in plan.window_blocks(window)])
    return pack_window(
        molecules,
        num_packs=int(plan.window_packs[window]),
        budget=budget,
        key=mix_key(plan.key, window) if plan.shuffle else None,
        where=f"epoch {plan.epoch}, window {window}",
    )


def pack_window(molecules: Molecules, *, num_packs: int, budget: Budget, key: int | None, where: str) -> Window:
    """Pack molecules into exactly `num_packs` packs; `key` shuffles them first, None keeps their order."""
    order = np.arange(len(molecules)) if key is None else shuffled(len(molecules), key=key)
    try:
        packed = pack_molecules(molecules.num_atoms, molecules.num_bonds, order, num_packs=num_packs, capacity=budget.capacity)
    except PackingError as error:
        raise BudgetError(f"budget {budget}: {where}: {error}") from error
    return Window(molecules, *packed)


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
    while (window := _try_packs(molecules, packs, budget)) is None:
        # nothing was planned with this number, so one more pack is as good
        packs += 1
    for pack in range(packs):
        yield collate(
            window, pack, budget=budget, num_graph_tasks=0, num_atom_tasks=0, num_features=molecules.atom_codes.shape[1]
        )


def _try_packs(molecules: Molecules, packs: int, budget: Budget) -> Window | None:
    try:
        return pack_window(molecules, num_packs=packs, budget=budget, key=None, where="table")
    except BudgetError:
        return None


def collate(
    window: Window | None, pack: int, *, budget: Budget, num_graph_tasks: int, num_atom_tasks: int, num_features: int
) -> Batch:
    """One pack as a batch; a window of None gives a masked pack. Label columns that were not read come as absent."""
    if window is None:
        molecules, members = _no_molecules(num_features), np.empty(0, np.int64)
    else:
        molecules, members = window.molecules, window.members(pack)
    columns = Columns(molecules.atom_ptr, molecules.bond_ptr, molecules.atom_codes, molecules.bond_atoms, molecules.bond_codes)
    arrays = collate_pack(members, columns, graphs=budget.graphs, atoms=budget.atoms, edges=budget.edges)
    graph_labels, num_graph = _labels(
        members, np.arange(len(molecules) + 1), molecules.graph_labels, budget.graphs, num_graph_tasks
    )
    atom_labels, num_atom = _labels(members, molecules.atom_ptr, molecules.atom_labels, budget.atoms, num_atom_tasks)
    suffix = {
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
    return Batch(
        **{f"{name}_{suffix[name]}": torch.from_numpy(array) for name, array in arrays.items()},
        graph_labels_GT=torch.from_numpy(graph_labels),
        atom_labels_AT=torch.from_numpy(atom_labels),
        num_graph_labels_T=torch.from_numpy(num_graph),
        num_atom_labels_T=torch.from_numpy(num_atom),
        ids=None if molecules.ids is None else molecules.ids[members],
        members=members,
    )


def _labels(
    members: np.ndarray, ptr: np.ndarray, labels: np.ndarray | None, rows: int, num_tasks: int
) -> tuple[np.ndarray, np.ndarray]:
    if labels is None:
        return np.full((rows, num_tasks), np.nan, np.float32), np.zeros(num_tasks, np.int32)
    return collate_labels(members, ptr, labels, rows=rows)


def _no_molecules(num_features: int) -> Molecules:
    return Molecules(
        atom_ptr=np.zeros(1, np.int64),
        bond_ptr=np.zeros(1, np.int64),
        atom_codes=np.empty((0, num_features), np.uint8),
        bond_atoms=np.empty((0, 2), np.uint16),
        bond_codes=np.empty(0, np.uint8),
        ids=np.empty(0, np.uint64),
    )
