"""Ranks share the lanes; a step is the same for any number of them: torchrun --nproc-per-node 2 examples/pytorch_ddp.py SHARDS"""

import contextlib
import gc
import sys

import torch.distributed.nn.functional  # before there is a group, which it would keep
from torch import distributed as dist

from molstream import Budget, Loader, ShardSet, StreamConfig


def main(shards: str) -> None:
    rank, world, shard_set = dist.get_rank(), dist.get_world_size(), ShardSet(shards)
    device = torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=1024), num_lanes=8)
    loader = Loader(shard_set, config, rank=rank, world_size=world, levels=("graph",))
    scale_T = torch.tensor([shard_set.manifest.statistics[task].std or 1.0 for task in loader.selection.names], device=device)
    torch.manual_seed(0)  # the smallest model: a molecule is the sum of its atoms, an atom a row for its first feature
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Embedding(256, len(scale_T)).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in loader:
        num_labels = sum(batch.num_graph_labels_T.sum() for batch in step.batches).to(device)
        dist.all_reduce(num_labels)
        optimizer.zero_grad()
        for k, batch in enumerate(b.to(device) for b in step.batches):  # masked ones too: all ranks do the same number
            with model.no_sync() if k + 1 < len(step.batches) else contextlib.nullcontext():  # gradients meet once a step
                y_AT = model(batch.atom_codes_AF[:, 0].int())
                y_GT = torch.zeros_like(batch.graph_labels_GT).index_add(0, batch.graph_of_atom_A, y_AT)
                errors_GT = torch.where(batch.graph_labels_GT.isnan(), 0, y_GT - batch.graph_labels_GT) / scale_T
                (world * errors_GT.abs().sum() / num_labels).backward()  # times world: DDP takes the mean over ranks
        optimizer.step()
    print(f"rank {rank} of {world}: {len(loader)} steps, weights {sum(p.double().abs().sum() for p in model.parameters()):.3f}")


if __name__ == "__main__":
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")  # torchrun says who and where we are
    main(*sys.argv[1:])
    dist.destroy_process_group()
    gc.collect()  # the model holds the group, whose threads must end before the interpreter does
