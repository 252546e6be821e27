"""The embedded sample: 2,000 real molecules with PM6 labels in PM6_83M's columns. README.md beside this file says where from."""

from pathlib import Path


def sample_path() -> Path:
    """The Parquet file."""
    return Path(__file__).with_name("pm6_sample.parquet")
