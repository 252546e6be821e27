"""Structure from tokens, token by token."""

from collections.abc import Sequence

import numpy as np

from molstream.kernels.codec.tokens import Tokens


def decode_tokens(coded: Tokens, num_atoms: Sequence[int], num_bonds: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read token by token. Raises ValueError where a molecule does not come out with its numbers of atoms and bonds."""
    tokens = iter(coded.tokens.tolist())
    codes, ends, kinds = [], [], []
    for n, m in zip(num_atoms, num_bonds, strict=True):
        own_codes, own_ends = [], []
        for _ in range(n + m):
            token = next(tokens)
            if token < len(coded.atom_rows):
                own_codes.append(coded.atom_rows[token])
            elif token < len(coded.atom_rows) + len(coded.bond_steps):
                last, kind = len(own_codes) - 1, token - len(coded.atom_rows)
                own_ends.append((last - int(coded.bond_steps[kind]), last))
                kinds.append(coded.bond_kinds[kind])
            else:
                raise ValueError("unknown token")
        if (len(own_codes), len(own_ends)) != (n, m) or not all(0 <= low < high for low, high in own_ends):
            raise ValueError("atoms and bonds")
        codes += own_codes
        ends += own_ends
    if next(tokens, None) is not None:
        raise ValueError("tokens left over")
    return (
        np.array(codes, np.uint8).reshape(-1, coded.atom_rows.shape[1]),
        np.array(ends, np.uint16).reshape(-1, 2),
        np.array(kinds, np.uint8),
    )
