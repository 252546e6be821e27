"""JSON values <-> dataclasses, by their types: what a file claims is held against what its reader expects, field by field.

Known types: bool, int, float, str, None, Any (any JSON), unions, Literal, lists, tuples, mappings with text for names,
dataclasses, and Annotated with `Between`. Numbers are finite; a field without a default that is missing is an error, as is one
too many.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from molstream.shards.errors import FormatError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Between:
    """Numbers from `least` to `most`, both among them."""

    least: float
    most: float = math.inf


Count = Annotated[int, Between(0, 2**63 - 1)]
"""How many there are of something."""
Whole = Annotated[int, Between(0)]
"""A whole number of any size."""


def to_json(value: Any) -> Any:
    """JSON types: dataclasses as mappings, tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], value: Any) -> T:
    """Inverse of `to_json` for a dataclass. Raises FormatError, naming the field."""
    return _parse(kind, value, "")


def _parse(kind: Any, value: Any, at: str) -> Any:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _parse_between(inside[0], inside[1], value, at)
    if kind is Any or kind is dict:
        return _check_json(value, at, dict if kind is dict else None)
    if kind in (bool, int, str, type(None)):
        # True is an int to Python
        return value if type(value) is kind else _fail(value, at, _NAMES[kind])
    if kind is float:
        return _parse_float(value, at)
    if origin is Literal:
        same = any(type(value) is type(choice) and value == choice for choice in inside)
        return value if same else _fail(value, at, f"one of {', '.join(map(str, inside))}")
    if origin in (Union, types.UnionType):
        return _parse_union(inside, value, at)
    if origin in (list, tuple):
        return _parse_list(origin, inside, value, at)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            _fail(value, at, "a mapping")
        return {name: _parse(inside[1], item, _below(at, name)) for name, item in value.items()}
    if is_dataclass(kind):
        return _parse_dataclass(kind, value, at)
    raise AssertionError(f"no JSON for fields of type {kind}")


_NAMES = {bool: "true or false", int: "a whole number", str: "text", type(None): "null"}


def _parse_between(kind: Any, limits: Between, value: Any, at: str) -> Any:
    number = _parse(kind, value, at)
    if not limits.least <= number <= limits.most:
        _fail(value, at, f"at least {limits.least}" + ("" if limits.most == math.inf else f" and at most {limits.most}"))
    return number


def _parse_float(value: Any, at: str) -> float:
    if type(value) in (int, float):
        try:
            if math.isfinite(number := float(value)):
                return number
        except OverflowError:
            pass
    _fail(value, at, "a finite number")


def _parse_union(kinds: tuple, value: Any, at: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    rest = [kind for kind in kinds if kind is not type(None)]
    for kind in rest[:-1]:
        try:
            return _parse(kind, value, at)
        except FormatError:
            continue
    return _parse(rest[-1], value, at)


def _parse_list(origin: Any, inside: tuple, value: Any, at: str) -> Any:
    if not isinstance(value, list):
        _fail(value, at, "a list")
    if origin is tuple and inside[-1] is not Ellipsis:
        if len(value) != len(inside):
            _fail(value, at, f"a list of {len(inside)}")
        return tuple(_parse(kind, item, f"{at}[{k}]") for k, (kind, item) in enumerate(zip(inside, value, strict=True)))
    return origin(_parse(inside[0], item, f"{at}[{k}]") for k, item in enumerate(value))


def _parse_dataclass(kind: Any, value: Any, at: str) -> Any:
    if not isinstance(value, dict):
        _fail(value, at, "a mapping")
    hints = _hints(kind)
    if missing := [f.name for f in fields(kind) if f.name not in value and f.default is f.default_factory is MISSING]:
        raise FormatError(f"field {_below(at, missing[0])} is missing")
    if surplus := [name for name in value if name not in hints]:
        raise FormatError(f"field {_below(at, surplus[0])} is one that no reader expects")
    found = {name: _parse(hints[name], item, _below(at, name)) for name, item in value.items()}
    try:
        return kind(**found)
    except ValueError as error:
        # what the class itself refuses
        raise FormatError(f"field {at}: {error}" if at else str(error)) from error


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in fields(kind)}


def _check_json(value: Any, at: str, kind: type | None) -> Any:
    """Numbers that are not finite are no JSON, though Python reads 1e999."""
    if kind is not None and not isinstance(value, kind):
        _fail(value, at, "a mapping")
    waiting = [(value, at)]
    while waiting:
        item, place = waiting.pop()
        if isinstance(item, float) and not math.isfinite(item):
            _fail(item, place, "a finite number")
        inner = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        waiting += [(below, _below(place, str(name))) for name, below in inner]
    return value


def _below(at: str, name: str) -> str:
    short = name if len(name) <= 40 else name[:37] + "..."
    return f"{at}.{short}" if at else short


def _fail(value: Any, at: str, expected: str) -> NoReturn:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # a number of more digits than Python prints
        text = type(value).__name__
    text = text if len(text) <= 60 else text[:57] + "..."
    raise FormatError(f"field {at or 'at the top'} is {text}, expected {expected}")
