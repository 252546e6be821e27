"""Compiled readers of untrusted bytes: SMILES texts before RDKit sees them, binary molecules or canonical SMILES after.

One decision: unlike the other compiled code these check every read themselves and say "not understood" where anything is unusual,
so that what they do not know goes to a slower reader and is never guessed. The price: they know little.
"""

import numpy as np

from molstream.kernels.compiled import inline, kernel, part

GENERAL, FULL, PLAIN = 0, 1, 2
"""What a SMILES text needs: a reader of anything; RDKit's whole parser; RDKit's parser without stereo and metals."""

UNREAD, READ, BAD_MAPS = 0, 1, 2
"""What became of a binary molecule: not understood; read; read, but its atom maps are no numbering of its atoms."""

NUM_FEATURES = 7
MAX_BYTE, MAX_NEIGHBOURS = 100, 20
"""Counts beyond these may be the low byte of something larger."""


@inline
def is_digit(c):
    return 48 <= c <= 57


@inline
def is_lower(c):
    return 97 <= c <= 122


@kernel("const u1[:], i8[:], u1[:], i8[:], i8[:], i8[:], b1[:], u1[:]")
def scan_smiles(data, ptr, plain, plain_ptr, maps, map_ptr, has_maps, kinds):
    """Copies texts without their atom maps to `plain`, a map number (-1: none) for each atom to `maps`; `kinds` says the rest.

    `plain` and `maps` have room for `data.size` entries. A text of kind GENERAL leaves nothing behind.
    """
    w = 0
    k = 0
    plain_ptr[0] = 0
    map_ptr[0] = 0
    for row in range(kinds.size):
        p = ptr[row]
        end = ptr[row + 1]
        kind = PLAIN if end > p else GENERAL
        mapped = False
        while p < end and kind != GENERAL:
            c = data[p]
            if c == 91:  # [
                plain[w] = c
                w += 1
                p += 1
                while p < end and is_digit(data[p]):
                    plain[w] = data[p]
                    w += 1
                    p += 1
                first = data[p] if p < end else 0
                second = data[p + 1] if p + 1 < end else 0
                if first == 72 and not is_lower(second):
                    # an explicit hydrogen: which of them are stored is RDKit's business
                    kind = GENERAL
                    break
                two = (first == 67 and second == 108) or (first == 66 and second == 114)  # Cl Br
                # C F I N O P S c n o p s
                one = first in (67, 70, 73, 78, 79, 80, 83, 99, 110, 111, 112, 115)
                if not (two or (one and not is_lower(second))):
                    kind = FULL
                number = -1
                closed = False
                while p < end:
                    c = data[p]
                    if c == 93:  # ]
                        plain[w] = c
                        w += 1
                        p += 1
                        closed = True
                        break
                    if c == 58:  # :
                        p += 1
                        digits = 0
                        number = 0
                        while p < end and digits < 10 and is_digit(data[p]):
                            number = number * 10 + (np.int64(data[p]) - 48)
                            digits += 1
                            p += 1
                        if digits in (0, 10) or p >= end or data[p] != 93:
                            break
                        continue
                    if c <= 32 or c >= 127 or c == 91:
                        break
                    if c == 64:  # @
                        kind = FULL
                    plain[w] = c
                    w += 1
                    p += 1
                if not closed:
                    kind = GENERAL
                    break
                maps[k] = number
                k += 1
                mapped = mapped or number >= 0
            else:
                # B C F I N O P S b c n o p s *
                if c in (66, 67, 70, 73, 78, 79, 80, 83, 98, 99, 110, 111, 112, 115, 42):
                    maps[k] = -1
                    k += 1
                    second = data[p + 1] if p + 1 < end else 0
                    if (c == 67 and second == 108) or (c == 66 and second == 114):
                        plain[w] = c
                        w += 1
                        p += 1
                        c = second
                    elif c in (66, 98, 42):
                        kind = FULL
                # $ / < > \ ~
                elif c in (36, 47, 60, 62, 92, 126):
                    kind = FULL
                # # % ( ) - . : =
                elif not (is_digit(c) or c in (35, 37, 40, 41, 45, 46, 58, 61)):
                    kind = GENERAL
                    break
                plain[w] = c
                w += 1
                p += 1
        if kind == GENERAL:
            w = plain_ptr[row]
            k = map_ptr[row]
        plain_ptr[row + 1] = w
        map_ptr[row + 1] = k
        has_maps[row] = mapped and kind != GENERAL
        kinds[row] = kind


@inline
def read_int32(data, p):
    value = np.int64(data[p]) | np.int64(data[p + 1]) << 8 | np.int64(data[p + 2]) << 16 | np.int64(data[p + 3]) << 24
    return value - (np.int64(1) << 32) if value >= np.int64(1) << 31 else value


HEADER = 29
"""Bytes before the tag of the atoms: magic, tag, version (3), atoms, bonds: seven int32, and a byte of flags."""


@kernel("const u1[:], i8[:], i8, i8[:], i8[:]")
def measure_molecules(data, ptr, max_atoms, num_atoms, num_bonds):
    """Atoms and bonds of each molecule, 0 and 0 where its beginning is neither that of a binary one nor of a text."""
    for m in range(num_atoms.size):
        p = ptr[m]
        size = ptr[m + 1] - p
        num_atoms[m] = 0
        num_bonds[m] = 0
        if size > 0 and data[p] < 128:
            atoms, bonds = measure_shorthand(data, p, ptr[m + 1])
            if atoms <= max_atoms:
                num_atoms[m] = atoms
                num_bonds[m] = bonds
            continue
        if size < HEADER:
            continue
        if data[p] != 0xEF or data[p + 1] != 0xBE or data[p + 2] != 0xAD or data[p + 3] != 0xDE or data[p + 28] != 0x80:
            continue
        if read_int32(data, p + 4) != 0 or read_int32(data, p + 8) != 16:
            continue
        atoms = read_int32(data, p + 20)
        bonds = read_int32(data, p + 24)
        # an atom takes six bytes at least, a bond three
        if 0 < atoms <= max_atoms and bonds >= 0 and 6 * atoms + 3 * bonds <= size:
            num_atoms[m] = atoms
            num_bonds[m] = bonds


@part
def read_order(data, p, end, n, order, rank):
    """Text [a,b,...,] -> a permutation of 0..n-1 and its inverse; False if it is none."""
    for i in range(n):
        rank[i] = -1
    if p >= end or data[p] != 91:
        return False
    p += 1
    for i in range(n):
        value = 0
        digits = 0
        while p < end and digits < 9 and is_digit(data[p]):
            value = value * 10 + (np.int64(data[p]) - 48)
            digits += 1
            p += 1
        if digits == 0 or value >= n or rank[value] >= 0:
            return False
        order[i] = value
        rank[value] = i
        if p < end and data[p] == 44:
            p += 1
        elif i < n - 1:
            return False
    return p + 1 == end and data[p] == 93


@part
def sort_bonds(bonds, num_bonds, rank, n, start, via, bond_atoms, bond_codes):
    """`bonds` (atom, atom, code) by (larger, smaller) stored atom: two passes of counting, the last key first."""
    for i in range(n + 1):
        start[i] = 0
    for b in range(num_bonds):
        start[min(rank[bonds[b, 0]], rank[bonds[b, 1]]) + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    for b in range(num_bonds):
        small = min(rank[bonds[b, 0]], rank[bonds[b, 1]])
        via[start[small]] = b
        start[small] += 1
    for i in range(n + 1):
        start[i] = 0
    for b in range(num_bonds):
        start[max(rank[bonds[b, 0]], rank[bonds[b, 1]]) + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    for k in range(num_bonds):
        b = via[k]
        u = rank[bonds[b, 0]]
        v = rank[bonds[b, 1]]
        large = max(u, v)
        at = start[large]
        start[large] += 1
        bond_atoms[at, 0] = min(u, v)
        bond_atoms[at, 1] = large
        bond_codes[at] = bonds[b, 2]


NO_ATOM, ORGANIC, N_H, N_PLUS, O_MINUS = 0, 1, 2, 3, 4
"""How an atom is written: not known; C, c, ...; [nH]; [N+] or [n+]; [O-]."""


@inline
def read_atom(data, p, end):
    """(how it is written, atomic number, aromatic, length)."""
    c = data[p]
    second = data[p + 1] if p + 1 < end else 0
    if c == 91 and p + 3 < end and data[p + 3] == 93:
        third = data[p + 2]
        if second == 110 and third == 72:
            return N_H, 7, 1, 4
        if second in (78, 110) and third == 43:
            return N_PLUS, 7, 1 if second == 110 else 0, 4
        if second == 79 and third == 45:
            return O_MINUS, 8, 0, 4
    if c == 67 and second == 108:
        return ORGANIC, 17, 0, 2
    if c == 66 and second == 114:
        return ORGANIC, 35, 0, 2
    if c in (67, 99):
        return ORGANIC, 6, 1 if c == 99 else 0, 1
    if c in (78, 110):
        return ORGANIC, 7, 1 if c == 110 else 0, 1
    if c in (79, 111):
        return ORGANIC, 8, 1 if c == 111 else 0, 1
    if c in (83, 115):
        return ORGANIC, 16, 1 if c == 115 else 0, 1
    if c == 70:
        return ORGANIC, 9, 0, 1
    if c == 73:
        return ORGANIC, 53, 0, 1
    return NO_ATOM, 0, 0, 1


@inline
def find_valence(written, element, aromatic, num_aromatic, order):
    """Total valence of an atom with `num_aromatic` aromatic bonds and others of total `order`; 0 for not known."""
    if not aromatic:
        if num_aromatic:
            return 0
        if written == N_PLUS:
            return 4 if order == 4 else 0
        if written == O_MINUS:
            return 1 if order == 1 else 0
        # written without brackets: the least normal valence that is enough, the rest is hydrogen
        if element == 6:
            return 4 if order <= 4 else 0
        if element == 7:
            return 3 if order <= 3 else 0
        if element == 8:
            return 2 if order <= 2 else 0
        if element == 16:
            return 0 if order > 6 else (6 if order > 4 else (4 if order > 2 else 2))
        return 1 if order <= 1 else 0
    three = (num_aromatic == 3 and order == 0) or (num_aromatic == 2 and order == 1)
    two = num_aromatic == 2 and order == 0
    if element == 6:
        return 4 if two or three or (num_aromatic == 2 and order == 2) else 0
    if written == N_PLUS:
        return 4 if three else 0
    if written == N_H:
        return 3 if two else 0
    if element == 7:
        return 3 if two or three else 0
    return 2 if two else 0


@part
def measure_shorthand(data, p, end):
    """Atoms and bonds of a SMILES of few kinds of atoms and ring numbers below 10; 0 and 0 for any other."""
    atoms = 0
    ends = 0
    dots = 0
    while p < end:
        c = data[p]
        if is_digit(c):
            ends += 1
            p += 1
        # ( ) - = #
        elif c in (40, 41, 45, 61, 35):
            p += 1
        elif c == 46:
            dots += 1
            p += 1
        else:
            written, _, _, length = read_atom(data, p, end)
            if written == NO_ATOM:
                return 0, 0
            atoms += 1
            p += length
    bonds = atoms - 1 - dots + ends // 2
    if atoms == 0 or ends % 2 or bonds < 0:
        return 0, 0
    return atoms, bonds


@part
def decode_shorthand(
    data, p, end, n, num_bonds, rank, limits, codes, bond_atoms, bond_codes, start, neighbour, via, bonds, parent
):
    """Like `decode_molecule`, from the canonical SMILES, which says all there is to know where no atom needs an unusual bracket.

    The bonds between neighbours in the text are a tree; a ring bond makes a ring of the way between its ends through the tree.
    """
    max_degree, max_charge, _, max_valence, num_stereo = limits
    opened = np.full(10, -1, np.int64)
    opened_as = np.zeros(10, np.int64)
    depth = 0
    last = -1
    symbol = 0
    k = 0
    b = 0
    while p < end:
        c = data[p]
        first = -1
        second = -1
        closes = False
        if c == 40:  # (
            if last < 0 or symbol or depth >= n:
                return -1
            neighbour[depth] = last
            depth += 1
            p += 1
        elif c == 41:  # )
            if depth == 0 or symbol:
                return -1
            depth -= 1
            last = neighbour[depth]
            p += 1
        elif c == 46:  # .
            if last < 0 or symbol or depth:
                return -1
            last = -1
            p += 1
        elif c in (45, 61, 35):  # - = #
            if last < 0 or symbol:
                return -1
            symbol = 1 if c == 45 else (2 if c == 61 else 3)
            p += 1
        elif is_digit(c):
            d = np.int64(c) - 48
            p += 1
            if last < 0:
                return -1
            if opened[d] < 0:
                opened[d] = last
                opened_as[d] = symbol
                symbol = 0
            else:
                if symbol and opened_as[d] and symbol != opened_as[d]:
                    return -1
                first = opened[d]
                second = last
                symbol = max(symbol, opened_as[d])
                closes = True
                opened[d] = -1
        else:
            written, element, aromatic, length = read_atom(data, p, end)
            p += length
            if written == NO_ATOM or k >= n:
                return -1
            codes[k, 0] = element
            codes[k, 3] = written
            codes[k, 5] = aromatic
            codes[k, 6] = 0
            parent[k] = last
            rank[k] = k
            first = last
            second = k
            last = k
            k += 1
        if first >= 0:
            if b >= num_bonds or first == second:
                return -1
            kind = symbol - 1
            if symbol == 0:
                kind = 3 if codes[first, 5] and codes[second, 5] else 0
            bonds[b, 0] = first
            bonds[b, 1] = second
            bonds[b, 2] = kind * num_stereo * 2
            symbol = 0
            if closes:
                bonds[b, 2] |= 1
                while first != second:
                    # the ways to the first atom meet before the later one of the two, or never
                    later = max(first, second)
                    if parent[later] < 0:
                        return -1
                    codes[later, 6] = 1
                    bonds[via[later], 2] |= 1
                    first, second = min(first, second), parent[later]
                codes[first, 6] = 1
            else:
                via[second] = b
            b += 1
    if k != n or b != num_bonds or symbol or depth:
        return -1
    for d in range(10):
        if opened[d] >= 0:
            return -1
    # of each atom: neighbours, aromatic bonds, order of the others
    for i in range(3 * n):
        neighbour[i] = 0
    for b in range(num_bonds):
        kind = bonds[b, 2] // (2 * num_stereo)
        for side in range(2):
            u = 3 * bonds[b, side]
            neighbour[u] += 1
            if kind == 3:
                neighbour[u + 1] += 1
            else:
                neighbour[u + 2] += kind + 1
    num_hydrogens = 0
    for i in range(n):
        written = codes[i, 3]
        num_aromatic = neighbour[3 * i + 1]
        order = neighbour[3 * i + 2]
        valence = find_valence(written, codes[i, 0], codes[i, 5], num_aromatic, order)
        if valence == 0:
            return -1
        if not codes[i, 5]:
            num_hydrogens += valence - order
        elif written == N_H or (codes[i, 0] == 6 and num_aromatic + order == 2):
            num_hydrogens += 1
        charge = 1 if written == N_PLUS else (-1 if written == O_MINUS else 0)
        codes[i, 1] = min(neighbour[3 * i], max_degree + 1)
        codes[i, 2] = charge + max_charge
        codes[i, 3] = 0
        codes[i, 4] = min(valence, max_valence + 1)
    sort_bonds(bonds, num_bonds, rank, n, start, via, bond_atoms, bond_codes)
    return num_hydrogens


@part
def decode_molecule(
    data, p, end, n, num_bonds, order, rank, limits, codes, bond_atoms, bond_codes, start, neighbour, via, bonds, keys
):
    """One molecule into its rows of the columns, in stored order; its number of hydrogens, or -1 for not understood."""
    max_degree, max_charge, max_radicals, max_valence, num_stereo = limits
    wide = 4 if n > 255 else 1
    p += HEADER
    if p >= end or data[p] != 1:
        return -1
    p += 1
    num_hydrogens = 0
    for i in range(n):
        if p + 6 > end:
            return -1
        element = data[p]
        flags = data[p + 1]
        fields = read_int32(data, p + 2)
        p += 6
        # aromatic and no implicit hydrogens are known; queries, maps, labels, residues and positions are not
        if element < 2 or element > 118 or flags & 0x9F or fields & 1 or fields >> 9:
            return -1
        charge = 0
        explicit_hs = 0
        explicit = 0
        implicit = 0
        radicals = 0
        for bit in range(1, 8):
            if fields >> bit & 1:
                if p >= end:
                    return -1
                value = np.int64(data[p])
                p += 1
                if bit == 1:
                    charge = value - 256 if value > 127 else value
                elif bit == 4:
                    explicit_hs = value
                elif bit == 5:
                    explicit = value
                elif bit == 6:
                    implicit = value
                elif bit == 7:
                    radicals = value
        if fields >> 8 & 1:
            # an isotope; whoever reads next looks where it is
            p += 4
        if max(explicit_hs, explicit, implicit, radicals) > MAX_BYTE:
            return -1
        num_hydrogens += explicit_hs
        if not flags & 0x20:
            num_hydrogens += implicit
        k = rank[i]
        valence = explicit + implicit
        codes[k, 0] = element
        codes[k, 2] = charge + max_charge if -max_charge <= charge <= max_charge else 2 * max_charge + 1
        codes[k, 3] = min(radicals, max_radicals + 1)
        codes[k, 4] = min(valence, max_valence + 1)
        codes[k, 5] = flags >> 6 & 1
        codes[k, 6] = 0
    if p >= end or data[p] != 11:
        return -1
    p += 1
    for i in range(n + 1):
        start[i] = 0
    for b in range(num_bonds):
        if p + 2 * wide + 1 > end:
            return -1
        if wide == 1:
            u = np.int64(data[p])
            v = np.int64(data[p + 1])
        else:
            u = read_int32(data, p)
            v = read_int32(data, p + 4)
        p += 2 * wide
        flags = data[p]
        p += 1
        # a query or end points of a file
        if u < 0 or v < 0 or u >= n or v >= n or u == v or flags & 0x91:
            return -1
        kind = 1
        stereo = 0
        if flags & 8:
            if p >= end:
                return -1
            kind = np.int64(data[p])
            p += 1
        if flags & 4:
            p += 1
        if flags & 2:
            if p + 2 > end:
                return -1
            stereo = np.int64(data[p])
            p += 2 + wide * np.int64(data[p + 1])
        kind = kind - 1 if 1 <= kind <= 3 else (3 if kind == 12 else 4)
        stereo = min(stereo, num_stereo - 1)
        bonds[b, 0] = u
        bonds[b, 1] = v
        bonds[b, 2] = (kind * num_stereo + stereo) * 2
        start[u + 1] += 1
        start[v + 1] += 1
    for i in range(n):
        if start[i + 1] > MAX_NEIGHBOURS:
            return -1
        codes[rank[i], 1] = min(start[i + 1], max_degree + 1)
        keys[i] = start[i]
        start[i + 1] += start[i]
    for b in range(num_bonds):
        for side in range(2):
            u = bonds[b, side]
            neighbour[keys[u]] = bonds[b, 1 - side]
            via[keys[u]] = b
            keys[u] += 1
    # rings: the list of the ring finder that RDKit's own answers come from
    if p + 5 > end or data[p] != 66:
        return -1
    num_rings = read_int32(data, p + 1)
    p += 5
    if num_rings < 0:
        return -1
    for _ in range(num_rings):
        if p + wide > end:
            return -1
        size = np.int64(data[p]) if wide == 1 else read_int32(data, p)
        p += wide
        if size < 3 or size > n or p + wide * size > end:
            return -1
        last = np.int64(data[p + size - 1]) if wide == 1 else read_int32(data, p + 4 * (size - 1))
        for _ in range(size):
            u = np.int64(data[p]) if wide == 1 else read_int32(data, p)
            p += wide
            if u < 0 or u >= n:
                return -1
            found = False
            for e in range(start[u], start[u + 1]):
                if neighbour[e] == last:
                    bonds[via[e], 2] |= 1
                    found = True
            if not found:
                return -1
            codes[rank[u], 6] = 1
            last = u
    if p + 1 != end or data[p] != 22:
        return -1
    sort_bonds(bonds, num_bonds, rank, n, start, via, bond_atoms, bond_codes)
    return num_hydrogens


@part
def place_labels(maps, has_maps, n, order, used, label_index):
    """Entry of an atom list for each stored atom of a molecule without hydrogens; False if the maps do not say."""
    if not has_maps:
        for k in range(n):
            label_index[k] = order[k]
        return True
    unmapped = -1
    num_unmapped = 0
    for i in range(n):
        used[i] = 0
        if maps[i] < 0:
            unmapped = i
            num_unmapped += 1
    # a file that went through RDKit lost its `:0`; if another atom has it, 0 is used twice
    lost = unmapped if num_unmapped == 1 else -1
    for k in range(n):
        i = order[k]
        entry = 0 if i == lost else maps[i]
        if entry < 0 or entry >= n or used[entry]:
            for j in range(n):
                label_index[j] = -1
            return False
        used[entry] = 1
        label_index[k] = entry
    return True


@kernel()
def decode_molecules(
    data,
    ptr,
    orders,
    order_ptr,
    maps,
    map_first,
    map_size,
    has_maps,
    atom_ptr,
    bond_ptr,
    limits,
    codes,
    bond_atoms,
    bond_codes,
    label_index,
    num_hydrogens,
    status,
):
    """All molecules of a batch, binary ones or texts; the columns of one that is UNREAD hold nothing of use."""
    max_atoms = 0
    max_bonds = 0
    for m in range(status.size):
        max_atoms = max(max_atoms, atom_ptr[m + 1] - atom_ptr[m])
        max_bonds = max(max_bonds, bond_ptr[m + 1] - bond_ptr[m])
    order = np.empty(max_atoms, np.int64)
    rank = np.empty(max_atoms, np.int64)
    start = np.empty(max_atoms + 1, np.int64)
    keys = np.empty(max_atoms + 1, np.int64)
    neighbour = np.empty(max(2 * max_bonds, 3 * max_atoms), np.int64)
    via = np.empty(max(2 * max_bonds, max_atoms), np.int64)
    bonds = np.empty((max_bonds, 3), np.int64)
    for m in range(status.size):
        status[m] = UNREAD
        num_hydrogens[m] = 0
        a = atom_ptr[m]
        c = bond_ptr[m]
        n = atom_ptr[m + 1] - a
        num_bonds = bond_ptr[m + 1] - c
        if n == 0 or (has_maps[m] and map_size[m] != n):
            continue
        if not read_order(orders, order_ptr[m], order_ptr[m + 1], n, order, rank):
            continue
        atoms = codes[a : a + n]
        pairs = bond_atoms[c : c + num_bonds]
        kinds = bond_codes[c : c + num_bonds]
        p = ptr[m]
        end = ptr[m + 1]
        if data[p] < 128:
            # in a text atoms have the numbers they are stored with
            found = decode_shorthand(
                data, p, end, n, num_bonds, rank, limits, atoms, pairs, kinds, start, neighbour, via, bonds, keys
            )
        else:
            found = decode_molecule(
                data, p, end, n, num_bonds, order, rank, limits, atoms, pairs, kinds, start, neighbour, via, bonds, keys
            )
        if found < 0:
            continue
        num_hydrogens[m] = found
        mine = maps[map_first[m] : map_first[m] + map_size[m]]
        known = place_labels(mine, has_maps[m], n, order, keys, label_index[a : a + n])
        status[m] = READ if known else BAD_MAPS
