"""Which rows of several tables are one molecule: rows whose identity texts (stored SMILES or fixed-hydrogen InChI) hash alike."""

import hashlib
from collections.abc import Iterable

import numpy as np


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """128 bits of each text: uint64 (N, 2). Among a billion molecules two share them by chance with a probability of 1e-21."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, "<u8").reshape(-1, 2).astype(np.uint64)
