"""Compile kernels before they are called, in processes beside the one that will call them: what makes a first start bearable.

Numba compiles under one lock of the process, so its threads gain nothing; processes share what they have compiled by way of the
folder where it is kept. One decision: kernels are listed in the order of their first calls, and are compiled from the end of the
list, so that these processes and their caller meet somewhere and little is compiled twice. The price: the list follows the
program by hand (a test holds it against a run), and processes that use memory beside the first seconds of the caller's.
"""

import atexit
import gc
import os
from multiprocessing.connection import Connection
from typing import Any, Literal

from molstream.kernels.chemistry import _positional, _skeletons
from molstream.kernels.codec import _bytes, _labels, _tokens
from molstream.kernels.compiled import compile_all, is_kept
from molstream.kernels.nn import _dropout, _messages
from molstream.kernels.packing import _collate, _packs
from molstream.kernels.rng import _hashing, _permutation
from molstream.kernels.tables import _align, moments
from molstream.shards.workers.process import Child

MAX_PROCESSES = 4
"""Each takes some 200 MB while it lives; of more the last would have nothing to do."""

Stage = Literal["build", "stream", "encode", "train"]
KERNELS: dict[Stage, tuple[Any, ...]] = {
    # the process that runs RDKit compiles its own
    "build": (
        _align.align_list,
        _hashing.hash_u64,
        _skeletons.hash_skeletons,
        moments.measure,
        moments.measure_f16,
        _bytes.shuffle_bytes,
        _bytes.unshuffle_bytes,
        _tokens.number_rows,
        _tokens.write_tokens,
        _labels.find_present,
        _labels.order_patterns,
        _labels.code_labels,
        _labels.place_planes,
        _labels.split_planes,
        _labels.measure_labels,
    ),
    "stream": (
        _permutation.permute,
        _packs.cut_windows,
        _packs.count_larger,
        _packs.count_whole,
        _packs.deal,
        _permutation.shuffle_order,
        _packs.pack_emptiest,
        _tokens.expand_tokens,
        _labels.measure_labels,
        _labels.place_planes,
        _labels.follow_deltas,
        _labels.expand_labels,
        _labels.write_singles,
        _labels.write_halves,
        _collate.measure,
        _collate.collate_structure,
        _collate.gather_rows,
        _collate.count_present,
    ),
    # where positional encodings are computed while streaming
    "encode": (
        _positional.find_bad_bond,
        _positional.random_walk,
        _positional.find_components,
        _positional.laplacian,
    ),
    "train": (
        _dropout.drop,
        _messages.check_edges,
        _messages.cut_atoms,
        _messages.sum_messages,
        _dropout.add_dropped,
        _dropout.add_dropped_gradients,
        _messages.add_gradients,
        _messages.add_in_order,
    ),
}
"""What each stage of the usual run calls, in order of the first calls."""
_ALL = [made for kernels in KERNELS.values() for made in kernels]


_children: list[Child] = []


def compile_ahead(*stages: Stage) -> None:
    """Begin to compile what `stages` will call and what is not kept from an earlier start, until this process ends.

    Nothing waits for it and nothing depends on it: what is not there in time, its caller compiles. Costs some 10 ms where all is
    kept. Does nothing on a machine of one core, nor where a launcher has started this process beside others.
    """
    wanted = dict.fromkeys(made for stage in stages for made in KERNELS[stage])
    missing = [_ALL.index(made) for made in wanted if not is_kept(made)][::-1]
    number = 0 if "LOCAL_RANK" in os.environ else min(len(os.sched_getaffinity(0)) - 1, MAX_PROCESSES, len(missing))
    _children.extend(Child(serve, *missing[k::number]) for k in range(number))


@atexit.register
def _end() -> None:
    for child in _children:
        child.kill()
    _children.clear()


def serve(connection: Connection, *numbers: int) -> None:
    """The process: compile these entries of `_ALL`, in this order."""
    gc.disable()
    for number in numbers:
        try:
            compile_all([_ALL[number]])
        except Exception:
            # the caller will meet it too, and has somebody to tell
            return
