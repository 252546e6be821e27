"""The shard set: file format, featurisation, input tables, building and reading. No torch; RDKit in `chemistry` only."""
