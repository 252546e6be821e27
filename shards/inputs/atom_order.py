"""Which entry of a list over all atoms, hydrogens too, belongs to which heavy atom of a SMILES without atom maps.

Hydrogens that are not written come last in such lists: all programs agree on that. Where hydrogens are written, inside brackets
or as atoms of their own, some programs list them behind the heavy atoms and others where they stand, and a list does not say
which. So the call says it, as one of ATOM_ORDERS.
"""

import re

import numpy as np

from molstream.shards.molecules import offsets

ATOM_ORDERS = {
    "hydrogens-last": "lists run over all atoms, the hydrogens behind the heavy atoms",
    "interleaved": "lists run over all atoms, hydrogens that are written where they are written, the others last (QM9)",
    "heavy": "lists run over the heavy atoms",
}
_TOKEN = re.compile(r"\[[^\[\]]*\]|Cl|Br|[BCNOPSFIbcnops*]")
_BRACKET = re.compile(
    r"\[\d*(?P<element>[A-Z][a-z]?|[a-z][a-z]?|\*|#\d+)(?:@(?:@|TH[12]|AL[12]|SP[123]|TB\d{1,2}|OH\d{1,2})?)?(?:H(?P<count>\d*))?"
)
_HYDROGEN = {"H", "#1"}


def writes_hydrogens(text: str) -> bool:
    """Whether hydrogens are written in a SMILES, inside brackets or as atoms."""
    return ("H" in text or "#1" in text) and any(is_hydrogen or count for is_hydrogen, count in _atoms(text))


def has_maps(text: str) -> bool:
    """Whether atoms are numbered."""
    return re.search(r":\d+\]", text.split(maxsplit=1)[0] if text.strip() else "", re.ASCII) is not None


def interleaved_entries(text: str) -> np.ndarray:
    """Of each heavy atom in the order of the text, its entry in a list with hydrogens where they are written: int64."""
    atoms = _atoms(text)
    starts = offsets(np.array([1 + count for _, count in atoms], np.int64))[:-1]
    return starts[[not is_hydrogen for is_hydrogen, _ in atoms]]


def _atoms(text: str) -> list[tuple[bool, int]]:
    """Of each atom in the text: whether it is a hydrogen, and how many more are inside its brackets."""
    out = []
    for token in _TOKEN.findall(text.split(maxsplit=1)[0] if text.strip() else ""):
        found = _BRACKET.match(token)
        count = 0 if found is None or found["count"] is None else int(found["count"] or 1)
        out.append((found is not None and found["element"] in _HYDROGEN, count))
    return out
