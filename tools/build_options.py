"""The options of `molstream build`, grouped, and what they mean to the builder."""

import os
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import typer

from molstream.tools.names import about_table, list_of_each, one_of_each, unquote

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
        list[str] | None,
        typer.Option(
            "--smiles-column",
            metavar="[NAME=]C",
            help="Column of SMILES; with NAME=, here and below, of one table of a join. [default: the data set's, or smiles and "
            "similar names]",
        ),
    ] = None
    id_column: Annotated[
        list[str] | None,
        typer.Option(
            "--id-column", metavar="[NAME=]C", help="Column of your own identifiers, which cat, rejects and exports then show."
        ),
    ] = None
    graph_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--graph-columns",
            metavar="[NAME=]C,C",
            help="Columns that label molecules: names or patterns like 'y_*', separated by commas; may be repeated. A name with "
            "a comma or = in it is written in double quotes: '\"a,b\",c'.",
        ),
    ] = None
    atom_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--atom-columns", metavar="[NAME=]C,C", help="Columns that label atoms: one list per molecule, or its JSON text."
        ),
    ] = None
    bond_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--bond-columns",
            metavar="[NAME=]C,C",
            help="Columns that label bonds, in RDKit's reading order: one or two labels per bond.",
        ),
    ] = None
    pair_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--pair-columns", metavar="[NAME=]C,C", help="Columns that label pairs of atoms: n*n or n*(n-1)/2 for n atoms."
        ),
    ] = None
    atom_order: Annotated[
        list[str] | None,
        typer.Option(
            "--atom-order",
            metavar="[NAME=]ORDER",
            help="What lists of atoms run over, for SMILES without atom maps: hydrogens-last (all atoms, hydrogens behind the "
            "heavy ones), interleaved (all atoms, hydrogens where they are written, others last, as in QM9) or heavy. [default: "
            "by length; lists with hydrogens are refused where the SMILES writes hydrogens]",
        ),
    ] = None
    task_kind: Annotated[
        list[str] | None,
        typer.Option(
            "--task-kind",
            metavar="[NAME=]C=KIND",
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
        from molstream.shards.inputs.datasets import TableSpec

        names = [name or dataset for name, dataset in tables] if self.is_joined else []
        said: dict[str, dict[str, Any]] = {
            "smiles_column": one_of_each("--smiles-column", self.smiles_column, names),
            "id_column": one_of_each("--id-column", self.id_column, names),
            "atom_order": one_of_each("--atom-order", self.atom_order, names),
            **{
                f"{level}_columns": list_of_each(f"--{level}-columns", getattr(self, f"{level}_columns"), names)
                for level in ("graph", "atom", "bond", "pair")
            },
            "task_kinds": _kinds_each(self.task_kind, names),
        }
        # in a join, what names no table describes the tables that no preset describes
        own = [key for key in tables if not self.is_joined or key[1] == "table"]
        if not own and (given := next((name for name, value in said.items() if value.get("")), None)):
            option = "--" + {"task_kinds": "task_kind"}.get(given, given).replace("_", "-")
            raise InputError(
                f"{option}: no table of the data set 'table' that it could be about; for one of the others write {option} "
                f"{names[0]}=..."
            )
        quoting: Any = self.quoting.value if self.quoting else ""
        specs = []
        for key in tables:
            about = [""] * (key in own) + [key[0] or key[1]] * self.is_joined
            fields: dict[str, Any] = {name: each[table] for table in about for name, each in said.items() if table in each}
            specs.append(TableSpec(dataset=key[1], name=key[0], quoting=quoting, **fields))
        return {"tables": tuple(specs), "join": self.join.value if self.join else "smiles" if self.is_joined else ""}


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


def _kinds_each(texts: list[str] | None, names: list[str]) -> dict[str, Any]:
    """The same for kinds of tasks, where C=KIND is about no table and NAME=C=KIND is."""
    from molstream.shards.inputs.datasets import parse_task_kinds

    found: dict[str, list[str]] = {}
    for text in texts or []:
        table, rest = ("", text) if text.count("=") < 2 else about_table("--task-kind", text, names)
        pattern, equals, kind = rest.rpartition("=")
        found.setdefault(table, []).append(unquote("--task-kind", pattern) + equals + kind)
    return {table: parse_task_kinds(kinds) for table, kinds in found.items()}


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
