"""The page about a shard set: few tasks, 3,300, hostile names, nothing at all; then in a browser."""

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


def more(task_set: dict, name: str, number: int, **changes) -> dict:
    """`number` tasks like those of a set, most of them with few labels."""
    tasks = [
        task
        | {"name": f"{name}-{k}", "labels": task["labels"] // (1 + k), "covered_fraction": task["covered_fraction"] / (1 + k)}
        for k, task in zip(range(number), itertools.cycle(task_set["tasks"]))
    ]
    return task_set | {"name": name, "source": name, "tasks": tasks} | changes


@pytest.fixture(scope="module")
def kinds_of_facts(succeed, shard_set) -> dict[str, dict]:
    """What `inspect` says of a set: as it is; with thousands of tasks, joined; of one atom; with hostile names."""
    small = succeed("inspect", shard_set, "--json").json
    # a few large molecules beyond the last bar
    atoms = {size: 1000 * number for size, number in small["histograms"]["atoms"].items()}
    small["histograms"]["atoms"] = atoms | {"333": 12, "1024": 1}
    g62, n7 = small["task_sets"]
    wide = small | {"task_sets": [g62, n7, more(g62, "pcba", 1328, kind="binary", num_classes=2)]}
    wide["task_sets"] += [more(g62, cell, 978, kind="ordinal", num_classes=5) for cell in ("vcap", "mcf7")]
    wide["sources"] = [small["sources"][0] | {"source": name} for name in ("pm6", "pcba", "vcap", "mcf7")]
    tables = [{"name": name, "rows": 160, "molecules": 150, "duplicates": 10} for name in ("pm6", "pcba")]
    wide["join"] = {"identity": "InChIKey", "rows": 320, "molecules": 250, "tables": tables, "conflicts": {"pcba-7": 31}}
    wide["join"] |= {"across_splits": 0, "unmatched": 17}
    one = {"molecules": 1, "atoms": 1, "bonds": 0, "blocks": 1, "shards": 1, "bytes": 10_240}
    bare = small | one | {"labels": 0, "rows": 1, "splits": {"train": one}, "bytes_a_molecule": {"graph": 40.0}, "sources": []}
    bare |= {"task_sets": [], "histograms": {"atoms": {"1": 1}, "bonds": {"0": 1}, "elements": {"C": 1}, "bond_types": {}}}
    bare["molecule_sizes"] = {"mean": 1.0, "max": 1, "max_id": 0, "mean_bonds": 0.0, "max_bonds": 0, "max_bonds_id": 0}
    bare |= {"rejects": {}, "dropped_labels": {}, "join": None, "inputs": [], "options": {}}
    return {"small": small, "wide": wide, "bare": bare, "hostile": hostile(copy.deepcopy(wide))}


@pytest.fixture
def facts(kinds_of_facts) -> dict:
    """Those of the set as it is, to be changed."""
    return copy.deepcopy(kinds_of_facts["small"])


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


def hostile(facts: dict) -> dict:
    """A name of HOSTILE wherever a name may be."""
    facts["path"] = '/data/<script>hacked=0</script>/it\'s "here"' + "y" * 400
    first = facts["task_sets"][0]
    for k, name in enumerate(HOSTILE):
        first["tasks"][k]["name"] = first["tasks"][k]["unit"] = name
        facts["task_sets"][2]["tasks"][k]["name"] = name + " too"
    first["name"], first["source"] = HOSTILE[0], HOSTILE[7]
    facts["sources"] = [facts["sources"][0] | {"source": name} for name in HOSTILE]
    facts["splits"] = {name: next(iter(facts["splits"].values())) for name in HOSTILE[:4]}
    facts["rejects"] = {name: k + 1 for k, name in enumerate(HOSTILE)}
    facts["dropped_labels"] = {name: {"infinite": 1, "nan": 0} for name in HOSTILE}
    facts["bytes_a_molecule"] = dict.fromkeys(HOSTILE, 10.0)
    for histogram in ("elements", "bond_types"):
        facts["histograms"][histogram] = {name: k + 1 for k, name in enumerate(HOSTILE)}
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
def pages(kinds_of_facts) -> dict[str, str]:
    """Pages of every kind of facts."""
    return {name: render_page(facts) for name, facts in kinds_of_facts.items()}


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
def test_every_task_is_in_the_page(pages, kinds_of_facts, which):
    for task_set in kinds_of_facts[which]["task_sets"]:
        for task in task_set["tasks"]:
            assert re.search(rf'<tr><th scope="row"><bdi( class="long")?>{task["name"]}</bdi></th>', pages[which]), task["name"]


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
def test_commands_can_be_pasted_whatever_the_path(pages, kinds_of_facts, command):
    import shlex

    line = next(line for line in Reader(pages["hostile"]).text.splitlines() if line.startswith(f"molstream {command} "))
    assert shlex.split(line)[2] == kinds_of_facts["hostile"]["path"]


def test_the_numbers_are_those_of_the_facts(pages, facts):
    text = Reader(pages["small"]).text
    assert f"molstream cat {facts['path']} --limit 3" in text
    for number in (facts["molecules"], *map(int, facts["suggested_budgets"]["1024"].split(","))):
        assert f"{number:,}" in text
    atoms = {int(size): number for size, number in facts["histograms"]["atoms"].items()}
    beyond = sum(n for size, n in atoms.items() if size > plots.tail_start(atoms))
    assert f"The last bar holds the {beyond:,} molecules with more than" in text
    task = facts["task_sets"][0]["tasks"][5]
    row = re.search(rf"<tr><th scope=\"row\"><bdi[^>]*>{task['name']}</bdi></th>.*?</tr>", pages["small"])[0]
    cells = re.findall(r"<td>(.*?)</td>", row)
    assert cells[1] == f"{task['labels']:,}"
    assert float(cells[-1].replace("\u2212", "-").replace(",", "")) == pytest.approx(task["max"], rel=1e-4)


def test_what_is_odd_is_said_first(kinds_of_facts, facts):
    tasks = facts["task_sets"][0]["tasks"]
    for k, change in enumerate(
        [
            {"labels": 0, "labels_by_split": {}, "covered_fraction": 0.0} | dict.fromkeys(("mean", "std", "min", "max")),
            {"labels_by_split": {"train": 0, "val": 4}},
            {"min": 3.0, "max": 3.0, "std": 1.0},
            {"mean": 0.0, "std": 1.0, "min": -1.0, "max": 1234.5},
        ]
    ):
        tasks[k].update(change)
    facts |= {"rejects": {"empty SMILES": 1234}, "rows": 5000, "dropped_labels": {"graph_mw": {"infinite": 12, "nan": 3}}}
    text = " ".join(Reader(render_page(facts)).text.split())
    for words in (
        f"1 task without any label: {tasks[0]['name']}",
        f"1 task with no label to train on: {tasks[1]['name']}",
        "of regression whose values are all the same: ",
        f" {tasks[2]['name']}",
        " regression tasks: the farthest value is 1,234.5 standard deviations from its mean",
        "1,234 rows of 5,000 rejected",
        "15 labels left out",
    ):
        assert words in text
    assert "Worth a look" not in Reader(render_page(kinds_of_facts["bare"])).text


def test_binary_tasks_show_their_share_of_positives(facts):
    facts["task_sets"] = [more(facts["task_sets"][0], "pcba", 1, kind="binary", num_classes=2)]
    facts["task_sets"][0]["tasks"][0].update(mean=0.0321, std=0.2, min=0.0, max=1.0)
    text = render_page(facts)
    assert re.search(r"pcba-0</bdi></th>.*?<td>3.2%</td>", text)
    assert "the mean is the share of positives" in text


def test_facts_with_nothing_in_them_make_a_page(facts):
    for change in (
        {"task_sets": [], "sources": [], "rejects": {}, "dropped_labels": {}, "suggested_budgets": {}},
        {"histograms": {"atoms": {}, "bonds": {}, "elements": {}, "bond_types": {}}},
        dict.fromkeys(("molecules", "atoms", "bonds", "labels", "bytes", "rows"), 0) | {"splits": {}, "bytes_a_molecule": {}},
        {"molecule_sizes": dict.fromkeys(facts["molecule_sizes"])},
        {"task_sets": [{"name": "e", "level": "pair", "kind": "binary", "source": "s", "num_classes": 2, "tasks": []}]},
    ):
        Reader(render_page(facts | change))


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -1e300])
def test_any_number_may_be_missing_or_extreme(facts, value):
    for task_set in facts["task_sets"]:
        for k, task in enumerate(task_set["tasks"]):
            for key in ("covered_fraction", "mean", "std", "min", "max")[k % 5 :]:
                task[key] = value if key != "covered_fraction" or value is None else 0.0
    for source in facts["sources"]:
        source["covered_fraction"] = value if value is None else 0.0
    text = Reader(render_page(facts)).text
    assert "nan" not in text.lower().replace("nano", "")
    assert "None" not in text


@pytest.mark.parametrize(("num_tasks", "least"), [(1, 0.2), (60, 1e-7), (61, 0.2), (240, 1e-7), (241, 0.2), (5000, 1e-7)])
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
    for _ in range(4):
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


def test_the_same_facts_give_the_same_page_in_another_process_and_with_another_matplotlibrc(tmp_path, pages, facts):
    (tmp_path / "facts.py").write_text(repr(facts))
    (tmp_path / "matplotlibrc").write_text("axes.labelsize: 30\nxtick.labelsize: 3\npath.sketch: 1, 100, 2\nbackend: svg\n")
    program = "import ast, sys; from molstream.tools.page import render_page; "
    program += "sys.stdout.buffer.write(render_page(ast.literal_eval(open('facts.py').read())).encode())"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == pages["small"]
    before = copy.deepcopy(facts)
    assert render_page(facts) == pages["small"]
    assert facts == before


def test_importing_the_page_imports_neither_jinja2_nor_matplotlib():
    program = "import sys, molstream.tools.page; print({'jinja2', 'matplotlib'} & set(sys.modules))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=500, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named(monkeypatch, facts, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=package) as raised:
        render_page(facts)
    assert raised.value.name == package


def test_thousands_of_tasks_fit_into_three_megabytes(pages):
    size = len(pages["wide"].encode())
    assert len(re.findall('<tr><th scope="row"><bdi', pages["wide"])) > 3300
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
    assert untouched == "set: molstream shard set"
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
