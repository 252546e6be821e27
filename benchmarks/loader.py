"""molstream's loader beside its peers, side by side in one run, on the same molecules and labels.

    molstream bench loader [FOLDER] [--python .venv-peers/bin/python] [--rounds 5] [--molecules pyg=100000] [--shuffle] [--json]

FOLDER/set is a shard set with the 62 graph-level and 7 atom-level tasks of PM6_83M, by default that of `moses.py`, made if it is
not there; what peers make of its first molecules goes beside it. Without --python molstream runs alone. A contender is a script
loader_X.py, run here in a process of its own, pinned to one core, with one thread, and molstream once more with two threads on
two cores. A round runs each in turn, and the first does not count. Every run must deliver the molecules, bonds and labels that
the set holds, bit by bit, or the benchmark stops.

Rates are taken after a pass that warms up: of peers from their first batch on, of molstream over whole passes, since it reads
ahead. Files lie in the page cache. molstream shuffles, peers read in stored order unless --shuffle is given. Each peer has a row
for molecules stored as its documentation does and one for the fastest way that was found (see its script).

The peers need an environment of their own, since MosaicML streaming wants an older NumPy than the tested one:

    python3 -m venv .venv-peers
    grep -vE '^(numpy|xxhash|huggingface-hub|python-dateutil)==' constraints.txt > .venv-peers/constraints.txt
    .venv-peers/bin/pip install -c .venv-peers/constraints.txt --config-settings editable_mode=compat -e '.[peers]'
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from loader_contender import FirstBlocks, expected_digest, folder_bytes
from moses import BENCH, make_set

from molstream.shards.format.reader import ShardSet

HERE = Path(__file__).resolve().parent
MOLECULES = {"molstream": "all", "pyg": "100000", "litdata": "200000", "mosaic": "30000", "webdataset": "30000"}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
LIST_PACKAGES = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    loader: str
    form: str
    what: str
    """How a molecule is stored."""
    threads: int = 1

    @property
    def name(self) -> str:
        """Short, unique."""
        return f"{self.loader} {self.form}" + (f", {self.threads} threads" if self.threads > 1 else "")

    def command(self, args: argparse.Namespace, *options: str) -> list[str]:
        """Its script, for its interpreter."""
        python = sys.executable if self.loader == "molstream" else args.python
        script = HERE / f"loader_{self.loader}.py"
        return [python, str(script), str(args.folder), "--molecules", args.number[self.loader], "--form", self.form, *options]


CONTENDERS = (
    Contender("molstream", "shards", "column blocks, zstd"),
    Contender("molstream", "shards", "column blocks, zstd", threads=2),
    Contender("pyg", "plain", "Data in memory"),
    Contender("pyg", "sized", "Data in memory, num_nodes set"),
    Contender("litdata", "arrays", "a dict of arrays"),
    Contender("litdata", "bytes", "a dict of bytes"),
    Contender("mosaic", "arrays", "a column an array"),
    Contender("mosaic", "record", "one column of bytes"),
    Contender("webdataset", "npy", "a .npy member an array"),
    Contender("webdataset", "pickle", "one .pyd member"),
    Contender("webdataset", "record", "one member of bytes"),
)


def run(command: list[str]) -> dict | None:
    """Run a contender; the last line it printed, parsed."""
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else None


def measure(contender: Contender, args: argparse.Namespace, expected: dict[str, dict]) -> dict:
    """One run, checked."""
    cores = args.cores.split(",")[-contender.threads :]
    options = ["--cores", ",".join(cores)]
    if contender.loader == "molstream":
        options += ["--threads", str(contender.threads)]
    elif args.shuffle:
        options += ["--shuffle"]
    result = run(contender.command(args, *options))
    assert result is not None
    if result["checksum"] != expected[contender.loader]:
        sys.exit(f"{contender.name} delivered {result['checksum']}, the set holds {expected[contender.loader]}")
    return result


def describe_machine(args: argparse.Namespace) -> dict:
    """Processor, kernel and every package of both environments."""
    models = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    python = args.python or sys.executable
    packages = subprocess.run([python, "-c", LIST_PACKAGES], capture_output=True, text=True, check=True).stdout
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False)
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "packages": dict(sorted((d.name, d.version) for d in distributions())),
        "peer_packages": dict(sorted(json.loads(packages).items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=BENCH)
    parser.add_argument("--python", help="interpreter that has the peers; without it molstream runs alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--molecules", nargs="*", default=[], metavar="LOADER=NUMBER", help=f"default {MOLECULES}")
    parser.add_argument("--only", nargs="*", default=[], metavar="LOADER", help="leave out the others but molstream")
    parser.add_argument("--shuffle", action="store_true", help="peers shuffle too")
    parser.add_argument("--cores", default="0,1", help="two to pin to; one thread runs on the last")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object, the last line")
    args = parser.parse_args()
    make_set(args.folder)
    args.number = MOLECULES | dict(pair.split("=") for pair in args.molecules)
    wanted = ("molstream", *(args.only or MOLECULES if args.python else ()))
    contenders = [c for c in CONTENDERS if c.loader in wanted]

    sets = {n: FirstBlocks(args.folder / "set", None if n == "all" else int(n)) for n in args.number.values()}
    digests = {n: expected_digest(shard_set) for n, shard_set in sets.items()}
    expected = {loader: digests[n] for loader, n in args.number.items()}
    for contender in contenders:
        said = run(contender.command(args, "--prepare"))
        if said:
            print(json.dumps(said), flush=True)

    rounds: dict[str, list[dict]] = {c.name: [] for c in contenders}
    for k in range(args.rounds + 1):
        for contender in contenders:
            result = measure(contender, args, expected)
            print(f"round {k}  {contender.name:28}{result['molecules_per_s']:12,.0f} molecules/s", flush=True)
            if k:
                rounds[contender.name].append(result)

    machine = describe_machine(args)
    set_bytes = folder_bytes(args.folder / "set") / int(ShardSet(args.folder / "set").index.counts["num_molecules"].sum())
    first = contenders[0].name
    rows = []
    for contender in contenders:
        runs = rounds[contender.name]
        ratios = [a["molecules_per_s"] / b["molecules_per_s"] for a, b in zip(rounds[first], runs, strict=True)]
        number = runs[0]["molecules"]
        peer_bytes = folder_bytes(args.folder / f"{contender.loader}-{contender.form}") / number
        rows.append(
            {
                "contender": contender.name,
                "stored": contender.what,
                "version": runs[0]["version"],
                "molecules": number,
                "bytes_a_molecule": round(set_bytes if contender.loader == "molstream" else peer_bytes, 1),
                "molecules_per_s": statistics.median(r["molecules_per_s"] for r in runs),
                "labels_per_s": statistics.median(r["labels_per_s"] for r in runs),
                "rss_mib": statistics.median(r["rss_mib"] for r in runs),
                "molstream_is_times_as_fast": round(statistics.median(ratios), 2),
                "ratios": [round(r, 2) for r in ratios],
            }
        )
    print("\n{cpu}, {cores} cores, Linux {kernel}, Python {python}, commit {commit}".format_map(machine))
    print(f"medians of {args.rounds} rounds; peers {'shuffled' if args.shuffle else 'in stored order'}")
    head = ("molecules", "bytes each", "molecules/s", "labels/s", "MiB", "molstream is")
    print(f"{'':61}{{:>11}}{{:>12}}{{:>13}}{{:>13}}{{:>7}}{{:>14}}".format(*head))
    for row in rows:
        size = f"{row['bytes_a_molecule']:,.0f}" if row["bytes_a_molecule"] else "-"
        print(
            f"{row['contender']:30}{row['stored']:31}{row['molecules']:11,}{size:>12}{row['molecules_per_s']:13,.0f}"
            f"{row['labels_per_s']:13,.0f}{row['rss_mib']:7,.0f}{row['molstream_is_times_as_fast']:12.2f} x"
        )
    if args.json:
        print(json.dumps({"benchmark": "loader", "rows": rows, "machine": machine, "runs": rounds}))


if __name__ == "__main__":
    main()
