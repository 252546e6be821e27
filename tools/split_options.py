"""The options of `molstream build` that say which molecule is in which split."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from molstream.tools.names import about_table, one_of_each

if TYPE_CHECKING:
    from molstream.shards.inputs.datasets import TableSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitArguments:
    """Which molecule is in which split."""

    splits: Annotated[
        list[str] | None,
        typer.Option(
            "--splits",
            metavar="RULE|FILE",
            help="skeleton (default) keeps isomers together; scaffold uses Murcko's; position shuffles rows as Python does; or a "
            "file that gives the split of each row (.pt, .npy, .npz, .csv, .parquet, .json). NAME=FILE or NAME=position for each "
            "table of a join is about its own rows; a molecule then goes to the most held-out split.",
        ),
    ] = None
    split_column: Annotated[
        list[str] | None,
        typer.Option("--split-column", metavar="[NAME=]C", help="Column of the table that names the split of each row."),
    ] = None
    rename_split: Annotated[
        list[str] | None,
        typer.Option(
            "--rename-split",
            metavar="OLD=NEW",
            help="Name in a file or column of splits, and in the set; may be repeated, and several may become one.",
        ),
    ] = None
    split_fractions: Annotated[
        str | None, typer.Option("--split-fractions", help="Shares of train,val,test. [default: 98,1,1]")
    ] = None
    split_seed: Annotated[
        int | None, typer.Option("--split-seed", min=0, max=2**63 - 1, help="Seed of the splits. [default: --seed]")
    ] = None

    def parse(self, tables: "tuple[TableSpec, ...]", *, is_joined: bool) -> tuple[dict[str, Any], str | list[str | None] | None]:
        """Fields of BuildOptions, and the file of splits or those of each table. Raises InputError."""
        from molstream.shards.errors import InputError
        from molstream.shards.splits.assignment import parse_renames
        from molstream.shards.splits.rules import BY_TABLE, RULES, SplitFractions

        names = [spec.name or spec.dataset for spec in tables] if is_joined else []
        rules = self._each_rule(names)
        columns = one_of_each("--split-column", self.split_column, names)
        fields: dict[str, Any] = {
            "splits": rules.get("", RULES[0]),
            "split_fractions": SplitFractions.parse(self.split_fractions or "98,1,1"),
            "split_seed": self.split_seed,
            "split_names": parse_renames(self.rename_split or []),
        }
        file: str | list[str | None] | None = None
        used = [*rules.values()] or [RULES[0]]
        if columns or rules.keys() - {""}:
            chosen = self._by_table(tables, names, rules, columns)
            fields |= {"splits": BY_TABLE, "tables": tuple(spec for spec, _ in chosen)}
            file = [file for _, file in chosen]
            used = [*rules.values()]
        elif used[0] not in RULES:
            file = used[0]
            fields["splits"] = Path(file).name
        for option, value in (("--split-fractions", self.split_fractions), ("--split-seed", self.split_seed)):
            if value is not None and not any(rule in RULES for rule in used):
                what = "a file of splits" if isinstance(file, str) else "splits that files or columns name"
                raise InputError(f"{option} and {what}: expected one of them")
        return fields, file

    def _each_rule(self, names: list[str]) -> dict[str, str]:
        """Rule or file of each table, by its name, or of all ("")."""
        from molstream.shards.errors import InputError
        from molstream.shards.splits.rules import RULES

        rules: dict[str, str] = {}
        for text in self.splits or []:
            # a file may have such a name
            table, value = ("", text) if os.path.exists(text) else about_table("--splits", text, names)
            if value not in RULES and "." not in value:
                raise InputError(f"--splits {text}: expected {', '.join(RULES)}, or a file that says which row is in which split")
            if table and value in RULES and value != "position":
                raise InputError(
                    f"--splits {text}: {value} is about molecules, whatever the table; expected --splits {value} alone"
                )
            if table in rules:
                raise InputError(f"--splits {text}: the second{f' of table {table}' * bool(table)}, expected one")
            rules[table] = value
        return rules

    def _by_table(
        self, tables: "tuple[TableSpec, ...]", names: list[str], rules: dict[str, str], columns: dict[str, str]
    ) -> "list[tuple[TableSpec, str | None]]":
        """Each table with what is said of its splits, and its file of splits if it has one."""
        from molstream.shards.errors import InputError

        if "" in rules:
            other = f"--splits {next(iter(rules.keys() - {''}))}=" if len(rules) > 1 else "--split-column"
            raise InputError(f"--splits {rules['']} and {other}: expected one of them, or the splits of each table")
        chosen = []
        for spec in tables:
            table = spec.name or spec.dataset
            rule = rules.get(table, "") if names else ""
            column = columns.get(table, "") or ("" if rule else columns.get("", ""))
            file = rule if rule not in ("", "position") else None
            chosen.append((replace(spec, splits=rule if file is None else Path(file).name, split_column=column), file))
        return chosen
