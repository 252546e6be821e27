"""molstream inspect: whole names, the numbers of the manifest, budgets that work."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from molstream.shards.format.manifest import Manifest
from molstream.shards.format.reader import ShardSet


def test_the_json_says_what_the_manifest_and_the_molecules_say(succeed, shard_set, molecules):
    facts, manifest = succeed("inspect", shard_set, "--json").json, ShardSet(shard_set).manifest
    assert facts["fingerprint"] == manifest.fingerprint
    assert facts["molecules"] == len(molecules) == 250
    assert facts["splits"] == manifest.splits
    assert {s["name"]: len(s["tasks"]) for s in facts["task_sets"]} == {"g62": 62, "n7": 7}
    assert sum(t["labels"] for s in facts["task_sets"] for t in s["tasks"]) == facts["labels"]
    # counted once more, from what `cat` prints
    graph, atom = (facts["task_sets"][k]["tasks"] for k in (0, 1))
    for task in graph:
        assert task["labels"] == sum(task["name"] in m["graph"] for m in molecules.values())
        assert task["covered_fraction"] == task["labels"] / 250
    for task in atom:
        assert task["labels"] == sum(v is not None for m in molecules.values() for v in m["atom"].get(task["name"], []))
    assert any(0 < t["covered_fraction"] < 1 for t in graph), "the sample has absent labels"


def test_the_json_is_one_line_and_the_last(succeed, shard_set):
    plain, with_json = succeed("inspect", shard_set).out, succeed("inspect", shard_set, "--json").out
    assert with_json.startswith(plain)
    assert with_json.removeprefix(plain).count("\n") == 1
    assert isinstance(json.loads(with_json.removeprefix(plain)), dict)


def test_every_task_is_printed_with_its_whole_name(succeed, shard_set):
    words = succeed("inspect", shard_set).out.split()
    for task in ShardSet(shard_set).manifest.tasks:
        assert task.name in words


def test_names_are_whole_on_a_narrow_terminal_too(succeed, shard_set, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    assert "…" not in succeed("inspect", shard_set).out


def test_a_suggested_budget_can_be_given_to_stream(succeed, shard_set):
    budget = succeed("inspect", shard_set, "--json").json["suggested_budgets"]["1024"]
    assert succeed("stream", shard_set, "--budget", budget, "--json").json["molecules"] > 0


def test_rejected_rows_are_counted(succeed, copy_set):
    manifest = Manifest.read(copy_set / "manifest.json")
    (copy_set / "manifest.json").write_bytes(replace(manifest, rejects={"empty SMILES": 3}).encode())
    assert "Rejected rows: 3 (rejects.parquet)" in succeed("inspect", copy_set).out


def test_a_set_of_thousands_of_tasks_prints_some_and_has_all_in_json_and_html(succeed, tmp_path):
    names = [f"assayID-{k}" for k in range(150)]
    table = pa.table({"SMILES": ["C", "CC", "CCC"]} | {n: [1.0, None, 0.0 if k % 2 else None] for k, n in enumerate(names)})
    pq.write_table(table, tmp_path / "a.parquet")
    succeed("build", tmp_path / "a.parquet", "--dataset", "pcba", "--out", tmp_path / "set", "--split-fractions", "1,0,0")
    done = succeed("inspect", tmp_path / "set", "--json", "--html", tmp_path / "page.html")
    printed = "\n".join(done.lines[:-1])
    assert 10 < sum(name in printed.split() for name in names) < 50
    assert "covered 50.0% on average" in printed
    assert [t["name"] for t in done.json["task_sets"][0]["tasks"]] == names
    page = (tmp_path / "page.html").read_text()
    assert all(f">{name}<" in page for name in names)


def test_a_page_that_cannot_be_written_is_one_line(molstream, shard_set, tmp_path):
    done = molstream("inspect", shard_set, "--html", tmp_path / "absent" / "page.html")
    assert done.code == 1
    assert "page.html: cannot be written: No such file or directory" in done.error
