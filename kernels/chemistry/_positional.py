"""Compiled random walks, a dense symmetric eigensolver, and one for large sparse Laplacians.

One decision: plain IEEE arithmetic in a fixed order (no BLAS, no LAPACK, no fastmath, no contraction), so that a molecule has the
same bits alone, in a batch, on every thread and with every vector width. The price: reductions are not vectorised, so loops run
over starts, vectors or columns side by side. Indices are unsigned where that spares the test for negative ones.
"""

import numpy as np

from molstream.kernels.compiled import kernel, part
from molstream.kernels.rng._hashing import mix64

U = np.uint64
MAX_DENSE_ATOMS = 128
"""Components of more atoms are decomposed by subspace iteration."""
PANEL_STARTS = 32
"""Walks that are followed side by side."""
PANEL = 8
"""Vectors transformed side by side; the compiler turns loops of this length into vector code."""
MAX_SUBSPACE = 64
MAX_ITERATIONS = 400
MAX_FACTOR = 1 << 23
"""Entries of the factor of a component's Laplacian: a molecule's is a few per atom, this is 128 MB."""
SAME_VALUE = 1e-6
SAME_LENGTH = 0.9999
CONVERGED = 1e-10
LANES = 16
"""Tridiagonal matrices that are diagonalised side by side."""
NEVER = 1e9
LOW, BEGIN, END, G, S, C, P = (LANES * k for k in range(7))


@kernel("i8[:], i8[:], u2[:, :]", error_model="numpy")
def find_bad_bond(atom_ptr, bond_ptr, bond_atoms):
    """The first bond that names an atom its molecule does not have, or -1."""
    for m in range(atom_ptr.size - 1):
        n = atom_ptr[m + 1] - atom_ptr[m]
        for b in range(bond_ptr[m], bond_ptr[m + 1]):
            if bond_atoms[b, 0] >= n or bond_atoms[b, 1] >= n:
                return b
    return -1


@part(error_model="numpy")
def list_neighbours(first_bond, end_bond, bond_atoms, n, least, ptr, count, neighbours):
    """Neighbour lists of one molecule; lists shorter than `least` are filled up with the number n, which no atom has."""
    for i in range(n):
        count[i] = 0
    for b in range(first_bond, end_bond):
        u, v = U(bond_atoms[b, 0]), U(bond_atoms[b, 1])
        if u != v:
            count[u] += 1
            count[v] += 1
    total = 0
    for i in range(n):
        ptr[i] = total
        total += max(count[i], least)
        count[i] = 0
    ptr[n] = total
    for k in range(total):
        neighbours[k] = n
    for b in range(first_bond, end_bond):
        u, v = U(bond_atoms[b, 0]), U(bond_atoms[b, 1])
        if u != v:
            neighbours[U(ptr[u] + count[u])] = v
            neighbours[U(ptr[v] + count[v])] = u
            count[u] += 1
            count[v] += 1


# random walks


@part(error_model="numpy")
def walk_panel(width, start, num_rows, rows, ptr, neighbours, degree, inverse, now, after, sums, out):
    """Return probabilities of `width` starts; `out` is (atoms, num_steps) of this molecule. See `random_walk`.

    `now` and `after` are zero before and afterwards, so that a row outside `rows` reads as zero.
    """
    num_steps = out.shape[1]
    num_starts = min(width, degree.size - start)
    for x in range(num_starts):
        now[(start + x) * width + x] = inverse[start + x]
    for a in range((num_steps + 1) // 2):
        for x in range(2 * width):
            sums[x] = 0.0
        for r in range(num_rows):
            j = U(rows[r])
            at = j * U(width)
            first, end = U(ptr[j]), U(ptr[j + U(1)])
            k0 = U(neighbours[first]) * U(width)
            k1 = U(neighbours[first + U(1)]) * U(width)
            k2 = U(neighbours[first + U(2)]) * U(width)
            scale = inverse[j]
            if end - first == U(3):
                for x in range(width):
                    total = now[k0 + U(x)] + now[k1 + U(x)] + now[k2 + U(x)]
                    share = total * scale
                    sums[x] += total * now[at + U(x)]
                    sums[width + x] += total * share
                    after[at + U(x)] = share
            else:
                for x in range(width):
                    after[at + U(x)] = now[k0 + U(x)] + now[k1 + U(x)] + now[k2 + U(x)]
                for p in range(first + U(3), end):
                    k = U(neighbours[p]) * U(width)
                    for x in range(width):
                        after[at + U(x)] += now[k + U(x)]
                for x in range(width):
                    total = after[at + U(x)]
                    share = total * scale
                    sums[x] += total * now[at + U(x)]
                    sums[width + x] += total * share
                    after[at + U(x)] = share
        for x in range(num_starts):
            out[start + x, 2 * a] = sums[x] * degree[start + x]
        if 2 * a + 1 < num_steps:
            for x in range(num_starts):
                out[start + x, 2 * a + 1] = sums[width + x] * degree[start + x]
        now, after = after, now
    for r in range(num_rows):
        at = U(rows[r]) * U(width)
        for x in range(width):
            now[at + U(x)] = 0.0
            after[at + U(x)] = 0.0


@part(error_model="numpy")
def list_ball(start, end, radius, ptr, neighbours, n, seen, rows):
    """Atoms within `radius` bonds of the atoms start..end, ascending, into `rows`; `seen` is 0 before and after."""
    size = np.int64(0)
    for i in range(start, end):
        rows[size] = i
        seen[i] = 1
        size += 1
    first = 0
    for _ in range(radius):
        last = size
        for r in range(first, last):
            for p in range(ptr[rows[r]], ptr[rows[r] + 1]):
                k = neighbours[p]
                if k < n and seen[k] == 0:
                    seen[k] = 1
                    rows[size] = k
                    size += 1
        first = last
        if first == size:
            break
    for r in range(size):
        seen[rows[r]] = 0
    sort_first(rows, size)
    return size


@part(error_model="numpy")
def sort_first(rows, size):
    """Sort the first `size` (Shell 1959): the sort of arrays takes ten times as long to compile."""
    gap = size // 2
    while gap > 0:
        for i in range(gap, size):
            x = rows[i]
            k = i
            while k >= gap and rows[k - gap] > x:
                rows[k] = rows[k - gap]
                k -= gap
            rows[k] = x
        gap //= 2


@kernel("i8[:], i8[:], u2[:, :], f4[:, :]", error_model="numpy")
def random_walk(atom_ptr, bond_ptr, bond_atoms, out):
    """Return probabilities of walks of 1, 2, ... steps from every atom.

    With P the walk's matrix, d the degrees and M_a = P^a / d (column j divided by d_j: symmetric), the probability of being back
    after a + b steps is d_i * sum_j d_j M_a[i, j] M_b[i, j]: half as many steps as powers. The sums over neighbours are
    d_j M_(a+1)[:, j], so one pass makes the next matrix and both sums. Starts lie side by side, `width` at a time.
    """
    max_atoms = 0
    max_bonds = 0
    for m in range(atom_ptr.size - 1):
        max_atoms = max(max_atoms, atom_ptr[m + 1] - atom_ptr[m])
        max_bonds = max(max_bonds, bond_ptr[m + 1] - bond_ptr[m])
    now = np.zeros((max_atoms + 1) * PANEL_STARTS)
    after = np.zeros((max_atoms + 1) * PANEL_STARTS)
    sums = np.zeros(2 * PANEL_STARTS)
    degrees = np.zeros(max_atoms)
    inverses = np.zeros(max_atoms)
    ptr = np.zeros(max_atoms + 1, np.int64)
    count = np.zeros(max_atoms, np.int64)
    neighbours = np.zeros(2 * max_bonds + 3 * max_atoms, np.int64)
    seen = np.zeros(max_atoms, np.int64)
    every = np.empty(max_atoms, np.int64)
    for i in range(max_atoms):
        every[i] = i
    ball = np.zeros(max_atoms, np.int64)
    for m in range(atom_ptr.size - 1):
        n = atom_ptr[m + 1] - atom_ptr[m]
        here = out[atom_ptr[m] : atom_ptr[m + 1]]
        list_neighbours(bond_ptr[m], bond_ptr[m + 1], bond_atoms, n, 3, ptr, count, neighbours)
        degree = degrees[:n]
        inverse = inverses[:n]
        for i in range(n):
            degree[i] = count[i]
            inverse[i] = 1.0 / count[i] if count[i] > 0 else 0.0
        width = max(8, min((n + 7) // 8 * 8, PANEL_STARTS))
        for start in range(0, n, width):
            rows, num_rows = every, n
            if n > 2 * width:
                rows = ball
                # no walk gets farther and back
                radius = (out.shape[1] + 1) // 2
                num_rows = list_ball(start, min(start + width, n), radius, ptr, neighbours, n, seen, ball)
            walk_panel(width, start, num_rows, rows, ptr, neighbours, degree, inverse, now, after, sums, here)


@part(error_model="numpy")
def grow(array, size, used):
    """A longer array that begins with the `used` first numbers of `array`."""
    longer = np.empty(size, array.dtype)
    for k in range(used):
        longer[k] = array[k]
    return longer


# dense symmetric matrices: Householder, QL, and only the vectors that are asked for


@part(error_model="numpy")
def tridiagonalize(matrix, n, stride, diagonal, off, beta, p):
    """Householder reduction from the last row up; row i of `matrix` then holds the reflector that cleared it."""
    for i in range(n - 1, 0, -1):
        row = U(i * stride)
        norm2 = 0.0
        for j in range(i - 1):
            x = matrix[row + U(j)]
            norm2 += x * x
        last = matrix[row + U(i - 1)]
        diagonal[i] = matrix[row + U(i)]
        if norm2 == 0.0:
            off[i - 1] = last
            beta[i] = 0.0
            continue
        length = np.sqrt(norm2 + last * last)
        if last > 0.0:
            length = -length
        off[i - 1] = length
        # v = row - length * e_(i-1); beta = 2 / |v|^2
        head = last - length
        matrix[row + U(i - 1)] = head
        b = 2.0 / (norm2 + head * head)
        beta[i] = b
        for j in range(i):
            p[j] = 0.0
        for r in range(i):
            x = matrix[row + U(r)]
            if x != 0.0:
                at = U(r * stride)
                for j in range(i):
                    p[j] += x * matrix[at + U(j)]
        dot = 0.0
        for j in range(i):
            p[j] *= b
            dot += p[j] * matrix[row + U(j)]
        half = 0.5 * b * dot
        for j in range(i):
            p[j] -= half * matrix[row + U(j)]
        for r in range(i):
            at = U(r * stride)
            x = matrix[row + U(r)]
            y = p[r]
            for j in range(i):
                matrix[at + U(j)] -= x * p[j] + y * matrix[row + U(j)]
    diagonal[0] = matrix[0]


@part(error_model="numpy")
def start_sweep(t, state, lane, size):
    """Deflate one lane's matrix as far as it goes and set up its next QL sweep; returns its first and last row, or (0, 0)."""
    first = np.int64(state[LOW + lane])
    last = first
    while first < size:
        last = first
        while last < size - 1:
            at = 2 * LANES * last + lane
            scale = abs(t[at]) + abs(t[at + 2 * LANES])
            if scale + abs(t[at + LANES]) == scale:
                break
            last += 1
        if last > first:
            break
        first += 1
    state[LOW + lane] = first
    if first >= size:
        # no row is in [0, -1)
        state[BEGIN + lane] = 0.0
        state[END + lane] = -1.0
        return 0, 0
    state[BEGIN + lane] = first
    state[END + lane] = last
    at = 2 * LANES * first + lane
    q = (t[at + 2 * LANES] - t[at]) / (2.0 * t[at + LANES])
    r = np.sqrt(q * q + 1.0)
    state[G + lane] = t[2 * LANES * last + lane] - t[at] + t[at + LANES] / (q + (r if q >= 0.0 else -r))
    state[S + lane] = 1.0
    state[C + lane] = 1.0
    state[P + lane] = 0.0
    return first, last


@part(error_model="numpy")
def turn(t, state, rotations, i, num):
    """One rotation of rows i and i + 1 in every lane that is there. Inside `diagonalize` it would not become vector code."""
    d = U(2 * LANES) * U(i)
    e = d + U(LANES)
    below = e + U(LANES)
    e_below = below + U(LANES)
    record = U(2 * LANES) * U(num)
    row = np.float64(i)
    for x in range(LANES):
        sine, cosine, shift, g = state[S + x], state[C + x], state[P + x], state[G + x]
        begin, end = state[BEGIN + x], state[END + x]
        here, beside, under, beside_under = t[d + U(x)], t[e + U(x)], t[below + U(x)], t[e_below + U(x)]
        f = sine * beside
        b = cosine * beside
        length = np.sqrt(f * f + g * g)
        # a zero splits the matrix: the rest of this lane's sweep is left out
        split = length == 0.0
        inverse = 1.0 / length
        new_sine = 0.0 if split else f * inverse
        new_cosine = 1.0 if split else g * inverse
        rest = under - shift
        r = (here - rest) * new_sine + 2.0 * new_cosine * b
        new_shift = new_sine * r
        new_g = new_cosine * r - b
        new_under = rest + new_shift
        new_begin = NEVER if split else begin
        active = (begin <= row) & (row < end)
        rotations[record + U(x)] = new_cosine if active else 1.0
        rotations[record + U(LANES) + U(x)] = new_sine if active else 0.0
        t[e_below + U(x)] = length if active else beside_under
        t[below + U(x)] = new_under if active else under
        state[S + x] = new_sine if active else sine
        state[C + x] = new_cosine if active else cosine
        state[P + x] = new_shift if active else shift
        state[G + x] = new_g if active else g
        state[BEGIN + x] = new_begin if active else begin


@part(error_model="numpy")
def diagonalize(t, sizes, at, rotations):
    """Implicit QL on LANES tridiagonal matrices side by side, element by element: EISPACK's imtql2 without its vectors.

    `t` is (rows, 2, LANES): diagonal, off-diagonal. The rotations are recorded: `at` the upper row, `rotations` (steps, 2, LANES)
    cosine and sine, the identity where a lane had nothing to do. Returns the number of steps and the two arrays, which may have
    grown; -1 if a matrix does not converge.
    """
    state = np.zeros(7 * LANES)
    # not the constant 0, which parts would be compiled for once more
    num = np.int64(0)
    largest = 0
    for lane in range(LANES):
        largest = max(largest, sizes[lane])
        if sizes[lane] > 0:
            t[2 * LANES * (sizes[lane] - 1) + LANES + lane] = 0.0
    for _ in range(60 * largest + 1):
        highest = 0
        lowest = largest
        for lane in range(LANES):
            first, last = start_sweep(t, state, lane, sizes[lane])
            if last > first:
                highest = max(highest, last)
                lowest = min(lowest, first)
        if highest == 0:
            return num, at, rotations
        if num + highest - lowest > at.size:
            size = 2 * at.size + highest
            at = grow(at, size, num)
            rotations = grow(rotations, size * 2 * LANES, 2 * LANES * num)
        for i in range(highest - 1, lowest - 1, -1):
            at[num] = i
            turn(t, state, rotations, i, num)
            num += 1
        for lane in range(LANES):
            if state[END + lane] > 0.0:
                if state[BEGIN + lane] != NEVER:
                    k = 2 * LANES * np.int64(state[LOW + lane]) + lane
                    t[k] -= state[P + lane]
                    t[k + LANES] = state[G + lane]
                t[2 * LANES * np.int64(state[END + lane]) + LANES + lane] = 0.0
    return -1, at, rotations


@part(error_model="numpy")
def transform_panel(x, n, lane, num_steps, at, rotations, matrix, stride, beta, sums):
    """Columns of `x` (n rows of PANEL): from coordinates in the diagonal basis of a lane to vectors of its matrix."""
    # not the constant: loops of eight known turns are unrolled before they could become vector code
    width = sums.size
    k = num_steps - 1
    while k >= 0:
        record = U(2 * LANES) * U(k) + U(lane)
        c = rotations[record]
        s = rotations[record + U(LANES)]
        if s == 0.0 and c == 1.0:
            k -= 1
            continue
        row = U(at[k]) * U(PANEL)
        c2 = 1.0
        s2 = 0.0
        paired = False
        if k > 0 and at[k - 1] == at[k] + 1:
            c2 = rotations[record - U(2 * LANES)]
            s2 = rotations[record - U(LANES)]
            # the identity belongs to a larger lane and names a row that this one may not have
            paired = s2 != 0.0 or c2 != 1.0
        if paired:
            # two rotations that share a row
            for q in range(width):
                x0 = x[row + U(q)]
                x1 = x[row + U(PANEL) + U(q)]
                x2 = x[row + U(2 * PANEL) + U(q)]
                middle = c * x1 - s * x0
                x[row + U(q)] = c * x0 + s * x1
                x[row + U(PANEL) + U(q)] = c2 * middle + s2 * x2
                x[row + U(2 * PANEL) + U(q)] = c2 * x2 - s2 * middle
            k -= 2
        else:
            for q in range(width):
                x0 = x[row + U(q)]
                x1 = x[row + U(PANEL) + U(q)]
                x[row + U(q)] = c * x0 + s * x1
                x[row + U(PANEL) + U(q)] = c * x1 - s * x0
            k -= 1
    for i in range(1, n):
        b = beta[i]
        if b == 0.0:
            continue
        row = U(i) * U(stride)
        for q in range(width):
            sums[q] = 0.0
        for r in range(i):
            v = matrix[row + U(r)]
            for q in range(width):
                sums[q] += v * x[U(r) * U(PANEL) + U(q)]
        for q in range(width):
            sums[q] *= b
        for r in range(i):
            v = matrix[row + U(r)]
            for q in range(width):
                x[U(r) * U(PANEL) + U(q)] -= v * sums[q]


@part(error_model="numpy")
def end_of_group(values, wanted, size):
    """How many of the ascending `values` belong to the first `wanted` or share an eigenspace with the last of these."""
    end = min(wanted, size)
    while 0 < end < size and values[end] - values[end - 1] <= SAME_VALUE * values[end]:
        end += 1
    return end


@part(error_model="numpy")
def choose_signs(vectors, n, stride, column, end, longest, pivot):
    """The rule of `positional.laplacian` for columns that are eigenspaces by themselves: `pivot` is the entry to be positive."""
    for q in range(column, end):
        longest[q] = 0.0
    for i in range(n):
        for q in range(column, end):
            longest[q] = max(longest[q], abs(vectors[U(i) * U(stride) + U(q)]))
    for q in range(column, end):
        longest[q] *= SAME_LENGTH
    for i in range(n - 1, -1, -1):
        for q in range(column, end):
            x = vectors[U(i) * U(stride) + U(q)]
            pivot[q] = x if abs(x) >= longest[q] else pivot[q]


@part(error_model="numpy")
def choose_basis(vectors, n, stride, column, size, wanted, lengths, pivot):
    """The rule of `positional.laplacian` for one eigenspace: the first `wanted` of `size` columns become its basis."""
    basis = np.empty((wanted, n))
    for k in range(wanted):
        longest = 0.0
        for i in range(n):
            total = 0.0
            for q in range(size):
                x = vectors[i * stride + column + q]
                total += x * x
            lengths[i] = total
            longest = max(longest, total)
        chosen = 0
        while lengths[chosen] < SAME_LENGTH * SAME_LENGTH * longest:
            chosen += 1
        inverse = 1.0 / np.sqrt(lengths[chosen])
        for q in range(size):
            pivot[q] = vectors[chosen * stride + column + q] * inverse
        for i in range(n):
            dot = 0.0
            for q in range(size):
                dot += vectors[i * stride + column + q] * pivot[q]
            basis[k, i] = dot
            for q in range(size):
                vectors[i * stride + column + q] -= dot * pivot[q]
    for i in range(n):
        for k in range(wanted):
            vectors[i * stride + column + k] = basis[k, i]


@part(error_model="numpy")
def write_pairs(atoms, pairs, basis, stride, column, wanted, lengths, pivot, vectors, values):
    """A component's rows of the result: the constant vector, then `wanted` columns of `basis` from `column` on."""
    size = atoms.size
    choose_signs(basis, size, stride, column, column + wanted, lengths, pivot)
    for q in range(wanted):
        lengths[q] = -1.0 if pivot[column + q] < 0.0 else 1.0
    # lengths now holds signs; eigenspaces of several vectors replace theirs
    signs = lengths[:wanted].copy()
    q = 0
    while q < wanted:
        end = end_of_group(pairs, q + 1, pairs.size)
        if end > q + 1:
            take = min(end, wanted) - q
            choose_basis(basis, size, stride, column + q, end - q, take, lengths, pivot)
            signs[q : q + take] = 1.0
        q = end
    constant = 1.0 / np.sqrt(np.float64(size))
    num_vectors = vectors.shape[1]
    for i in range(size):
        a = U(atoms[i])
        vectors[a, U(0)] = constant
        values[a, U(0)] = 0.0
        at = U(i) * U(stride) + U(column)
        for q in range(wanted):
            vectors[a, U(q + 1)] = basis[at + U(q)] * signs[q] + 0.0
            values[a, U(q + 1)] = pairs[q]
        for q in range(wanted + 1, num_vectors):
            vectors[a, U(q)] = 0.0
            values[a, U(q)] = 0.0


@part(error_model="numpy")
def list_components(n, ptr, neighbours, component_ptr, atoms, mark):
    """Atoms of one molecule by component: components by lowest atom, atoms ascending. Returns how many components."""
    num = 0
    size = 0
    component_ptr[0] = 0
    for i in range(n):
        mark[i] = -1
    for i in range(n):
        if mark[i] >= 0:
            continue
        first = size
        atoms[size] = i
        mark[i] = num
        size += 1
        while first < size:
            for p in range(ptr[atoms[first]], ptr[atoms[first] + 1]):
                k = neighbours[p]
                if mark[k] < 0:
                    mark[k] = num
                    atoms[size] = k
                    size += 1
            first += 1
        num += 1
        component_ptr[num] = size
    for i in range(n):
        k = mark[i]
        atoms[component_ptr[k]] = i
        component_ptr[k] += 1
    # each is now where the next one began
    for k in range(num - 1, 0, -1):
        component_ptr[k] = component_ptr[k - 1]
    component_ptr[0] = 0
    return num


@part(error_model="numpy")
def fill_laplacian(atoms, local, ptr, neighbours, stride, matrix):
    """Dense D - A of a component."""
    n = atoms.size
    for k in range(n * stride):
        matrix[k] = 0.0
    for i in range(n):
        a = atoms[i]
        matrix[i * stride + i] = ptr[a + 1] - ptr[a]
        for p in range(ptr[a], ptr[a + 1]):
            matrix[i * stride + local[neighbours[p]]] -= 1.0


@part(error_model="numpy")
def load_lane(matrix, n, stride, lane, t, beta, scratch):
    """Tridiagonalise a symmetric `matrix` into a lane of `t`."""
    diagonal = scratch[0]
    off = scratch[1]
    tridiagonalize(matrix, n, stride, diagonal, off, beta, scratch[2])
    for i in range(n):
        t[2 * LANES * i + lane] = diagonal[i]
        t[2 * LANES * i + LANES + lane] = off[i]


@part(error_model="numpy")
def lowest_pairs(matrix, n, stride, lane, t, beta, num_steps, at, rotations, wanted, whole_group, values, order, vectors, sums):
    """The lowest eigenpairs of a diagonalised lane: `values` ascending, `vectors` (n, columns rounded up to PANEL).

    As many as `wanted`, or with `whole_group` all of the eigenspace that these end in. Returns how many.
    """
    for i in range(n):
        x = t[2 * LANES * i + lane]
        k = i
        while k > 0 and values[k - 1] > x:
            values[k] = values[k - 1]
            order[k] = order[k - 1]
            k -= 1
        values[k] = x
        order[k] = i
    size = end_of_group(values, wanted, n) if whole_group else min(wanted, n)
    num_panels = (size + PANEL - 1) // PANEL
    width = num_panels * PANEL
    panel = vectors if num_panels == 1 else np.empty(n * PANEL)
    for k in range(num_panels):
        for i in range(n * PANEL):
            panel[i] = 0.0
        for q in range(min(PANEL, size - k * PANEL)):
            panel[order[k * PANEL + q] * PANEL + q] = 1.0
        transform_panel(panel, n, lane, num_steps, at, rotations, matrix, stride, beta, sums)
        if num_panels > 1:
            for i in range(n):
                for q in range(PANEL):
                    vectors[i * width + k * PANEL + q] = panel[i * PANEL + q]
    return size


# large components: a sparse factor, and subspace iteration with the pseudo-inverse


@part(error_model="numpy")
def factorize(atoms, local, ptr, neighbours, order, column_ptr, pivots):
    """Eliminate a component's atoms, fewest neighbours first (ties: fewest eliminations ago), by the star-mesh transform.

    Conductances stay positive and nothing is subtracted, so small eigenvalues keep their relative accuracy. Returns the factor's
    rows and ratios, empty if there are more than MAX_FACTOR of them.
    """
    n = atoms.size
    num_half = 0
    for i in range(n):
        num_half += ptr[atoms[i] + 1] - ptr[atoms[i]]
    # half edges in lists by atom; the other half of edge e is e ^ 1
    to = np.empty(2 * num_half + 16, np.int64)
    weight = np.empty(2 * num_half + 16)
    following = np.empty(2 * num_half + 16, np.int64)
    head = np.full(n, -1, np.int64)
    degree = np.zeros(n, np.int64)
    num_edges = 0
    slot = np.full(n, -1, np.int64)
    for i in range(n):
        a = atoms[i]
        for p in range(ptr[a], ptr[a + 1]):
            k = local[neighbours[p]]
            if k < i:
                if slot[k] >= 0:
                    weight[slot[k]] += 1.0
                    weight[slot[k] ^ 1] += 1.0
                    continue
                slot[k] = num_edges
                to[num_edges], to[num_edges + 1] = k, i
                weight[num_edges], weight[num_edges + 1] = 1.0, 1.0
                following[num_edges], head[i] = head[i], num_edges
                following[num_edges + 1], head[k] = head[k], num_edges + 1
                num_edges += 2
                degree[i] += 1
                degree[k] += 1
        for p in range(ptr[a], ptr[a + 1]):
            slot[local[neighbours[p]]] = -1
    # atoms by degree in doubly linked lists
    bucket = np.full(n + 1, -1, np.int64)
    left = np.full(n, -1, np.int64)
    right = np.full(n, -1, np.int64)
    for i in range(n - 1, -1, -1):
        right[i] = bucket[degree[i]]
        if right[i] >= 0:
            left[right[i]] = i
        bucket[degree[i]] = i
    gone = np.zeros(n, np.uint8)
    around = np.empty(n, np.int64)
    rows = np.empty(4 * n + 16, np.int64)
    ratios = np.empty(4 * n + 16)
    size = 0
    least = 0
    for step in range(n - 1):
        while bucket[least] < 0:
            least += 1
        v = bucket[least]
        bucket[least] = right[v]
        if right[v] >= 0:
            left[right[v]] = -1
        gone[v] = 1
        order[step] = v
        column_ptr[step] = size
        num_around = 0
        total = 0.0
        e = head[v]
        while e >= 0:
            if gone[to[e]] == 0:
                around[num_around] = e
                num_around += 1
                total += weight[e]
            e = following[e]
        pivots[step] = total
        if size + num_around > MAX_FACTOR:
            return rows[:0], ratios[:0]
        if size + num_around > rows.size:
            ratios = grow(ratios, 2 * rows.size + num_around, size)
            rows = grow(rows, 2 * rows.size + num_around, size)
        for x in range(num_around):
            rows[size] = to[around[x]]
            ratios[size] = weight[around[x]] / total
            size += 1
        for x in range(num_around):
            i = to[around[x]]
            now = degree[i] - 1
            if num_around > 1:
                # drop what is gone from the list of i, and note what is there
                before = -1
                e = head[i]
                while e >= 0:
                    if gone[to[e]] == 1:
                        if before < 0:
                            head[i] = following[e]
                        else:
                            following[before] = following[e]
                    else:
                        slot[to[e]] = e
                        before = e
                    e = following[e]
                for y in range(x):
                    k = to[around[y]]
                    more = weight[around[x]] * weight[around[y]] / total
                    if slot[k] >= 0:
                        weight[slot[k]] += more
                        weight[slot[k] ^ 1] += more
                        continue
                    if num_edges + 2 > to.size:
                        weight = grow(weight, 2 * to.size, num_edges)
                        following = grow(following, 2 * to.size, num_edges)
                        to = grow(to, 2 * to.size, num_edges)
                    to[num_edges], to[num_edges + 1] = k, i
                    weight[num_edges], weight[num_edges + 1] = more, more
                    following[num_edges], head[i] = head[i], num_edges
                    following[num_edges + 1], head[k] = head[k], num_edges + 1
                    num_edges += 2
                    now += 1
                    move_bucket(k, degree[k], degree[k] + 1, bucket, left, right)
                    degree[k] += 1
                e = head[i]
                while e >= 0:
                    slot[to[e]] = -1
                    e = following[e]
            move_bucket(i, degree[i], now, bucket, left, right)
            degree[i] = now
            least = min(least, now)
    column_ptr[n - 1] = size
    for i in range(n):
        if gone[i] == 0:
            order[n - 1] = i
    return rows[:size], ratios[:size]


@part(error_model="numpy")
def move_bucket(i, old, new, bucket, left, right):
    if left[i] >= 0:
        right[left[i]] = right[i]
    else:
        bucket[old] = right[i]
    if right[i] >= 0:
        left[right[i]] = left[i]
    left[i] = -1
    right[i] = bucket[new]
    if right[i] >= 0:
        left[right[i]] = i
    bucket[new] = i


@part(error_model="numpy")
def center(x):
    """Subtract each column's mean."""
    n, width = x.shape
    total = np.zeros(width)
    for i in range(n):
        for q in range(width):
            total[q] += x[i, q]
    for q in range(width):
        total[q] /= n
    for i in range(n):
        for q in range(width):
            x[i, q] -= total[q]


@part(error_model="numpy")
def orthonormalize(x):
    """Modified Gram-Schmidt of the columns."""
    n, width = x.shape
    dots = np.zeros(width)
    for k in range(width):
        for q in range(width):
            dots[q] = 0.0
        for i in range(n):
            head = x[i, k]
            for q in range(k, width):
                dots[q] += head * x[i, q]
        inverse = 1.0 / np.sqrt(dots[k])
        for q in range(k + 1, width):
            dots[q] *= inverse
        for i in range(n):
            head = x[i, k] * inverse
            x[i, k] = head
            for q in range(k + 1, width):
                x[i, q] -= head * dots[q]


@part(error_model="numpy")
def apply_inverse(x, order, column_ptr, pivots, rows, ratios, out):
    """out = pseudo-inverse of the Laplacian times `x`, whose columns have mean 0."""
    n, width = x.shape
    for i in range(n):
        for q in range(width):
            out[i, q] = x[i, q]
    for step in range(n - 1):
        v = order[step]
        for p in range(column_ptr[step], column_ptr[step + 1]):
            r = rows[p]
            f = ratios[p]
            for q in range(width):
                out[r, q] += f * out[v, q]
    for q in range(width):
        out[order[n - 1], q] = 0.0
    for step in range(n - 2, -1, -1):
        v = order[step]
        f = 1.0 / pivots[step]
        for q in range(width):
            out[v, q] *= f
        for p in range(column_ptr[step], column_ptr[step + 1]):
            r = rows[p]
            f = ratios[p]
            for q in range(width):
                out[v, q] += f * out[r, q]
    center(out)


@part(error_model="numpy")
def rotate(x, basis, row):
    """x = x @ basis, in place."""
    n, width = x.shape
    for i in range(n):
        for q in range(width):
            row[q] = 0.0
        for k in range(width):
            f = x[i, k]
            for q in range(width):
                row[q] += f * basis[k * width + q]
        for q in range(width):
            x[i, q] = row[q]


@part(error_model="numpy")
def solve_sparse(atoms, local, ptr, neighbours, wanted):
    """The lowest `wanted` non-trivial eigenpairs of a large component's Laplacian, and the rest of the last one's eigenspace.

    Subspace iteration with the pseudo-inverse from a fixed start, with Rayleigh-Ritz. Returns (values, vectors), values empty if
    the factor would be too large. An eigenspace that does not fit in MAX_SUBSPACE vectors is cut where the iteration puts it.
    """
    n = atoms.size
    order = np.empty(n, np.int64)
    column_ptr = np.empty(n, np.int64)
    pivots = np.empty(n)
    rows, ratios = factorize(atoms, local, ptr, neighbours, order, column_ptr, pivots)
    values = np.empty(n)
    if rows.size == 0:
        return values[:0], np.empty((n, 0))
    width = (wanted + 2 * PANEL - 1) // PANEL * PANEL
    most = max(width, MAX_SUBSPACE)
    while True:
        x = np.empty((n, width))
        y = np.empty((n, width))
        for i in range(n):
            for q in range(width):
                x[i, q] = np.float64(mix64(U(i * width + q)) >> U(11)) / 2.0**53 - 0.5
        center(x)
        orthonormalize(x)
        product = np.empty(width * width)
        basis = np.empty(width * width)
        ritz = np.empty(width)
        residual = np.empty(width)
        row = np.empty(width)
        index = np.empty(width, np.int64)
        scratch = np.empty((3, width))
        beta = np.empty(width)
        sums = np.empty(PANEL)
        t = np.zeros(2 * LANES * (width + 1))
        sizes = np.zeros(LANES, np.int64)
        sizes[0] = width
        at = np.empty(2 * width * width, np.int64)
        rotations = np.empty(2 * width * width * 2 * LANES)
        size = 0
        done = False
        for _ in range(MAX_ITERATIONS):
            apply_inverse(x, order, column_ptr, pivots, rows, ratios, y)
            for k in range(width * width):
                product[k] = 0.0
            for i in range(n):
                for k in range(width):
                    f = -x[i, k]
                    for q in range(width):
                        product[k * width + q] += f * y[i, q]
            for k in range(width):
                for q in range(k):
                    product[k * width + q] = product[q * width + k]
            load_lane(product, width, width, 0, t, beta, scratch)
            num_steps, at, rotations = diagonalize(t, sizes, at, rotations)
            lowest_pairs(product, width, width, 0, t, beta, num_steps, at, rotations, width, False, ritz, index, basis, sums)
            rotate(x, basis, row)
            rotate(y, basis, row)
            for q in range(width):
                residual[q] = 0.0
            for i in range(n):
                for q in range(width):
                    error = y[i, q] + ritz[q] * x[i, q]
                    residual[q] += error * error
            for q in range(width):
                values[q] = -1.0 / ritz[q]
            size = end_of_group(values, wanted, width)
            converged = 0
            while converged < width and residual[converged] <= (CONVERGED * ritz[converged]) ** 2:
                converged += 1
            done = converged > size
            if done or converged == width:
                break
            for i in range(n):
                for q in range(width):
                    x[i, q] = y[i, q]
            orthonormalize(x)
        if done or width >= most:
            return values[:size], x
        width = min(2 * width, most)


@kernel("i8[:], i8[:], u2[:, :], i8[:], i8[:], i8[:], i8[:], i8[:], i8[:]", error_model="numpy")
def find_components(atom_ptr, bond_ptr, bond_atoms, ptr, neighbours, local, members, component_ptr, molecule):
    """Neighbour lists and components of all molecules, in numbers of atoms of the batch: how many, and atoms of the largest.

    `ptr` (atoms + molecules): neighbours of atom a; `local`: an atom's place in its component; `members`: atoms by component;
    `molecule`: of each component. See `positional.laplacian`.
    """
    num_molecules = atom_ptr.size - 1
    count = np.empty(local.size, np.int64)
    num_components = 0
    largest = 0
    component_ptr[0] = 0
    total = 0
    for m in range(num_molecules):
        first = atom_ptr[m]
        n = atom_ptr[m + 1] - atom_ptr[m]
        begin = total
        here = ptr[first : first + n + 1]
        list_neighbours(bond_ptr[m], bond_ptr[m + 1], bond_atoms, n, 0, here, count, neighbours[begin:])
        total += here[n]
        num = list_components(
            n, here, neighbours[begin:], component_ptr[num_components:], members[first : first + n], local[first : first + n]
        )
        for i in range(n + 1):
            here[i] += begin
        for k in range(begin, total):
            neighbours[k] += first
        for i in range(first, first + n):
            members[i] += first
        component_ptr[num_components] = first
        for k in range(num_components, num_components + num):
            molecule[k] = m
            component_ptr[k + 1] += first
        num_components += num
        for k in range(num_components - num, num_components):
            largest = max(largest, component_ptr[k + 1] - component_ptr[k])
            for i in range(component_ptr[k], component_ptr[k + 1]):
                local[members[i]] = i - component_ptr[k]
    return num_components, largest


@kernel("i8[:], i8[:], i8[:], i8[:], i8[:], i8, f4[:, :], f4[:, :]", error_model="numpy")
def large_laplacian(ptr, neighbours, local, members, component_ptr, max_dense, vectors, values):
    """Lowest eigenpairs of components of more than `max_dense` atoms; returns -1, or the component whose factor is too large."""
    num_vectors = vectors.shape[1]
    for k in range(component_ptr.size - 1):
        size = component_ptr[k + 1] - component_ptr[k]
        if size <= max_dense:
            continue
        lengths = np.empty(max(size, num_vectors + PANEL))
        pivot = np.empty(lengths.size)
        atoms = members[component_ptr[k] : component_ptr[k + 1]]
        pairs, sparse = solve_sparse(atoms, local, ptr, neighbours, num_vectors - 1)
        if pairs.size < num_vectors - 1:
            return k
        write_pairs(atoms, pairs, sparse.reshape(-1), sparse.shape[1], 0, num_vectors - 1, lengths, pivot, vectors, values)
    return -1


@kernel("i8[:], i8[:], i8[:], i8[:], i8[:], i8, f4[:, :], f4[:, :]", error_model="numpy")
def laplacian(ptr, neighbours, local, members, component_ptr, max_dense, vectors, values):
    """Lowest eigenpairs of components of up to `max_dense` atoms; False if QL does not end.

    They go LANES at a time, smallest first, through the part of the work that waits for square roots and divisions.
    """
    num_components = component_ptr.size - 1
    num_vectors = vectors.shape[1]
    lengths = np.empty(max(max_dense, num_vectors + PANEL))
    pivot = np.empty(max(max_dense, num_vectors) + PANEL)
    first_of = np.zeros(max_dense + 2, np.int64)
    for k in range(num_components):
        size = component_ptr[k + 1] - component_ptr[k]
        if size <= max_dense:
            first_of[size + 1] += 1
    for size in range(max_dense + 1):
        first_of[size + 1] += first_of[size]
    num_dense = first_of[max_dense + 1]
    by_size = np.empty(num_dense, np.int64)
    for k in range(num_components):
        size = component_ptr[k + 1] - component_ptr[k]
        if size <= max_dense:
            by_size[first_of[size]] = k
            first_of[size] += 1

    stride = (max_dense + PANEL - 1) // PANEL * PANEL
    matrices = np.empty((LANES, max_dense * stride))
    betas = np.empty((LANES, max_dense))
    found = np.empty(max_dense * stride)
    scratch = np.empty((3, max_dense))
    sums = np.empty(PANEL)
    t = np.zeros(2 * LANES * (max_dense + 1))
    sizes = np.zeros(LANES, np.int64)
    at = np.empty(2 * max_dense * max_dense, np.int64)
    rotations = np.empty(2 * max_dense * max_dense * 2 * LANES)
    order = np.empty(max_dense, np.int64)
    lowest = np.empty(max_dense)
    for group in range(0, num_dense, LANES):
        lanes = min(LANES, num_dense - group)
        for lane in range(LANES):
            sizes[lane] = 0
        for lane in range(lanes):
            k = by_size[group + lane]
            atoms = members[component_ptr[k] : component_ptr[k + 1]]
            n = atoms.size
            sizes[lane] = n
            stride = (n + PANEL - 1) // PANEL * PANEL
            fill_laplacian(atoms, local, ptr, neighbours, stride, matrices[lane])
            load_lane(matrices[lane], n, stride, lane, t, betas[lane], scratch)
        num_steps, at, rotations = diagonalize(t, sizes, at, rotations)
        if num_steps < 0:
            return False
        for lane in range(lanes):
            k = by_size[group + lane]
            atoms = members[component_ptr[k] : component_ptr[k + 1]]
            n = atoms.size
            wanted = min(num_vectors, n)
            stride = (n + PANEL - 1) // PANEL * PANEL
            num = lowest_pairs(
                matrices[lane],
                n,
                stride,
                lane,
                t,
                betas[lane],
                num_steps,
                at,
                rotations,
                wanted,
                True,
                lowest,
                order,
                found,
                sums,
            )
            width = (num + PANEL - 1) // PANEL * PANEL
            write_pairs(atoms, lowest[1:num], found, width, 1, wanted - 1, lengths, pivot, vectors, values)
    return True
