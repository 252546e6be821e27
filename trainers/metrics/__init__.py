"""Metrics that are merged, never concatenated."""
