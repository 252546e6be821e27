"""Hundreds of sparse tasks through the real build: what a stream with listed labels delivers, announces and remembers."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.datasets import TableSpec
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.errors import CursorError
from molstream.streamer.loader import Loader
from molstream.streamer.selection import Selection

NAMES = [*(f"assay_{k:03d}" for k in range(299)), "assay_pIC50[nM]"]


@pytest.fixture(scope="module")
def wide_set(tmp_path_factory) -> ShardSet:
    """200 alkanes and alcohols with 300 binary tasks, 5 % present."""
    folder = tmp_path_factory.mktemp("wide")
    smiles = ["C" * n + tail for n in range(1, 26) for tail in ("", "O", "N", "F", "Cl", "S", "OC=O", "C#N")]
    rng = np.random.default_rng(0)
    columns = {name: pa.array(rng.integers(0, 2, 200).astype(np.int8), mask=rng.random(200) > 0.05) for name in NAMES}
    pq.write_table(pa.table({"smiles": smiles} | columns), folder / "table.parquet")
    spec = TableSpec(dataset="table", smiles_column="smiles", graph_columns=("assay_*",), task_kinds=(("assay_*", "binary", 2),))
    build([str(folder / "table.parquet")], folder / "set", BuildOptions(tables=(spec,), block_molecules=16))
    return ShardSet(folder / "set")


def config_of(shard_set: ShardSet, *, list_labels: bool, window: int = 40) -> StreamConfig:
    budget = Budget.suggest(shard_set, atoms=128, list_labels=list_labels)
    return StreamConfig(budget=budget, num_lanes=2, window_molecules=window)


def labels_of(loader: Loader) -> dict[int, bytes]:
    """Label row of each molecule, by id."""
    rows = {}
    for step in loader:
        for batch in step.batches:
            dense = batch.dense_graph_labels().numpy()
            rows |= {int(i): dense[k].tobytes() for k, i in enumerate(batch.ids if batch.num_graphs else [])}
    return rows


def test_listed_labels_are_those_of_the_dense_form_molecule_by_molecule(wide_set):
    dense, listed = (Loader(wide_set, config_of(wide_set, list_labels=b), with_ids=True) for b in (False, True))
    rows = labels_of(dense)
    assert len(rows) == wide_set.manifest.splits["train"]["molecules"]
    assert labels_of(listed) == rows


def test_a_cursor_is_small_however_many_tasks_are_listed(wide_set):
    config = config_of(wide_set, list_labels=True)
    state = Loader(wide_set, config).state_dict()
    assert len(json.dumps(state)) < 1000
    with pytest.raises(CursorError, match=r"listed_tasks 300 \(hash [0-9a-f]{12}\) there, 100 \(hash [0-9a-f]{12}\) here"):
        Loader(wide_set, config, tasks=["assay_1*"]).load_state_dict(state)
    with pytest.raises(CursorError, match=r"listed_tasks 1 .* there, 1 .* here"):
        Loader(wide_set, config, tasks=["assay_001"]).load_state_dict(Loader(wide_set, config, tasks=["assay_002"]).state_dict())


def test_a_task_with_brackets_in_its_name_is_found_by_its_name(wide_set):
    assert Selection.resolve(wide_set, tasks=["assay_pIC50[nM]"]).names == ("assay_pIC50[nM]",)
    assert Selection.resolve(wide_set, tasks=["assay_pIC50[nM]", "assay_00[12]", "assay_003"]).names == (
        *("assay_001", "assay_002", "assay_003"),
        "assay_pIC50[nM]",
    )
