"""Train while being killed at random moments, in saves too, again and again; then to the end.

    python tests/attacks/kill_training.py SET RUN RECIPE.json KILLS SEED

Each attempt is a fork of this process, in which all is imported and nothing has run: as good as a new one, and at once.
Prints a line an attempt: the step of the newest checkpoint, and what else lay in the folder.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from molstream.shards.format.reader import ShardSet
from molstream.shards.store.fields import from_json
from molstream.trainers.config import Recipe
from molstream.trainers.runs.checkpoint import list_checkpoints
from molstream.trainers.training.trainer import pretrain

directory, run, recipe = Path(sys.argv[1]), Path(sys.argv[2]), from_json(Recipe, json.loads(Path(sys.argv[3]).read_text()))
kills, draw = int(sys.argv[4]), random.Random(int(sys.argv[5]))


def attempt() -> int:
    """Fork a process that goes on with the run; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if pretrain(ShardSet(directory), run, recipe, resume=True).finished else 3)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(4)
    return child


def newest() -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    return max((int(path.name[5:]) for path in list_checkpoints(run)), default=0)


def wait_a_while(child: int) -> None:
    """Until some saves later, and then until somewhere in between: from before the folder is opened, however fast the machine."""
    goal = newest() + draw.choice((0, 1, 2, 4))
    while newest() < goal and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.03))


landed = 0
while landed < kills:
    child = attempt()
    wait_a_while(child)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    landed += os.WIFSIGNALED(status)
    found = sorted(p.name for p in (run / "checkpoints").glob(".*")) if run.exists() else []
    checkpoints = list_checkpoints(run)
    print(
        "killed" if os.WIFSIGNALED(status) else f"ended {status}", checkpoints[0].name if checkpoints else "-", *found, flush=True
    )
    if not os.WIFSIGNALED(status):
        break
_, status = os.waitpid(attempt(), 0)
print(f"{landed} kills")
sys.exit(os.waitstatus_to_exitcode(status))
