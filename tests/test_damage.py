"""A small sample of tests/attacks/damage_files.py: no damage to any file that is written, and no kill, is silent."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_damage_and_no_kill_is_silent(tmp_path):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    call = [sys.executable, ROOT / "tests/attacks/damage_files.py", tmp_path, "1", "1", str(seed)]
    done = subprocess.run(call, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, total = done.stdout.splitlines()
    # damage was detected and healed, not only harmless
    injected, detected, healed, harmless, silent = (int(cell) for cell in total.strip("| ").split(" | ")[1:])
    assert (silent, injected) == (0, detected + healed + harmless)
    assert min(detected, healed) > injected // 10
