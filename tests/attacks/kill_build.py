"""Build a shard set and die by SIGKILL at one moment of writing: python kill_build.py MOMENT OUT INPUT...

Moments are counted: before and after each file is synced, before and after it takes its name, before and after the folder of
unfinished work is removed. With a number beyond the last the build ends, and their number is printed.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from shards import mapper, tables
from shards.build import build
from shards.options import BuildOptions
from shards.splits import SplitFractions

OPTIONS = BuildOptions(split_fractions=SplitFractions.parse("80,10,10"), block_molecules=16, shard_molecules=60)
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
    build(sys.argv[3:], sys.argv[2], OPTIONS)
    print(seen)
