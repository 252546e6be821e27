"""Moments of columns, number by number."""

import math

import numpy as np


def measure_columns(values):
    """Twin of `moments.measure_columns`: by the definitions."""
    out = []
    for column in values.T.astype(np.float64):
        real = [x for x in column.tolist() if not math.isnan(x)]
        mean = math.fsum(real) / max(1, len(real))
        out.append(
            (len(real), mean, math.fsum((x - mean) ** 2 for x in real), min(real, default=np.inf), max(real, default=-np.inf))
        )
    return tuple(np.array(x) for x in zip(*out, strict=True))
