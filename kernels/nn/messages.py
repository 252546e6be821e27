"""Messages along edges, summed at the atoms they arrive at, with no array of edges in between.

    edges into atom i     e0      e1      e2                 order[ptr[i]:ptr[i + 1]]
    forward        out[i] = f(x[source[e0]]) + f(x[source[e1]]) + ...
    backward       edge e ^ 1 is the reverse of edge e, so the edges out of i are e0 ^ 1, e1 ^ 1, ...: gathered as well

One decision: a loop over atoms that gathers in both directions. Nothing is scattered, so ranges of atoms run on several threads
and no bit depends on how many. The price: edges must come in pairs and sorted, as collation
makes them; all are checked.

Edges are five arrays: source, target, code int64 (E), then order int32 (E): edges by target, rising inside an atom, and ptr int32
(A + 1): edges into atom a are order[ptr[a]:ptr[a + 1]]. States and tables are float32 or float64 and contiguous.
"""

import numpy as np

from molstream.kernels.nn import _messages
from molstream.kernels.nn.threads import run_parts

Edges = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_EDGES_A_PART = 1024
_MAX_PARTS = 8
_NUMBERS_A_THREAD = 2**18
"""In states: some 0.3 ms of work, against 0.1 for handing it out."""
_ANY_CODE = 2**62
_PROBLEMS = {
    _messages.SIZES: "{} edges: expected an even number, and as many sources, targets, codes and places in the order",
    _messages.POINTERS: "ptr of atom {}: expected offsets that rise from 0 to the number of edges",
    _messages.ORDER: "order of the edges into atom {}: expected each once, rising",
    _messages.CODE: "code of edge {}: expected a row of the table",
    _messages.PAIRS: "edge {}: edge e ^ 1 is not its reverse",
}


def sum_messages(
    x: np.ndarray, edges: Edges, table: np.ndarray | None = None, *, num_threads: int = 1, out: np.ndarray | None = None
) -> np.ndarray:
    """Sum over edges e = j -> i of relu(x[j] + table[code[e]]), or of x[j] where there is no table, for every atom i: (A, H).

    `x` (A, H), `table` (C, H). Adds in order of the edges: the bits of gathering, adding and summing one after another. `out`:
    where to write (default: a new array). Raises ValueError for edges that are out of range, out of order or not in pairs.
    """
    check_edges(x, edges, table)
    source, _, code, order, ptr = edges
    out = np.empty_like(x) if out is None else out
    cuts = _cut(edges)
    ranges = [(cuts[a], cuts[b]) for a, b in _share(len(cuts) - 1, x, num_threads)]
    if table is None:
        run_parts(_messages.sum_neighbours, [(x, source, order, ptr, a, b, out) for a, b in ranges])
    else:
        run_parts(_messages.sum_messages, [(x, table, source, code, order, ptr, a, b, out) for a, b in ranges])
    return out


def message_gradients(
    grad: np.ndarray,
    x: np.ndarray,
    edges: Edges,
    table: np.ndarray,
    *,
    num_threads: int = 1,
    out: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients by `x` and by `table` of `sum_messages`, given that by its result. Edges as they passed there.

    That by the table is summed over parts of the atoms, as many as the number of edges says, then over the parts in order.
    """
    source, _, code, order, ptr = edges
    cuts = _cut(edges)
    grad_x, grad_table = (np.empty_like(x), np.empty_like(table)) if out is None else out
    grad_tables = np.empty((len(cuts) - 1, *table.shape), table.dtype)
    arguments = (grad, x, table, source, code, order, ptr, cuts)
    shares = _share(len(grad_tables), x, num_threads)
    run_parts(_messages.add_gradients, [(*arguments, a, b, grad_x, grad_tables) for a, b in shares])
    _messages.add_in_order(grad_tables, grad_table)
    return grad_x, grad_table


def check_edges(x: np.ndarray, edges: Edges, table: np.ndarray | None) -> None:
    """Raise ValueError for edges that kernels may not read. Costs a few percent of a sum of messages."""
    source, target, code, order, ptr = edges
    if len(ptr) != len(x) + 1 or (table is not None and table.shape[1:] != x.shape[1:]):
        raise ValueError(f"edges of {len(ptr) - 1} atoms, states {x.shape}, table {None if table is None else table.shape}")
    # without a table codes are not read
    problem, where = _messages.check_edges(source, target, code, order, ptr, _ANY_CODE if table is None else len(table))
    if problem:
        raise ValueError(_PROBLEMS[problem].format(where))


def _cut(edges: Edges) -> np.ndarray:
    """Where to cut the atoms: a function of the edges alone, so that sums over parts are the same on any number of threads."""
    num_edges = len(edges[0])
    cuts = np.empty(min(_MAX_PARTS, max(1, num_edges // _EDGES_A_PART)) + 1, np.int64)
    _messages.cut_atoms(edges[4], cuts)
    return cuts


def _share(parts: int, x: np.ndarray, num_threads: int) -> list[tuple[int, int]]:
    """First and last of the parts of each thread; no more threads than gain something."""
    num_threads = max(1, min(parts, num_threads, x.size // _NUMBERS_A_THREAD))
    return [(parts * t // num_threads, parts * (t + 1) // num_threads) for t in range(num_threads)]
