"""RDKit, and nothing else that needs it: SMILES to molecules, in a child under limits; identity; encodings."""
