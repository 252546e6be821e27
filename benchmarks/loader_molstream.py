"""molstream's Loader: from zstd blocks on disk to batches of one fixed shape, checksums on, labels of both levels.

    python benchmarks/loader_molstream.py FOLDER [--molecules N] [--threads 1] [--lanes 8] [--cores 0]

Shuffled, as for training: blocks, and molecules in windows of 16,384. Batches hold more than those of the peers: padding, masks,
counts of labels, and the order of the edges by destination.
"""

from loader_contender import ATOMS, Arrays, contend, open_set, parse_args

from molstream.streamer.batch import Batch
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader, Step


def view(batch: Batch) -> Arrays:
    """The batch without its padding."""
    graphs, atoms, edges = batch.num_graphs, batch.num_atoms, batch.num_edges
    return {
        "atom_codes": batch.atom_codes_AF[:atoms].numpy(),
        "edge_index": batch.edge_index_2E[:, :edges].numpy(),
        "edge_codes": batch.edge_codes_E[:edges].numpy(),
        "graph_of_atom": batch.graph_of_atom_A[:atoms].numpy(),
        "graph_labels": batch.graph_labels_GT[:graphs].numpy(),
        "atom_labels": batch.atom_labels_AT[:atoms].numpy(),
    }


def count(step: Step) -> int:
    """Molecules of a step."""
    return sum(batch.num_graphs for batch in step.batches)


def main() -> None:
    args = parse_args(__doc__, threads={"type": int, "default": 1}, lanes={"type": int, "default": 8})
    if args.prepare:
        return
    shard_set = open_set(args)
    budget = Budget.suggest(shard_set, atoms=ATOMS)
    loader = Loader(shard_set, StreamConfig(budget=budget, num_lanes=args.lanes), num_threads=args.threads)
    contend(
        args,
        loader="molstream",
        package="molstream",
        start=lambda: loader,
        count=count,
        views=lambda step: [view(batch) for batch in step.batches if batch.num_graphs],
        settings={"threads": args.threads, "lanes": args.lanes, "budget": str(budget)},
        reads_ahead=True,
    )


if __name__ == "__main__":
    main()
