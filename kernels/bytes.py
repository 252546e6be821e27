"""Byte shuffling: all first bytes, then all second bytes, ... so that zstd finds the equal exponents of neighbouring floats."""

import numpy as np

from kernels import _numba


def shuffle_bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of a flat array, plane by plane. uint8 (array.nbytes)."""
    array = np.ascontiguousarray(array)
    out = np.empty(array.nbytes, np.uint8)
    _numba.shuffle_bytes(array.reshape(-1).view(np.uint8), array.itemsize, out)
    return out


def unshuffle_bytes(data: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Inverse of `shuffle_bytes`; `data` is uint8 with a whole number of items."""
    dtype = np.dtype(dtype)
    if data.size % dtype.itemsize:
        raise ValueError(f"unshuffle_bytes: {data.size} bytes are no whole number of {dtype.itemsize}-byte items")
    out = np.empty(data.size, np.uint8)
    _numba.unshuffle_bytes(data, dtype.itemsize, out)
    return out.view(dtype)


def transpose(columns: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(K, N) -> (N, K), contiguous, of any dtype of one or two bytes, in `out` if given. Raises ValueError for another place."""
    shape = columns.shape[::-1]
    out = np.empty(shape, columns.dtype) if out is None else out
    if out.shape != shape or out.dtype != columns.dtype:
        raise ValueError(f"place for {columns.dtype} {shape} is {out.dtype} {out.shape}")
    kind = f"u{columns.dtype.itemsize}"
    _numba.transpose(np.ascontiguousarray(columns).view(kind), out.view(kind))
    return out
