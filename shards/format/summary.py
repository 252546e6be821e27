"""What there is to say about a shard set, from its manifest and index alone: nothing is read but these two."""

from molstream.shards.format.manifest import Statistics
from molstream.shards.format.reader import ShardSet
from molstream.shards.schema import SYMBOLS
from molstream.shards.tasks import Level, TaskSet


def summarize(shard_set: ShardSet) -> dict:
    """Counts, sizes, tasks, coverage, histograms, rejects, provenance, as JSON types.

    Coverage is the share of the molecules, atoms, bonds or pairs of atoms that carry a label; where bonds or pairs are labelled
    both ways, of their directions.
    """
    manifest, index = shard_set.manifest, shard_set.index
    counts = index.counts
    molecules, atoms, bonds = (int(counts[f"num_{what}"].sum()) for what in ("molecules", "atoms", "bonds"))
    sizes = {int(size): count for size, count in manifest.histograms["atoms"].items()}
    slots: dict[Level, tuple[int, int]] = {
        "graph": (molecules, molecules),
        "atom": (atoms, atoms),
        "bond": (bonds, 2 * bonds),
        "pair": (sum(n * (n - 1) // 2 * count for n, count in sizes.items()), sum(n * n * count for n, count in sizes.items())),
    }
    task_sets = [_describe_task_set(shard_set, task_set, slots) for task_set in manifest.task_sets]
    tables = [t["name"] or t["dataset"] for t in manifest.provenance["options"]["tables"]]
    largest, densest = int(counts["max_atoms"].argmax()), int(counts["max_bonds"].argmax())
    return {
        "path": str(shard_set.path.resolve()),
        "fingerprint": manifest.fingerprint,
        "rows": sum(i["rows"] for i in manifest.provenance["inputs"]),
        "molecules": molecules,
        "atoms": atoms,
        "bonds": bonds,
        "labels": sum(sum(by_split.values()) for by_split in manifest.labels.values()),
        "bytes": sum(int(index.members[f"{group}_bytes"].sum()) for group in manifest.column_groups),
        "splits": manifest.splits,
        "bytes_a_molecule": {g: float(index.members[f"{g}_bytes"].sum() / molecules) for g in manifest.column_groups},
        "sources": _describe_sources(task_sets),
        "task_sets": task_sets,
        "histograms": manifest.histograms
        | {"elements": {SYMBOLS[int(number)]: count for number, count in manifest.histograms["elements"].items()}},
        "molecule_sizes": {
            "mean": atoms / molecules,
            "max": int(counts["max_atoms"][largest]),
            "max_id": int(counts["max_atoms_id"][largest]),
            "mean_bonds": bonds / molecules,
            "max_bonds": int(counts["max_bonds"][densest]),
            "max_bonds_id": int(counts["max_bonds_id"][densest]),
        },
        "rejects": manifest.rejects,
        "dropped_labels": {task: {"infinite": d.infinite, "nan": d.nan} for task, d in manifest.dropped_labels.items()},
        "join": _describe_join(shard_set, molecules),
        "inputs": [i | {"table": tables[i["table"]]} for i in manifest.provenance["inputs"]],
        "options": manifest.provenance["options"],
        "split_rule": manifest.provenance["splits"]["rule"],
    }


def _describe_task_set(shard_set: ShardSet, task_set: TaskSet, slots: dict[Level, tuple[int, int]]) -> dict:
    manifest = shard_set.manifest
    units = {task.name: task.unit for task in manifest.tasks}
    tasks = []
    for name in task_set.tasks:
        labels = sum(manifest.labels[name].values())
        one_way, both_ways = slots[task_set.level]
        possible = one_way if labels <= one_way else both_ways
        tasks.append(
            {
                "name": name,
                "unit": units[name],
                "labels": labels,
                "labels_by_split": manifest.labels[name],
                "possible": possible,
                "covered_fraction": labels / possible if possible else 0.0,
            }
            | _describe_values(manifest.statistics[name])
        )
    return {
        "name": task_set.name,
        "level": task_set.level,
        "kind": task_set.kind,
        "source": task_set.source,
        "num_classes": task_set.num_classes,
        "tasks": tasks,
    }


def _describe_values(statistics: Statistics) -> dict:
    """Of the training split; None where it has no label."""
    if not statistics.count:
        return dict.fromkeys(("mean", "std", "min", "max"))
    return {name: getattr(statistics, name) for name in ("mean", "std", "min", "max")}


def _describe_sources(task_sets: list[dict]) -> list[dict]:
    out: dict[str, dict] = {}
    for task_set in task_sets:
        source = out.setdefault(task_set["source"], {"source": task_set["source"], "tasks": 0, "labels": 0, "possible": 0})
        source["tasks"] += len(task_set["tasks"])
        source["labels"] += sum(task["labels"] for task in task_set["tasks"])
        source["possible"] += sum(task["possible"] for task in task_set["tasks"])
    return [s | {"covered_fraction": s["labels"] / s["possible"] if s["possible"] else 0.0} for s in out.values()]


def _describe_join(shard_set: ShardSet, molecules: int) -> dict | None:
    join = shard_set.manifest.join
    if join is None:
        return None
    tables = [{"name": t.name, "rows": t.rows, "molecules": t.molecules, "duplicates": t.duplicates} for t in join.tables]
    return {
        "identity": join.by,
        "rows": sum(t.rows for t in join.tables),
        "molecules": molecules,
        "tables": tables,
        "conflicts": join.conflicts,
        "across_splits": join.across_splits,
        "unmatched": join.unmatched,
    }
