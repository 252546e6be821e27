"""A loader a rank: every step's molecules are the same for any number of ranks up to the number of lanes.

torchrun --nproc-per-node 2 examples/pytorch_ddp.py SHARDS
"""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from streamer import Budget, Loader, ShardSet, StreamConfig


def main(shards: str) -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    shard_set = ShardSet(shards)
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=1024), num_lanes=4)
    loader = Loader(shard_set, config, rank=rank, world_size=world_size, levels=["graph"])
    model = DistributedDataParallel(torch.nn.Embedding(256, len(loader.selection.tasks["graph"])))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    molecules = torch.zeros(1)
    for step in loader:  # all ranks take the same number of steps, of the same number of packs
        for batch in step.batches:
            atoms = model(batch.atom_codes_AF[:, 0].long())
            graphs = torch.zeros_like(batch.graph_labels_GT).index_add(0, batch.graph_of_atom_A, atoms)
            real = ~torch.isnan(batch.graph_labels_GT)
            (graphs - batch.graph_labels_GT.nan_to_num())[real].tanh().pow(2).sum().backward()
            molecules += batch.num_graphs
        optimizer.step()
        optimizer.zero_grad()
    dist.all_reduce(molecules)
    if rank == 0:
        print(f"{int(molecules)} molecules in {len(loader)} steps on {world_size} ranks")
    # the threads of a group must end before the interpreter does, on all ranks
    dist.barrier()
    del model, optimizer
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
