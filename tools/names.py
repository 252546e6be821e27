"""Names of columns and tables inside options: 'a,"b, c"', and in a join 'zinc=SA,logp' of the table zinc alone."""

import re
from collections.abc import Sequence

_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,"][^,]*|))\s*(,|$)')
_ABOUT = re.compile(r"([A-Za-z]\w{0,31})=(.*)", re.ASCII | re.DOTALL)


def split_names(option: str, text: str) -> list[str]:
    """Names separated by commas, without spaces around them. A name with a comma is written in double quotes, as in CSV. Raises
    InputError."""
    from molstream.shards.errors import InputError

    names, at = [], 0
    while at < len(text):
        if not (found := _NAME.match(text, at)):
            raise InputError(
                f"{option} {text}: a double quote that is not closed, or text after it; expected names like 'a,\"b, c\"'"
            )
        quoted, plain, comma = found.groups()
        names.append(plain.strip() if quoted is None else quoted.replace('""', '"'))
        at = found.end()
        if not comma:
            break
    return [name for name in names if name]


def unquote(option: str, text: str) -> str:
    """One name, which may stand in double quotes, and is empty or not. Raises InputError."""
    return (split_names(option, text) or [""])[0] if text.lstrip().startswith('"') else text


def about_table(option: str, text: str, tables: Sequence[str]) -> tuple[str, str]:
    """(table, rest) of 'zinc=rest' in a join of `tables`, and ('', text) of what names no table. Raises InputError for a table
    that is not there; a name with = is written in double quotes."""
    from molstream.shards.errors import InputError

    if not tables or not (found := _ABOUT.fullmatch(text)):
        return "", text
    table, rest = found.groups()
    if tables.count(table) != 1:
        what = "no table" if table not in tables else "two tables"
        raise InputError(
            f"{option} {text}: {what} {table}, there are {', '.join(tables)}; a column whose name has = in it is written in "
            f"double quotes, like '\"a=b\"'"
        )
    return table, rest


def one_of_each(option: str, texts: list[str] | None, names: list[str]) -> dict[str, str]:
    """One column for each table that is named, and for all others (""). Raises InputError."""
    from molstream.shards.errors import InputError

    found: dict[str, str] = {}
    for text in texts or []:
        table, rest = about_table(option, text, names)
        if table in found:
            raise InputError(f"{option} {text}: the second{f' of table {table}' * bool(table)}, expected one column")
        found[table] = unquote(option, rest)
    return {table: column for table, column in found.items() if column}


def list_of_each(option: str, texts: list[str] | None, names: list[str]) -> dict[str, tuple[str, ...]]:
    """The same for options that take lists, and may be repeated."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts or []:
        table, rest = about_table(option, text, names)
        found[table] = found.get(table, ()) + tuple(split_names(option, rest))
    return {table: columns for table, columns in found.items() if columns}
