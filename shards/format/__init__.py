"""The shard set on disk: blocks, index, manifest; writing, reading, verifying, summing up."""
