"""Building a shard set on one core, beside bare RDKit parsing and beside Graphium's featurisation of the same molecules.

    python benchmarks/build.py [PARQUET...] [--rounds 7] [--rows 20000] [--block-molecules 4096] [--graphium PYTHON]

Input: the tables named, or those of $MOLSTREAM_DATA/pm6_sample, or the embedded sample, in PM6_83M's columns; repeated as a whole
to at least `--rows` rows and written as one Parquet file of plain pages (snappy, whose window is too short to see the
repetition). Everything is pinned to one core. A round does each kind of work in turn; the first does not count.

Build: from the Parquet file to the committed shard set, one worker, default options but a single split. Parse, the reference:
`Chem.MolFromSmiles` and nothing else, in a process that has imported nothing else, since a process with threads is slower at it.
Graphium: `--graphium` names an interpreter that has it (see peers/graphium_features.py); it featurises `--peer-molecules` of the
molecules and writes nothing.

The guard is what it costs to have RDKit in a child under limits. Its parts: CPU time of the parent while it sends, waits, looks
and receives; the child's share of sending and receiving, measured on a thread here that does the same; the note before each
molecule. Beside that, both processes together against `featurize` alone in a process.
"""

import argparse
import json
import mmap
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem, rdBase

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.build.map import BATCH_ROWS
from molstream.shards.chemistry.guarded import Featurizer, shared_featurizer
from molstream.shards.sample import sample_path
from molstream.shards.splits.rules import SplitFractions

ONE_SPLIT = SplitFractions(1.0, 0.0, 0.0)
BUILDS = {
    "build, atom labels f16": BuildOptions(split_fractions=ONE_SPLIT),
    "build, atom labels f32": BuildOptions(split_fractions=ONE_SPLIT, atom_labels="f32"),
    "build, f16, rw16 lap8": BuildOptions(split_fractions=ONE_SPLIT, pe=("rw16", "lap8")),
    "build, f32, rw16 lap8": BuildOptions(split_fractions=ONE_SPLIT, atom_labels="f32", pe=("rw16", "lap8")),
}
PARSE, PARSE_HERE = "parse", "parse, in this process"
ALONE, IN_CHILD = "featurize, alone", "featurize, in the child"
TARGETS = {False: (0.45, 0.55), True: (0.36, 0.45)}
"""Of the parse rate, without and with encodings: (floor, aim)."""
GUARD_FLOOR = 0.03
NOTE_CALLS = 500_000
PEER = """
import json, sys, time
sys.path[:] = json.loads(sys.argv[1])
smiles = open(sys.argv[2]).read().splitlines()
{setup}
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    {work}
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
"""
PEERS = {
    PARSE: (
        "from collections import deque; from rdkit import Chem, rdBase; quiet = rdBase.BlockLogs()",
        "deque(map(Chem.MolFromSmiles, smiles), maxlen=0)",
    ),
    ALONE: (
        f"import gc; from molstream.shards.chemistry.parser import featurize; n = {BATCH_ROWS}; featurize(smiles[:n]); "
        "gc.freeze()",
        "for i in range(0, len(smiles), n): featurize(smiles[i : i + n])",
    ),
}
"""Work that has a process of its own: (setup, a round)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds; `child_s` is CPU time of the child that runs RDKit."""

    wall_s: float
    own_s: float
    child_s: float = 0.0

    @property
    def cpu_s(self) -> float:
        return self.own_s + self.child_s


def pin_to_one_core() -> str:
    """All threads of this process; processes and threads that it starts inherit it."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned: this system cannot"
    core = max(os.sched_getaffinity(0))
    for thread in psutil.Process().threads():
        os.sched_setaffinity(thread.id, {core})
    return f"pinned to core {core}"


def measure(work: Callable[[], object], child: psutil.Process | None = None) -> Cost:
    def child_s() -> float:
        times = child.cpu_times() if child else None
        return times.user + times.system if times else 0.0

    wall, own, before = time.perf_counter(), time.process_time(), child_s()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - own, child_s() - before)


def median_of(costs: list[Cost], field: str) -> float:
    return statistics.median(getattr(c, field) for c in costs)


@contextmanager
def start_peer(command: list[str], env: dict[str, str]) -> Iterator[Callable[[], Any]]:
    """A process that answers each line with one of JSON, when it has done a round."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> Any:
            process.stdin.write("\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                sys.exit(f"a peer ended with status {process.wait()}: {' '.join(command)}")
            return json.loads(line)

        yield ask
        process.stdin.close()


# cold start


def start_child_s() -> float:
    """Seconds from nothing to the first answer of a child that runs RDKit."""
    featurizer = Featurizer(molecule_s=10.0, molecule_bytes=1 << 30)
    start = time.perf_counter()
    featurizer.featurize(["CCO"])
    featurizer.close()
    return time.perf_counter() - start


def first_build_s(table: Path, cache: Path | None) -> float:
    """Seconds that a fresh interpreter takes for a build, imports included; `cache`: where compiled kernels are kept."""
    code = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from molstream.shards.build.build import BuildOptions, build; "
        "build([sys.argv[2]], sys.argv[3], BuildOptions(pe=('rw16', 'lap8')))"
    )
    env = dict(os.environ) | ({"NUMBA_CACHE_DIR": str(cache)} if cache else {})
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-c", code, json.dumps(sys.path), str(table), f"{folder}/set"]
        subprocess.run(command, check=True, env=env)
        return time.perf_counter() - start


# work


def repeat_table(inputs: list[str], rows: int, path: Path) -> tuple[list[str], int]:
    """Write the inputs one after the other, as often as it takes; (SMILES of all rows, how often)."""
    once = pa.concat_tables([pq.read_table(p) for p in inputs])
    times = max(1, -(-rows // len(once)))
    table = pa.concat_tables([once] * times)
    pq.write_table(table, path, compression="snappy", use_dictionary=False)
    pq.write_table(table.slice(0, 20), path.with_name("few.parquet"))
    return [s or "" for s in table["ordered_smiles"].to_pylist()], times


def parse(smiles: list[str]) -> None:
    with rdBase.BlockLogs():
        deque(map(Chem.MolFromSmiles, smiles), maxlen=0)


def run_featurizer(featurizer: Featurizer, batches: list[list[str]]) -> list:
    return [done for _, done in featurizer.run((None, batch) for batch in batches)]


def transport_s(batches: list[list[str]], answers: list) -> float:
    """CPU seconds that receiving the batches and sending the answers takes, in one thread."""
    ours, theirs = (Connection(s.detach()) for s in socket.socketpair())
    spent = 0.0

    def serve() -> None:
        nonlocal spent
        start = time.thread_time()
        for answer in answers:
            theirs.recv()
            theirs.send(answer)
        spent = time.thread_time() - start

    thread = threading.Thread(target=serve)
    thread.start()
    for batch in batches:
        ours.send(batch)
        ours.recv()
    thread.join()
    for connection in (ours, theirs):
        connection.close()
    return spent


def note_s() -> float:
    """Seconds a call of what the child does before each molecule (`shards.chemistry.guarded.serve`)."""
    cells = memoryview(mmap.mmap(-1, 16)).cast("q")
    clock = time.process_time_ns

    def note(row: int) -> None:
        cells[1] = clock()
        cells[0] = row

    start = time.perf_counter()
    for row in range(NOTE_CALLS):
        note(row)
    return (time.perf_counter() - start) / NOTE_CALLS


class Bench:
    """Everything that is measured, round by round."""

    def __init__(self, root: Path, smiles: list[str], block_molecules: int):
        self.root, self.smiles, self.block_molecules = root, smiles, block_molecules
        self.batches = [smiles[i : i + BATCH_ROWS] for i in range(0, len(smiles), BATCH_ROWS)]
        self.featurizer = shared_featurizer()
        self.answers = [part for done in run_featurizer(self.featurizer, self.batches) for _, part in done.parts]
        (self.child,) = psutil.Process().children()
        self.costs: dict[str, list[Cost]] = defaultdict(list)
        self.notes_s: list[float] = []
        self.transports_s: list[float] = []
        self.graphium: list[dict[str, float]] = []
        self.rejects: dict[str, int] = {}

    def round(self, number: int, ask: dict[str, Callable[[], Any]]) -> None:
        for name in PEERS:
            self.costs[name].append(Cost(*ask[name]()))
        self.costs[PARSE_HERE].append(measure(lambda: parse(self.smiles)))
        for k, name in enumerate(BUILDS):
            folder = self.root / f"set-{number}-{k}"
            self.costs[name].append(measure(lambda name=name, folder=folder: self.build(name, folder), self.child))
        self.costs[IN_CHILD].append(measure(lambda: run_featurizer(self.featurizer, self.batches), self.child))
        self.transports_s.append(transport_s(self.batches, self.answers))
        self.notes_s.append(note_s())
        if "graphium" in ask:
            self.graphium.append(ask["graphium"]())
            if self.graphium[-1]["failed"]:
                sys.exit(f"Graphium failed on {self.graphium[-1]['failed']:.0f} molecules")

    def build(self, name: str, folder: Path) -> None:
        options = replace(BUILDS[name], block_molecules=self.block_molecules)
        self.rejects = build([str(self.root / "table.parquet")], folder, options).rejects

    def finish(self) -> None:
        """The first round is warming up."""
        if self.child not in psutil.Process().children():
            sys.exit("the child was replaced: its CPU times are not one process's")
        for rounds in (*self.costs.values(), self.notes_s, self.transports_s, self.graphium):
            del rounds[:1]

    def of_parse(self, name: str) -> float:
        """Rate over the parse rate."""
        return statistics.median(p.wall_s / c.wall_s for p, c in zip(self.costs[PARSE], self.costs[name], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("inputs", nargs="*")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--block-molecules", type=int, default=0, help="0: the default, 4096 in sets of 131,072 rows and more")
    parser.add_argument("--graphium", metavar="PYTHON", help="an interpreter with the package graphium")
    parser.add_argument("--peer-molecules", type=int, default=400)
    args = parser.parse_args()
    data = os.environ.get("MOLSTREAM_DATA")
    inputs = args.inputs or (sorted(map(str, Path(data, "pm6_sample").glob("*.parquet"))) if data else [str(sample_path())])
    pinned = pin_to_one_core()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        smiles, times = repeat_table(inputs, args.rows, root / "table.parquet")
        unique = len(smiles) // times
        print(f"{len(smiles):,} rows: {unique:,} molecules {times} times; {pinned}; medians of {args.rounds} rounds")
        print(f"RDKit {rdBase.rdkitVersion}, Python {sys.version.split()[0]}\n")
        report_cold_start(root, args.rounds)
        bench = Bench(root, smiles, args.block_molecules)
        some = smiles[: unique : max(1, unique // args.peer_molecules)][: args.peer_molecules]
        with ExitStack() as stack:
            ask = {}
            (root / "all.smi").write_text("\n".join(smiles))
            for peer, (setup, work) in PEERS.items():
                code = PEER.format(setup=setup, work=work)
                command = [sys.executable, "-c", code, json.dumps(sys.path), str(root / "all.smi")]
                ask[peer] = stack.enter_context(start_peer(command, dict(os.environ)))
            if args.graphium:
                (root / "some.smi").write_text("\n".join(some))
                script = Path(__file__).parent / "peers" / "graphium_features.py"
                env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
                command = [args.graphium, str(script), str(root / "some.smi")]
                ask["graphium"] = stack.enter_context(start_peer(command, env))
            for k in range(args.rounds + 1):
                bench.round(k, ask)
        bench.finish()
    report_rates(bench)
    report_guard(bench)
    report_graphium(bench, len(some))


def report_cold_start(root: Path, rounds: int) -> None:
    starts = [start_child_s() for _ in range(rounds + 1)][1:]
    firsts = [first_build_s(root / "few.parquet", None) for _ in range(rounds + 1)][1:]
    compiled_s = first_build_s(root / "few.parquet", root / "cache")
    print("cold start")
    print(f"child that runs RDKit, from nothing to its first answer    {statistics.median(starts):6.2f} s")
    print(f"build of 20 rows in a fresh interpreter                    {statistics.median(firsts):6.2f} s")
    print(f"the same, kernels not compiled yet (once an installation)  {compiled_s:6.2f} s\n")


def report_rates(bench: Bench) -> None:
    num = len(bench.smiles)
    print(f"{'':36}{'wall':>9}{'CPU us a molecule':^26}{'share':>9}{'of parse':>10}")
    print(f"{'':24}{'molecules/s':>12}{'us each':>9}{'here':>8}{'child':>9}{'both':>9}{'of core':>9}{'rate':>10}")
    for name in (PARSE, PARSE_HERE, ALONE, IN_CHILD, *BUILDS):
        costs = bench.costs[name]
        wall, own, child = (median_of(costs, f) for f in ("wall_s", "own_s", "child_s"))
        busy = statistics.median(c.cpu_s / c.wall_s for c in costs)
        micro = [1e6 * s / num for s in (own, child, own + child)]
        print(f"{name:24}{num / wall:12,.0f}{1e6 * wall / num:9.1f}{micro[0]:8.1f}{micro[1]:9.1f}{micro[2]:9.1f}", end="")
        print(f"{busy:9.2f}{bench.of_parse(name):10.3f}")
    print()
    for name, options in BUILDS.items():
        ratio = bench.of_parse(name)
        floor, aim = TARGETS[bool(options.pe)]
        verdict = "aim met" if ratio >= aim else "floor met, aim missed" if ratio >= floor else "FLOOR MISSED"
        print(f"{name:24}{ratio:6.3f} of the parse rate; floor {floor:.2f}, aim {aim:.2f}: {verdict}")
    if bench.rejects:
        print(f"rejected: {bench.rejects}")


def report_guard(bench: Bench) -> None:
    num = len(bench.smiles)
    inside, alone = bench.costs[IN_CHILD], bench.costs[ALONE]
    featurizing, whole = median_of(inside, "cpu_s"), median_of(bench.costs[next(iter(BUILDS))], "cpu_s")
    parts = {
        "parent: send, wait, look": median_of(inside, "own_s"),
        "child: receive, send": statistics.median(bench.transports_s),
        "note, each molecule": statistics.median(bench.notes_s) * num,
    }
    total = sum(parts.values())
    rows = parts | {
        "sum of parts": total,
        "child less alone": statistics.median(i.cpu_s - a.cpu_s for i, a in zip(inside, alone, strict=True)),
    }
    print(f"\n{'guard, CPU':28}{'us a molecule':>14}{'of featurising':>16}{'of the build':>14}")
    for name, seconds in rows.items():
        print(f"{name:28}{1e6 * seconds / num:14.2f}{seconds / featurizing:16.2%}{seconds / whole:14.2%}")
    print(f"sum of parts below {GUARD_FLOOR:.0%} of the build: {'met' if total / whole < GUARD_FLOOR else 'MISSED'}", end="; ")
    print(f"of featurising: {'met' if total / featurizing < GUARD_FLOOR else 'MISSED'}")


def report_graphium(bench: Bench, num_peer: int) -> None:
    peers, num = bench.graphium, len(bench.smiles)
    if not peers:
        print("\nGraphium was not measured: --graphium names an interpreter that has it")
        return
    print(f"\n{f'Graphium, {num_peer} of the molecules':34}{'molecules/s':>12}{'us each':>10}{'of parse rate':>15}")
    labels = {
        "parse": "parse, in the same process",
        "features": "without encodings",
        "encodings": "with Laplacian 8, random walk 16",
    }
    for case, label in labels.items():
        seconds = statistics.median(p[case] for p in peers)
        ratio = statistics.median(p["parse"] / p[case] for p in peers)
        print(f"{label:34}{num_peer / seconds:12,.0f}{1e6 * seconds / num_peer:10.1f}{ratio:15.4f}")
    for name, options in BUILDS.items():
        case = "encodings" if options.pe else "features"
        ratio = statistics.median((num / c.wall_s) / (num_peer / p[case]) for c, p in zip(bench.costs[name], peers, strict=True))
        print(f"{name:24}{ratio:7.1f} times Graphium's rate {labels[case]}")


if __name__ == "__main__":
    main()
