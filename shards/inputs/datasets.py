"""Data sets: which columns of a table are labels, of which level and kind. Those of the paper (arXiv 2310.04292) have names; the
call describes any other table."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from molstream.shards.errors import InputError, SchemaError
from molstream.shards.inputs.atom_order import ATOM_ORDERS
from molstream.shards.tasks import KINDS, LEVELS, Kind, Level, Task, TaskSet

SMILES_COLUMNS = ("smiles", "ordered_smiles", "canonical_smiles", "SMILES", "Smiles")
"""Names under which a SMILES column is looked for."""


QUOTINGS = ("csv", "none")
Quoting = Literal["", "csv", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRule:
    """Columns that are tasks of one task set."""

    columns: str
    """A column's name, or a pattern: * any characters, ? one, [ab] one of these."""
    task_set: str
    level: Level = "graph"
    kind: Kind = "regression"
    num_classes: int = 0
    unit: str = "1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """The columns of one table that are read, and their meaning."""

    name: str
    """The preset."""
    smiles_column: str
    id_column: str
    """Column of the user's own identifiers; empty: none."""
    columns: tuple[str, ...]
    """Input column of each task."""
    tasks: tuple[Task, ...]
    """Tasks level by level, in the order of LEVELS."""
    task_sets: tuple[TaskSet, ...]
    merge_classes: bool = False
    """Classes 0 to 4 become clip(x - 1, 0, 2)."""
    atom_order: str = ""
    """What lists of atoms run over where no atom maps say it, one of `inputs.atom_order.ATOM_ORDERS`; empty: not known."""
    quoting: Quoting = ""
    """That of the table's TableSpec."""

    def num_tasks(self, level: Level) -> int:
        """Number of label columns of one level."""
        return sum(task.level == level for task in self.tasks)

    @property
    def wanted(self) -> list[str]:
        """Every column that is read."""
        return list(dict.fromkeys([self.smiles_column, *((self.id_column,) if self.id_column else ()), *self.columns]))


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSpec:
    """What the call says about a table, except its paths, since a shard set keeps this."""

    dataset: str = "pm6"
    """A preset, or 'table' for any other table."""
    name: str = ""
    """Name of a table that is joined; with a dot it goes before the names of its tasks and task sets."""
    smiles_column: str = ""
    """Empty: that of the preset, or the first of SMILES_COLUMNS that the table has."""
    id_column: str = ""
    graph_columns: tuple[str, ...] = ()
    atom_columns: tuple[str, ...] = ()
    bond_columns: tuple[str, ...] = ()
    pair_columns: tuple[str, ...] = ()
    """Columns or patterns that are labels, for the data set 'table'. A preset has its own, and nothing else may be said of it."""
    task_kinds: tuple[tuple[str, Kind, int], ...] = ()
    """(pattern, kind, number of classes). The first that matches a column counts; columns without a match are regression."""
    atom_order: str = ""
    """What lists of atoms run over, one of `inputs.atom_order.ATOM_ORDERS`; empty: not known."""
    split_column: str = ""
    """Column that names the split of each row."""
    splits: str = ""
    """Splits of this table alone: 'position', or the name of a file that gives the split of each of its rows."""
    quoting: Quoting = ""
    """Of text tables. 'csv': a field may stand in double quotes; 'none': they are characters like others. Empty: 'csv' for CSV;
    for TSV 'none', and a field that begins with a quote is an error."""

    def __post_init__(self) -> None:
        if self.quoting not in ("", *QUOTINGS):
            raise InputError(f"quoting {self.quoting!r}: expected one of {', '.join(QUOTINGS)}")
        if self.dataset not in DATASETS:
            raise InputError(f"dataset {self.dataset!r}: expected one of {', '.join(DATASETS)}")
        if self.atom_order and self.atom_order not in ATOM_ORDERS:
            raise InputError(f"atom order {self.atom_order!r}: expected one of {', '.join(ATOM_ORDERS)}")
        if self.dataset != "table":
            self._check_preset()
        if self.split_column and self.splits:
            raise InputError(f"splits {self.splits} and a column of splits, {self.split_column}: expected one of them")
        if self.name and not re.fullmatch(r"[A-Za-z]\w{0,31}", self.name, re.ASCII):
            raise InputError(f"table name {self.name!r}: expected a letter, then letters, digits and underscores, at most 32")

    def _check_preset(self) -> None:
        said = {f"--{level}-columns": self.rules(level) for level in LEVELS} | {"--task-kind": self.task_kinds}
        for level in LEVELS:
            # who names just the columns that the preset has contradicts nothing
            if {*self.rules(level)} == {rule.columns for rule in DATASETS[self.dataset].rules if rule.level == level}:
                del said[f"--{level}-columns"]
        if option := next((option for option, value in said.items() if value), None):
            raise InputError(
                f"{option} belongs to --dataset table; --dataset {self.dataset} says itself which columns are labels"
                + (f"; for others of them: --table {self.name or self.dataset}:table=FILES" if self.name else "")
            )

    def rules(self, level: Level) -> tuple[str, ...]:
        """Patterns of label columns of one level."""
        return getattr(self, f"{level}_columns")


# the paper's data sets

STATES = ("S0", "T0", "cation", "anion")
_PM6_STATE_UNITS = {
    "alpha_homo": "eV",
    "alpha_gap": "eV",
    "beta_homo": "eV",
    "beta_gap": "eV",
    "energy_total": "eV",
    "principal_length_a": "angstrom",
    "principal_length_b": "angstrom",
    "principal_length_c": "angstrom",
    "spherocity": "1",
    "plane_best_fit": "angstrom",
}
_PM6_DESCRIPTOR_UNITS = {"mw": "g/mol", "tpsa": "angstrom^2"}
_PM6_DESCRIPTORS = (
    "mw fsp3 n_lipinski_hba n_lipinski_hbd n_rings n_hetero_atoms n_heavy_atoms n_rotatable_bonds n_radical_electrons tpsa qed "
    "clogp sas n_aliphatic_carbocycles n_aliphatic_heterocyles n_aliphatic_rings n_aromatic_carbocycles n_aromatic_heterocyles "
    "n_aromatic_rings n_saturated_carbocycles n_saturated_heterocyles n_saturated_rings"
).split()
_PCQM4M_UNITS = {
    "alpha_homo": "eV",
    "alpha_gap": "eV",
    "beta_homo": "eV",
    "beta_gap": "eV",
    "energy_total": "eV",
    "principal_length_a": "angstrom",
    "principal_length_b": "angstrom",
    "principal_length_c": "angstrom",
    "inertia_mass_a": "1",
    "inertia_mass_b": "1",
    "inertia_mass_c": "1",
    "inertia_valence_a": "1",
    "inertia_valence_b": "1",
    "inertia_valence_c": "1",
    "inertia_charges_mulliken_a": "1",
    # sic
    "inertia_charges_mullkien_b": "1",
    "inertia_charges_mulliken_c": "1",
    "inertia_charges_lowdin_a": "1",
    "inertia_charges_lowdin_b": "1",
    "inertia_charges_lowdin_c": "1",
    "spherocity": "1",
    "plane_best_fit": "angstrom",
    "tddft_alpha_gap": "eV",
    "tddft_energy_beta_gap": "eV",
    "tddft_energy_total": "eV",
}
_PCQM4M_NODE = ("charges_mulliken", "charges_lowdin", "tddft_charges_mulliken", "tddft_charges_lowdin")
_QM9_UNITS = {
    "A": "GHz",
    "B": "GHz",
    "C": "GHz",
    "mu": "D",
    "alpha": "bohr^3",
    "homo": "hartree",
    "lumo": "hartree",
    "gap": "hartree",
    "r2": "bohr^2",
    "zpve": "hartree",
    "u0": "hartree",
    "u298": "hartree",
    "h298": "hartree",
    "g298": "hartree",
    "cv": "cal/(mol K)",
    "u0_atom": "kcal/mol",
    "u298_atom": "kcal/mol",
    "h298_atom": "kcal/mol",
    "g298_atom": "kcal/mol",
}
_TOX21 = ("NR-AR NR-AR-LBD NR-AhR NR-Aromatase NR-ER NR-ER-LBD NR-PPAR-gamma SR-ARE SR-ATAD5 SR-HSE SR-MMP SR-p53").split()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Preset:
    smiles_columns: tuple[str, ...] = SMILES_COLUMNS
    rules: tuple[TaskRule, ...] = ()
    merge_classes: bool = False


def _rules(columns: dict[str, str], **common) -> tuple[TaskRule, ...]:
    return tuple(TaskRule(columns=name, unit=unit, **common) for name, unit in columns.items())


def _l1000(num_classes: int, *, merge_classes: bool = False) -> _Preset:
    rule = TaskRule(columns="geneID-*", task_set="l1000", kind="ordinal", num_classes=num_classes)
    return _Preset(smiles_columns=("SMILES",), rules=(rule,), merge_classes=merge_classes)


DATASETS: dict[str, _Preset] = {
    "pm6": _Preset(
        smiles_columns=("ordered_smiles",),
        rules=(
            *_rules({f"graph_{s}_{name}": unit for s in STATES for name, unit in _PM6_STATE_UNITS.items()}, task_set="g62"),
            *_rules({f"graph_{name}": _PM6_DESCRIPTOR_UNITS.get(name, "1") for name in _PM6_DESCRIPTORS}, task_set="g62"),
            *_rules({f"node_{s}_charges_mulliken": "e" for s in STATES}, task_set="n7", level="atom"),
            *_rules({f"node_{s}_spin": "1" for s in STATES[1:]}, task_set="n7", level="atom"),
        ),
    ),
    "pcqm4m": _Preset(
        smiles_columns=("ordered_smiles",),
        rules=(
            *_rules({f"graph_{name}": unit for name, unit in _PCQM4M_UNITS.items()}, task_set="g25"),
            *_rules({f"node_{name}": "e" for name in _PCQM4M_NODE}, task_set="n4", level="atom"),
        ),
    ),
    "pcba": _Preset(
        smiles_columns=("SMILES",),
        rules=(TaskRule(columns="assayID-*", task_set="pcba", kind="binary", num_classes=2),),
    ),
    "l1000": _l1000(5),
    "l1000_3": _l1000(3),
    "l1000_5to3": _l1000(3, merge_classes=True),
    "qm9": _Preset(smiles_columns=("smiles",), rules=_rules(_QM9_UNITS, task_set="qm9")),
    "tox21": _Preset(
        smiles_columns=("smiles",),
        rules=_rules(dict.fromkeys(_TOX21, "1"), task_set="tox21", kind="binary", num_classes=2),
    ),
    "zinc": _Preset(smiles_columns=("SMILES",), rules=_rules({"SA": "1", "logp": "1", "score": "1"}, task_set="zinc")),
    "table": _Preset(),
}
"""Presets by their names for `--dataset`. l1000 has classes 0 to 4; l1000_3 is for the published files of classes 0 to 2, and
l1000_5to3 makes these classes of 0 to 4."""


def resolve_dataset(spec: TableSpec, where: str, names: Sequence[str]) -> Dataset:
    """Find which of a table's columns `names` are read, and their meaning. `where`: the file, for messages.

    Raises SchemaError when columns of a preset are missing, InputError when the call does not fit the table.
    """
    preset = DATASETS[spec.dataset]
    rules = preset.rules or _own_rules(spec, where, names)
    found: dict[str, TaskRule] = {}
    missing = []
    for rule in rules:
        matches = [rule.columns] if rule.columns in names else [n for n in names if fnmatchcase(n, rule.columns)]
        for name in matches:
            if name in found and found[name].level != rule.level:
                raise InputError(
                    f"{where}: column {name} is asked for as {found[name].level}-level and as {rule.level}-level labels; "
                    f"expected one level per column"
                )
            found.setdefault(name, rule)
        if not matches:
            missing.append(rule.columns)
    smiles = _smiles_column(spec, preset, names)
    if not smiles:
        missing.insert(0, spec.smiles_column or " or ".join(preset.smiles_columns))
    if missing:
        total = len(rules) + 1
        raise (SchemaError if preset.rules else InputError)(
            f"{where}: {len(missing)} of {total} columns of --dataset {spec.dataset} are missing: {list_names(missing)}; "
            f"found {len(names)}: {list_names(list(names))}{_advice(spec, smiles, missing, names)}"
        )
    for option, column in (("--id-column", spec.id_column), ("--split-column", spec.split_column)):
        if column and column not in names:
            raise InputError(f"{where}: no column {column} for {option}, found {len(names)}: {list_names(list(names))}")
    if twice := [name for name in (smiles, spec.id_column, spec.split_column, *found) if list(names).count(name) > 1]:
        raise SchemaError(f"{where}: columns that are there more than once: {list_names(twice)}")
    if both := [name for name in (smiles, spec.id_column, spec.split_column) if name in found]:
        raise InputError(f"{where}: column {both[0]} is asked for as labels too; expected one use per column")
    return replace(_dataset(spec, preset, smiles, found), quoting=spec.quoting)


def _smiles_column(spec: TableSpec, preset: _Preset, names: Sequence[str]) -> str:
    wanted = (spec.smiles_column,) if spec.smiles_column else preset.smiles_columns
    if not spec.smiles_column and all(rule.level == "graph" for rule in preset.rules):
        # the atoms of another column may be in another order, which matters to lists alone
        wanted += SMILES_COLUMNS
    return next((name for name in wanted if name in names), "")


def _advice(spec: TableSpec, smiles: str, missing: list[str], names: Sequence[str]) -> str:
    """What else the call may have meant."""
    if not smiles and not spec.smiles_column:
        table = f"{spec.name}=" if spec.name else ""
        usual = next((name for name in SMILES_COLUMNS if name in names), "COLUMN")
        why = "if that has the atoms in the order of the lists, " if usual != "COLUMN" else ""
        return f"; {why}name the column of SMILES with --smiles-column {table}{usual}"
    parts = (name for name in names if "," in name and any(part.strip() in missing for part in name.split(",")))
    if whole := next(parts, None):
        quoted = '"' + whole.replace('"', '""') + '"'
        return f"; a name with a comma is written in double quotes, like --graph-columns {shlex.quote(quoted)}"
    return ""


def _own_rules(spec: TableSpec, where: str, names: Sequence[str]) -> tuple[TaskRule, ...]:
    """One rule per column of the data set 'table'; a pattern that matches nothing stays a rule, so that it is reported."""
    rules, used = [], set()
    for level in LEVELS:
        for pattern in spec.rules(level):
            matches = [pattern] if pattern in names else [n for n in names if fnmatchcase(n, pattern)]
            for name in matches or [pattern]:
                kind: Kind = "regression"
                num_classes = 0
                for number, (kind_pattern, wanted, classes) in enumerate(spec.task_kinds):
                    if name == kind_pattern or fnmatchcase(name, kind_pattern):
                        kind, num_classes = wanted, classes
                        used.add(number)
                        break
                task_set = level if kind == "regression" else f"{level}_{kind}{num_classes if num_classes > 2 else ''}"
                rules.append(TaskRule(columns=name, task_set=task_set, level=level, kind=kind, num_classes=num_classes))
    unused = [k for k in range(len(spec.task_kinds)) if k not in used]
    if unused:
        labels = [rule.columns for rule in rules]
        raise InputError(
            f"{where}: --task-kind {spec.task_kinds[unused[0]][0]} fits no label column, or an earlier one fits them all; label "
            f"columns are {list_names(labels) or 'none'}"
        )
    return tuple(rules)


def _dataset(spec: TableSpec, preset: _Preset, smiles: str, found: dict[str, TaskRule]) -> Dataset:
    prefix = f"{spec.name}." if spec.name else ""
    source = spec.name or spec.dataset
    by_level = [(name, rule) for level in LEVELS for name, rule in found.items() if rule.level == level]
    tasks = tuple(
        Task(name=prefix + name, level=r.level, kind=r.kind, unit=r.unit, source=source, num_classes=r.num_classes)
        for name, r in by_level
    )
    sets: dict[str, list[tuple[str, TaskRule]]] = {}
    for name, rule in by_level:
        sets.setdefault(rule.task_set, []).append((prefix + name, rule))
    return Dataset(
        name=spec.dataset,
        smiles_column=smiles,
        id_column=spec.id_column,
        columns=tuple(name for name, _ in by_level),
        tasks=tasks,
        task_sets=tuple(
            TaskSet(
                name=prefix + name,
                level=members[0][1].level,
                kind=members[0][1].kind,
                source=source,
                tasks=tuple(task for task, _ in members),
                num_classes=members[0][1].num_classes,
            )
            for name, members in sets.items()
        ),
        merge_classes=preset.merge_classes,
        atom_order=spec.atom_order,
    )


def preset_dataset(name: str) -> Dataset:
    """The data set of a preset without wildcards, as for a table that has exactly its columns."""
    rules = DATASETS[name].rules
    return resolve_dataset(TableSpec(dataset=name), name, [DATASETS[name].smiles_columns[0], *(r.columns for r in rules)])


def merge_tasks(datasets: Sequence[Dataset]) -> tuple[tuple[Task, ...], tuple[TaskSet, ...]]:
    """Tasks and task sets of several joined tables, level by level. Raises InputError if names collide."""
    tasks = tuple(t for level in LEVELS for d in datasets for t in d.tasks if t.level == level)
    task_sets = tuple(s for d in datasets for s in d.task_sets)
    for what, names in (("task", [t.name for t in tasks]), ("task set", [s.name for s in task_sets])):
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise InputError(
                f"{what} names that several tables have: {list_names(twice)}; give the tables names that go before them, "
                f"like --table vcap:l1000=FILE"
            )
    return tasks, task_sets


def parse_task_kinds(texts: Sequence[str]) -> tuple[tuple[str, Kind, int], ...]:
    """'tox_*=binary', 'grade=ordinal:5', ... -> (pattern, kind, number of classes). Raises InputError."""
    out: list[tuple[str, Kind, int]] = []
    for text in texts:
        pattern, _, rest = text.rpartition("=")
        kind, _, number = rest.partition(":")
        classes = 2 if kind == "binary" and not number else int(number) if number.isdecimal() else 0
        counted = kind in ("ordinal", "multiclass")
        ok = (counted and 2 <= classes <= 256) or (kind == "binary" and classes == 2) or (kind == "regression" and not number)
        if not pattern or kind not in KINDS or not ok:
            raise InputError(
                f"task kind {text!r}: expected COLUMN=regression, COLUMN=binary, COLUMN=ordinal:N or COLUMN=multiclass:N with N "
                f"classes, 2 to 256; COLUMN may be a pattern like tox_*"
            )
        out.append((pattern, kind, classes))  # type: ignore[arg-type]
    return tuple(out)


def list_names(names: Sequence[str], limit: int = 6) -> str:
    """The first few names, and the number of the others."""
    return ", ".join(names[:limit]) + (f", ... ({len(names) - limit} more)" if len(names) > limit else "")
