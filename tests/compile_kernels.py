"""Compile the kernels of which no machine code is kept: `python compile_kernels.py K N`, the K-th of N equal shares.

pytest's processes would each compile the same ones, and take twice as long as two processes that share them.
"""

import gc
import importlib
import pkgutil
import sys

import molstream.kernels
from molstream.kernels import compiled

if __name__ == "__main__":
    gc.disable()
    for module in pkgutil.walk_packages(molstream.kernels.__path__, "molstream.kernels."):
        importlib.import_module(module.name)
    share, shares = map(int, sys.argv[1:])
    # shares of all, since what is missing changes while the others are at work
    mine = list(compiled._arguments)[share::shares]
    compiled.compile_all(made for made in mine if not compiled.is_kept(made))
