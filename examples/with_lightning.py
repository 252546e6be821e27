"""The loader in Lightning's Trainer, which saves and restores it with the model: python examples/with_lightning.py SHARDS"""

import sys
from dataclasses import replace

import lightning
import torch

from molstream import Budget, Loader, ShardSet, StreamConfig


class SumOfAtoms(lightning.LightningModule):  # the smallest model: an atom is a row for its first feature
    def __init__(self, shards: str, atoms_a_pack: int = 1024):
        super().__init__()
        self.shard_set, self.atoms = ShardSet(shards), atoms_a_pack
        self.embed = torch.nn.Embedding(256, len(self.shard_set.manifest.tasks_of("graph")))

    def train_dataloader(self) -> Loader:  # its len, state_dict and load_state_dict are what Lightning asks for
        config = StreamConfig(budget=Budget.suggest(self.shard_set, atoms=self.atoms), num_lanes=4)
        return Loader(self.shard_set, config, rank=self.trainer.global_rank, world_size=self.trainer.world_size)

    def transfer_batch_to_device(self, step, device, dataloader_idx):
        return replace(step, batches=[batch.to(device) for batch in step.batches])

    def training_step(self, step, step_number):
        return sum(self.error(batch) for batch in step.batches) / max(1, sum(batch.num_graphs for batch in step.batches))

    def error(self, batch):
        labels_GT = batch.graph_labels_GT
        y_GT = torch.zeros_like(labels_GT).index_add(0, batch.graph_of_atom_A, self.embed(batch.atom_codes_AF[:, 0].int()))
        return torch.where(labels_GT.isnan(), 0, y_GT - labels_GT).abs().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.001)


if __name__ == "__main__":
    # in steps: Lightning splits an epoch that has one more than the first
    lightning.Trainer(max_steps=1000).fit(SumOfAtoms(*sys.argv[1:]))
