"""How the loops in files named `_*.py` become machine code: options, the arguments they are compiled for, where the code is kept.

A *kernel* is called from Python, a *part* by kernels only. One decision: kernels name the arguments that the wrapper beside them
passes, so that they can be compiled before they are called, by another process (`shards.workers.ahead`), and so that a test can
see that nothing is compiled twice for arguments that differ by accident, as in whether an array may be written to. The price: a
wrapper and its kernel change together. Other arguments (float64 states, wider codes) are compiled when they come.

Parts are neither kept by themselves nor callable from Python: each of these costs a tenth of the time of compiling one.
"""

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types

_OPTIONS: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True}
_ARGUMENT = re.compile(r"(const )?([a-z]\d)(?:\[(:(?:, ?:)*)\])?(?:, ?|$)")
_arguments: dict[Any, tuple[str, ...]] = {}
"""Kernel -> the arguments it says it is called with."""


def kernel(*arguments: str, **options: Any) -> Callable[[Callable], Any]:
    """Compile a function that Python calls, and keep its machine code for the next start.

    `arguments`: what the wrapper passes, as "const u1[:], i8[:, :], f4": kind and bytes of a number, with a colon for each axis
    of a contiguous array, `const` where it may not be written to. `options` are Numba's.
    """

    def decorate(function: Callable) -> Any:
        made = _keep(function, _OPTIONS | options)
        _arguments[made] = arguments
        return made

    return decorate


def part(function: Callable | None = None, **options: Any) -> Any:
    """Compile a function that only kernels and other parts call: to call it from Python ends the process."""
    jit = numba.njit(no_cpython_wrapper=True, **(_OPTIONS | options))
    return jit if function is None else jit(function)


def inline(function: Callable) -> Any:
    """A part that becomes part of whatever calls it."""
    return part(function, forceinline=True)


def arguments_of(made: Any) -> list[tuple[Any, ...]]:
    """Numba's types of the arguments that a kernel names. Raises ValueError where they cannot be read."""
    return [_parse(text) for text in _arguments[made]]


def is_kept(made: Any) -> bool:
    """Whether there is machine code of a kernel newer than its source. A guess: it may be for other arguments or processors."""
    folder, code = made.stats.cache_path, made.py_func.__code__
    if folder is None:
        return False
    source = Path(code.co_filename)
    name = f"{source.stem}.{made.py_func.__qualname__}-{code.co_firstlineno}.*.nbi"
    with suppress(OSError):
        return any(path.stat().st_mtime >= source.stat().st_mtime for path in Path(folder).glob(name))
    return False


def compile_all(kernels: Iterable[Any]) -> None:
    """Compile kernels for the arguments that they name, or load what is kept."""
    for made in kernels:
        for arguments in arguments_of(made):
            made.compile(arguments)


def _parse(text: str) -> tuple[Any, ...]:
    """'const u1[:], i8' -> (Array(uint8, 1, 'C', readonly), int64)."""
    found, at = [], 0
    while at < len(text):
        match = _ARGUMENT.match(text, at)
        if match is None:
            raise ValueError(f"arguments {text!r}: {text[at:]!r} is not like 'const u1[:], i8[:, :], f4'")
        const, kind, axes = match.groups()
        number = numba.from_dtype(np.dtype(kind))
        found.append(types.Array(number, axes.count(":"), "C", readonly=bool(const)) if axes else number)
        at = match.end()
    return tuple(found)


def _keep(function: Callable, options: dict[str, Any]) -> Any:
    """Compiled, with its machine code beside the source, in the user's cache, or else in a temporary folder; if all else fails,
    in none."""
    jit = numba.njit(cache=True, **options)
    with suppress(RuntimeError):
        return jit(function)
    # Numba found no folder that it may write to
    if folder := _temporary_folder():
        # our child processes look there too
        numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = folder
        with suppress(RuntimeError):
            return jit(function)
    return numba.njit(**options)(function)


def _temporary_folder() -> str | None:
    """A folder that is this user's alone, since what lies in it is run; the same one at the next start."""
    try:
        path = Path(tempfile.gettempdir()) / f"molstream-kernels-{os.getuid()}"
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
        return str(path) if is_ours else tempfile.mkdtemp(prefix="molstream-kernels-")
    except OSError:
        return None
