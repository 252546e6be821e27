"""Damage every file that is written, one at a time, and kill what writes them; then use them, and hold the outcome against that
of sound ones.

    python tests/attacks/damage_files.py FOLDER INJECTIONS KILLS SEED

INJECTIONS of each kind of file, KILLS of each kind of writer. Prints a table: detected (an error or a message that names it),
healed (the same result, and the file was written again), harmless (the same result), silent (another result without a word, or
an error that is not one of ours). Each attempt is a fork of this process. Exit code 1 if any was silent.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import torch

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.errors import FormatError
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.verify import verify
from molstream.shards.inputs import tables
from molstream.shards.sample import sample_path
from molstream.shards.splits.rules import SplitFractions
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.cursor import read_cursor
from molstream.streamer.loader import Loader
from molstream.trainers.jobs.embed import embed_shard_set
from molstream.trainers.jobs.evaluate import evaluate_checkpoint
from molstream.trainers.jobs.verify import verify_folder
from molstream.trainers.models.export import load_weights
from molstream.trainers.recipes import smoke
from molstream.trainers.runs.checkpoint import load_checkpoint
from molstream.trainers.training.reporter import Silent
from molstream.trainers.training.trainer import pretrain

root, injections, kills, draw = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), random.Random(int(sys.argv[4]))
OPTIONS = BuildOptions(split_fractions=SplitFractions.parse("70,15,15"), block_molecules=16, shard_molecules=60)
RECIPE = replace(smoke(), hidden=16, num_layers=1, atoms_a_pack=128, num_steps=8, eval_steps=3, log_steps=1)
TABLE, SET, RUN = root / "table.parquet", root / "set", root / "run"
messages: list[str] = []


class Listening(Silent):
    """Takes messages for what was said."""

    def message(self, text: str) -> None:
        if "skipped" in text or "damaged" in text:
            messages.append(text)


def digest(*parts: object) -> str:
    return hashlib.sha256(b"".join(p if isinstance(p, bytes) else repr(p).encode() for p in parts)).hexdigest()


def read_set(path: Path) -> str:
    shard_set = ShardSet(path)
    contents = [list(shard_set.read_contents(block).values()) for block in range(len(shard_set.index))]
    found = digest(shard_set.manifest.encode(), *(bytes(c) for block in contents for c in block))
    if problems := verify(shard_set).problems:
        raise FormatError(problems[0])
    return found


def go_on_building(path: Path) -> str:
    build([str(TABLE)], path, OPTIONS)
    return digest(*(p.read_bytes() for p in sorted(path.iterdir()) if p.is_file()))


def stream_on(path: Path) -> str:
    loader = Loader(ShardSet(SET), STREAM, with_ids=True)
    loader.seek(read_cursor(path / "cursor.json"))
    return digest(*(batch.ids.tobytes() for step in loader for batch in step.batches))


def train_on(path: Path) -> str:
    outcome = pretrain(ShardSet(SET), path, RECIPE, resume=True, reporter=Listening())
    return digest(outcome.results.to_json(), load_checkpoint(path).identity(), load_weights(path / "model").identity())


def evaluate(path: Path) -> str:
    return digest(evaluate_checkpoint(load_weights(path, messages.append), ShardSet(SET), split="val").to_json())


def verify_run(path: Path) -> str:
    found = evaluate(path)
    messages.extend(verify_folder(path).problems)
    return found


def embed_on(path: Path) -> str:
    embed_shard_set(load_weights(RUN / "model"), ShardSet(SET), path, splits=("train", "val"))
    if problems := verify_folder(path).problems:
        raise FormatError(problems[0])
    return digest(*(p.read_bytes() for p in sorted(path.glob("*.parquet"))))


def read_export(path: Path) -> str:
    if (found := verify_folder(path)) is None or found.problems:
        raise FormatError("no sound export")
    return digest(pq.read_table(path).to_pydict())


@dataclass(frozen=True)
class Case:
    """A folder of files, and what is done with them."""

    name: str
    folder: Path
    use: Callable[[Path], str]


def attempt(use: Callable[[Path], str], path: Path, moment: int | None = None) -> dict | None:
    """The outcome of a use, in a fork: its result or error, what was said, how many moments of writing; None if killed at one."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        found: dict = {"result": None, "error": None, "is_ours": True}
        count_moments(moment, found)
        try:
            found["result"] = use(path)
        except Exception as error:
            found |= {"error": f"{type(error).__name__}: {error}", "is_ours": hasattr(error, "exit_code")}
        os.write(write, json.dumps(found | {"messages": messages[:3]})[:60_000].encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if moment is None and not data:
        return {"result": None, "error": f"ended by {status}", "is_ours": False, "messages": []}
    return json.loads(data) if data else None


def count_moments(last: int | None, found: dict) -> None:
    """Count syncs and renames, before and after; end by SIGKILL at the last."""
    found["moments"] = 0

    def tick() -> None:
        if found["moments"] == last:
            os.kill(os.getpid(), signal.SIGKILL)
        found["moments"] += 1

    def counted(function):
        def call(*arguments, **named):
            tick()
            result = function(*arguments, **named)
            tick()
            return result

        return call

    os.fsync, Path.replace, Path.rename = counted(os.fsync), counted(Path.replace), counted(Path.rename)


def damage(path: Path) -> str:
    """One of what disks, copies and people do to a file."""
    data, kind = bytearray(path.read_bytes()), draw.choice(("flip", "flip", "flip", "cut", "zeros", "more", "gone"))
    if not data and kind != "gone":
        kind = "more"
    at = draw.randrange(len(data) or 1)
    if kind == "flip":
        data[at] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "zeros":
        end = min(len(data), at + draw.choice((1, 64, 4096)))
        data[at:end] = bytes(end - at)
    elif kind == "more":
        data += draw.randbytes(draw.randrange(1, 100))
    if kind == "gone":
        path.unlink()
    elif bytes(data) == path.read_bytes():
        # zeros that were zeros
        return damage(path)
    else:
        path.write_bytes(data)
    return f"{kind} at {at:,}"


def judge(found: dict, expected: str, is_rewritten: bool) -> str:
    if found["error"]:
        return "detected" if found["is_ours"] and "\n" not in found["error"] else "silent"
    if found["result"] != expected:
        return "detected" if found["messages"] else "silent"
    return "healed" if is_rewritten else "detected" if found["messages"] else "harmless"


def kind_of(path: Path, folder: Path) -> str:
    """Files of one kind under one name."""
    name = str(path.relative_to(folder))
    parts = [("step-*" if p.startswith("step-") else "events" if p.startswith("events") else p) for p in name.split("/")]
    last = parts[-1]
    ends = (".tar", ".spill", ".facts", ".parquet", ".plan")
    if any(last.endswith(end) for end in ends) and last not in ("index.parquet", "rejects.parquet"):
        parts[-1] = "*" + last[last.rindex(".") :]
    return "/".join(parts)


def prepare() -> list[Case]:
    pq.write_table(pq.read_table(sample_path()).slice(100, 220), TABLE, row_group_size=80)
    build([str(TABLE)], SET, OPTIONS)
    pretrain(ShardSet(SET), RUN, RECIPE, resume=False)
    loader = Loader(ShardSet(SET), STREAM)
    next(iter(loader))
    (root / "cursor").mkdir()
    loader.cursor.write(root / "cursor" / "cursor.json")
    loader.close()
    embed_shard_set(load_weights(RUN / "model"), ShardSet(SET), root / "export", splits=("train", "val"))
    cases = [
        Case("shard set", SET, read_set),
        Case("cursor", root / "cursor", stream_on),
        Case("run, evaluated", RUN, verify_run),
        Case("model", RUN / "model", evaluate),
        Case("export, read", root / "export", read_export),
        Case("export, written again", root / "export", embed_on),
    ]
    for name, use in {"build": go_on_building, "run": train_on, "export": embed_on}.items():
        total = attempt(use, root / f"whole {name}")["moments"]
        for share in (0.5, 0.8):
            folder = root / f"{name}, unfinished, {share}"
            assert attempt(use, folder, int(share * total)) is None
            cases.append(Case(f"{name}, unfinished", folder, use))
    return cases


def attack(case: Case, counts: dict[str, Counter]) -> None:
    expected = sound(case)
    files = [p for p in sorted(case.folder.rglob("*")) if p.is_file() and p.name != ".lock" and not p.name.endswith(".part")]
    kinds: dict[str, list[Path]] = {}
    for path in files:
        kinds.setdefault(kind_of(path, case.folder), []).append(path)
    for kind, paths in kinds.items():
        for _ in range(injections):
            copy = Path(shutil.copytree(case.folder, root / "copy"))
            victim = copy / draw.choice(paths).relative_to(case.folder)
            what = damage(victim)
            left = victim.read_bytes() if victim.exists() else None
            found = attempt(case.use, copy)
            now = victim.read_bytes() if victim.exists() else None
            verdict = judge(found, expected, now != left)
            counts.setdefault(f"{case.name}: {kind}", Counter())[verdict] += 1
            if verdict == "silent":
                print(f"SILENT {case.name}: {victim.relative_to(copy)}, {what}: {found}", flush=True)
            shutil.rmtree(copy)


def kill(name: str, use: Callable[[Path], str], counts: dict[str, Counter]) -> None:
    whole = attempt(use, root / "copy")
    shutil.rmtree(root / "copy")
    for _ in range(kills):
        path = root / "copy"
        landed = 0
        while landed < 3 and attempt(use, path, draw.randrange(whole["moments"])) is None:
            landed += 1
        found = attempt(use, path)
        verdict = (
            "healed" if found["result"] == whole["result"] else "detected" if found["error"] and found["is_ours"] else "silent"
        )
        counts.setdefault(f"{name}: killed and run again", Counter())[verdict] += 1
        if verdict == "silent":
            print(f"SILENT {name}, killed: {found}", flush=True)
        shutil.rmtree(path)


def sound(case: Case) -> str:
    """The result without damage."""
    copy = Path(shutil.copytree(case.folder, root / "copy"))
    found = attempt(case.use, copy)
    assert found["error"] is None, found
    shutil.rmtree(copy)
    return found["result"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    tables.RANGE_ROWS = tables.MIN_RANGE_ROWS = 80
    STREAM = StreamConfig(budget=Budget(graphs=16, atoms=256, edges=640), num_lanes=2, window_molecules=32)
    counts: dict[str, Counter] = {}
    for case in prepare():
        attack(case, counts)
    for name, use in {"build": go_on_building, "run": train_on, "export": embed_on}.items():
        kill(name, use, counts)
    columns = ("detected", "healed", "harmless", "silent")
    print(f"| files | injected | {' | '.join(columns)} |\n|---|{'---:|' * 5}")
    for name, found in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"| {name} | {found.total()} | {' | '.join(str(found[c]) for c in columns)} |")
    sys.exit(any(found["silent"] for found in counts.values()))
