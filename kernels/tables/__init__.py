"""Columns of input tables: label lists laid onto atoms, bonds and pairs; moments; rows to splits."""
