"""Does each layer learn? Trained on real PM6 labels, beside ridge regression on Morgan counts and mean labels of atom types.

    MOLSTREAM_DATA=... molstream bench learning --out FOLDER [--jobs 2] [--ablation] [--json FILE]

Input: the 4,535 molecules of $MOLSTREAM_DATA/pm6_sample, or the tables named, in PM6_83M's columns; built once, with both
positional encodings, split 80, 10, 10 by skeleton. Each layer is trained with `molstream pretrain` on the recipe `sample`, once a
seed, and measured with `molstream eval` on the test split. The measure is MAE over the standard deviation of the training labels,
as the manifest has it, mean over tasks: over the 40 quantum labels of molecules (q40), the 7 of atoms (n7), the other 22 of
molecules (g22).

Ridge, for q40 and g22: counts of Morgan environments (radius 2, 2048 bins) and of elements, hydrogens too; as they are or log1p,
centred, divided by their standard deviation, its root, or nothing. Which of these, and how large a penalty, is chosen task by
task by MAE on the validation split. Atoms, for n7: mean of the training labels by element and hybridisation. A mean fits squares
while the models fit absolute errors, so the median by the same types stands beside it. All fit the training split alone.

FOLDER keeps everything, and what is finished is not done again: after a stop, the same call goes on. `--layers ''` fits the
baselines alone.
"""

import argparse
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.format.manifest import Manifest
from molstream.shards.format.reader import ShardSet
from molstream.shards.molecules import concat_molecules
from molstream.shards.splits.rules import SplitFractions
from molstream.trainers.layer_table import LAYERS

ROOT = Path(__file__).resolve().parents[1]
STATES = ("S0", "T0", "cation", "anion")
PROPERTIES = (
    "alpha_homo alpha_gap beta_homo beta_gap energy_total principal_length_a principal_length_b principal_length_c "
    "spherocity plane_best_fit"
).split()
Q40 = tuple(f"graph_{state}_{name}" for state in STATES for name in PROPERTIES)
GROUPS = ("q40", "n7", "g22")
ENCODINGS = ("", "rw16", "lap8", "rw16,lap8")
BINS = 2048
ALPHAS = np.logspace(-6, 6, 49)
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"centred": np.ones_like, "root": np.sqrt, "std": np.array}
"""What a centred column is divided by, of its standard deviation."""
CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"counts": np.array, "log1p": np.log1p}
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


class Failed(Exception):
    """A training or an evaluation that ended badly."""


# data


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split: N molecules, A atoms. Labels in standard deviations from the training mean, NaN where absent."""

    features: np.ndarray
    """float64 (N, F): Morgan counts, then atoms of each element."""
    types: np.ndarray
    """int64 (A, 2): element and hybridisation."""
    graph: np.ndarray
    """float64 (N, T)."""
    atom: np.ndarray
    """float64 (A, T)."""


def tables(named: list[str]) -> list[str]:
    """The tables named, or those of the sample, in the order of their names."""
    if named:
        return named
    if not os.environ.get("MOLSTREAM_DATA"):
        sys.exit("learning.py: MOLSTREAM_DATA is not set and no table is named: there is nothing to train on")
    found = sorted(map(str, (Path(os.environ["MOLSTREAM_DATA"]) / "pm6_sample").glob("*.parquet")))
    return found or sys.exit("learning.py: no tables in $MOLSTREAM_DATA/pm6_sample")


def open_set(inputs: list[str], path: Path) -> ShardSet:
    """The shard set, built on first use."""
    if not (path / "manifest.json").exists():
        print(f"building {path} of {len(inputs)} tables", flush=True)
        build(inputs, path, BuildOptions(split_fractions=SplitFractions.parse("80,10,10"), pe=("rw16", "lap8")))
    return ShardSet(path)


def task_groups(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """{q40, n7, g22: names of their tasks}."""
    graph, atom = (tuple(task.name for task in manifest.tasks_of(level)) for level in ("graph", "atom"))
    if lacking := [name for name in Q40 if name not in graph]:
        sys.exit(f"learning.py: the tables are not PM6's: no {', '.join(lacking[:3])}")
    return {"q40": Q40, "n7": atom, "g22": tuple(name for name in graph if name not in Q40)}


def read_split(shard_set: ShardSet, split: str) -> Split:
    """Read labels, and make features of the stored SMILES, whose k-th atom is atom k of the labels."""
    molecules = concat_molecules(list(shard_set.iter_blocks(split, ("structure", "smiles", "graph_labels", "atom_labels"))))
    keep_hydrogens = Chem.SmilesParserParams()
    keep_hydrogens.removeHs = False
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BINS)
    morgan = np.zeros((len(molecules), BINS))
    elements = np.zeros((len(molecules), 119))
    types = np.zeros((len(molecules.atom_labels), 2), np.int64)
    for k, text in enumerate(molecules.smiles):
        mol = Chem.MolFromSmiles(text, keep_hydrogens)
        begin, end = molecules.atom_ptr[k], molecules.atom_ptr[k + 1]
        assert mol.GetNumAtoms() == end - begin, f"{text}: {mol.GetNumAtoms()} atoms, {end - begin} are stored"
        morgan[k] = generator.GetCountFingerprintAsNumPy(mol)
        for i, atom in enumerate(mol.GetAtoms(), begin):
            types[i] = atom.GetAtomicNum(), int(atom.GetHybridization())
            elements[k, types[i, 0]] += 1
            elements[k, 1] += atom.GetTotalNumHs()
    assert (types[:, 0] == molecules.atom_codes[:, 0]).all(), "RDKit has the atoms in another order than the set"
    labels = {}
    for level in ("graph", "atom"):
        known = [shard_set.manifest.statistics[task.name] for task in shard_set.manifest.tasks_of(level)]
        mean, std = np.array([s.mean for s in known]), np.array([s.std for s in known])
        labels[level] = (molecules.labels(level).astype(np.float64) - mean) / std
    return Split(features=np.hstack([morgan, elements]), types=types, **labels)


# baselines


def mae(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(R, T) twice -> MAE of each task over its labels (T)."""
    return np.nanmean(abs(predicted - target), axis=0)


def fit_ridge(train: np.ndarray, targets: np.ndarray, others: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Predictions on each of `others` for each alpha; features are centred. One eigendecomposition serves all of them."""
    centre = targets.mean(axis=0)
    values, vectors = np.linalg.eigh(train.T @ train)
    projected = vectors.T @ (train.T @ (targets - centre))
    turned = [x @ vectors for x in others]
    shrunk = [projected / (values.clip(min=0) + alpha)[:, None] for alpha in ALPHAS]
    return [[x @ weights + centre for x in turned] for weights in shrunk]


def ridge(train: Split, val: Split, test: Split, tasks: tuple[str, ...]) -> dict[str, dict]:
    """{variant: {task: MAE on val and test, alpha chosen on val}}. Tasks that label the same molecules are fitted together."""
    out: dict[str, dict] = {f"{curve}, {scale}": {} for curve in CURVES for scale in SCALES}
    present = ~np.isnan(train.graph)
    patterns, pattern_of = np.unique(present, axis=1, return_inverse=True)
    for p, (curve, scale) in itertools.product(range(patterns.shape[1]), itertools.product(CURVES, SCALES)):
        rows, columns = patterns[:, p], np.flatnonzero(pattern_of.reshape(-1) == p)
        known = CURVES[curve](train.features[rows])
        std = known.std(axis=0)
        used = std > 0
        mean, by = known.mean(axis=0)[used], SCALES[scale](std[used])
        scaled, *others = ((CURVES[curve](s)[:, used] - mean) / by for s in (train.features[rows], val.features, test.features))
        path = fit_ridge(scaled, train.graph[np.ix_(rows, columns)], others)
        on_val, on_test = (
            np.array([mae(predictions[k], split.graph[:, columns]) for predictions in path]) for k, split in ((0, val), (1, test))
        )
        best = on_val.argmin(axis=0)
        for k, (column, a) in enumerate(zip(columns, best, strict=True)):
            found = {"val": float(on_val[a, k]), "mae": float(on_test[a, k]), "alpha": float(ALPHAS[a])}
            out[f"{curve}, {scale}"][tasks[column]] = found
    return out


def atom_types(train: Split, test: Split, middle: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Predictions for the test atoms (A, T): of their element and hybridisation, else of their element, else of all atoms."""
    predicted = np.empty_like(test.atom)
    for t, labels in enumerate(train.atom.T):
        known = ~np.isnan(labels)
        predicted[:, t] = middle(labels[known])
        for width in (1, 2):
            for kind in np.unique(test.types[:, :width], axis=0):
                rows, atoms = ((split.types[:, :width] == kind).all(axis=1) for split in (train, test))
                if (rows & known).any():
                    predicted[atoms, t] = middle(labels[rows & known])
    return predicted


def measure_baselines(shard_set: ShardSet) -> dict:
    """All numbers of the baselines: {name: {task: MAE}}, and what was chosen for ridge."""
    names = {level: tuple(task.name for task in shard_set.manifest.tasks_of(level)) for level in ("graph", "atom")}
    start = time.perf_counter()
    train, val, test = (read_split(shard_set, split) for split in ("train", "val", "test"))
    variants = ridge(train, val, test, names["graph"])
    chosen = {task: min(variants, key=lambda v: variants[v][task]["val"]) for task in names["graph"]}
    atom_mae = {
        name: dict(zip(names["atom"], mae(atom_types(train, test, middle), test.atom).tolist(), strict=True))
        for name, middle in (("mean of atom types", np.mean), ("median of atom types", np.median))
    }
    plain = np.concatenate([mae(np.zeros_like(labels), labels) for labels in (test.graph, test.atom)]).tolist()
    counts = np.concatenate([(~np.isnan(labels)).sum(axis=0) for labels in (test.graph, test.atom)]).tolist()
    return {
        "fingerprint": shard_set.manifest.fingerprint,
        "counts": dict(zip((*names["graph"], *names["atom"]), counts, strict=True)),
        "tasks": {
            "ridge": {task: variants[v][task]["mae"] for task, v in chosen.items()},
            **atom_mae,
            "mean": dict(zip((*names["graph"], *names["atom"]), plain, strict=True)),
        },
        "variants": variants,
        "chosen": chosen,
        "atom_types": len(np.unique(train.types, axis=0)),
        "seconds": time.perf_counter() - start,
    }


def open_baselines(shard_set: ShardSet, path: Path) -> dict:
    """The baselines of this set, measured on first use."""
    if path.exists() and (there := json.loads(path.read_text()))["fingerprint"] == shard_set.manifest.fingerprint:
        return there
    print("fitting the baselines", flush=True)
    baselines = measure_baselines(shard_set)
    write_json(path, baselines)
    return baselines


def group_means(maes: dict[str, float], groups: dict[str, tuple[str, ...]]) -> dict[str, float | None]:
    """Mean over the tasks of each group; None where some have no number."""
    return {
        name: statistics.fmean(maes[t] for t in tasks) if all(t in maes for t in tasks) else None
        for name, tasks in groups.items()
    }


def write_json(path: Path, value: dict) -> None:
    """All of it or nothing."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    beside.rename(path)


# models


@dataclass(frozen=True, kw_only=True)
class Training:
    """One model."""

    layer: str
    seed: int
    encodings: str | None
    """None: what the recipe says."""
    steps: int | None
    """None: what the recipe says."""
    fields: tuple[str, ...]
    """FIELD=VALUE, besides."""

    @property
    def model(self) -> str:
        """What the seeds have in common."""
        return self.layer if self.encodings is None else f"{self.layer}, {self.encodings.replace(',', ' + ') or 'no encodings'}"

    @property
    def name(self) -> str:
        """Of its folder and files."""
        return re.sub("[^a-z0-9]+", "-", f"{self.model} {self.seed}")

    @property
    def arguments(self) -> list[str]:
        """Of `pretrain`, besides the folders."""
        own = [f"layer={self.layer}", f"seed={self.seed}"]
        own += [] if self.encodings is None else [f"encodings={self.encodings}"]
        steps = [] if self.steps is None else ["--steps", str(self.steps)]
        return ["--recipe", "sample", *(x for field in (*self.fields, *own) for x in ("--set", field)), *steps]


class Trainings:
    """Runs trainings side by side, each a process; what they print goes to a file each."""

    def __init__(self, shard_set: ShardSet, baselines: dict, folder: Path):
        self.shard_set, self.baselines, self.folder = shard_set, baselines, folder
        self.lock, self.processes, self.stopped = threading.Lock(), set(), False

    def result_path(self, training: Training) -> Path:
        return self.folder / "results" / f"{training.name}.json"

    def read(self, training: Training) -> dict | None:
        """A finished one's result; None if it is not."""
        path = self.result_path(training)
        if not path.exists():
            return None
        result = json.loads(path.read_text())
        asked = {"arguments": training.arguments, "fingerprint": self.shard_set.manifest.fingerprint}
        if any(result[key] != value for key, value in asked.items()):
            sys.exit(
                f"learning.py: {path} was made by {' '.join(result['arguments'])}, now it is {' '.join(training.arguments)}, "
                "or the set is another; choose another --out"
            )
        return result

    def train(self, training: Training) -> dict:
        """Train, or go on with what was stopped, and evaluate. Raises Failed."""
        run, path = self.folder / "runs" / training.name, self.result_path(training)
        begun, start = run.exists(), time.perf_counter()
        evaluation, log = path.with_suffix(".eval.json"), path.with_suffix(".log")
        shards = str(self.shard_set.path)
        printed = self.call(["pretrain", shards, "--out", str(run), *training.arguments, "--resume"], log)
        seconds = time.perf_counter() - start
        self.call(["eval", shards, "--checkpoint", str(run), "--split", "test", "--out", str(evaluation)], log)
        found = json.loads(evaluation.read_text())
        parameters = re.search(r"([\d,]+)\s+parameters", printed)
        result = {
            "model": training.model,
            "seed": training.seed,
            "arguments": training.arguments,
            "fingerprint": self.shard_set.manifest.fingerprint,
            "parameters": int(parameters[1].replace(",", "")) if parameters else None,
            # that of a run that was stopped in between is unknown
            "seconds": None if begun else seconds,
            "tasks": self.check(found),
            "eval": found,
        }
        write_json(path, result)
        evaluation.unlink()
        return result

    def call(self, arguments: list[str], log: Path) -> str:
        """Run the command; returns what it printed."""
        environment = os.environ | THREADS | {"COLUMNS": "200"}
        with log.open("a") as file:
            begin = file.tell()
            with self.lock:
                if self.stopped:
                    raise Failed("stopped")
                command = [sys.executable, "-m", "molstream", *arguments]
                # a session of its own: a Ctrl-C reaches it once, by way of `stop`
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
                )
                self.processes.add(process)
            code = process.wait()
            with self.lock:
                self.processes.discard(process)
        printed = log.read_text()[begin:]
        if code:
            last = printed.strip().splitlines()[-1:]
            raise Failed("stopped" if self.stopped else f"{arguments[0]} ended with {code}: {' '.join(last)} (all of it: {log})")
        return printed

    def check(self, found: dict) -> dict[str, float]:
        """MAE by task, of an evaluation of the very labels that the baselines were measured on. Raises Failed."""
        entries = [entry for entries in found["tasks"].values() for entry in entries]
        counts = {entry["task"]: entry["count"] for entry in entries}
        differ = [task for task, count in self.baselines["counts"].items() if counts.get(task) != count]
        if differ or not found["complete"]:
            raise Failed(f"eval measured other labels than the baselines: {', '.join(differ[:3]) or 'not all of the split'}")
        if bad := [entry["task"] for entry in entries if entry.get("nonfinite") or entry["values"]["mae"] is None]:
            raise Failed(f"predictions are not finite: {', '.join(bad[:3])}")
        maes = {entry["task"]: entry["values"]["mae"] for entry in entries}
        for name, values in found["task_sets"].items():
            mean = statistics.fmean(maes[entry["task"]] for entry in found["tasks"][name])
            if abs(mean - values["mae"]) > 1e-4:
                raise Failed(f"{name}: the tasks' MAE have a mean of {mean:.4f}, eval says {values['mae']:.4f}: other units?")
        return maes

    def stop(self) -> None:
        """End what is running; a training writes a checkpoint."""
        with self.lock:
            self.stopped = True
            for process in self.processes:
                process.terminate()

    def run(self, trainings: list[Training], jobs: int, groups: dict[str, tuple[str, ...]]) -> tuple[list[dict], bool]:
        """All results there are in the end, and whether something failed."""
        results = [self.read(training) for training in trainings]
        waiting = [k for k, result in enumerate(results) if result is None]
        start, done, failed = time.monotonic(), 0, False
        print(f"{len(trainings)} trainings, {len(trainings) - len(waiting)} finished before", flush=True)
        with ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(self.train, trainings[k]): k for k in waiting}
            try:
                for future in as_completed(futures):
                    k, done = futures[future], done + 1
                    took = time.monotonic() - start
                    left = took / done * (len(waiting) - done)
                    try:
                        results[k] = future.result()
                        means = group_means(results[k]["tasks"], groups)
                        text = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
                    except Failed as error:
                        text, failed = f"failed: {error}", True
                    print(f"{trainings[k].model}, seed {trainings[k].seed}: {text}  {left / 60:.0f} minutes left", flush=True)
            except BaseException:
                print("stopping; trainings write a checkpoint first, call again to go on", flush=True)
                self.stop()
                pool.shutdown(cancel_futures=True)
                raise
        return [result for result in results if result is not None], failed


# report


def row(name: str, *cells: str) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def header(*names: str) -> str:
    return f"{row(*names)}\n|---{'|--:' * (len(names) - 1)}|"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def by_property(maes: dict[str, float]) -> dict[str, float]:
    """Mean over the four states of each quantum label of molecules."""
    return {name: statistics.fmean(maes[f"graph_{state}_{name}"] for state in STATES) for name in PROPERTIES}


def summarize(results: list[dict], baselines: dict, groups: dict[str, tuple[str, ...]]) -> dict:
    """Means of the baselines and of each model: each seed, all seeds, and whether it beats the baseline of each group."""
    means = {name: group_means(maes, groups) for name, maes in baselines["tasks"].items()}
    bars = {"q40": means["ridge"]["q40"], "n7": means["mean of atom types"]["n7"], "g22": means["ridge"]["g22"]}
    models = {}
    for name in dict.fromkeys(result["model"] for result in results):
        mine = sorted((r for r in results if r["model"] == name), key=lambda r: r["seed"])
        values = [group_means(r["tasks"], groups) for r in mine]
        times = [r["seconds"] / 60 for r in mine if r["seconds"] is not None]
        models[name] = {
            "seeds": [r["seed"] for r in mine],
            "parameters": mine[0]["parameters"],
            "minutes": statistics.fmean(times) if times else None,
            "q40_by_property": {p: statistics.fmean(by_property(r["tasks"])[p] for r in mine) for p in PROPERTIES},
            **{
                g: {
                    "each": [v[g] for v in values],
                    "mean": statistics.fmean(v[g] for v in values),
                    "beats_baseline": [v[g] < bars[g] for v in values],
                }
                for g in GROUPS
            },
        }
    variants = {
        name: group_means({task: found["mae"] for task, found in tasks.items()}, groups)
        for name, tasks in baselines["variants"].items()
    }
    properties = {name: by_property(baselines["tasks"][name]) for name in ("ridge", "mean")}
    return {"baselines": means, "bars": bars, "ridge_variants": variants, "by_property": properties, "models": models}


def report(summary: dict) -> str:
    """Markdown."""
    models, bars = summary["models"], summary["bars"]
    lines = [header("layer", "q40 MAE", "n7 MAE", "g22 MAE", "parameters", "minutes")]
    for name, model in models.items():
        cells = [f"**{model[g]['mean']:.4f}** ({', '.join(f'{v:.4f}' for v in model[g]['each'])})" for g in GROUPS]
        count = "-" if model["parameters"] is None else f"{model['parameters']:,}"
        lines.append(row(name, *cells, count, "-" if model["minutes"] is None else f"{model['minutes']:.1f}"))
    lines += [row(name, *(number(values[g]) for g in GROUPS), "", "") for name, values in summary["baselines"].items()]
    lines.append("")
    for name, model in models.items():
        beaten = []
        for g, baseline in (("q40", "ridge"), ("n7", "the mean of atom types"), ("g22", "ridge")):
            verdicts = zip(model["seeds"], model[g]["beats_baseline"], strict=True)
            text = ", ".join(f"seed {seed} {'yes' if beats else 'NO'}" for seed, beats in verdicts)
            beaten.append(f"{g} below {baseline} ({bars[g]:.4f}): {text}")
        lines.append(f"{name}: {'; '.join(beaten)}")
    columns = summary["by_property"] | {name: model["q40_by_property"] for name, model in models.items()}
    lines += ["", header("q40, mean over states", *columns)]
    lines += [row(p, *(number(values[p]) for values in columns.values())) for p in PROPERTIES]
    lines += ["", header("ridge on", "q40 MAE", "g22 MAE")]
    lines += [row(name, number(values["q40"]), number(values["g22"])) for name, values in summary["ridge_variants"].items()]
    lines.append(row("the best on validation, task by task", number(bars["q40"]), number(bars["g22"])))
    return "\n".join(lines)


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", help="tables; default: those of $MOLSTREAM_DATA/pm6_sample")
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps the set, the runs and all numbers")
    parser.add_argument("--layers", type=words, default=[*LAYERS], help=f"default {','.join(LAYERS)}; '': the baselines alone")
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in words(text)], default=[0, 1, 2], help="default 0,1,2")
    parser.add_argument("--steps", type=int, help="of each training, instead of the recipe's")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the recipe, for all trainings")
    parser.add_argument("--ablation", action="store_true", help="also train without encodings, with each and with both")
    parser.add_argument("--ablate-layers", type=words, default=["gine"], help="the layers of --ablation; default gine")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time, each on one thread; default 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    (args.out / "results").mkdir(parents=True, exist_ok=True)
    shard_set = open_set(tables(args.inputs), args.out.resolve() / "shards")
    groups = task_groups(shard_set.manifest)
    baselines = open_baselines(shard_set, args.out / "baselines.json")
    kinds = [(layer, None) for layer in args.layers]
    kinds += [(layer, encodings) for layer in args.ablate_layers for encodings in ENCODINGS] if args.ablation else []
    trainings = [
        Training(layer=layer, seed=seed, encodings=encodings, steps=args.steps, fields=tuple(args.set))
        for (layer, encodings), seed in itertools.product(kinds, args.seeds)
    ]
    work = Trainings(shard_set, baselines, args.out.resolve())
    results, failed = work.run(trainings, args.jobs, groups) if trainings else ([], False)
    summary = summarize(results, baselines, groups)
    molecules = ", ".join(f"{name} {split['molecules']:,}" for name, split in shard_set.manifest.splits.items())
    print(f"\n{molecules}; MAE in standard deviations of the training labels, on test\n\n{report(summary)}")
    if args.json:
        everything = {"benchmark": "learning", "summary": summary, "baselines": baselines, "results": results}
        write_json(args.json, everything)
    sys.exit(failed)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
