"""SMILES that broke something once, or were meant to: (text, what the reason of its rejection says; None: a molecule).

The molecule must come out whole whatever its labels; `MAP_ATTACKS` must be rejected as soon as a row has an atom list.
"""

MOLECULES = [
    ("", "empty SMILES"),
    ("   ", "empty SMILES"),
    ("\t\n", "empty SMILES"),
    ("restricted", "not a SMILES"),
    ("C(", "not a SMILES"),
    ("C1CC", "not a SMILES"),
    ("CC>>C", "not a SMILES"),
    ("[:0]", "not a SMILES"),
    ("[CH3:-1]", "not a SMILES"),
    ("C\0C", "not a SMILES"),
    ("\N{SNOWMAN}", "not ASCII"),
    ("CCO\N{LATIN SMALL LETTER E WITH ACUTE}", "not ASCII"),
    ("CCO\n2,CCN", "more than one line"),
    # a digit to Python's \d, not to anyone else
    ("[CH3:\N{ARABIC-INDIC DIGIT THREE}]", "not ASCII"),
    # taking one map away makes it valid, and the other one would be stored
    ("[C:1:2]", "two map numbers"),
    ("c1cccc1", "kekulize"),
    ("C(C)(C)(C)(C)C", "valence"),
    ("|$_AV:$|", "not a SMILES"),
    ("C", None),
    ("CC a name", None),
    ("CC |$A;B$|", None),
    ("*", None),
    ("[H]", None),
    ("[H][H]", None),
    ("[HH]", None),
    ("[H-].[Na+]", None),
    ("[2H]C([3H])O", None),
    # hydrogen under another name
    ("[#1]C([#1])O", None),
    ("[H]/N=C(/[H])C", None),
    ("[Og]", None),
    ("[C+9]", None),
    ("[C-9]", None),
    ("[Fe]<-N", None),
    ("C$C", None),
    ("S(F)(F)(F)(F)(F)F", None),
    ("F[P@TB3](Cl)(Br)(N)S", None),
    ("C%(100)CC%(100)", None),
    ("[235U]", None),
    # more than an int64, and more than Python reads as an int
    ("[CH3:" + "9" * 30 + "]C", None),
    ("[CH3:" + "9" * 5000 + "]C", None),
]

MAP_ATTACKS = [
    # from 1, doubled, with a gap, beyond the end, two atoms without
    "[CH3:1][OH:1]",
    "[CH3:0][OH:2]",
    "[CH3:0][OH:7]",
    "[CH3:2]CO",
    "[CH3:0]O",
    "[CH3:" + "9" * 30 + "][OH:0]",
    "[CH3:" + "9" * 5000 + "][OH:0]",
    # a hydrogen that is stored and claims a heavy atom's entry
    "[2H:0][CH2:0][OH:1]",
]

# PubChem CID 102128817, a phthalocyanine cage that kept RDKit busy until 2017 (its issue 1281)
CAGE = (
    "COC1=CC=C(C=C1)C2C3=C(C=CC4=CC=CC=C43)OC5=CC6=C(C=C5)C7=NC8=C9C=CC1=CC9=C(N8)N=C3C4=C5C=CC(=C4)OC4=C(C(C8=C(C=CC9=CC=CC=C98)"
    "OC8=CC9=C(C=C8)C8=NC9=NC9=C%10C=C(C=CC%10=C(N9)N=C9C%10=C(C=C(C=C%10)OC%10=C2C2=CC=CC=C2C=C%10)C(=N9)NC2=NC(=N8)C8=C2C=C(C=C8)"
    "OC2=C(C(C8=C(C=CC9=CC=CC=C98)OC8=CC9=C(C=C8)C(=NC5=N3)N=C9NC6=N7)C3=CC=C(C=C3)OC)C3=CC=CC=C3C=C2)OC2=C(C(C3=C(O1)C=CC1=CC=CC"
    "=C13)C1=CC=C(C=C1)OC)C1=CC=CC=C1C=C2)C1=CC=C(C=C1)OC)C1=CC=CC=C1C=C4"
)

ROWS = [
    # (text, whether it may be rejected; if not it must be a molecule)
    (CAGE, True),
    ("C" * 14_000, True),
    ("CC(=O)N" * 1_000, False),
    ("[" * 1_000_000, True),
    ("(" * 1_000_000, True),
    ("[CH2]" * 9_000, False),
    ("C%100CCCC%100", True),
    ("C%(100)CCCC%(100)", False),
    ("\N{GRINNING FACE}", True),
    ("C\N{GRINNING FACE}O", True),
    ("[Na+].[Cl-].CC(=O)[O-].[K+]", False),
    ("[U]", False),
    ("[13CH3][2H]", False),
    ("[H][H]", False),
    ("restricted", True),
]
