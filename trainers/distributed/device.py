"""Which device a process works on, and how its network is compiled for it."""

import ctypes
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable

import torch
from torch import nn

from molstream.trainers.config import Recipe
from molstream.trainers.errors import RunError

DEVICES = ("auto", "cpu", "cuda")


def find_device(name: str = "auto", *, is_shared: bool = False) -> torch.device:
    """The device of this process: of "cuda" that of its local rank, of "auto" a GPU if there is one.

    `is_shared`: where there are more processes than GPUs, several use one, which only training cannot. Raises RunError for a GPU
    that is not there.
    """
    if name not in DEVICES:
        raise RunError(f"device {name!r}: expected one of {', '.join(DEVICES)}")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and not there:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = (
            f"PyTorch {torch.__version__} is a build without CUDA"
            if torch.version.cuda is None
            else f"PyTorch sees none (CUDA_VISIBLE_DEVICES is {'not set' if visible is None else repr(visible)})"
        )
        raise RunError(f"device cuda: no GPU here, {why}; use --device cpu")
    if name == "cpu" or not there:
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if is_shared:
        local %= there
    if local >= there:
        raise RunError(f"process {local} of this machine, which has {there} GPUs; start as many processes, or use --device cpu")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def keep_freed_memory() -> None:
    """Have glibc keep memory that is freed for what is allocated next, for the rest of the process; elsewhere nothing.

    A step on a CPU frees and allocates the same large arrays again and again. Given back to the system each time, they come as
    new pages, more than 30,000 per step: a sixth of its time (benchmarks/train.md). The price: the process stays as large.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    libc.mallopt(-3, 1 << 30)
    libc.mallopt(-1, (1 << 31) - 1)


def compile_network(network: nn.Module, recipe: Recipe, device: torch.device, say: Callable[[str], None]) -> None:
    """Have a network's forward and backward compiled when it is first called, if the recipe says so and there is a compiler."""
    if recipe.compile == "off":
        return
    compiler = os.environ.get("CXX", "g++")
    lacking = None
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        lacking = "the package triton"
    elif device.type == "cpu" and shutil.which(compiler) is None:
        lacking = f"a C++ compiler ({compiler})"
    if lacking is not None:
        say(f"not compiled: {lacking} is not here")
        return
    # shapes are fixed, so there is one graph for training and one for evaluation
    network.compile(dynamic=False, mode="reduce-overhead" if recipe.compile == "cudagraphs" else "default")
