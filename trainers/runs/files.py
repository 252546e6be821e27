"""Files and folders that are there whole or not at all, after a crash too."""

import json
import os
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside, sync, rename."""
    beside = path.with_name(f".{path.name}.part")
    write_synced(beside, data)
    beside.rename(path)


def replace_json(path: Path, value: dict) -> None:
    """The same with JSON."""
    replace_file(path, (json.dumps(value, indent=1) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
