"""Tasks: what is labelled, and as what."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["graph", "atom", "bond", "pair"]
Kind = Literal["regression", "binary", "ordinal", "multiclass"]
LEVELS: tuple[Level, ...] = ("graph", "atom", "bond", "pair")
"""What carries labels: the molecule, its atoms, its bonds, its pairs of atoms. Label columns are numbered in this order."""
KINDS: tuple[Kind, ...] = ("regression", "binary", "ordinal", "multiclass")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One label column."""

    name: str
    """The column's name in the input."""
    level: Level
    """What carries the label: the molecule (graph), or each of its atoms, bonds, or pairs of atoms."""
    kind: Kind
    """What the label is: a number, 0 or 1, one of ordered classes, one of classes."""
    unit: str
    """Physical unit, '1' for a pure number, 'e' for elementary charges."""
    source: str
    """The data set it comes from; the table's name in a set joined from several."""
    num_classes: int = 0
    """Labels of a class task are 0 to num_classes - 1; 2 for a binary one, 0 for regression."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSet:
    """Tasks of one source, level and kind: they share a head and a loss normaliser."""

    name: str
    """Short name, as in the literature: g62, n7."""
    level: Level
    kind: Kind
    source: str
    tasks: tuple[str, ...]
    """Names, in the order of the label columns."""
    num_classes: int = 0
