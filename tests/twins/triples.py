"""Listed labels, label by label."""

import math
from collections.abc import Sequence

from twins.labels import densify_labels

from molstream.kernels.codec.labels import SparseLabels
from molstream.kernels.packing.triples import LabelRows


def list_labels(sparse: SparseLabels, num_molecules: int, *, tasks: Sequence[int] | None = None) -> list[list[tuple[int, float]]]:
    """(place in `tasks`, value) of the labels of each molecule: what is no NaN in its row of the dense twin."""
    dense = densify_labels(sparse, range(num_molecules + 1))
    if tasks is not None:
        dense = dense[:, list(tasks)]
    return [[(p, value) for p, value in enumerate(row.tolist()) if not math.isnan(value)] for row in dense]


def collate_triples(
    molecules: Sequence[int], rows: LabelRows, *, capacity: int, graphs: int, num_tasks: int
) -> tuple[list[int], list[int], list[float], list[int]]:
    """Append label by label, then padding up to the capacity; count by looking."""
    graph, task, value = [], [], []
    for g, m in enumerate(molecules):
        for k in range(rows.ptr[m], rows.ptr[m + 1]):
            graph.append(g)
            task.append(int(rows.task[k]))
            value.append(float(rows.value[k]))
    real = [t for t, x in zip(task, value) if not math.isnan(x)]
    padding = capacity - len(graph)
    counts = [real.count(t) for t in range(num_tasks)]
    return graph + padding * [graphs - 1], task + padding * [0], value + padding * [math.nan], counts
