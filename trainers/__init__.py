"""Training and export: models, masked losses, the loop, checkpoints, metrics, embeddings. No RDKit, no file formats of shards."""

from typing import Any

__all__ = ["load_encoder"]


def __getattr__(name: str) -> Any:
    # not imported before it is asked for: the command line reads `trainers.errors` and must not load torch for it
    if name == "load_encoder":
        from trainers.pretrained import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
