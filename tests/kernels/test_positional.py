"""Positional encodings equal NumPy's, whatever the solver; signs and eigenspaces keep to their rule, and bytes never vary."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import twins.positional
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import callable_part

from molstream.kernels.chemistry import _positional
from molstream.kernels.chemistry.positional import (
    dequantize_laplacian,
    dequantize_walk,
    laplacian,
    quantize_laplacian,
    quantize_walk,
    random_walk,
)


def ring(n):
    return n, [(i, (i + 1) % n) for i in range(n)] if n > 2 else [(0, 1)]


def chain(n):
    return n, [(i, i + 1) for i in range(n - 1)]


def star(n):
    return n, [(0, i) for i in range(1, n)]


def complete(n):
    return n, list(itertools.combinations(range(n), 2))


def hypercube(dimensions):
    n = 2**dimensions
    return n, [(i, i ^ (1 << k)) for i in range(n) for k in range(dimensions) if i < i ^ (1 << k)]


def tree(branches, depth):
    """A Bethe tree: the first atom has `branches` neighbours, every other inner atom as many more."""
    bonds, layer, n = [], [0], 1
    for _ in range(depth):
        after = []
        for parent in layer:
            for _ in range(branches):
                bonds.append((parent, n))
                after.append(n)
                n += 1
        layer = after
    return n, bonds


def cage(points, bonds_an_atom):
    """The polyhedron whose atoms lie at `points`: each is joined to its nearest."""
    points = np.array(points)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    length = np.sort(distance, axis=1)[:, 1].max()
    bonds = [(i, j) for i, j in itertools.combinations(range(len(points)), 2) if distance[i, j] < length * 1.01]
    assert np.bincount(np.ravel(bonds)).tolist() == len(points) * [bonds_an_atom]
    return len(points), bonds


def cyclic(*point):
    return [point[k:] + point[:k] for k in range(3)]


def dodecahedron():
    p = (1 + 5**0.5) / 2
    points = list(itertools.product((-1, 1), repeat=3))
    for a, b in itertools.product((-1 / p, 1 / p), (-p, p)):
        points += cyclic(0.0, a, b)
    return cage(points, 3)


def buckminsterfullerene():
    p = (1 + 5**0.5) / 2
    points = []
    for a, b, c in itertools.product((-1, 1), repeat=3):
        points += cyclic(0.0, b * 1.0, c * 3 * p) if a == 1 else []
        points += cyclic(a * 1.0, b * (2 + p), c * 2 * p)
        points += cyclic(a * p, b * 2.0, c * (2 * p + 1))
    return cage(points, 3)


def copies(molecule, number):
    n, bonds = molecule
    return number * n, [(k * n + u, k * n + v) for k in range(number) for u, v in bonds]


SYMMETRIC = {
    **{f"ring of {n}": ring(n) for n in range(3, 13)},
    **{f"complete {n}": complete(n) for n in (2, 3, 4, 5, 8, 9, 12, 20)},
    **{f"star of {n}": star(n) for n in (3, 4, 5, 9, 30)},
    **{f"chain of {n}": chain(n) for n in (2, 3, 7, 8, 9, 25)},
    "cubane": hypercube(3),
    "four-dimensional cube": hypercube(4),
    "dodecahedrane": dodecahedron(),
    "C60": buckminsterfullerene(),
    "neopentane": star(5),
    "tetra-tert-butylmethane": tree(4, 2),
    "dendrimer": tree(3, 3),
    "two benzenes": copies(ring(6), 2),
    "three cubanes": copies(hypercube(3), 3),
    "two chains and an atom": (9, [*chain(4)[1], (5, 6), (6, 7), (7, 8)]),
    "five atoms": (5, []),
    "one atom": (1, []),
    "a bond listed twice": (4, [(0, 1), (1, 2), (2, 1), (2, 3)]),
    "an atom joined to itself": (3, [(0, 1), (1, 1), (1, 2)]),
}


@st.composite
def graphs(draw, max_atoms=14, max_bonds=20):
    """(atoms, bonds): any graph, in parts, with loops and double entries."""
    n = draw(st.integers(1, max_atoms))
    atom = st.integers(0, n - 1)
    return n, draw(st.lists(st.tuples(atom, atom), max_size=max_bonds))


def arrays_of(batch):
    """Molecules -> the three flat arrays that the encodings take."""
    atom_ptr = np.cumsum([0] + [n for n, _ in batch])
    bond_ptr = np.cumsum([0] + [len(bonds) for _, bonds in batch])
    return atom_ptr, bond_ptr, np.array([b for _, bonds in batch for b in bonds], np.uint16).reshape(-1, 2)


def molecules_of(sample_set, number=120):
    """Some real molecules, as (atoms, bonds)."""
    out = []
    for split in sample_set.splits:
        for block in sample_set.iter_blocks(split):
            for (a, b), (c, d) in zip(itertools.pairwise(block.atom_ptr), itertools.pairwise(block.bond_ptr)):
                out.append((int(b - a), block.bond_atoms[c:d].tolist()))
    assert len(out) > number
    return out[:number]


def matrix_of(molecule):
    weights = twins.positional.adjacency(*molecule)
    return np.diag(weights.sum(axis=1)) - weights


def groups_of(values):
    """Runs of ascending values that are one eigenvalue: [(start, end)]."""
    ends = [k for k in range(1, len(values) + 1) if k == len(values) or values[k] - values[k - 1] > 1e-6 * values[k]]
    return list(itertools.pairwise([0, *ends]))


def check_eigenpairs(molecule, num_vectors):
    """Values, residuals, orthonormality, padding and projectors, component by component, against NumPy's own eigh."""
    vectors, values = (x.astype(float) for x in laplacian(*arrays_of([molecule]), num_vectors=num_vectors))
    assert vectors.shape == values.shape == (molecule[0], num_vectors)
    matrix = matrix_of(molecule)
    for atoms in twins.positional.components(twins.positional.adjacency(*molecule)):
        part = matrix[np.ix_(atoms, atoms)]
        exact, basis = np.linalg.eigh(part)
        take = min(num_vectors, len(atoms))
        v, w = vectors[atoms], values[atoms]
        assert (w == w[0]).all()
        assert (np.diff(w[0, :take]) >= 0).all()
        np.testing.assert_allclose(w[0, :take], exact[:take], atol=2e-6)
        assert (v[:, take:] == 0).all()
        assert (w[:, take:] == 0).all()
        assert np.abs(part @ v - v * w[0]).max() < 1e-5
        np.testing.assert_allclose(v[:, :take].T @ v[:, :take], np.eye(take), atol=1e-6)
        for start, end in groups_of(np.maximum(exact, 0)):
            projector = basis[:, start:end] @ basis[:, start:end].T
            inside = v[:, start : min(end, take)]
            if end <= take:
                np.testing.assert_allclose(inside @ inside.T, projector, atol=1e-6)
            elif start < take:
                # cut off within an eigenspace: still inside it
                np.testing.assert_allclose(projector @ inside, inside, atol=1e-6)


def check_twins(molecule, num_steps=16, num_vectors=8):
    arrays = arrays_of([molecule])
    walk = twins.positional.random_walk(*molecule, num_steps=num_steps)
    np.testing.assert_allclose(random_walk(*arrays, num_steps=num_steps), walk, atol=1e-6)
    vectors, values = laplacian(*arrays, num_vectors=num_vectors)
    slow_vectors, slow_values = twins.positional.laplacian(*molecule, num_vectors=num_vectors)
    np.testing.assert_allclose(values, slow_values, atol=2e-6)
    np.testing.assert_allclose(vectors, slow_vectors, atol=1e-5)


# definitions


def test_walks_by_hand():
    # a chain of three atoms: from an end, back after two steps with probability 1/2, and with the same after four
    walk = random_walk(*arrays_of([chain(3), ring(3), (1, []), (2, [(0, 1)])]), num_steps=4)
    expected = [[0, 0.5, 0, 0.5], [0, 1, 0, 1], [0, 0.5, 0, 0.5], *3 * [[0, 0.5, 0.25, 0.375]], [0, 0, 0, 0], *2 * [[0, 1, 0, 1]]]
    np.testing.assert_allclose(walk, expected, atol=1e-7)
    assert walk.dtype == np.float32


def test_eigenpairs_by_hand():
    vectors, values = laplacian(*arrays_of([chain(3), (1, [])]), num_vectors=4)
    np.testing.assert_allclose(values, [*3 * [[0, 1, 3, 0]], [0, 0, 0, 0]], atol=1e-6)
    third, half, sixth = 3**-0.5, 2**-0.5, 6**-0.5
    # the second is positive at its first atom, the third at its largest entry
    expected = [[third, half, -sixth, 0], [third, 0, 2 * sixth, 0], [third, -half, -sixth, 0], [1, 0, 0, 0]]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert vectors.dtype == values.dtype == np.float32


def test_the_symmetric_graphs_are_what_their_names_say():
    sizes = {name: (n, len(bonds)) for name, (n, bonds) in SYMMETRIC.items()}
    assert sizes["dodecahedrane"] == (20, 30)
    assert sizes["C60"] == (60, 90)
    assert sizes["cubane"] == (8, 12)
    exact = np.linalg.eigvalsh(matrix_of(SYMMETRIC["C60"]))
    assert [end - start for start, end in groups_of(np.maximum(exact, 0))][:5] == [1, 3, 5, 3, 4]


@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize("num_vectors", [1, 3, 8, 20])
def test_eigenpairs_of_symmetric_graphs_are_numpys(name, num_vectors):
    check_eigenpairs(SYMMETRIC[name], num_vectors)


@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize(("num_steps", "num_vectors"), [(1, 1), (2, 2), (7, 5), (16, 8), (33, 30)])
def test_encodings_of_symmetric_graphs_equal_their_twins(name, num_steps, num_vectors):
    check_twins(SYMMETRIC[name], num_steps, num_vectors)


def test_encodings_of_real_molecules_equal_their_twins_and_numpys(sample_set):
    for molecule in molecules_of(sample_set):
        check_twins(molecule)
        check_eigenpairs(molecule, 8)


@given(molecule=graphs(), num_steps=st.integers(1, 20), num_vectors=st.integers(1, 12))
@settings(deadline=None, max_examples=100)
def test_encodings_of_any_graph_are_numpys(molecule, num_steps, num_vectors):
    check_eigenpairs(molecule, num_vectors)
    walk = twins.positional.random_walk(*molecule, num_steps=num_steps)
    np.testing.assert_allclose(random_walk(*arrays_of([molecule]), num_steps=num_steps), walk, atol=1e-6)


@given(molecule=graphs(max_atoms=40, max_bonds=60))
@settings(deadline=None, max_examples=60)
def test_walks_are_probabilities_and_even_without_odd_rings(molecule):
    n, bonds = molecule
    walk = random_walk(*arrays_of([molecule]))
    assert ((walk >= 0) & (walk <= 1 + 1e-6)).all()
    assert (walk[:, ::2] <= 0.5 + 1e-6).all()
    # join even atoms with odd ones only: every ring is even
    bipartite = (n, [(u, v) for u, v in bonds if (u + v) % 2])
    assert (random_walk(*arrays_of([bipartite]))[:, ::2] == 0).all()


# the rule


@pytest.mark.parametrize("name", SYMMETRIC)
def test_every_vector_is_positive_where_its_space_is_nearest_an_atom(name):
    molecule = SYMMETRIC[name]
    vectors, _ = laplacian(*arrays_of([molecule]), num_vectors=12)
    vectors = vectors.astype(float)
    for atoms in twins.positional.components(twins.positional.adjacency(*molecule)):
        for v in vectors[atoms].T[: len(atoms)]:
            first = int(np.argmax(np.abs(v) >= 0.9998 * np.abs(v).max()))
            assert v[first] > 0, (name, v)


@given(seed=st.integers(0, 2**32), size=st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_the_rule_does_not_depend_on_the_basis_it_is_given(seed, size):
    rng = np.random.default_rng(seed)
    space = np.linalg.qr(rng.normal(size=(15, size)))[0]
    turned = space @ np.linalg.qr(rng.normal(size=(size, size)))[0]
    got = []
    for basis in (space, turned):
        padded = np.zeros((15, 8))
        padded[:, :size] = basis
        flat = padded.reshape(-1)
        callable_part(_positional.choose_basis)(flat, 15, 8, 0, size, size, np.empty(15), np.empty(8))
        got.append(flat.reshape(15, 8)[:, :size])
    np.testing.assert_allclose(got[0], got[1], atol=1e-9)
    np.testing.assert_allclose(got[0], twins.positional.canonical_basis(space), atol=1e-9)


@pytest.mark.parametrize("name", ["ring of 9", "C60", "tetra-tert-butylmethane", "complete 20"])
def test_fewer_vectors_are_the_first_of_more(name):
    arrays = arrays_of([SYMMETRIC[name]])
    vectors, values = laplacian(*arrays, num_vectors=20)
    for k in range(1, 20):
        fewer, low = laplacian(*arrays, num_vectors=k)
        np.testing.assert_allclose(fewer, vectors[:, :k], atol=1e-6)
        np.testing.assert_allclose(low, values[:, :k], atol=1e-6)


def test_a_component_has_the_bytes_of_a_molecule_of_its_own():
    parts = [ring(5), star(6), chain(9), (1, []), complete(4)]
    offsets = np.cumsum([0] + [n for n, _ in parts])
    joined = (int(offsets[-1]), [(u + o, v + o) for (_, bonds), o in zip(parts, offsets) for u, v in bonds])
    for one, many in zip(laplacian(*arrays_of([joined])), laplacian(*arrays_of(parts))):
        np.testing.assert_array_equal(one, many)
    np.testing.assert_array_equal(random_walk(*arrays_of([joined])), random_walk(*arrays_of(parts)))


# the same bytes


def encode(batch):
    arrays = arrays_of(batch)
    return [random_walk(*arrays), *laplacian(*arrays)]


def test_bytes_do_not_depend_on_batch_order_or_thread(sample_set):
    batch = [*molecules_of(sample_set, 60), *SYMMETRIC.values(), chain(200)]
    together = encode(batch)
    alone = [encode([molecule]) for molecule in batch]
    backwards = encode(batch[::-1])
    with ThreadPoolExecutor(4) as pool:
        threads = list(pool.map(encode, 8 * [batch]))
    atom_ptr = arrays_of(batch)[0]
    for k in range(3):
        assert together[k].tobytes() == b"".join(one[k].tobytes() for one in alone)
        assert all(t[k].tobytes() == together[k].tobytes() for t in threads)
        total = atom_ptr[-1]
        for a, b in itertools.pairwise(atom_ptr):
            np.testing.assert_array_equal(backwards[k][total - b : total - a], together[k][a:b])


def test_a_lane_touches_no_row_of_a_larger_one():
    # two rotations recorded for all lanes: of rows 0 and 1, and before it of rows 1 and 2, which this lane does not have
    rotations = np.zeros((2, 2, _positional.LANES))
    rotations[:, 0] = 1.0
    rotations[1, :, 5] = 0.6, 0.8
    x = np.full((3, _positional.PANEL), np.nan)
    x[0], x[1] = 1.0, 2.0
    sums, beta = np.zeros(_positional.PANEL), np.zeros(2)
    flat = x.reshape(-1)
    callable_part(_positional.transform_panel)(flat, 2, 5, 2, np.array([1, 0]), rotations.reshape(-1), np.zeros(4), 2, beta, sums)
    np.testing.assert_allclose(x[:2, 0], [0.6 * 1 + 0.8 * 2, 0.6 * 2 - 0.8 * 1])


def test_lanes_are_diagonalised_each_for_itself_whatever_their_scale():
    lanes, n = _positional.LANES, 5
    t, sizes = np.zeros((n + 1, 2, lanes)), np.zeros(lanes, np.int64)
    t[:n, 0, 3], t[: n - 1, 1, 3], sizes[3] = 2e-100, -1e-100, n
    t[:n, 0, 4], t[: n - 1, 1, 4], sizes[4] = 2.0, -1.0, n
    flat = t.reshape(-1)
    num, _, rotations = callable_part(_positional.diagonalize)(flat, sizes, np.empty(99, np.int64), np.empty(99 * 2 * lanes))
    assert num > 0
    assert np.isfinite(rotations[: num * 2 * lanes]).all()
    exact = 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
    np.testing.assert_allclose(np.sort(t[:n, 0, 4]), exact, rtol=1e-13)
    np.testing.assert_allclose(np.sort(t[:n, 0, 3]), exact * 1e-100, rtol=1e-13)


def test_an_empty_batch_and_empty_molecules_have_no_rows():
    for batch in ([], [(0, [])], [(0, []), (0, [])]):
        assert [x.shape for x in encode(batch)] == [(0, 16), (0, 8), (0, 8)]
    around = encode([(0, []), ring(5), (0, []), (0, []), chain(3), (0, [])])
    for got, expected in zip(around, encode([ring(5), chain(3)])):
        np.testing.assert_array_equal(got, expected)


# large molecules


@pytest.mark.parametrize(
    "molecule",
    [chain(129), ring(150), star(140), tree(2, 7), copies(ring(140), 2), complete(130)],
    ids=["chain", "ring", "star", "tree", "two rings", "complete"],
)
def test_large_components_equal_numpys_in_another_way(molecule):
    check_eigenpairs(molecule, 8)
    walk = twins.positional.random_walk(*molecule, num_steps=16)
    np.testing.assert_allclose(random_walk(*arrays_of([molecule])), walk, atol=1e-6)


@pytest.mark.parametrize("molecule", [chain(150), ring(151), tree(3, 4), tree(2, 7)], ids=["chain", "ring", "tree3", "tree2"])
def test_large_components_keep_to_the_rule(molecule):
    vectors, values = laplacian(*arrays_of([molecule]))
    slow_vectors, slow_values = twins.positional.laplacian(*molecule, num_vectors=8)
    np.testing.assert_allclose(values, slow_values, atol=1e-6)
    np.testing.assert_allclose(vectors, slow_vectors, atol=1e-5)


def known_chain(n, k):
    """Eigenpair k of a chain: cosines."""
    v = np.cos(np.pi * k * (np.arange(n) + 0.5) / n)
    v /= np.linalg.norm(v)
    return v if v[0] > 0 else -v, 4 * np.sin(np.pi * k / 2 / n) ** 2


@pytest.mark.parametrize("n", [2_000, 10_000])
def test_a_long_chain_has_the_eigenpairs_of_theory(n):
    arrays = arrays_of([chain(n)])
    vectors, values = laplacian(*arrays)
    for k in range(8):
        v, value = known_chain(n, k)
        np.testing.assert_allclose(vectors[:, k], v, atol=1e-6)
        np.testing.assert_allclose(values[:, k], value, rtol=1e-6, atol=1e-20)
    walk = random_walk(*arrays)
    np.testing.assert_allclose(
        walk[n // 2, 1::2], [0.5, 0.375, 0.3125, 0.2734375, 0.24609375, 0.22558594, 0.20947266, 0.19638062]
    )


def neighbour_lists(molecule):
    n, bonds = molecule
    ptr, count, neighbours = np.zeros(n + 1, np.int64), np.zeros(n, np.int64), np.zeros(2 * len(bonds), np.int64)
    bond_atoms = np.array(bonds, np.uint16).reshape(-1, 2)
    callable_part(_positional.list_neighbours)(0, len(bonds), bond_atoms, n, 0, ptr, count, neighbours)
    return ptr, neighbours


@pytest.mark.parametrize(
    ("molecule", "most"),
    [(chain(10_000), 10_000), (ring(10_000), 20_000), (star(10_000), 10_000), (tree(2, 12), 8_192), (hypercube(10), 300_000)],
    ids=["chain", "ring", "star", "tree", "cube"],
)
def test_the_factor_of_a_large_component_stays_small(molecule, most):
    n = molecule[0]
    ptr, neighbours = neighbour_lists(molecule)
    arrays = [np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n)]
    rows, ratios = callable_part(_positional.factorize)(np.arange(n), np.arange(n), ptr, neighbours, *arrays)
    assert sorted(arrays[0].tolist()) == list(range(n))
    assert n - 1 <= len(rows) == len(ratios) < most


def test_a_walk_looks_no_farther_than_it_can_return_from():
    n = 10_000
    ptr, neighbours = neighbour_lists(chain(n))
    rows = np.empty(n, np.int64)
    seen = np.zeros(n, np.uint8)
    size = callable_part(_positional.list_ball)(5_000, 5_032, 8, ptr, neighbours, n, seen, rows)
    assert rows[:size].tolist() == list(range(4_992, 5_040))
    assert not seen.any()


def test_a_component_that_is_too_dense_is_refused_by_number(monkeypatch):
    monkeypatch.setattr("molstream.kernels.chemistry.positional._positional.large_laplacian", lambda *_: 1)
    with pytest.raises(ValueError, match=r"molecule 1 \(130 atoms, 8385 bonds\): too densely connected to decompose"):
        laplacian(*arrays_of([chain(3), complete(130)]))


# what is refused


@pytest.mark.parametrize("encoding", [random_walk, laplacian])
def test_arrays_that_contradict_each_other_are_refused(encoding):
    atom_ptr, bond_ptr, bond_atoms = arrays_of([chain(3), chain(2)])
    with pytest.raises(ValueError, match=r"bond 2 joins atoms \[0, 2\] of molecule 1, which has 2 atoms"):
        encoding(atom_ptr, bond_ptr, np.array([[0, 1], [1, 2], [0, 2]]))
    with pytest.raises(ValueError, match="3 atom offsets and 2 bond offsets for 3 bonds"):
        encoding(atom_ptr, bond_ptr[[0, 2]], bond_atoms)
    with pytest.raises(ValueError, match="3 atom offsets and 3 bond offsets for 2 bonds"):
        encoding(atom_ptr, bond_ptr, bond_atoms[:2])
    with pytest.raises(ValueError, match="offsets decrease"):
        encoding(np.array([0, 6, 5]), bond_ptr, bond_atoms)


def test_no_steps_and_no_vectors_are_refused():
    with pytest.raises(ValueError, match="num_steps is 0, expected at least 1"):
        random_walk(*arrays_of([chain(3)]), num_steps=0)
    with pytest.raises(ValueError, match="num_vectors is -1, expected at least 1"):
        laplacian(*arrays_of([chain(3)]), num_vectors=-1)


# codes


def test_every_walk_code_comes_back():
    codes = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 16))
    values = dequantize_walk(codes)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(quantize_walk(values), codes)
    np.testing.assert_allclose(values[255, :4], [0.5, 1, 0.5, 1], rtol=1e-6)


def test_every_vector_code_and_every_value_code_comes_back():
    codes = np.arange(-127, 128, dtype=np.int8)[:, None]
    values = np.arange(0, 0x7C00, dtype=np.uint16).view(np.float16)[:, None]
    for decoded in dequantize_laplacian(codes, values):
        assert decoded.dtype == np.float32
    vector_codes, value_codes = quantize_laplacian(*dequantize_laplacian(codes, values))
    np.testing.assert_array_equal(vector_codes, codes)
    np.testing.assert_array_equal(value_codes, values)
    assert (vector_codes.dtype, value_codes.dtype) == (np.int8, np.float16)


def test_codes_are_within_half_a_unit(sample_set):
    batch = [*molecules_of(sample_set), *SYMMETRIC.values()]
    arrays = arrays_of(batch)
    walk = random_walk(*arrays)
    error = np.abs(dequantize_walk(quantize_walk(walk)) - walk)
    assert error[:, ::2].max() <= 0.5001 / 510
    assert 0.3 / 255 < error[:, 1::2].max() <= 0.5001 / 255
    vectors, values = laplacian(*arrays)
    decoded, eigenvalues = dequantize_laplacian(*quantize_laplacian(vectors, values))
    assert 0.3 / 127 < np.abs(decoded - vectors).max() <= 0.5001 / 127
    assert (np.abs(eigenvalues - values) <= values / 2048 + 1e-7).all()


def test_codes_round_half_to_even_and_stay_in_range():
    walk = np.array([[0.5 / 510, 1.5 / 255, 0.6, 1.0000001]])
    assert quantize_walk(walk).tolist() == [[0, 2, 255, 255]]
    assert quantize_laplacian(np.array([[0.5 / 127, -1.5 / 127, 1, -1]]), np.zeros((1, 4)))[0].tolist() == [[0, -2, 127, -127]]
