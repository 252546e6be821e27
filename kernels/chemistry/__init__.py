"""Molecular graphs: reading what RDKit wrote, hashes of skeletons and scaffolds, positional encodings."""
