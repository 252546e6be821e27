"""What the readers of texts and of binary molecules understand is what their slow twins understand, whatever the bytes are."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import twins.structure
from hypothesis import example, given
from hypothesis import strategies as st
from rdkit import Chem, rdBase

from molstream.kernels.chemistry import structure

LIMITS = structure.Limits(max_degree=10, max_charge=5, max_radicals=4, max_valence=8, num_stereo=7)
SMILES = [
    *"C Cc1c[nH]c2ccc(cc12)[N+](=O)[O-] F/C=C/C(Cl)=C\\Br C12C3C4C1C5C2C3C45 [Na+].[Cl-].[13CH3][CH2]".split(),
    *"[Fe]<-N C$C [2H]C *C".split(),
    *("[Fe]" + "(C)" * 18 + "C", "[Fe]" + "(C)" * 21 + "C", "C1" + "CC(=O)O" * 70 + "1", "CC1=C" + "C" * 250 + "1"),
]
KINDS = {structure.GENERAL: "general", structure.FULL: "full", structure.PLAIN: "plain"}


@cache
def molecule(smiles: str) -> tuple[bytes, str]:
    """RDKit's binary form, and the order of atoms in the canonical SMILES."""
    params = Chem.SmilesParserParams()
    params.removeHs = False
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, params)
        Chem.MolToSmiles(mol)
    return mol.ToBinary(0x20000), mol.GetProp("_smilesAtomOutputOrder")


SHORTHAND = [
    *"C CC(=O)Nc1ccc(O)cc1 Cc1c[nH]c2ccc([N+](=O)[O-])cc12 C12C3C4C1C5C2C3C45 CS(C)(=O)=O.CS(C)=O.CSC.S".split(),
    *"c1ccc2c(c1)-c1ccccc1-2 C[n+]1ccccc1.[O-]C#N Cn1c(=O)c2nc[nH]c2n(C)c1=O c1ccsc1C1CCOC1N(Br)I.FCl".split(),
    *"C1CC2(C1)CC2C(C)(C)C#CC=C=CC1=CC1 o1cccc1Cc1ncon1".split(),
]


def written(smiles: str) -> tuple[bytes, str]:
    """The canonical SMILES, and its order of atoms."""
    mol = Chem.MolFromSmiles(smiles)
    text = Chem.MolToSmiles(mol)
    assert structure.is_shorthand(text)
    return text.encode(), mol.GetProp("_smilesAtomOutputOrder")


def scan_of(maps: list[list[int]]) -> structure.Scan:
    """As if texts had these maps."""
    return structure.Scan(
        kinds=np.full(len(maps), structure.PLAIN, np.uint8),
        plain="",
        plain_ptr=np.zeros(len(maps) + 1, np.int64),
        maps=np.array([number for own in maps for number in own], np.int64),
        map_ptr=np.cumsum([0, *map(len, maps)]),
        has_maps=np.array([max(own, default=-1) >= 0 for own in maps]),
    )


def decode(binaries: list[bytes], orders: list[str], maps: list[list[int]], max_atoms: int = 1000) -> structure.StructureColumns:
    rows = np.arange(len(binaries))
    return structure.decode_molecules(binaries, orders, rows, scan_of(maps), limits=LIMITS, max_atoms=max_atoms)


def check(binaries: list[bytes], orders: list[str], maps: list[list[int]]) -> list[int]:
    """Kernel and twin agree on every molecule; returns what became of each."""
    columns = decode(binaries, orders, maps)
    for k, (binary, order, own) in enumerate(zip(binaries, orders, maps, strict=True)):
        mapped = own if max(own, default=-1) >= 0 else []
        expected = twins.structure.decode_molecule(binary, order, mapped, limits=LIMITS, max_atoms=1000)
        if expected is None:
            assert columns.status[k] == structure.UNREAD
            continue
        atoms = slice(*columns.atom_ptr[k : k + 2])
        bonds = slice(*columns.bond_ptr[k : k + 2])
        assert columns.status[k] == (structure.READ if expected["known"][0] else structure.BAD_MAPS)
        assert columns.atom_codes[atoms].tolist() == [[int(c) % 256 for c in codes] for codes in expected["atom_codes"]]
        assert columns.bond_atoms[bonds].tolist() == expected["bond_atoms"]
        assert columns.bond_codes[bonds].tolist() == expected["bond_codes"]
        assert columns.label_index[atoms].tolist() == expected["label_index"]
        assert columns.num_hydrogens[k] == expected["num_hydrogens"][0]
    return columns.status.tolist()


def test_binary_molecules_are_read_as_the_twin_reads_them():
    binaries, orders = zip(*map(molecule, SMILES), strict=True)
    status = check(list(binaries), list(orders), [[] for _ in SMILES])
    unread = [s for s, status in zip(SMILES, status, strict=True) if status == structure.UNREAD]
    assert unread == ["[2H]C", "*C", SMILES[10]]


@given(st.sampled_from(SMILES), st.data())
def test_damaged_molecules_are_not_understood_or_read_as_the_twin_reads_them(smiles, data):
    binary, order = molecule(smiles)
    bits = st.integers(0, 8 * len(binary) - 1)
    # the first and the last few hundred bits are those of lengths, counts and tags
    near = st.integers(0, 500) | st.integers(8 * len(binary) - 500, 8 * len(binary) - 1)
    damaged = bytearray(binary)
    for bit in data.draw(st.lists(bits | near, min_size=1, max_size=4)):
        damaged[bit // 8 % len(damaged)] ^= 1 << bit % 8
    cut = data.draw(st.just(len(binary)) | st.integers(0, len(binary)))
    check([binary, bytes(damaged[:cut]), binary], [order] * 3, [[]] * 3)


@pytest.mark.parametrize("smiles", [SMILES[2], SMILES[4], "C[NH3+]"])
def test_every_bit_and_every_length_of_a_molecule_may_be_wrong(smiles):
    binary, order = molecule(smiles)
    cases = [binary[:n] for n in range(len(binary))] + [binary + b"\0"]
    for at in range(len(binary)):
        values = {0, 1, 2, 3, 127, 128, 255, *(binary[at] ^ 1 << bit for bit in range(8))}
        cases += [binary[:at] + bytes([value]) + binary[at + 1 :] for value in sorted(values)]
    status = check(cases, [order] * len(cases), [[]] * len(cases))
    assert status[: len(binary) + 1] == (len(binary) + 1) * [structure.UNREAD]
    assert structure.READ in status


@pytest.mark.parametrize("ring", ["00", "0100", "020001", "03000100", "03000102", "0300010203", "ff000102"])
def test_a_ring_that_is_none_is_not_understood(ring):
    binary, order = molecule("CC(C)C")
    assert binary.endswith(bytes.fromhex("420000000016"))
    case = binary[:-5] + bytes.fromhex("01000000" + ring + "16")
    assert check([case, binary], [order] * 2, [[]] * 2) == [structure.UNREAD, structure.READ]


def test_texts_are_read_as_the_twin_and_as_binary_molecules_are_read():
    texts, orders = zip(*map(written, SHORTHAND), strict=True)
    binaries = [molecule(smiles)[0] for smiles in SHORTHAND]
    maps: list[list[int]] = [[] for _ in SHORTHAND]
    assert set(check([*texts, *binaries], [*orders, *orders], maps + maps)) == {structure.READ}
    for found, expected in zip(decode(list(texts), list(orders), maps), decode(binaries, list(orders), maps), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("smiles", SHORTHAND)
def test_every_character_of_a_text_may_be_wrong_or_missing(smiles):
    text, order = written(smiles)
    number = order.count(",")
    cases = [text[:n] for n in range(len(text))]
    for at in range(len(text)):
        cases += [text[:at] + bytes([c]) + text[at + 1 :] for c in b"CcNnOoSsFIPlrB[]()=#-.%123H+/@\xef\x80"]
        cases += [text[:at] + text[at + 1 :], text[:at] + text[at : at + 1] + text[at:]]
    # as many atoms as there are: or the order does not fit, and nothing is looked at
    count = [len(re.findall(rb"\[.*?\]|Cl|Br|[A-Za-z]", case)) for case in cases]
    check(cases, [order if n == number else str(list(range(n))).replace(" ", "") for n in count], [[]] * len(cases))


pieces = st.sampled_from("C c N n O o S s F Cl Br I [nH] [N+] [n+] [O-] ( ) ( ) = # - . 1 1 2 2 3 c1ccccc1 C1CC1 C(=O)".split())


@given(st.lists(pieces, max_size=14).map("".join))
def test_any_text_is_not_understood_or_read_as_the_twin_reads_it(text):
    check_text(text)


MISREAD = (
    "C1.C1 C1C2.C1C2 N12.C1.C2 C1C1 C=1CC1 C=1CC#1 C=1CC=1 C(C C)C =C C= C..C .C C. C(.C)C C(=)C C11 S(=C)(=C)(=C)C N(=C)=C O=C=O"
)


@pytest.mark.parametrize("text", MISREAD.split())
def test_texts_that_are_easily_misread_are_read_as_the_twin_reads_them(text):
    check_text(text)


def check_text(text: str) -> None:
    n = len(re.findall(r"\[.*?\]|Cl|Br|[A-Za-z]", text))
    check([text.encode()], [str(list(range(n))).replace(" ", "")], [[]])


ORDERS = ["", *"[ ] [] [0] [0,] [0,1,] [1,0] [1,0,] [1,,0] [1,0,,] [1,0,]] [1,1,] [2,0] [-1,0]".split()]


@pytest.mark.parametrize(
    "order", [*ORDERS, "[1,0", "(1,0)", "[1 0]", "[99999999999999999999,0]", "[01,0]", "[1,0,2,]", "[0000000000,1]"]
)
def test_an_order_that_is_no_permutation_is_not_understood(order):
    binary, _ = molecule("[Fe]<-N")
    (status,) = check([binary], [order], [[]])
    assert (status == structure.READ) == (order in ("[0,1,]", "[1,0]", "[1,0,]", "[01,0]"))


@given(st.lists(st.integers(-1, 5), min_size=3, max_size=5) | st.permutations([0, 1, 2]) | st.permutations([1, 2, -1]))
@example([0, 1, 2])
@example([2, -1, 1])
@example([-1, -1, -1])
@example([0, 0, 1])
@example([0, -1, 1])
@example([0, 1, 3])
@example([2, 1, 7])
def test_labels_are_placed_as_the_twin_places_them(maps):
    binary, order = molecule("CO.N")
    check([binary], [order], [maps])


def test_atom_numbers_beyond_the_limit_are_not_read():
    binary, order = molecule("CCC")
    assert decode([binary], [order], [[]], max_atoms=3).status == structure.READ
    assert decode([binary], [order], [[]], max_atoms=2).status == structure.UNREAD
    assert decode([b"CCC"], [order], [[]], max_atoms=3).status == structure.READ
    assert decode([b"CCC"], [order], [[]], max_atoms=2).status == structure.UNREAD
    with pytest.raises(ValueError, match="16 bits"):
        decode([binary], [order], [[]], max_atoms=2**16 + 1)
    with pytest.raises(ValueError, match="1 molecules, 0 orders"):
        decode([binary], [], [[]])


def test_no_molecules_are_no_columns():
    columns = decode([], [], [])
    assert columns.atom_codes.shape == (0, 7)
    assert columns.bond_atoms.shape == (0, 2)
    assert structure.scan_smiles([]).plain == ""


PIECES = (
    "[ ] [C [CH3:0] [nH:12] [C@H] [Cl:1] [CL] [2H] [H:1] [He] [13C [13 C:1 :] :1] :1:2] :1234567890] :12345678901] :007] "
    "C l r B c n H = # ( ) / \\ . % 1 * ~ > @ é"
)
texts = st.text(max_size=12) | st.lists(st.sampled_from([*PIECES.split(), " ", "\n", "\0"]), max_size=8).map("".join)


@given(st.lists(texts, max_size=6))
@example(["[CH3:0][OH:1]", "", "[Cl:1]Br", "é", "[2H]C", "[C", "C[", "[", "[1", "[C:", "[C:1"])
def test_texts_are_scanned_as_the_twin_scans_them(batch):
    check_scan(batch)


def test_all_pairs_of_pieces_are_scanned_as_the_twin_scans_them():
    check_scan([first + second for first in PIECES.split() for second in ["", *PIECES.split()]])


def check_scan(batch: list[str]) -> None:
    scan = structure.scan_smiles(batch)
    for k, text in enumerate(batch):
        kind, plain, maps = twins.structure.scan_smiles(text)
        assert KINDS[int(scan.kinds[k])] == kind, text
        assert scan.plain[scan.plain_ptr[k] : scan.plain_ptr[k + 1]] == plain
        assert scan.maps[scan.map_ptr[k] : scan.map_ptr[k + 1]].tolist() == maps
        assert scan.has_maps[k] == (max(maps, default=-1) >= 0)


def test_no_kernel_reads_or_writes_beyond_its_arrays(tmp_path):
    """The same with checked indices: without compilation NumPy raises where compiled code would go on."""
    code = """
import random
from tests.kernels.test_structure import *
draw = random.Random(0)
assert not hasattr(structure._structure.decode_molecules, "py_func")
for smiles in [*SMILES[:9], SMILES[12]]:
    binary, order = molecule(smiles)
    cases = [binary[:n] for n in range(0, len(binary), 1 + len(binary) // 200)]
    for _ in range(150):
        damaged = bytearray(binary)
        for _ in range(draw.choice([1, 1, 2, 5])):
            at = draw.choice([draw.randrange(len(binary)), draw.randrange(20, 60) % len(binary)])
            damaged[at] = draw.choice([0, 1, 255, draw.randrange(256)])
        cases.append(bytes(damaged))
    # each alone: what lies beyond its end is no other molecule
    for case in cases:
        check([case], [draw.choice([*[order] * 99, *ORDERS])], [draw.choice([*[[]] * 9, [0], [1, -1], [9, 8, 7]])])
for smiles in SHORTHAND:
    text, order = written(smiles)
    cases = [text[:n] for n in range(len(text))]
    for _ in range(150):
        damaged = list(text)
        for _ in range(draw.choice([1, 1, 2, 5])):
            damaged[draw.randrange(len(text))] = draw.choice(b"CcNnOoSFI[]()=#-.12HB")
        cases.append(bytes(damaged))
    for case in cases:
        count = len(re.findall(rb"\\[.*?\\]|Cl|Br|[A-Za-z]", case))
        check([case], [str(list(range(count))).replace(" ", "")], [[]])
for text in (b"C" + 30 * b"(" + b"C", b"C)C", b"C" + 30 * b"1", b"=C", b"C1.C1", b"1C1C"):
    check([text], ["[0,1]"], [[]])
for maps in ([0, 1, 9], [9, 8, 7], [0, 0, 1], [-1, 9, 1]):
    check([b"CO.N"], ["[2,0,1]"], [maps])
for _ in range(2000):
    structure.scan_smiles(["".join(draw.choice(PIECES.split()) for _ in range(draw.randrange(6)))])
"""
    root = Path(__file__).parents[2]
    env = os.environ | {
        "NUMBA_DISABLE_JIT": "1",
        "PYTHONPATH": os.pathsep.join(map(str, [root, root / "tests"])),
        "PYTHONWARNINGS": "error::RuntimeWarning",
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
