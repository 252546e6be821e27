"""Seeded pseudo-randomness: hashes, permutations, shuffles."""
