"""Hashes decide splits and order: they equal their twin, and their bits never change."""

import numpy as np
import twins.hashing
import twins.skeletons
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.kernels.chemistry.skeletons import hash_skeletons
from molstream.kernels.rng.hashing import hash_u64, mix_key

U64 = st.integers(0, 2**64 - 1)
PROPANE = ([6, 6, 6], [(0, 1), (1, 2)])
PYRIDINE = ([7, 6, 6, 6, 6, 6], [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)])
DIFFERENT = {
    "nothing": ([], []),
    "methane": ([6], []),
    "ammonia": ([7], []),
    "two methanes": ([6, 6], []),
    "ethane": ([6, 6], [(0, 1)]),
    "propane": PROPANE,
    "cyclopropane": ([6, 6, 6], [(0, 1), (1, 2), (2, 0)]),
    "butane": ([6] * 4, [(0, 1), (1, 2), (2, 3)]),
    "isobutane": ([6] * 4, [(0, 1), (0, 2), (0, 3)]),
    "cyclobutane": ([6] * 4, [(0, 1), (1, 2), (2, 3), (3, 0)]),
    "C-N-C": ([6, 7, 6], [(0, 1), (1, 2)]),
    "C-C-N": ([6, 6, 7], [(0, 1), (1, 2)]),
    "C-O-C": ([6, 8, 6], [(0, 1), (1, 2)]),
    "benzene": ([6] * 6, PYRIDINE[1]),
    "pyridine": PYRIDINE,
    "hydrogen atom": ([1], []),
    "hydrogen": ([1, 1], [(0, 1)]),
    "two hydrogen atoms": ([1, 1], []),
    "octanediol, methyl at 4": ([8, *[6] * 8, 8, 6], [*[(i, i + 1) for i in range(9)], (4, 10)]),
    "octanediol, methyl at 3": ([8, *[6] * 8, 8, 6], [*[(i, i + 1) for i in range(9)], (3, 10)]),
}


@st.composite
def molecules(draw, hydrogens=True):
    """(elements, bonds): any graph, loops and double entries included."""
    elements = draw(st.lists(st.sampled_from([1, 6, 7, 8, 53] if hydrogens else [6, 7, 8, 53]), max_size=12))
    atom = st.integers(0, len(elements) - 1)
    return elements, draw(st.lists(st.tuples(atom, atom), max_size=14)) if elements else []


def arrays_of(batch):
    """Molecules -> the four flat arrays that hash_skeletons takes."""
    atom_ptr = np.cumsum([0] + [len(elements) for elements, _ in batch])
    bond_ptr = np.cumsum([0] + [len(bonds) for _, bonds in batch])
    elements = np.array([z for elements, _ in batch for z in elements], np.uint8)
    bond_atoms = np.array([b for _, bonds in batch for b in bonds], np.uint16).reshape(-1, 2)
    return atom_ptr, bond_ptr, elements, bond_atoms


def skeleton(elements, bonds, key=0):
    return int(hash_skeletons(*arrays_of([(elements, bonds)]), key=key)[0])


def test_mix64_is_splitmix64_as_published():
    # the first outputs of Vigna's splitmix64.c for state 0, which adds the golden ratio every time
    golden = 0x9E3779B97F4A7C15
    outputs = [twins.hashing.mix64(k * golden % 2**64) for k in range(3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(key=U64, values=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
@settings(deadline=None, max_examples=50)
def test_hash_of_numbers_equals_its_twin(key, values):
    assert hash_u64(key, np.array(values, np.int64)).tolist() == twins.hashing.hash_u64(key, values)


def test_hash_of_numbers_never_changes():
    assert hash_u64(0, np.array([0, 1, 2, -1])).tolist() == [
        0xA706DD2F4D197E6F,
        0x5E41AB087439611E,
        0x64684C4F0FD784B4,
        0x5DC20AA7B2A27137,
    ]
    assert hash_u64(2**64 - 1, np.array([0, 1, 2**63], np.uint64)).tolist() == [
        0x2DD82C88FA32B270,
        0xA562DF66C82C649A,
        0xBCC3A80D821369E5,
    ]


def test_hash_of_numbers_has_no_collision_and_no_biased_bit_among_many():
    hashes = hash_u64(1, np.arange(100_000))
    assert len(np.unique(hashes)) == 100_000
    ones = np.unpackbits(hashes.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 0.01


@given(parts=st.lists(st.integers(-(2**63), 2**64 - 1), max_size=4))
@settings(deadline=None, max_examples=50)
def test_mixed_key_equals_its_twin(parts):
    assert mix_key(*parts) == twins.hashing.mix_key(*parts)


def test_mixed_key_never_changes_and_minds_the_order_of_parts():
    assert mix_key(1, 2, 3) == 0x882D1ACC8D6C3B48
    assert len({mix_key(*parts) for parts in [(1, 2, 3), (3, 2, 1), (1, 2), (0, 1, 2, 3), (1, 2, 3, 0)]}) == 5


@given(batch=st.lists(molecules(), max_size=6), key=U64)
@settings(deadline=None, max_examples=60)
def test_skeleton_hash_equals_its_twin(batch, key):
    arrays = arrays_of(batch)
    assert hash_skeletons(*arrays, key=key).tolist() == twins.skeletons.hash_skeletons(*arrays, key=key)


def test_skeleton_hash_never_changes():
    assert skeleton(*PROPANE) == 0x9EABD689BB8853CA
    assert skeleton(*PROPANE, key=42) == 0x1C5D4F5ACF2ABFF8
    assert skeleton(*PYRIDINE) == 0x4E246FB3365AA97A
    assert skeleton([1, 1], [(0, 1)]) == 0xB53E20B4CC4BA8E9
    assert skeleton([8], []) == 0x7E0605552FBD9776


@given(molecule=molecules(hydrogens=False), data=st.data())
@settings(deadline=None, max_examples=60)
def test_skeleton_hash_ignores_hydrogens_beside_heavy_atoms(molecule, data):
    elements, bonds = molecule
    if not elements:
        return
    number = data.draw(st.integers(1, 6))
    at = data.draw(st.lists(st.integers(0, len(elements) - 1), min_size=number, max_size=number))
    with_hydrogens = elements + [1] * number
    all_bonds = bonds + [(heavy, len(elements) + k) for k, heavy in enumerate(at)]
    assert skeleton(with_hydrogens, all_bonds) == skeleton(elements, bonds)


def test_skeleton_hash_tells_skeletons_and_keys_apart():
    hashes = {name: skeleton(*molecule) for name, molecule in DIFFERENT.items()}
    assert len(set(hashes.values())) == len(DIFFERENT)
    assert len({skeleton(*PROPANE, key=key) for key in range(100)}) == 100
