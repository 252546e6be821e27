"""Molecules into packs and packs into batches: planning, packing, collation."""
