"""What RDKit wrote, character by character."""

import re
import struct

BRACKET = r"\[(?!\d*H(?![a-z]))[!-9;-Z\\^-~]*(?::\d{1,9})?\]"
TOKEN = re.compile(BRACKET + r"|Cl|Br|[BCFINOPSbcnops*]|[$/<>\\~#%()\-.:=0-9]", re.ASCII)
PLAIN_TOKEN = re.compile(r"\[\d*(?:Cl|Br|[CFINOPScnops](?![a-z]))[^@]*\]|Cl|Br|[CFINOPScnops]|[#%()\-.:=0-9]", re.ASCII)


def scan_smiles(text: str) -> tuple[str, str, list[int]]:
    """(kind, text without atom maps, map of each atom or -1). Brackets may hold anything but an explicit hydrogen."""
    tokens = TOKEN.findall(text)
    if not text or "".join(tokens) != text:
        return "general", "", []
    maps = []
    for token in tokens:
        found = re.search(r":(\d+)\]", token)
        if found:
            maps.append(int(found[1]))
        elif token[0] in "[BCFINOPSbcnops*":
            maps.append(-1)
    plain = all(PLAIN_TOKEN.fullmatch(token) for token in tokens)
    return "plain" if plain else "full", "".join(re.sub(r":\d+\]", "]", token) for token in tokens), maps


class _Reader:
    def __init__(self, data: bytes):
        self.data = data

    def take(self, kind: str) -> int:
        """The next number; raises ValueError at the end."""
        size = struct.calcsize("<" + kind)
        if len(self.data) < size:
            raise ValueError("too short")
        (value,) = struct.unpack("<" + kind, self.data[:size])
        self.data = self.data[size:]
        return value


def _expect(truth: bool) -> None:
    if not truth:
        raise ValueError("not understood")


def decode_molecule(
    form: bytes, order_text: str, maps: list[int], *, limits: tuple[int, int, int, int, int], max_atoms: int
) -> dict[str, list] | None:
    """One of RDKit's binary molecules, field by field, or a canonical SMILES; None for anything unexpected.

    `maps` is empty if there are none.
    """
    try:
        _expect(re.fullmatch(r"\[(\d{1,9},)*\d{1,9},?\]", order_text, re.ASCII) is not None)
        order = [int(k) for k in re.findall(r"\d+", order_text)]
        if form[:1] < b"\x80":
            atoms, bonds, hydrogens = _read_shorthand(form.decode("latin-1"), max_atoms)
            _expect(sorted(order) == list(range(len(atoms))))
            # in the text atom k stands at place k
            place = list(range(len(atoms)))
        else:
            atoms, bonds, hydrogens = _read_binary(_Reader(form), limits[4], max_atoms)
            _expect(sorted(order) == list(range(len(atoms))))
            place = [order.index(i) for i in range(len(atoms))]
        _expect(not maps or len(maps) == len(atoms))
    except ValueError:
        return None
    return _columns(atoms, bonds, hydrogens, place, order, maps, limits)


Atoms = list[list[int]]
"""[element, degree, charge, radicals, valence, aromatic, ring] of each."""
Bonds = list[tuple[tuple[int, int], list[int]]]
"""((atom, atom), [type, stereo, ring]) of each."""


def _read_binary(r: _Reader, num_stereo: int, max_atoms: int) -> tuple[Atoms, Bonds, int]:
    size = len(r.data)
    _expect([r.take("I"), r.take("i"), r.take("i")] == [0xDEADBEEF, 0, 16])
    r.take("i"), r.take("i")  # minor version, patch
    n, m = r.take("i"), r.take("i")
    _expect(0 < n <= max_atoms and m >= 0 and 6 * n + 3 * m <= size)
    number = "i" if n > 255 else "B"
    _expect(r.take("B") == 0x80)

    atoms: Atoms = []
    hydrogens = 0
    _expect(r.take("B") == 1)
    for _ in range(n):
        element, flags, fields = r.take("B"), r.take("B"), r.take("i")
        _expect(2 <= element <= 118 and flags in (0, 0x20, 0x40, 0x60) and 0 <= fields < 512 and fields % 2 == 0)
        present = [bit for bit in range(1, 9) if fields >> bit & 1]
        values = {bit: r.take("b" if bit == 1 else "I" if bit == 8 else "B") for bit in present}
        charge, explicit_hs, explicit, implicit, radicals = (values.get(bit, 0) for bit in (1, 4, 5, 6, 7))
        _expect(max(explicit_hs, explicit, implicit, radicals) <= 100)
        hydrogens += explicit_hs + (0 if flags & 0x20 else implicit)
        atoms.append([element, 0, charge, radicals, explicit + implicit, flags // 0x40, 0])

    pairs: Bonds = []
    _expect(r.take("B") == 11)
    for _ in range(m):
        u, v, flags = r.take(number), r.take(number), r.take("B")
        _expect(0 <= u < n and 0 <= v < n and u != v and flags & 0x91 == 0)
        kind = r.take("B") if flags & 8 else 1
        if flags & 4:
            r.take("B")
        stereo = r.take("B") if flags & 2 else 0
        for _ in range(r.take("B") if flags & 2 else 0):
            r.take(number)
        pairs.append(((u, v), [{1: 0, 2: 1, 3: 2, 12: 3}.get(kind, 4), min(stereo, num_stereo - 1), 0]))
        atoms[u][1] += 1
        atoms[v][1] += 1
    _expect(all(atom[1] <= 20 for atom in atoms))

    _expect(r.take("B") == 66)
    num_rings = r.take("i")
    _expect(num_rings >= 0)
    for _ in range(num_rings):
        length = r.take(number)
        _expect(3 <= length <= n)
        ring = [r.take(number) for _ in range(length)]
        _expect(all(0 <= u < n for u in ring))
        for u, v in zip(ring, ring[1:] + ring[:1]):
            across = [code for pair, code in pairs if set(pair) == {u, v}]
            _expect(bool(across))
            atoms[u][6] = 1
            for code in across:
                code[2] = 1
    _expect(r.take("B") == 22 and not r.data)
    return atoms, pairs, hydrogens


SHORTHAND = re.compile(r"\[nH\]|\[[Nn]\+\]|\[O-\]|Cl|Br|[CNOSFIcnos]|[-=#().0-9]", re.ASCII)
ELEMENTS = {"C": 6, "N": 7, "O": 8, "F": 9, "S": 16, "Cl": 17, "Br": 35, "I": 53}
NORMAL_VALENCES = {"C": [4], "N": [3], "O": [2], "F": [1], "S": [2, 4, 6], "Cl": [1], "Br": [1], "I": [1]}
KNOWN_VALENCES = {
    # (atom, aromatic bonds, order of the others): (valence, hydrogens)
    ("[N+]", 0, 4): (4, 0),
    ("[O-]", 0, 1): (1, 0),
    ("c", 2, 0): (4, 1),
    ("c", 2, 1): (4, 0),
    ("c", 2, 2): (4, 0),
    ("c", 3, 0): (4, 0),
    ("n", 2, 0): (3, 0),
    ("n", 2, 1): (3, 0),
    ("n", 3, 0): (3, 0),
    ("[nH]", 2, 0): (3, 1),
    ("[n+]", 2, 1): (4, 0),
    ("[n+]", 3, 0): (4, 0),
    ("o", 2, 0): (2, 0),
    ("s", 2, 0): (2, 0),
}


def _read_shorthand(text: str, max_atoms: int) -> tuple[Atoms, Bonds, int]:
    tokens = SHORTHAND.findall(text)
    _expect("".join(tokens) == text)
    names: list[str] = []
    found: list[tuple[int, int, str]] = []
    branches: list[int] = []
    rings: dict[str, tuple[int, str]] = {}
    parts: list[int] = []
    last, symbol, part = -1, "", 0
    for token in tokens:
        if token == "(":
            _expect(last >= 0 and not symbol)
            branches.append(last)
        elif token == ")":
            _expect(bool(branches) and not symbol)
            last = branches.pop()
        elif token == ".":
            _expect(last >= 0 and not symbol and not branches)
            last, part = -1, part + 1
        elif token in "-=#":
            _expect(last >= 0 and not symbol)
            symbol = token
        elif token.isdigit():
            _expect(last >= 0)
            if token in rings:
                other, earlier = rings.pop(token)
                _expect(other != last and (not symbol or not earlier or symbol == earlier))
                # a number may not join two fragments
                _expect(parts[other] == parts[last])
                found.append((other, last, symbol or earlier))
            else:
                rings[token] = last, symbol
            symbol = ""
        else:
            if last >= 0:
                found.append((last, len(names), symbol))
            last, symbol = len(names), ""
            names.append(token)
            parts.append(part)
    _expect(last >= 0 and len(names) <= max_atoms and not symbol and not branches and not rings)

    def connected(u: int, v: int, without: int) -> bool:
        seen = {u}
        for _ in names:
            for k, (a, b, _) in enumerate(found):
                if k != without and (a in seen or b in seen):
                    seen |= {a, b}
        return v in seen

    lower = [name.strip("[]H+-").islower() for name in names]
    atoms, bonds, hydrogens = [], [], 0
    for k, (u, v, symbol) in enumerate(found):
        kind = 3 if not symbol and lower[u] and lower[v] else {"": 0, "-": 0, "=": 1, "#": 2}[symbol]
        bonds.append(((u, v), [kind, 0, int(connected(u, v, without=k))]))
    for i, name in enumerate(names):
        mine = [code for pair, code in bonds if i in pair]
        aromatic = sum(kind == 3 for kind, _, _ in mine)
        order = sum(kind + 1 for kind, _, _ in mine if kind != 3)
        if name in NORMAL_VALENCES:
            enough = [v for v in NORMAL_VALENCES[name] if v >= order]
            _expect(bool(enough) and not aromatic)
            valence, more = enough[0], enough[0] - order
        else:
            _expect((name, aromatic, order) in KNOWN_VALENCES)
            valence, more = KNOWN_VALENCES[name, aromatic, order]
        hydrogens += more
        element = ELEMENTS[name.strip("[]H+-").title()]
        charge = {"+": 1, "-": -1}.get(name.strip("[]")[-1], 0)
        atoms.append([element, len(mine), charge, 0, valence, int(lower[i]), int(any(ring for _, _, ring in mine))])
    return atoms, bonds, hydrogens


def _columns(
    atoms: Atoms, bonds: Bonds, hydrogens: int, place: list[int], order: list[int], maps: list[int], limits: tuple[int, ...]
) -> dict[str, list]:
    """Stored order, codes, and the entry of an atom list for each atom."""
    max_degree, max_charge, max_radicals, max_valence, num_stereo = limits
    n = len(atoms)
    codes = n * [[0]]
    for i, (element, degree, charge, radicals, valence, aromatic, ring) in enumerate(atoms):
        codes[place[i]] = [
            element,
            min(degree, max_degree + 1),
            charge + max_charge if abs(charge) <= max_charge else 2 * max_charge + 1,
            min(radicals, max_radicals + 1),
            min(valence, max_valence + 1),
            aromatic,
            ring,
        ]
    table = []
    for (u, v), (kind, stereo, in_ring) in bonds:
        small, large = sorted((place[u], place[v]))
        table.append((large, small, (kind * num_stereo + stereo) * 2 + in_ring))
    table.sort(key=lambda bond: bond[:2])
    index: list[int] | None = order
    if maps:
        if maps.count(-1) == 1 and 0 not in maps:
            maps = [0 if number < 0 else number for number in maps]
        index = [maps[i] for i in order] if sorted(maps) == list(range(n)) else None
    return {
        "atom_codes": codes,
        "bond_atoms": [[small, large] for large, small, _ in table],
        "bond_codes": [code for _, _, code in table],
        "label_index": index if index is not None else n * [-1],
        "known": [index is not None],
        "num_hydrogens": [hydrogens],
    }
