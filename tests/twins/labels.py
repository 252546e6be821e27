"""Sparse labels, label by label."""

from collections.abc import Sequence

import numpy as np

from molstream.kernels.codec.labels import SparseLabels

BITMAP, ROWS = 1, 2


def molecules_of_tasks(sparse: SparseLabels, num_molecules: int) -> list[list[int]]:
    """Which molecules have each task, written out. Raises ValueError where counts, bitmaps and row lists do not agree."""
    bitmap, rows, present = sparse.bitmap.tobytes(), sparse.rows.tolist(), []
    for presence, number in zip(sparse.presence.tolist(), sparse.count.tolist(), strict=True):
        if presence == BITMAP:
            own, bitmap = bitmap[: -(-num_molecules // 8)], bitmap[-(-num_molecules // 8) :]
            if len(own) < -(-num_molecules // 8):
                raise ValueError("a bitmap is too short")
            has = [i for i in range(num_molecules) if own[i // 8] // 2 ** (i % 8) % 2]
        elif presence == ROWS:
            has, rows = rows[:number], rows[number:]
            if has != sorted({i for i in has if i < num_molecules}):
                raise ValueError("rows out of order or out of range")
        else:
            has = list(range(num_molecules))
        if len(has) != number:
            raise ValueError("a count is wrong")
        present.append(has)
    if bitmap or rows:
        raise ValueError("bytes or rows left over")
    return present


def measure_labels(sparse: SparseLabels, ptr: Sequence[int]) -> list[int]:
    """Number of values of each task."""
    return [sum(int(ptr[i + 1] - ptr[i]) for i in has) for has in molecules_of_tasks(sparse, len(ptr) - 1)]


def densify_labels(sparse: SparseLabels, ptr: Sequence[int]) -> np.ndarray:
    """Number by number, in Python integers. Raises ValueError where arrays do not agree."""
    width, num_tasks = sparse.table.itemsize, len(sparse.presence)
    half, pattern = 2 ** (8 * width - 1), {2: np.uint16, 4: np.uint32}[width]
    coding, planes, argument = (x.tolist() for x in (sparse.coding, sparse.planes, sparse.argument))
    table, data = sparse.table.view(pattern).tolist(), sparse.values.tolist()
    for _, c, p, _ in zip(sparse.presence, coding, planes, argument, strict=True):
        if p not in {0: [width], 1: [0, 1], 2: range(width + 1)}[c]:
            raise ValueError("number of planes")

    def flip(x: int) -> int:
        # bits of a negative float to its key, from -1 for -0.0 down; or back
        return x if 0 <= x < half else half - 1 - x

    present = molecules_of_tasks(sparse, len(ptr) - 1)
    rows = [[r for i in has for r in range(ptr[i], ptr[i + 1])] for has in present]
    numbers = [[0] * len(r) for r in rows]
    for k in range(width):
        for t in range(num_tasks):
            if k < planes[t]:
                own, data = data[: len(rows[t])], data[len(rows[t]) :]
                numbers[t] = [x + 256**k * byte for x, byte in zip(numbers[t], own, strict=True)]
    keys = np.full((int(ptr[-1]), num_tasks), int(np.array(np.nan, sparse.table.dtype).view(pattern)), np.int64)
    for t in range(num_tasks):
        if coding[t] == 1:
            own, table = table[: argument[t]], table[argument[t] :]
            if len(own) < argument[t] or argument[t] > 256 or max(numbers[t], default=-1) >= argument[t]:
                raise ValueError("a table is too short or too long")
            numbers[t] = [own[x] for x in numbers[t]]
        if coding[t] == 2 and argument[t] >= t:
            raise ValueError("no earlier task")
        for r, x in zip(rows[t], numbers[t], strict=True):
            if coding[t] == 2:
                key = int(keys[r, argument[t]]) + (-(x // 2) - 1 if x % 2 else x // 2)
                keys[r, t] = (key + half) % (2 * half) - half
            else:
                keys[r, t] = flip(x)
    if table or data:
        raise ValueError("entries or bytes left over")
    bits = np.array([[flip(int(key)) for key in row] for row in keys], pattern).reshape(keys.shape)
    return bits.view(sparse.table.dtype).astype(np.float32)
