"""Columns to bytes and back: byte planes, structure as tokens, sparse labels."""
