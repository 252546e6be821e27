"""The README says the truth: its commands and options exist, its Python runs, its links lead somewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from molstream.tools.main import main
from molstream.trainers.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = "".join(re.findall(r"```\n(.*?)```", README, re.DOTALL))


def test_the_python_in_the_readme_runs(sample_set, tmp_path):
    code, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shutil.copytree(sample_set.path, tmp_path / "pm6-shards")
    counted = code.replace("        ...", "        print(batch.num_graphs)")
    assert counted != code
    done = subprocess.run(
        [sys.executable, "-c", counted], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, *numbers = done.stdout.splitlines()
    assert first.endswith(" steps in this epoch, known before anything is read")
    assert sum(map(int, numbers)) == sample_set.manifest.splits["train"]["molecules"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_webdataset_pipeline_in_the_readme_runs(sample_set):
    _, code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found: list = []
    exec(code.replace("    ...", "    found.append(molecule)"), {"shard_set": sample_set, "found": found})
    assert sum(map(len, found)) == len(found) == sample_set.manifest.splits["train"]["molecules"]


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^molstream [^#\n]+", BLOCKS, re.MULTILINE))))
def test_every_command_and_option_in_the_readme_exists(line, capsys):
    _, command, *words = line.split()
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    for option in words:
        if option.startswith("--"):
            assert option in text, f"{option} of {line.strip()}"


def test_every_link_in_the_readme_leads_to_a_file():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in [*links, *re.findall(r"[\w/]+\.md", README)]:
        assert (ROOT / link).exists(), link


def test_every_recipe_the_readme_names_exists():
    for name in re.findall(r"--recipe ([\w-]+)", README):
        assert name in RECIPES
