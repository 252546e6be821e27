"""Stock webdataset: tars of a sample a molecule, read by WebDataset in this process.

    python benchmarks/loader_webdataset.py FOLDER [--molecules 30000] [--form record] [--prepare] [--shuffle] [--cores 0]

Forms: `npy`, a member an array; `pickle`, one .pyd member that holds them all; `record`, the default and the fastest found, one
member of bytes that collation takes apart. One member of .pth or .npz is slower than a .pyd by far. Tars of 64 MB, uncompressed,
the time of members a whole number: the writer's default, a fraction, takes an extended header for each, and a third of the rate
or more.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import webdataset
from loader_contender import (
    FIELDS,
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

ENCODE: dict[str, Callable[[Arrays], dict]] = {
    "npy": lambda molecule: {f"{name}.npy": array for name, array in molecule.items()},
    "pickle": lambda molecule: {"pyd": molecule},
    "record": lambda molecule: {"bin": to_record(molecule)},
}
COLLATE: dict[str, Callable[[list[dict]], dict]] = {
    "npy": lambda samples: collate([{name: s[f"{name}.npy"] for name in FIELDS} for s in samples]),
    "pickle": lambda samples: collate([s["pyd"] for s in samples]),
    "record": lambda samples: collate_records([s["bin"] for s in samples]),
}


def write(form: str, folder: Path, molecules: Iterator[Arrays]) -> None:
    """Tars of 64 MB."""
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxsize=64e6, mtime=0, verbose=0) as writer:
        for number, molecule in enumerate(molecules):
            writer.write({"__key__": f"{number:09}", **ENCODE[form](molecule)})


def main() -> None:
    args = parse_args(__doc__, forms=("npy", "pickle", "record"), shuffle=True)
    folder = prepare(args, "webdataset", partial(write, args.form))
    size = batch_size(open_set(args))
    urls = sorted(map(str, folder.glob("*.tar")))
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls) if args.shuffle else False)
    if args.shuffle:
        dataset = dataset.shuffle(1000)
    if args.form != "record":
        dataset = dataset.decode()
    dataset = dataset.batched(size, collation_fn=COLLATE[args.form])
    contend(
        args,
        loader="webdataset",
        package="webdataset",
        start=lambda: dataset,
        count=num_collated,
        views=view_collated,
        settings={"batch": size, "maxsize": 64e6, "mtime": 0},
    )


if __name__ == "__main__":
    main()
