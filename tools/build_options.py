"""The options of `molstream build`, grouped, and what they mean to the builder."""

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

JoinName = Enum("JoinName", {"smiles": "smiles", "inchi": "inchi"}, type=str)
QuotingName = Enum("QuotingName", {"csv": "csv", "none": "none"}, type=str)
EngineName = Enum("EngineName", {"local": "local", "ray": "ray"}, type=str)
LOCAL = EngineName("local")


@dataclass(frozen=True, kw_only=True, slots=True)
class TableArguments:
    """Which tables are read, which of their columns, and how tables are joined."""

    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="The data set, which decides the columns: pm6 (default), pcqm4m, pcba, l1000 (5 classes), l1000_3 (3 classes), "
            "l1000_5to3 (5 mapped to 3), qm9, tox21, zinc, or table: the columns that the options below name.",
        ),
    ] = None
    smiles_column: Annotated[
        str,
        typer.Option("--smiles-column", help="Column of SMILES. [default: the data set's; of a table, smiles or similar]"),
    ] = ""
    id_column: Annotated[
        str, typer.Option("--id-column", help="Column of your own identifiers, which cat, rejects and exports then show.")
    ] = ""
    graph_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--graph-columns",
            metavar="C,C",
            help="Columns that label molecules: names or patterns like 'y_*', separated by commas; may be repeated.",
        ),
    ] = None
    atom_columns: Annotated[
        list[str] | None,
        typer.Option("--atom-columns", metavar="C,C", help="Columns that label atoms: one list per molecule, or its JSON text."),
    ] = None
    bond_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--bond-columns",
            metavar="C,C",
            help="Columns that label bonds, in RDKit's reading order: one or two labels per bond.",
        ),
    ] = None
    pair_columns: Annotated[
        list[str] | None,
        typer.Option("--pair-columns", metavar="C,C", help="Columns that label pairs of atoms: n*n or n*(n-1)/2 for n atoms."),
    ] = None
    task_kind: Annotated[
        list[str] | None,
        typer.Option(
            "--task-kind",
            metavar="C=KIND",
            help="Kind of labels: C=binary, C=ordinal:N, C=multiclass:N or C=regression (default); C is a name or pattern.",
        ),
    ] = None
    quoting: Annotated[
        QuotingName | None,
        typer.Option(
            "--quoting",
            help="Double quotes in text tables: csv, they may enclose fields; none, they are part of the values. [default: csv "
            "for CSV; for TSV none, and a field that begins with one is an error]",
        ),
    ] = None
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            metavar="[NAME:]DATASET=FILES",
            help="A table to join with others, molecule by molecule, instead of INPUT. NAME goes before the names of its tasks. "
            "FILES is a pattern, or several names separated by commas.",
        ),
    ] = None
    join: Annotated[
        JoinName | None,
        typer.Option("--join", help="Which rows are one molecule. [default: smiles with --table, else each row is a molecule]"),
    ] = None

    @property
    def is_joined(self) -> bool:
        """Whether several tables are named with --table."""
        return bool(self.table)

    def parse_files(self, inputs: list[str] | None) -> dict[tuple[str, str], list[str]]:
        """Files of each table, by (name, data set). Raises InputError."""
        from molstream.shards.errors import InputError

        if bool(inputs) == self.is_joined:
            raise InputError("expected input files, or tables to join with --table, and not both")
        if self.dataset and self.is_joined:
            raise InputError(
                f"--dataset {self.dataset} beside --table, which names the data set of each table; expected one of them"
            )
        return _parse_tables(self.table) if self.table else {("", self.dataset or "pm6"): list(inputs or [])}

    def parse(self, tables: dict[tuple[str, str], list[str]]) -> dict[str, Any]:
        """Fields of BuildOptions for these tables. Raises InputError."""
        from molstream.shards.errors import InputError
        from molstream.shards.inputs.datasets import TableSpec, parse_task_kinds

        columns: dict[str, Any] = {
            "smiles_column": self.smiles_column,
            "id_column": self.id_column,
            "graph_columns": _split(self.graph_columns),
            "atom_columns": _split(self.atom_columns),
            "bond_columns": _split(self.bond_columns),
            "pair_columns": _split(self.pair_columns),
            "task_kinds": parse_task_kinds(self.task_kind or []),
        }
        # in a join, these options describe the tables that no preset describes
        own = [key for key in tables if not self.is_joined or key[1] == "table"]
        if not own and (given := next((name for name, value in columns.items() if value), None)):
            option = "--" + {"task_kinds": "task_kind"}.get(given, given).replace("_", "-")
            raise InputError(f"{option}: no table of the data set 'table' that it could be about")
        quoting: Any = self.quoting.value if self.quoting else ""
        specs = tuple(
            TableSpec(dataset=key[1], name=key[0], quoting=quoting, **(columns if key in own else {})) for key in tables
        )
        return {"tables": specs, "join": self.join.value if self.join else "smiles" if self.is_joined else ""}


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitArguments:
    """Which molecule is in which split."""

    splits: Annotated[
        str,
        typer.Option(
            "--splits",
            metavar="RULE|FILE",
            help="skeleton keeps isomers together; scaffold uses Murcko's; position shuffles rows as Python does; or a file that "
            "gives the split of each row (.pt, .npy, .npz, .csv, .parquet, .json).",
        ),
    ] = "skeleton"
    split_fractions: Annotated[
        str | None, typer.Option("--split-fractions", help="Shares of train,val,test. [default: 98,1,1]")
    ] = None
    split_seed: Annotated[
        int | None, typer.Option("--split-seed", min=0, max=2**63 - 1, help="Seed of the splits. [default: --seed]")
    ] = None

    @property
    def file(self) -> str | None:
        """The file of splits, if it is not a rule."""
        from molstream.shards.splits.rules import RULES

        return None if self.splits in RULES else self.splits

    def parse(self) -> dict[str, Any]:
        """Fields of BuildOptions. Raises InputError."""
        from molstream.shards.errors import InputError
        from molstream.shards.splits.rules import RULES, SplitFractions

        if self.file is not None and "." not in self.file:
            raise InputError(
                f"--splits {self.file}: expected {', '.join(RULES)}, or a file that says which row is in which split"
            )
        for option, value in (("--split-fractions", self.split_fractions), ("--split-seed", self.split_seed)):
            if self.file is not None and value is not None:
                raise InputError(f"{option} and a file of splits: expected one of them")
        return {
            "splits": self.splits if self.file is None else Path(self.file).name,
            "split_fractions": SplitFractions.parse(self.split_fractions or "98,1,1"),
            "split_seed": self.split_seed,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentArguments:
    """What is stored, in which order and in which portions."""

    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the order and the splits.")] = 0
    label_dtype: Annotated[
        list[str] | None,
        typer.Option(
            "--label-dtype",
            metavar="LEVEL=DTYPE",
            help="How labels are stored: graph=, atom=, bond= or pair=, with f32 or f16. [default: f16 for atoms, else f32]",
        ),
    ] = None
    pe: Annotated[str, typer.Option("--pe", help="Positional encodings to store: rw16, lap8 or rw16,lap8.")] = ""
    shard_molecules: Annotated[
        int, typer.Option("--shard-molecules", min=1, help="Approximate molecules per shard; a worker holds one shard in memory.")
    ] = 49_152
    block_molecules: Annotated[
        int,
        typer.Option(
            "--block-molecules",
            min=0,
            help="Approximate molecules per block, the unit of reading; 0: 4096, or fewer.",
        ),
    ] = 0

    def parse(self) -> dict[str, Any]:
        """Fields of BuildOptions. Raises InputError."""
        from molstream.shards.build.options import parse_label_dtypes

        return {
            "seed": self.seed,
            "shard_molecules": self.shard_molecules,
            "block_molecules": self.block_molecules,
            "pe": tuple(p for p in self.pe.split(",") if p),
            **parse_label_dtypes(self.label_dtype or []),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkArguments:
    """How the work is done, which changes no byte of the set."""

    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Processes that build; each starts one more for RDKit. [default: 1; on Ray no limit]"
        ),
    ] = None
    engine: Annotated[EngineName, typer.Option("--engine", help="Where workers run: on this machine or on Ray.")] = LOCAL
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", metavar="A", help="An existing Ray cluster; otherwise a local one starts."),
    ] = None
    max_reject_fraction: Annotated[
        float,
        typer.Option("--max-reject-fraction", min=0, max=1, help="Stop when a larger share of the rows than this is rejected."),
    ] = 0.1
    molecule_s: Annotated[
        float, typer.Option("--molecule-s", help="CPU seconds that RDKit may spend on one molecule before it is rejected.")
    ] = 10.0
    molecule_mib: Annotated[
        int,
        typer.Option("--molecule-mib", min=64, help="MiB that RDKit may take for one molecule before it is rejected."),
    ] = 1024

    def parse(self) -> dict[str, Any]:
        """Fields of WorkOptions."""
        return {
            "workers": self.workers or (1 if self.engine.value == "local" else 0),
            "engine": self.engine.value,
            "ray_address": self.ray_address,
            "max_reject_fraction": self.max_reject_fraction,
            "molecule_s": self.molecule_s,
            "molecule_bytes": self.molecule_mib << 20,
        }


def _split(patterns: list[str] | None) -> tuple[str, ...]:
    return tuple(part.strip() for text in patterns or [] for part in text.split(",") if part.strip())


def _parse_tables(texts: list[str]) -> dict[tuple[str, str], list[str]]:
    """'vcap:l1000=FILE,FILE', ... -> {(name, data set): files}."""
    from molstream.shards.errors import InputError

    tables: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        head, equals, files = text.partition("=")
        name, _, dataset = head.rpartition(":")
        if not equals or not dataset or not files:
            raise InputError(f"--table {text}: expected DATASET=FILES or NAME:DATASET=FILES, like --table vcap:l1000=vcap.csv.gz")
        if (name, dataset) in tables:
            raise InputError(
                f"--table {text}: the second {name or dataset}; give tables of one data set different names, like "
                f"vcap:{dataset}=FILE, or name all files of one table together, separated by commas or as a pattern"
            )
        tables[name, dataset] = [files] if os.path.exists(files) else [f for f in files.split(",") if f]
    return tables
