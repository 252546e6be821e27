"""The bridge to stock webdataset: shards are plain WebDataset tars, and this module reads their samples.

dataset = webdataset.WebDataset(urls, shardshuffle=False).map(BlockDecoder(shard_set))
"""

from molstream.shards.format.arrays import decompress
from molstream.shards.format.block import decode_block
from molstream.shards.format.reader import ShardSet
from molstream.shards.molecules import Molecules


class BlockDecoder:
    """A webdataset sample (one block) -> Molecules. It holds only the feature and task counts of the manifest, so it pickles
    small."""

    def __init__(self, shard_set: ShardSet, *, groups: tuple[str, ...] | None = None):
        self.groups = ("sizes", *(g for g in groups or shard_set.groups if g != "sizes"))
        self.widths = shard_set.widths

    def __call__(self, sample: dict) -> Molecules:
        """Decode; raises FormatError for a damaged member, KeyError for a sample of another kind."""
        contents = {group: decompress(sample[f"{group}.zst"]) for group in self.groups}
        # the number of molecules comes first in the directory of `sizes`; here it cannot be checked
        num_molecules = int.from_bytes(contents["sizes"][32:40], "little")
        return decode_block(
            contents,
            num_molecules=num_molecules,
            widths=self.widths,
        )
