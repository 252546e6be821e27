"""Byte shuffling: all first bytes, then all second bytes, ... so that zstd finds the equal exponents of neighbouring floats."""

import numpy as np

from molstream.kernels.codec import _bytes
from molstream.kernels.codec.labels import check_starts


def shuffle_bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of a flat array, plane by plane. uint8 (array.nbytes)."""
    array = np.ascontiguousarray(array)
    out = np.empty(array.nbytes, np.uint8)
    _bytes.shuffle_bytes(array.reshape(-1).view(np.uint8), array.itemsize, out)
    return out


def unshuffle_bytes(data: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Inverse of `shuffle_bytes`; `data` is uint8 with a whole number of items."""
    dtype = np.dtype(dtype)
    if data.size % dtype.itemsize:
        raise ValueError(f"unshuffle_bytes: {data.size} bytes are no whole number of {dtype.itemsize}-byte items")
    out = np.empty(data.size, np.uint8)
    _bytes.unshuffle_bytes(data, dtype.itemsize, out)
    return out.view(dtype)


def transpose(
    columns: np.ndarray, ptr: np.ndarray, out: np.ndarray | None = None, *, starts: np.ndarray | None = None
) -> np.ndarray:
    """(K, N) -> (N, K), contiguous, of any dtype of one or two bytes, in `out` if given; rows of molecules begin at `starts`.

    Raises ValueError for another place.
    """
    shape = columns.shape[::-1]
    out = np.empty(shape, columns.dtype) if out is None else out
    if out.shape[1:] != shape[1:] or out.dtype != columns.dtype or ptr[-1] != shape[0] or not out.flags.c_contiguous:
        raise ValueError(f"place for {columns.dtype} {shape} of {ptr[-1]} rows is {out.dtype} {out.shape}")
    kind, starts = f"u{columns.dtype.itemsize}", check_starts(starts, ptr, len(out))
    _bytes.transpose(np.ascontiguousarray(columns).view(kind), ptr, starts, out.reshape(-1).view(kind))
    return out
