"""Messages and their gradients, edge by edge."""

import math
from collections.abc import Sequence

import numpy as np


def sum_messages(
    x: np.ndarray, source: Sequence[int], target: Sequence[int], code: Sequence[int], table: np.ndarray | None = None
) -> np.ndarray:
    """Send edge by edge."""
    out = np.zeros_like(x)
    for j, i, c in zip(source, target, code, strict=True):
        for h in range(x.shape[1]):
            out[i, h] += x[j, h] if table is None else relu(x[j, h] + table[c, h])
    return out


def message_gradients(
    grad: np.ndarray, x: np.ndarray, source: Sequence[int], target: Sequence[int], code: Sequence[int], table: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Go back edge by edge, along the edges themselves: where a message was cut off nothing comes back."""
    grad_x, grad_table = np.zeros_like(x), np.zeros_like(table)
    for j, i, c in zip(source, target, code, strict=True):
        for h in range(x.shape[1]):
            if relu(x[j, h] + table[c, h]) != 0:
                grad_x[j, h] += grad[i, h]
                grad_table[c, h] += grad[i, h]
    return grad_x, grad_table


def relu(value: float) -> float:
    """NaN stays NaN."""
    return value if math.isnan(value) else max(value, 0.0)
