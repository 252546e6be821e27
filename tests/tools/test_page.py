"""The page about a shard set, from facts made up here: few tasks, 3,300, hostile names, nothing at all; then in a browser."""

import copy
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

import itertools

from molstream.tools import page, plots
from molstream.tools.page import render_page

MOLECULES, ATOMS = 83_700_000, 1_180_000_000


def made_up_task(rng: np.random.Generator, name: str, kind: str, items: int, covered: float, *, unit: str = "1") -> dict:
    labels = int(items * covered)
    mean, std = float(rng.normal(0, 50)), float(rng.lognormal(0, 2))
    low, high = mean - std * (3 + rng.pareto(1.2)), mean + std * (3 + rng.pareto(1.2))
    if kind != "regression":
        mean, std, low, high = float(rng.beta(1, 20)), 0.2, 0.0, 1.0 if kind == "binary" else 4.0
    by_split = {"train": labels - 2 * (labels // 100), "val": labels // 100, "test": labels // 100}
    facts = {"name": name, "unit": unit, "labels": labels, "labels_by_split": by_split, "covered_fraction": labels / items}
    return facts | {"mean": mean, "std": std, "min": low, "max": high}


def made_up_facts(*, wide: bool = False, seed: int = 0) -> dict:
    """Facts of a set like PM6_83M, or of LargeMix's thousands of sparse tasks."""
    rng = np.random.default_rng(seed)

    def task_set(name, level, kind, source, num_tasks, coverage, prefix, unit="1", num_classes=0):
        items = MOLECULES if level == "graph" else ATOMS
        tasks = [
            made_up_task(rng, f"{prefix}{k}", kind, items, float(coverage(rng)), unit=unit if k % 3 else "1")
            for k in range(num_tasks)
        ]
        classes = {"binary": 2}.get(kind, num_classes)
        return {"name": name, "level": level, "kind": kind, "source": source, "num_classes": classes, "tasks": tasks}

    if wide:
        task_sets = [
            task_set("g25", "graph", "regression", "pcqm4m", 25, lambda r: r.uniform(0.4, 0.6), "pcqm_", unit="eV"),
            task_set("n4", "atom", "regression", "pcqm4m", 4, lambda r: r.uniform(0.4, 0.6), "charge_", unit="e"),
            task_set("pcba", "graph", "binary", "pcba", 1328, lambda r: 10 ** r.uniform(-5, -1.5), "assay_"),
            task_set(
                "vcap", "graph", "ordinal", "l1000_vcap", 978, lambda r: 10 ** r.uniform(-4.2, -3), "geneID-VCAP-", num_classes=5
            ),
            task_set(
                "mcf7",
                "graph",
                "multiclass",
                "l1000_mcf7",
                978,
                lambda r: 10 ** r.uniform(-4.2, -3),
                "geneID-MCF7-",
                num_classes=3,
            ),
        ]
    else:
        task_sets = [
            task_set(
                "g62", "graph", "regression", "pm6", 62, lambda r: r.choice([1.0, 0.97, 0.4, 0.89]), "property_", unit="kcal/mol"
            ),
            task_set("n7", "atom", "regression", "pm6", 7, lambda r: r.uniform(0.9, 1), "atom_property_", unit="e"),
        ]
    atoms = {int(n): int(8e7 * math.exp(-((n - 24) ** 2) / 80)) for n in range(1, 60)} | {333: 12, 1024: 1}
    bonds = {int(n): int(8e7 * math.exp(-((n - 26) ** 2) / 90)) for n in range(0, 62)} | {350: 13}
    sources = sorted({s["source"] for s in task_sets})
    sha = "".join(f"{k:02x}" for k in range(32))
    return {
        "path": "/data/sets/pm6 shards",
        "fingerprint": sha,
        "format_version": 2,
        "molecules": MOLECULES,
        "atoms": ATOMS,
        "bonds": 1_290_000_000,
        "labels": sum(t["labels"] for s in task_sets for t in s["tasks"]),
        "bytes": 22_431_600_000,
        "rows": MOLECULES + 1234,
        "splits": {
            name: {
                "molecules": int(MOLECULES * f),
                "atoms": int(ATOMS * f),
                "bonds": int(1.29e9 * f),
                "blocks": int(20_434 * f),
                "shards": int(1000 * f),
                "bytes": int(2.2e10 * f),
            }
            for name, f in (("train", 0.9), ("val", 0.05), ("test", 0.05))
        },
        "bytes_a_molecule": {
            "graph": 61.2,
            "atoms": 12.4,
            "graph_labels": 118.7,
            "atom_labels": 51.9,
            "smiles": 18.3,
            "ids": 1.1,
        },
        "sources": [
            {
                "source": source,
                "tasks": sum(len(s["tasks"]) for s in task_sets if s["source"] == source),
                "labels": sum(t["labels"] for s in task_sets if s["source"] == source for t in s["tasks"]),
                "covered_fraction": float(
                    np.mean([t["covered_fraction"] for s in task_sets if s["source"] == source for t in s["tasks"]])
                ),
            }
            for source in sources
        ],
        "task_sets": task_sets,
        "histograms": {
            "atoms": atoms,
            "bonds": {str(k): v for k, v in bonds.items()},
            "elements": dict(zip("C O N S F Cl Br P Si I B Se Na".split(), (int(1e9 / 3.7**k) for k in range(13)))),
            "bond_types": {
                "single": 700_000_000,
                "aromatic": 450_000_000,
                "double": 138_000_000,
                "triple": 2_000_000,
                "other": 14,
            },
        },
        "molecule_sizes": {
            "mean": 23.4,
            "max": 1024,
            "max_id": 81234567,
            "mean_bonds": 25.1,
            "max_bonds": 350,
            "max_bonds_id": 7,
        },
        "rejects": {"RDKit cannot parse the SMILES": 1100, "atom labels: 22 values for 23 atoms": 120, "empty SMILES": 14},
        "dropped_labels": {task_sets[0]["tasks"][1]["name"]: {"infinite": 12, "nan": 3}},
        "join": {
            "identity": "InChIKey",
            "rows": MOLECULES + 5000,
            "molecules": MOLECULES,
            "tables": [
                {"name": "pcba", "rows": 1_600_000, "molecules": 1_563_664, "duplicates": 12},
                {"name": "l1000", "rows": 15_220, "molecules": 15_000, "duplicates": 220},
            ],
            "conflicts": {"assay_7": 31, "assay_12": 2},
            "across_splits": 0,
            "unmatched": 17,
        }
        if wide
        else None,
        "suggested_budgets": {"1024": "72,1024,2312", "8192": "376,8192,18536", "16384": "744,16384,37016"},
        "inputs": [
            {"name": f"pm6_processed_{k}.parquet", "rows": 4_185_000, "bytes": 3_100_000_000, "sha256": sha, "table": "pm6"}
            for k in range(1, 6)
        ],
        "options": {"atom_labels": "f16", "split_fractions": [0.9, 0.05, 0.05], "seed": 0, "pe": None},
    }


def bare_facts() -> dict:
    """One molecule of one atom, no task, nothing left out."""
    return made_up_facts() | {
        "path": ".",
        "molecules": 1,
        "atoms": 1,
        "bonds": 0,
        "labels": 0,
        "bytes": 10_240,
        "rows": 1,
        "splits": {"train": {"molecules": 1, "atoms": 1, "bonds": 0, "blocks": 1, "shards": 1, "bytes": 10_240}},
        "bytes_a_molecule": {"graph": 40.0},
        "sources": [],
        "task_sets": [],
        "histograms": {"atoms": {1: 1}, "bonds": {0: 1}, "elements": {"C": 1}, "bond_types": {}},
        "molecule_sizes": {"mean": 1.0, "max": 1, "max_id": 0, "mean_bonds": 0.0, "max_bonds": 0, "max_bonds_id": 0},
        "rejects": {},
        "dropped_labels": {},
        "join": None,
        "inputs": [],
        "options": {},
    }


HOSTILE = [
    "<script>hacked=1</script>",
    "</title></style><script>hacked=2</script>",
    '"><img src=x onerror=hacked=3>',
    "' onmouseover='hacked=4",
    "{{ 7 * 7 }} {% raw %}",
    "$x^2$ $\\frac{1}{",
    "&lt;b&gt; &amp;amp;",
    "x" * 5000,
    "name with spaces " * 60,
    "\u202eright to left \u2067 override",
    "性质名称" * 40,
    "z" + "\u0301" * 300,
    "\U0001f469\u200d\U0001f52c \u0000 nul \x1b[31m \udcff half",
    "tab\tand\nline\r\nbreaks",
    "",
]


def hostile_facts() -> dict:
    """A name of HOSTILE wherever a name may be."""
    facts = made_up_facts(wide=True)
    facts["path"] = '/data/<script>hacked=0</script>/it\'s "here"' + "y" * 400
    first = facts["task_sets"][0]
    for k, name in enumerate(HOSTILE):
        first["tasks"][k]["name"] = first["tasks"][k]["unit"] = name
        facts["task_sets"][2]["tasks"][k]["name"] = name + " too"
    first["name"], first["source"] = HOSTILE[0], HOSTILE[7]
    facts["sources"] = [{"source": name, "tasks": 1, "labels": 5, "covered_fraction": 0.5} for name in HOSTILE]
    facts["splits"] = {name: next(iter(facts["splits"].values())) for name in HOSTILE[:4]}
    facts["rejects"] = {name: k + 1 for k, name in enumerate(HOSTILE)}
    facts["dropped_labels"] = {name: {"infinite": 1, "nan": 0} for name in HOSTILE}
    facts["bytes_a_molecule"] = dict.fromkeys(HOSTILE, 10.0)
    facts["histograms"]["elements"] = {name: k + 1 for k, name in enumerate(HOSTILE)}
    facts["histograms"]["bond_types"] = {name: k + 1 for k, name in enumerate(HOSTILE)}
    facts["inputs"] = [{"name": name, "rows": 1, "bytes": 1, "sha256": "0" * 64, "table": name} for name in HOSTILE]
    facts["join"]["identity"] = HOSTILE[1]
    facts["join"]["tables"] = [{"name": name, "rows": 1, "molecules": 1, "duplicates": 0} for name in HOSTILE]
    facts["join"]["conflicts"] = dict.fromkeys(HOSTILE, 1)
    facts["options"] = {name: [name, {"nested": name}] for name in HOSTILE}
    return facts


class Reader(HTMLParser):
    """Tags, attributes and text of a page; asserts that every element is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.ids = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), "an attribute that is there twice"
        if tag not in ("meta", "br", "img", "link", "input", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Pages of every kind of facts."""
    facts = {"small": made_up_facts(), "wide": made_up_facts(wide=True), "bare": bare_facts(), "hostile": hostile_facts()}
    return {name: render_page(f) for name, f in facts.items()}


@pytest.mark.parametrize("which", ["small", "wide", "bare", "hostile"])
def test_every_page_is_well_formed_and_loads_nothing(pages, which):
    text = pages[which]
    reader = Reader(text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert "\r" not in text
    text.encode("utf-8")
    tags = {tag for tag, _ in reader.tags}
    assert tags.isdisjoint({"script", "img", "iframe", "object", "embed", "link", "base", "form", "use", "image"})
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert "src" not in attributes
        if "href" in attributes:
            assert attributes["href"][0] == "#"
            assert attributes["href"][1:] in ids
        if tag == "svg":
            assert attributes["role"] == "img"
            assert len(attributes["aria-label"]) > 20
    assert reader.count("h1") == 1
    assert reader.count("table") == reader.count("caption")
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), "a heading that skips a level"


@pytest.mark.parametrize("which", ["small", "wide", "bare", "hostile"])
def test_plots_hold_plain_short_texts(pages, which):
    # no name but of an element goes into a plot: matplotlib reads $ as mathematics and warns of letters its font lacks
    for svg in re.findall(r"<svg.*?</svg>", pages[which], re.DOTALL):
        for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg):
            assert re.fullmatch(r"[−A-Za-z0-9.,%?* ]{1,30}|&gt; [0-9,]+", text), text
        assert "#" not in re.sub(r'aria-label="[^"]*"', "", svg), "a colour that does not follow the page"


@pytest.mark.parametrize("which", ["small", "wide"])
def test_every_task_is_in_the_page(pages, which):
    for task_set in made_up_facts(wide=which == "wide")["task_sets"]:
        for task in task_set["tasks"]:
            assert f'<tr><th scope="row"><bdi>{task["name"]}</bdi></th>' in pages[which]


def test_hostile_names_are_text(pages):
    text = pages["hostile"]
    reader = Reader(text)
    for name in HOSTILE:
        clean = "".join("\ufffd" if c in "\0\x1b\udcff\t\n\r" else c for c in name)
        assert clean in reader.text
        if "<" in name:
            assert name not in text
            assert html.escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in text
    assert "<script" not in text
    assert "49" not in re.findall(r"<bdi>(.*?)</bdi>", text), "a name was run as a template"


@pytest.mark.parametrize("command", ["cat", "stream"])
def test_commands_can_be_pasted_whatever_the_path(pages, command):
    import shlex

    line = next(line for line in Reader(pages["hostile"]).text.splitlines() if line.startswith(f"molstream {command} "))
    assert shlex.split(line)[2] == hostile_facts()["path"]


def test_the_numbers_are_those_of_the_facts(pages):
    text = Reader(pages["small"]).text
    for words in (
        "83,700,000",
        "22.4 GB",
        "72",
        "1,024",
        "2,312",
        "molstream cat '/data/sets/pm6 shards' --limit 3",
        "1,100",
        "id 81234567",
    ):
        assert words in text
    atoms = made_up_facts()["histograms"]["atoms"]
    beyond = sum(n for size, n in atoms.items() if size > plots.tail_start(atoms))
    assert f"The last bar holds the {beyond:,} molecules with more than" in text
    task = made_up_facts()["task_sets"][0]["tasks"][5]
    row = re.search(r"<tr><th scope=\"row\"><bdi>property_5</bdi></th>.*?</tr>", pages["small"])[0]
    cells = re.findall(r"<td>(.*?)</td>", row)
    assert cells[1] == f"{task['labels']:,}"
    assert float(cells[-1].replace("−", "-").replace(",", "")) == pytest.approx(task["max"], rel=1e-4)


def test_what_is_odd_is_said_first():
    facts = made_up_facts()
    for k, change in enumerate(
        [
            {"labels": 0, "labels_by_split": {}, "covered_fraction": 0.0} | dict.fromkeys(("mean", "std", "min", "max")),
            {"labels_by_split": {"train": 0, "val": 4}},
            {"min": 3.0, "max": 3.0, "std": 1.0},
            {"mean": 0.0, "std": 1.0, "min": -1.0, "max": 1234.5},
        ]
    ):
        facts["task_sets"][0]["tasks"][k].update(change)
    text = " ".join(Reader(render_page(facts)).text.split())
    for words in (
        "1 task without any label: property_0",
        "1 task with no label to train on: property_1",
        "1 task of regression whose values are all the same: property_2",
        "67 regression tasks: the farthest value is 1,234.5 standard deviations from its mean",
        "1,234 rows of 83,701,234 rejected",
        "15 labels left out",
    ):
        assert words in text
    assert "Worth a look" not in Reader(render_page(bare_facts())).text


def test_binary_tasks_show_their_share_of_positives():
    facts = made_up_facts(wide=True)
    facts["task_sets"][2]["tasks"] = facts["task_sets"][2]["tasks"][:1]
    facts["task_sets"][2]["tasks"][0].update(mean=0.0321)
    text = render_page(facts)
    assert re.search(r"assay_0</bdi></th>(<td>[^<]*</td>)+<td>3.2%</td>", text)
    assert "the mean is the share of positives" in text


@pytest.mark.parametrize(
    "change",
    [
        {"task_sets": [], "sources": []},
        {"rejects": {}, "dropped_labels": {}},
        {"histograms": {"atoms": {}, "bonds": {}, "elements": {}, "bond_types": {}}},
        {"molecules": 0, "atoms": 0, "bonds": 0, "labels": 0, "bytes": 0, "rows": 0, "splits": {}, "bytes_a_molecule": {}},
        {"suggested_budgets": {}},
        {
            "molecule_sizes": {
                "mean": None,
                "max": None,
                "max_id": None,
                "mean_bonds": None,
                "max_bonds": None,
                "max_bonds_id": None,
            }
        },
        {"task_sets": [{"name": "e", "level": "pair", "kind": "binary", "source": "s", "num_classes": 2, "tasks": []}]},
    ],
)
def test_facts_with_nothing_in_them_make_a_page(change):
    Reader(render_page(made_up_facts() | change))


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0.0, -1e300, 1e-300])
def test_any_number_may_be_missing_or_extreme(value):
    facts = made_up_facts()
    for task_set in facts["task_sets"]:
        for k, task in enumerate(task_set["tasks"]):
            for key in ("covered_fraction", "mean", "std", "min", "max")[k % 5 :]:
                task[key] = value if key != "covered_fraction" or value is None else 0.0
    for source in facts["sources"]:
        source["covered_fraction"] = value if value is None else 0.0
    text = Reader(render_page(facts)).text
    assert "nan" not in text.lower().replace("nano", "")
    assert "None" not in text


@pytest.mark.parametrize("num_tasks", [1, 5, 60, 61, 240, 241, 5000])
@pytest.mark.parametrize("least", [0.2, 1e-7])
def test_coverage_of_any_number_of_tasks_is_drawn(num_tasks, least):
    shares = np.exp(np.random.default_rng(3).uniform(np.log(least), 0, num_tasks))
    svg = plots.plot_coverage(shares.tolist(), label="coverage")
    data = [m for m in re.findall(r'<path d="([^"]*)" style="[^"]*var\(--main\)', svg) if "C" not in m]
    points = max((m.count("L") for m in data), default=0)
    # a straight piece of a curve is one line
    assert points >= 0.4 * min(num_tasks, plots.MAX_COLUMNS) - 1
    assert len(svg) < 100_000


def test_ranges_far_out_or_in_a_single_task_are_drawn():
    for low, high in ((-1e12, 1.0), (0.5, 9.0), (-4.0, -3.5), (-1e300, 1e300)):
        Reader(plots.plot_ranges([(low, high)], label="one"))
        Reader(plots.plot_ranges([(low, high)] * 3000, label="many"))


def test_a_histogram_counts_every_molecule_once(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_bars", lambda ax, x, low, high, **_: drawn.append(float(np.sum(high))))
    plots.plot_histogram({10: 100_000, 11: 60, 12: 30, 50: 2}, what="atoms", label="the tail begins at the next size")
    assert drawn == [100_000, 92]
    rng = np.random.default_rng(1)
    for _ in range(20):
        drawn.clear()
        sizes, numbers = np.unique((rng.pareto(1.5, 5000) * 20 + rng.integers(0, 30)).astype(int), return_counts=True)
        plots.plot_histogram(dict(zip(sizes.tolist(), numbers.tolist())), what="atoms", label="atoms")
        assert sum(drawn) == 5000


def test_groups_of_tasks_keep_the_farthest_values(monkeypatch):
    seen = {}
    monkeypatch.setattr(plots, "_bars", lambda ax, x, low, high, **_: seen.update(low=low, high=high))
    rng = np.random.default_rng(2)
    reaches = [(-float(a), float(b)) for a, b in rng.pareto(1, (3300, 2)) + 1]
    plots.plot_ranges(reaches, label="many")
    assert len(seen["low"]) == plots.MAX_COLUMNS
    assert seen["low"].min() == min(low for low, _ in reaches)
    assert seen["high"].max() == max(high for _, high in reaches)


def test_the_same_facts_give_the_same_page_in_another_process_and_with_another_matplotlibrc(tmp_path, pages):
    facts = tmp_path / "facts.py"
    facts.write_text(repr(made_up_facts()))
    (tmp_path / "matplotlibrc").write_text("axes.labelsize: 30\nxtick.labelsize: 3\npath.sketch: 1, 100, 2\nbackend: svg\n")
    program = "import ast, sys; from molstream.tools.page import render_page; "
    program += "sys.stdout.buffer.write(render_page(ast.literal_eval(open('facts.py').read())).encode())"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == pages["small"]
    assert render_page(made_up_facts()) == pages["small"]


def test_facts_are_left_as_they_are_and_may_come_from_json(pages):
    facts = made_up_facts()
    before = copy.deepcopy(facts)
    render_page(facts)
    assert facts == before
    assert render_page(json.loads(json.dumps(facts))) == pages["small"]


def test_importing_the_page_imports_neither_jinja2_nor_matplotlib():
    program = "import sys, molstream.tools.page; print({'jinja2', 'matplotlib'} & set(sys.modules))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=500, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=package) as raised:
        render_page(made_up_facts())
    assert raised.value.name == package


def test_thousands_of_tasks_fit_into_three_megabytes(pages):
    size = len(pages["wide"].encode())
    assert sum(len(s["tasks"]) for s in made_up_facts(wide=True)["task_sets"]) > 3300
    assert size < 3_000_000
    assert sum(map(len, re.findall(r"<svg.*?</svg>", pages["wide"]))) < 200_000
    details = re.findall(r"<details>", pages["wide"])
    assert len(details) >= 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.0, "0.0%"), (1e-6, "<0.01%"), (0.0012, "0.12%"), (0.4, "40.0%"), (0.99999, ">99.9%"), (1.0, "100.0%"),
    ],
)  # fmt: skip
def test_a_share_is_never_rounded_to_all_or_nothing(value, text):
    assert page._percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (22_431_600_000, "22.4 GB"), (999_900, "999.9 kB")]
)
def test_bytes_are_readable(value, text):
    assert page._size(value) == text


# in a browser

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium to look at the page with")
MEASURE = """<script>
document.querySelectorAll('details').forEach(d => { d.open = true; });
const outside = e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1;
const wide = [...document.querySelectorAll('main *')].filter(outside);
const names = [...document.querySelectorAll('bdi.long')].filter(e => e.scrollWidth > e.clientWidth + 1);
const tall = [...document.querySelectorAll('tr')].filter(e => e.offsetHeight > 90);
const problems = [wide.length, names.length, tall.length, window.hacked || 0];
document.title = JSON.stringify([document.documentElement.scrollWidth, innerWidth, ...problems]);
</script>"""


def browse(folder: Path, text: str, *arguments: str, width: int, height: int = 1400) -> str:
    """Open a page in a headless browser, in a profile of its own; what it prints."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    command += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--window-size={width},{height}", *arguments, (folder / "page.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=True).stdout


def framed(text: str, *, ruler: bool) -> str:
    """The page with a script that measures it; with its policy taken out, unless the policy is what is tested."""
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert policy.search(text)
    return (policy.sub("", text) if ruler else text).replace("</body>", MEASURE + "</body>")


@pytest.mark.slow
@needs_browser
def test_no_page_is_wider_than_its_window_and_none_runs_a_script(pages, tmp_path):
    frames = [(which, width) for which in pages for width in (1280, 420, 320)]
    for which, text in pages.items():
        (tmp_path / f"{which}.html").write_text(framed(text, ruler=True), encoding="utf-8")
    (tmp_path / "policy.html").write_text(framed(pages["small"], ruler=False), encoding="utf-8")
    # frames, because a window has a least width
    outer = "".join(
        f'<iframe style="width:{width}px;height:900px;border:0" src="{which}.html"></iframe>' for which, width in frames
    )
    outer += """<iframe src="policy.html"></iframe><script>addEventListener("load", () => {
        const titles = Array.from(document.querySelectorAll("iframe"), f => f.contentDocument.title);
        document.title = JSON.stringify(titles);
    })</script>"""
    out = browse(tmp_path, "<!DOCTYPE html><title>-</title>" + outer, "--allow-file-access-from-files", "--dump-dom", width=1400)
    *titles, untouched = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", out)[1]))
    assert untouched == "pm6 shards: molstream shard set"
    assert len(titles) == len(frames)
    for (which, width), title in zip(frames, titles):
        scroll, inner, *problems = json.loads(title)
        assert (which, inner, max(scroll, inner), problems) == (which, width, width, [0, 0, 0, 0])


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_picture_of_the_page_shows_text_and_plots_on_the_right_ground(pages, tmp_path, dark):
    from matplotlib.image import imread

    picture = tmp_path / "page.png"
    arguments = [f"--screenshot={picture}", *(["--blink-settings=preferredColorScheme=0"] if dark else [])]
    browse(tmp_path, pages["small"], *arguments, width=1000, height=1600)
    image = np.round(imread(picture)[..., :3] * 255).astype(int)
    assert image.shape[:2] == (1600, 1000)
    ground = image[2, 2]
    assert ground.tolist() == ([20, 23, 26] if dark else [255, 255, 255])
    marked = np.abs(image - ground).max(axis=2) > 60
    assert 0.02 < marked.mean() < 0.5
    assert marked[:200].any(), "no heading"
    blue = np.asarray([106, 170, 228] if dark else [42, 111, 176])
    assert (np.abs(image - blue).max(axis=2) < 8).sum() > 3000, "no bars"
