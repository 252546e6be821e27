"""Text cells of labels: the words for an absent one, and lists as JSON, Python, pandas, NumPy and DuckDB write them."""

import math
import re

from molstream.shards.errors import FormatError
from molstream.shards.store.documents import parse_json

MISSING_WORDS = ("", "NA", "N/A", "null", "NULL", "None", "<NA>")
"""Texts that mean an absent label; NaN is a label that is not a number, and is counted."""
_OF_NUMPY = re.compile(r"(?:np|numpy)\.\w+\((.*)\)")


def parse_list(text: str) -> list[float | None] | None:
    """A list of numbers, None where one is absent: JSON, or what pandas makes of a list ([0.5, None, nan], [np.float64(0.5)]) or
    of an array of floats ([0.5 nan 2. ]). None for any other text, also for an array that is cut short by dots."""
    try:
        found = parse_json(text, nan=True)
    except FormatError:
        return _parse_printed(text)
    if not isinstance(found, list) or not all(v is None or isinstance(v, (int, float)) for v in found):
        return None
    # a whole number may be larger than any float
    return [None if v is None else math.copysign(math.inf, v > 0 or -1) if abs(v) > 1e308 else float(v) for v in found]


def _parse_printed(text: str) -> list[float | None] | None:
    if text[:1] != "[" or text[-1] != "]":
        return None
    inside = text[1:-1].strip()
    items = inside.split(",") if "," in inside else inside.split()
    # NumPy prints a point in every float, so [1 2] is something else
    if "," not in inside and len(items) > 1 and any(item[-1].isdecimal() and "." not in item for item in items):
        return None
    try:
        return [_parse_item(item.strip()) for item in items]
    except ValueError:
        return None


def _parse_item(item: str) -> float | None:
    if found := _OF_NUMPY.fullmatch(item):
        item = found[1]
    if item in MISSING_WORDS[1:]:
        return None
    if item in ("True", "False"):
        return float(item == "True")
    # 1_000 is a number in Python only
    return float("" if "_" in item else item)
