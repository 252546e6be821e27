"""PyG's DataLoader over a list of Data objects in memory, in this process.

    python benchmarks/loader_pyg.py FOLDER [--molecules 100000] [--form sized] [--shuffle] [--cores 0]

Nothing is read or decoded in the timed pass: the list is made from the shard set before. Edge indices are int64, as PyG's layers
want them, labels and codes as they are in the set. Forms: `plain`, tensors only; `sized`, the default, with num_nodes set, which
spares PyG from working it out for each molecule of each batch.
"""

import gc

import torch
from loader_contender import Arrays, batch_size, contend, iter_molecules, open_set, parse_args
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader


def make_data(molecule: Arrays, *, sized: bool) -> Data:
    """One molecule under PyG's usual names."""
    tensors = {name: torch.from_numpy(array) for name, array in molecule.items()}
    data = Data(
        x=tensors["atom_codes"],
        edge_index=tensors["edge_index"].long(),
        edge_attr=tensors["edge_codes"],
        y=tensors["graph_labels"][None],
        atom_y=tensors["atom_labels"],
    )
    if sized:
        data.num_nodes = len(data.x)
    return data


def view(batch: Batch) -> list[Arrays]:
    """The batch under the names of `digest`."""
    arrays = {
        "atom_codes": batch.x.numpy(),
        "edge_index": batch.edge_index.numpy(),
        "edge_codes": batch.edge_attr.numpy(),
        "graph_of_atom": batch.batch.numpy(),
        "graph_labels": batch.y.numpy(),
        "atom_labels": batch.atom_y.numpy(),
    }
    return [arrays]


def main() -> None:
    args = parse_args(__doc__, forms=("plain", "sized"), shuffle=True)
    if args.prepare:
        return
    shard_set = open_set(args)
    size = batch_size(shard_set)
    molecules = [make_data(m, sized=args.form == "sized") for m in iter_molecules(shard_set)]
    # so that the collector does not look through the list again and again
    gc.freeze()
    loader = DataLoader(molecules, batch_size=size, shuffle=args.shuffle, num_workers=0)
    contend(
        args,
        loader="pyg",
        package="torch-geometric",
        start=lambda: loader,
        count=lambda batch: batch.num_graphs,
        views=view,
        settings={"batch": size, "num_workers": 0},
    )


if __name__ == "__main__":
    main()
