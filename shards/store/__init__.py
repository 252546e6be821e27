"""One place for files: ranged reads, whole writes, Parquet, sealed JSON, logs, locks. Nothing else opens a file to write."""
