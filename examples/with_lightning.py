"""The loader as it is in Lightning, which saves and restores whatever has state_dict and load_state_dict.

pip install lightning; python examples/with_lightning.py SHARDS
"""

import sys

import lightning
import torch

from streamer import Budget, Loader, ShardSet, Step, StreamConfig


class Model(lightning.LightningModule):
    """Predicts graph labels from counts of elements."""

    def __init__(self, num_tasks: int):
        super().__init__()
        self.atoms = torch.nn.Embedding(256, num_tasks)

    def transfer_batch_to_device(self, step: Step, device: torch.device, dataloader_idx: int) -> list:
        return [batch.to(device) for batch in step.batches]

    def training_step(self, batches: list, number: int) -> torch.Tensor:
        losses = []
        for batch in batches:
            atoms = self.atoms(batch.atom_codes_AF[:, 0].long())
            graphs = torch.zeros_like(batch.graph_labels_GT).index_add(0, batch.graph_of_atom_A, atoms)
            real = ~torch.isnan(batch.graph_labels_GT)
            losses.append((graphs - batch.graph_labels_GT.nan_to_num())[real].tanh().pow(2).sum())
        return torch.stack(losses).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def main(shards: str) -> None:
    shard_set = ShardSet(shards)
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=1024), num_lanes=2)
    loader = Loader(shard_set, config, levels=["graph"])
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Model(len(loader.selection.tasks["graph"])), train_dataloaders=loader)
    print(f"{trainer.global_step} of {len(loader)} steps, next: {loader.state_dict()['step']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
