"""The bridge to stock webdataset, for people who have such pipelines: blocks, molecules or packs of a shard set as its samples.

    blocks in stored order -> detshuffle -> split_by_node -> split_by_worker -> read -> ...

`blocks`, `molecules` and `packs` give pipelines of webdataset's own class, to be gone on with (`.shuffle`, `.map`, `.batched`)
and handed to a DataLoader. What webdataset deals out to nodes and workers is blocks, not shards, so that a set of one shard
serves any number of workers. One decision: a block is read as everywhere else in this package, not by webdataset's tar reader,
which takes a shard that was cut off for a shorter one. The price: the shard set is a local folder. `BlockDecoder` is for shards
that only webdataset can reach (`pipe:`, object stores).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import webdataset
from webdataset.utils import pytorch_worker_info

from molstream.shards.errors import FormatError
from molstream.shards.format.arrays import decompress
from molstream.shards.format.block import decode_block
from molstream.shards.format.reader import ShardSet
from molstream.shards.molecules import Molecules
from molstream.shards.tasks import LEVELS, Level
from molstream.streamer.batch import Batch
from molstream.streamer.config import StreamConfig
from molstream.streamer.errors import CallError
from molstream.streamer.loader import Loader


def blocks(
    shard_set: ShardSet, *, split: str = "train", groups: Sequence[str] | None = None, seed: int | None = None
) -> webdataset.FluidWrapper:
    """A pipeline of the blocks of a split, each as Molecules with the columns of `groups` (None: all the set has).

    Each block once an epoch, over all nodes and workers together. `seed`: blocks are shuffled, in another order each epoch;
    None: stored order. An epoch is one iteration of a pipeline: workers that end with it (`persistent_workers=False`) begin at
    the first again, so give another seed. Nothing is read before it is asked for. Raises InputError for a split and CallError
    for a group that is not there; iterating raises FormatError or ChecksumError for a damaged shard, naming it.
    """
    if unknown := [group for group in groups or () if group not in shard_set.groups]:
        raise CallError(f"groups: got {unknown[0]!r}, the set has {', '.join(shard_set.groups)}")
    numbers = shard_set.blocks(split).tolist()
    # a buffer of all of them, which are only numbers
    shuffle = [] if seed is None else [webdataset.detshuffle(len(numbers), initial=len(numbers), seed=seed)]
    read = partial(_read_blocks, shard_set, None if groups is None else tuple(groups))
    return webdataset.FluidWrapper(numbers).compose(*shuffle, webdataset.split_by_node, webdataset.split_by_worker, read)


def molecules(
    shard_set: ShardSet, *, split: str = "train", groups: Sequence[str] | None = None, seed: int | None = None
) -> webdataset.FluidWrapper:
    """The same, molecule by molecule: Molecules of length 1, views of their block.

    `molecules(shard_set, seed=0).shuffle(10_000)` mixes the blocks' molecules; a molecule in the buffer keeps its block in
    memory.
    """
    return blocks(shard_set, split=split, groups=groups, seed=seed).compose(_one_by_one)


def packs(
    shard_set: ShardSet,
    config: StreamConfig,
    *,
    tasks: Sequence[str] | None = None,
    levels: Sequence[Level] = LEVELS,
    encodings: Sequence[str] = (),
    with_ids: bool = False,
) -> webdataset.FluidWrapper:
    """A pipeline of packs: the Batches of a `Loader` with these settings, dealt out by lanes to nodes and workers.

    Each molecule once an epoch, over all of them, in the order of the plan; `config` says split, seed and shape. Every worker
    gives as many batches; some of the last may be all padding (`num_graphs` 0), which `.select(lambda batch: batch.num_graphs)`
    leaves out. A DataLoader takes batches as they are with `batch_size=None`. An iteration that is broken off goes on where it
    stood, and the next one is the next epoch; workers that end with an epoch begin at the first again. Raises what `Loader` does;
    CallError, once it is iterated, for more workers on all nodes than `config.num_lanes`.
    """

    make = partial(
        Loader,
        shard_set,
        config,
        num_threads=1,
        tasks=tasks,
        levels=levels,
        encodings=encodings,
        with_ids=with_ids,
        in_worker=True,
    )
    # what is wrong with them is said here, not in a worker
    make(rank=0, world_size=1)
    return webdataset.FluidWrapper(_Packs(make))


def _read_blocks(shard_set: ShardSet, groups: tuple[str, ...] | None, numbers: Iterable[int]) -> Iterator[Molecules]:
    for number in numbers:
        yield shard_set.read_block(number, groups)


def _one_by_one(parts: Iterable[Molecules]) -> Iterator[Molecules]:
    for part in parts:
        for k in range(len(part)):
            yield part.slice(k, k + 1)


class _Packs:
    """The first stage of a pipeline; each call is an epoch of this process's lanes."""

    def __init__(self, make: Callable[..., Loader]):
        self.make, self.place = make, (0, 0)
        self.loader: Loader | None = None

    def __call__(self) -> Iterator[Batch]:
        rank, world_size, worker, num_workers = pytorch_worker_info()
        place = (rank * num_workers + worker, world_size * num_workers)
        if self.loader is None or self.place != place:
            self.place, self.loader = place, self.make(rank=place[0], world_size=place[1])
        for step in self.loader:
            yield from step.batches


class BlockDecoder:
    """A sample of a stock `webdataset.WebDataset` over shards (one block) -> Molecules. Pickles small.

    Nothing says here whether all blocks came: webdataset takes what it reads of a shard.
    """

    def __init__(self, shard_set: ShardSet, *, groups: Sequence[str] | None = None):
        """`groups`: the column groups to decode (None: all). The set's manifest is needed, its shards are not."""
        self.groups = ("sizes", *(g for g in groups or shard_set.groups if g != "sizes"))
        self.widths = shard_set.widths

    def __call__(self, sample: dict) -> Molecules:
        """Decode. Raises FormatError for a sample of another kind or a damaged member, naming the sample."""
        where = f"{sample.get('__url__', 'sample')}, {sample.get('__key__', 'without a key')}"
        if missing := [group for group in self.groups if f"{group}.zst" not in sample]:
            raise FormatError(
                f"{where}: no member {missing[0]}.zst, expected a block of the shard set with {', '.join(self.groups)}"
            )
        try:
            contents = {group: decompress(sample[f"{group}.zst"]) for group in self.groups}
            # the number of molecules comes first in the directory of `sizes`; here it can only be believed
            num_molecules = int.from_bytes(contents["sizes"][32:40], "little")
            return decode_block(contents, num_molecules=num_molecules, widths=self.widths)
        except FormatError as error:
            raise FormatError(f"{where}: {error}; restore the shard or build the set again") from error
