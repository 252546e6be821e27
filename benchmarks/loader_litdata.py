"""litData: `optimize` to chunks of a sample a molecule, read by StreamingDataset and StreamingDataLoader, in this process.

    python benchmarks/loader_litdata.py FOLDER [--molecules 100000] [--form bytes] [--prepare] [--shuffle] [--cores 0]

Forms: `arrays`, a sample is a dict of NumPy arrays, as in litData's examples; `bytes`, the default and the fastest found, a dict
of bytes, which its reader hands out as views of the chunk's memory map, a window of samples at a time, and which collation joins.
Chunks of 64 MB, its examples' size, uncompressed: zstd makes `arrays` three times smaller and no slower, `bytes` it leaves as is.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from loader_contender import (
    Arrays,
    batch_size,
    collate,
    collate_bytes,
    contend,
    num_collated,
    open_set,
    parse_args,
    prepare,
    to_bytes,
    view_collated,
)


def generate(_: int, molecules: Iterator[Arrays], form: str) -> Iterator[dict]:
    """Samples for `optimize`: one input gives them all."""
    for molecule in molecules:
        yield to_bytes(molecule) if form == "bytes" else molecule


def write(form: str, folder: Path, molecules: Iterator[Arrays]) -> None:
    """Fork, so that the generator need not be pickled."""
    import litdata

    function = partial(generate, molecules=molecules, form=form)
    litdata.optimize(function, [0], str(folder), chunk_bytes="64MB", num_workers=1, start_method="fork", verbose=False)


def main() -> None:
    args = parse_args(__doc__, forms=("arrays", "bytes"), shuffle=True)
    folder = prepare(args, "litdata", partial(write, args.form))
    import litdata

    size = batch_size(open_set(args))
    dataset = litdata.StreamingDataset(str(folder), shuffle=args.shuffle)
    collation = collate_bytes if args.form == "bytes" else collate
    loader = litdata.StreamingDataLoader(dataset, batch_size=size, collate_fn=collation, num_workers=0)
    contend(
        args,
        loader="litdata",
        package="litdata",
        start=lambda: loader,
        count=num_collated,
        views=view_collated,
        settings={"batch": size, "num_workers": 0, "chunk_bytes": "64MB", "compression": None},
    )


if __name__ == "__main__":
    main()
