"""Build a shard set and die by SIGKILL at one moment of writing: python kill_build.py MOMENT OUT INPUT [PCBA-INPUT]

With a second input, in PCBA's columns, the two are joined.

Moments are counted: before and after each file is synced, before and after it takes its name, before and after the folder of
unfinished work is removed. With a number beyond the last the build ends, and their number is printed.
"""

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

from molstream.shards.build import map as mapper
from molstream.shards.build.build import build
from molstream.shards.build.options import BuildOptions
from molstream.shards.inputs import tables
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.splits.rules import SplitFractions

OPTIONS = BuildOptions(split_fractions=SplitFractions.parse("80,10,10"), block_molecules=16, shard_molecules=60)
JOINED = replace(OPTIONS, tables=(TableSpec(), TableSpec(dataset="pcba")), join="smiles")
seen = 0


def at_moments(function):
    def wrapped(*args, **kwargs):
        tick()
        result = function(*args, **kwargs)
        tick()
        return result

    return wrapped


def tick() -> None:
    global seen  # noqa: PLW0603
    if seen == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    seen += 1


if __name__ == "__main__":
    tables.RANGE_ROWS = tables.MIN_RANGE_ROWS = 80
    mapper.BATCH_ROWS = 50
    os.fsync = at_moments(os.fsync)
    Path.replace = at_moments(Path.replace)
    shutil.rmtree = at_moments(shutil.rmtree)
    tables_of = [[path] for path in sys.argv[3:]]
    build(tables_of, sys.argv[2], OPTIONS if len(tables_of) == 1 else JOINED)
    print(seen)
