"""Whether a SMILES says where the hydrogens of a list over all atoms stand."""

import re

_IN_BRACKETS = re.compile(r"\[\d*(?:[A-Z][a-z]?|[a-z]{1,2}|\*)(?:@(?:TH|AL|SP|TB|OH)\d+|@*)H(?!0)|\[\d*H[+\-\]\d]")
_MAP = re.compile(r":\d+\]", re.ASCII)

UNKNOWN_ORDER = (
    "its SMILES has hydrogens in brackets and no atom maps, so the order of a list over all atoms is not known; "
    "give one value per heavy atom, or atom maps"
)


def is_order_unknown(smiles: str) -> bool:
    """Does the SMILES have hydrogens in brackets and no atom maps?

    Programs put such hydrogens right after their atom (QM9's own lists) or after all heavy atoms (RDKit's `AddHs`), and a list of
    the right length does not tell which. Hydrogens outside brackets come last in all.
    """
    return "H" in smiles and _IN_BRACKETS.search(smiles) is not None and _MAP.search(smiles) is None
