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
    "[CH3:1][OH:2]",
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
