"""Training and export: models, masked losses, the loop, checkpoints, metrics, embeddings. No RDKit, no file formats of shards."""
