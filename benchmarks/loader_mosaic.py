"""MosaicML streaming: MDSWriter to shards of a sample a molecule, StreamingDataset and StreamingDataLoader in this process.

    python benchmarks/loader_mosaic.py FOLDER [--molecules 30000] [--form record] [--prepare] [--shuffle] [--cores 0]

Forms: `arrays`, a column of type ndarray an array; `record`, the default and the fastest found, one column of bytes that
collation takes apart (five columns of bytes are a sixth slower). Shards of 64 MB, its default, in the local folder, uncompressed:
a compressed one is decompressed to a file once and read from that ever after, so nothing would change in the timed pass.
"""

import sys
from collections.abc import Iterator
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from loader_contender import (
    Arrays,
    batch_size,
    collate,
    collate_records,
    contend,
    num_collated,
    open_set,
    parse_args,
    prepare,
    to_record,
    view_collated,
)

COLUMNS = {
    "arrays": {
        "graph_labels": "ndarray:float32:62",
        "atom_labels": "ndarray:float32",
        "edge_index": "ndarray:int32",
        "atom_codes": "ndarray:uint8",
        "edge_codes": "ndarray:uint8",
    },
    "record": {"record": "bytes"},
}


def import_streaming() -> ModuleType:
    """The package, without the torchvision it imports for data sets of images: PyPI's does not go with a torch for CPUs only."""
    names: dict[str, dict[str, Any]] = {
        "torchvision": {},
        "torchvision.datasets": {"VisionDataset": object},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {"to_tensor": None},
    }
    for name, contents in names.items():
        module = ModuleType(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None, is_package=True), []
        vars(module).update(contents)
        sys.modules[name] = module
    import streaming

    return streaming


def write(form: str, folder: Path, molecules: Iterator[Arrays]) -> None:
    """Molecules without bonds would need `record`: MDS stores no empty arrays."""
    with import_streaming().MDSWriter(out=str(folder), columns=COLUMNS[form], size_limit="64mb") as writer:
        for molecule in molecules:
            writer.write({"record": to_record(molecule)} if form == "record" else molecule)


def collate_column(samples: list[dict[str, bytes]]) -> dict:
    """Samples of form `record` -> a batch."""
    return collate_records([s["record"] for s in samples])


def main() -> None:
    args = parse_args(__doc__, forms=("arrays", "record"), shuffle=True)
    folder = prepare(args, "mosaic", partial(write, args.form))
    streaming = import_streaming()
    size = batch_size(open_set(args))
    dataset = streaming.StreamingDataset(local=str(folder), shuffle=args.shuffle, batch_size=size)
    collation = collate_column if args.form == "record" else collate
    loader = streaming.StreamingDataLoader(dataset, batch_size=size, collate_fn=collation, num_workers=0)
    contend(
        args,
        loader="mosaic",
        package="mosaicml-streaming",
        start=lambda: loader,
        count=num_collated,
        views=view_collated,
        settings={"batch": size, "num_workers": 0, "size_limit": "64mb", "compression": None},
    )


if __name__ == "__main__":
    main()
