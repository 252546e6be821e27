"""Byte planes, byte by byte."""


def shuffle_bytes(data: bytes, item_size: int) -> bytes:
    """Byte 0 of every item, then byte 1 of every item, ..."""
    return b"".join(data[k::item_size] for k in range(item_size))


def unshuffle_bytes(data: bytes, item_size: int) -> bytes:
    """Byte i of every plane makes item i."""
    return b"".join(data[i :: len(data) // item_size] for i in range(len(data) // item_size))
