"""Parts of kernels, made callable: by themselves only compiled code may call them."""

from functools import cache
from typing import Any

import numba


@cache
def callable_part(part: Any) -> Any:
    """A part of a kernel (`kernels.compiled.part`), compiled with the same options and a wrapper for Python."""
    options = {name: value for name, value in part.targetoptions.items() if name not in ("no_cpython_wrapper", "nopython")}
    return numba.njit(**options)(part.py_func)
