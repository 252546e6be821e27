"""The column of SMILES of a preset, and what else may be said of it."""

import pytest

from molstream.shards.errors import InputError, SchemaError
from molstream.shards.inputs.datasets import DATASETS, SMILES_COLUMNS, TableSpec, resolve_dataset


def names_of(preset: str, smiles: list[str]) -> list[str]:
    """Columns of a table of a preset, with these columns of SMILES."""
    return [*smiles, *(rule.columns.replace("*", "7") for rule in DATASETS[preset].rules)]


@pytest.mark.parametrize("preset", [name for name in DATASETS if name not in ("table", "pm6", "pcqm4m")])
def test_a_preset_finds_its_column_of_smiles_by_every_usual_name_and_its_own_first(preset):
    own = DATASETS[preset].smiles_columns[0]
    for name in SMILES_COLUMNS:
        assert resolve_dataset(TableSpec(dataset=preset), "a.csv", names_of(preset, [name])).smiles_column == name
    every = names_of(preset, [name for name in SMILES_COLUMNS if name != own] + [own])
    assert resolve_dataset(TableSpec(dataset=preset), "a.csv", every).smiles_column == own
    chosen = TableSpec(dataset=preset, smiles_column="mol")
    assert resolve_dataset(chosen, "a.csv", names_of(preset, [own, "mol"])).smiles_column == "mol"


@pytest.mark.parametrize("preset", ["pm6", "pcqm4m"])
def test_where_lists_follow_the_atoms_of_one_column_no_other_is_taken_unasked(preset):
    names = names_of(preset, ["canonical_smiles"])
    match = r"are missing: ordered_smiles; .*name the column of SMILES with --smiles-column t=canonical_smiles$"
    with pytest.raises(SchemaError, match=match):
        resolve_dataset(TableSpec(dataset=preset, name="t"), "a.parquet", names)
    spec = TableSpec(dataset=preset, smiles_column="canonical_smiles")
    assert resolve_dataset(spec, "a.parquet", names).smiles_column == "canonical_smiles"


def test_who_names_just_the_columns_of_a_preset_contradicts_nothing():
    zinc = TableSpec(dataset="zinc", graph_columns=("logp", "SA", "score"))
    names = names_of("zinc", ["smiles"])
    assert resolve_dataset(zinc, "a.csv", names) == resolve_dataset(TableSpec(dataset="zinc"), "a.csv", names)
    with pytest.raises(InputError, match=r"--graph-columns belongs to --dataset table; .*: --table z:table=FILES$"):
        TableSpec(dataset="zinc", name="z", graph_columns=("logp",))
