"""The content of a shard set as one HTML page that loads nothing and needs no JavaScript.

Names, units, reasons and file names come from the data and are not trusted: the template escapes all of them, characters that no
text may contain become U+FFFD, and the page's policy forbids scripts and loads. The template is tools/page.html.j2; it and the
plots need `molstream[report]`. Price: a set of 3,300 tasks makes a page of about a megabyte, nearly all of it tables of tasks.
"""

import json
import math
import shlex
import unicodedata
from importlib.resources import files
from pathlib import PurePath
from statistics import median
from typing import Any

from molstream.tools.plots import plot_coverage, plot_elements, plot_histogram, plot_ranges, tail_start

OPEN_ROWS = 20
"""Tables with more rows than this are folded up."""
FAR = 20.0
"""Distance from the mean, in standard deviations, beyond which a value is remarked on."""
_CARRIERS = {"graph": "molecules", "atom": "atoms", "bond": "bonds", "pair": "pairs of atoms"}
_NORMALISED = {
    "regression": "In training a value is (x − mean) / std; mean and std are those of the training split. A task whose values "
    "are all the same is shifted to 0 and not scaled.",
    "binary": "Not normalised: labels are 0 and 1, so the mean is the share of positives.",
    "ordinal": "Not normalised: labels are ordered classes, numbered from 0; the mean is that of the class numbers.",
    "multiclass": "Not normalised: labels are classes in no order, numbered from 0, so there is no mean to speak of.",
}


def render_page(facts: dict[str, Any]) -> str:
    """The page for the facts that `molstream inspect` collects, to be written as UTF-8. The same facts give the same text.

    Raises ModuleNotFoundError if jinja2 or matplotlib is missing.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
        keep_trailing_newline=True,
    )
    environment.filters |= {"count": _count, "number": _number, "percent": _percent, "size": _size}
    environment.tests["long"] = _is_long
    template = environment.from_string(files("molstream.tools").joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(_view(facts))


def _view(facts: dict[str, Any]) -> dict[str, Any]:
    """The values that the template shows: the facts, and values that follow from them."""
    reaches = _reaches(facts)
    path = str(facts["path"])
    return {
        "f": facts,
        "title": PurePath(path).name or path,
        "cat_command": f"molstream cat {shlex.quote(path)} --limit 3",
        "stream_command": f"molstream stream {shlex.quote(path)} --budget ",
        "num_tasks": sum(len(s["tasks"]) for s in facts["task_sets"]),
        "open_rows": OPEN_ROWS,
        "splits": _splits(facts),
        "storage": _storage(facts),
        "sources": facts["sources"],
        "task_sets": [_task_set(s) for s in facts["task_sets"]],
        "coverage": _coverage(facts),
        "ranges": _ranges(reaches),
        "histograms": [_histogram(facts, what) for what in ("atoms", "bonds") if facts["histograms"].get(what)],
        "elements": _elements(facts),
        "bond_types": _shares(facts["histograms"].get("bond_types") or {}),
        "rejects": _shares(facts["rejects"]),
        "budgets": [
            (atoms, parts) for atoms, text in facts["suggested_budgets"].items() if len(parts := str(text).split(",")) == 3
        ],
        "options": [(k, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for k, v in facts["options"].items()],
        "remarks": _remarks(facts, reaches),
    }


def _splits(facts: dict[str, Any]) -> list[dict[str, Any]]:
    total = max(1, facts["molecules"])
    return [{"name": name, "fraction": s["molecules"] / total, **s} for name, s in facts["splits"].items()]


def _storage(facts: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(column group, bytes per molecule, share), largest first; then the bytes that belong to no group."""
    groups = {k: float(v) for k, v in facts["bytes_a_molecule"].items()}
    rest = facts["bytes"] / max(1, facts["molecules"]) - sum(groups.values())
    total = max(1e-9, sum(groups.values()) + max(0.0, rest))
    rows = [(name, size, size / total) for name, size in sorted(groups.items(), key=lambda g: (-g[1], g[0]))]
    return [*rows, ("everything else: tar headers, padding, index", rest, rest / total)] if rest > 0.005 * total else rows


def _task_set(task_set: dict[str, Any]) -> dict[str, Any]:
    """A task set and its rows, as text: thousands of them go through the template."""
    regression, ordered = task_set["kind"] == "regression", task_set["kind"] != "multiclass"
    splits = list(dict.fromkeys(split for t in task_set["tasks"] for split in t["labels_by_split"]))
    spread = ["mean", "std"] if ordered else []
    if task_set["kind"] == "binary":
        spread = ["mean"]
    rows = [
        (
            t["name"],
            t["unit"],
            [
                _percent(t["covered_fraction"]),
                _count(t["labels"]),
                *(_count(t["labels_by_split"].get(split, 0)) for split in splits),
                *((_percent if task_set["kind"] == "binary" else _number)(t[k]) for k in spread),
                *(_number(t[k]) for k in ("min", "max")),
            ],
            _flag(t, regression=regression),
        )
        for t in task_set["tasks"]
    ]
    words = {"mean": "positive"} if task_set["kind"] == "binary" else {}
    return {
        "name": task_set["name"],
        "source": task_set["source"],
        "what": f"{_plural(len(rows), 'task')} on {_CARRIERS.get(task_set['level'], task_set['level'])}, {task_set['kind']}"
        + (f" of {task_set['num_classes']} classes" if task_set["num_classes"] > 2 else ""),
        "normalised": _NORMALISED.get(task_set["kind"], ""),
        "carrier": _CARRIERS.get(task_set["level"], task_set["level"]),
        "head": ["covered", "labels", *(f"in {split}" for split in splits), *(words.get(k, k) for k in spread), "min", "max"],
        "units": any(t["unit"] not in ("", "1", None) for t in task_set["tasks"]),
        "flags": any(flag for *_, flag in rows),
        "rows": rows,
    }


def _flag(task: dict[str, Any], *, regression: bool) -> str:
    """What is odd about one task, in a word or two."""
    if not task["labels"]:
        return "no labels"
    if task["labels_by_split"].get("train", 1) == 0:
        return "none in train"
    if task["min"] is not None and task["min"] == task["max"]:
        return "constant" if regression else "one class"
    return ""


def _reaches(facts: dict[str, Any]) -> list[tuple[dict[str, Any], float, float]]:
    """(task, least, largest value in standard deviations from the mean), farthest first; regression tasks with a spread."""
    found = []
    for t in (t for s in facts["task_sets"] if s["kind"] == "regression" for t in s["tasks"]):
        values = [t[k] for k in ("mean", "std", "min", "max")]
        if all(v is not None and math.isfinite(v) for v in values) and t["std"] > 0 and t["min"] < t["max"]:
            low, high = ((t[k] - t["mean"]) / t["std"] for k in ("min", "max"))
            if math.isfinite(low) and math.isfinite(high):
                # the mean is that of one split, so all values may lie on one side of it
                found.append((t, low, high))
    return sorted(found, key=lambda r: (-_reach(r), r[0]["name"]))


def _reach(found: tuple[dict[str, Any], float, float]) -> float:
    return max(abs(found[1]), abs(found[2]))


def _ranges(reaches: list[tuple[dict[str, Any], float, float]]) -> dict[str, Any] | None:
    if not reaches:
        return None
    far = sum(_reach(r) > FAR for r in reaches)
    text = (
        f"{_plural(len(reaches), 'regression task')}: the farthest value is {_reach(reaches[0]):,.1f} standard deviations from "
        f"its mean, the median task reaches {median(_reach(r) for r in reaches):,.1f}; {far:,} reach beyond {FAR:g}."
    )
    return {
        "text": text,
        "plot": plot_ranges([(low, high) for _, low, high in reaches], label="Range of values of each task. " + text),
        "top": [(t, f"{low:+,.1f}".replace("-", "−"), f"{high:+,.1f}".replace("-", "−")) for t, low, high in reaches[:10]],
    }


def _coverage(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """One plot a level."""
    by_level: dict[str, list[float]] = {}
    for s in facts["task_sets"]:
        by_level.setdefault(s["level"], []).extend(float(t["covered_fraction"] or 0) for t in s["tasks"])
    out = []
    for level, fractions in by_level.items():
        if not fractions:
            continue
        ordered, carrier = sorted(fractions, reverse=True), _CARRIERS.get(level, level)
        text = (
            f"{_plural(len(ordered), 'task')} on {carrier}: from {_percent(ordered[0])} of the {carrier} down to "
            f"{_percent(ordered[-1])}, median {_percent(median(ordered))}."
        )
        empty = sum(f <= 0 for f in ordered)
        text += f" Not drawn: {_plural(empty, 'task')} without a label." if empty else ""
        plot = plot_coverage(fractions, label="Coverage, sorted. " + text) if empty < len(ordered) else ""
        out.append({"title": f"Share of the {carrier} that carry each task", "text": text, "plot": plot})
    return out


def _histogram(facts: dict[str, Any], what: str) -> dict[str, Any]:
    counts = {int(k): int(n) for k, n in facts["histograms"][what].items() if n}
    if not counts:
        return {"title": f"{what.capitalize()} per molecule", "text": "No molecules.", "plot": ""}
    sizes = facts["molecule_sizes"]
    mean = sizes["mean" if what == "atoms" else "mean_bonds"]
    largest = sizes["max" if what == "atoms" else "max_bonds"]
    where = sizes["max_id" if what == "atoms" else "max_bonds_id"]
    text = f"Mean {_number(mean)}, largest {_count(largest)} (id {where})."
    cut = tail_start(counts)
    if cut is not None:
        beyond = sum(n for size, n in counts.items() if size > cut)
        text += f" The last bar holds the {_plural(beyond, 'molecule')} with more than {cut:,}."
    title = f"{what.capitalize()} per molecule"
    return {"title": title, "text": text, "plot": plot_histogram(counts, what=f"{what} per molecule", label=f"{title}. {text}")}


def _elements(facts: dict[str, Any]) -> dict[str, Any] | None:
    rows = _shares(facts["histograms"].get("elements") or {})
    if not rows:
        return None
    text = f"{_plural(len(rows), 'element')}, the most frequent first. The axis is logarithmic."
    label = "Atoms by element. " + ", ".join(f"{name[:20]} {_percent(share)}" for name, _, share in rows[:8])
    return {"rows": rows, "text": text, "plot": plot_elements({name: n for name, n, _ in rows}, label=_clean(label))}


def _shares(counts: dict[str, int]) -> list[tuple[str, int, float]]:
    """(name, count, share of all), largest count first."""
    total = max(1, sum(counts.values()))
    return [(str(k), n, n / total) for k, n in sorted(counts.items(), key=lambda item: (-item[1], str(item[0]))) if n]


def _remarks(facts: dict[str, Any], reaches: list[tuple[dict[str, Any], float, float]]) -> list[tuple[str, list[str], str]]:
    """Remarks for a reader who is about to train on the set: (sentence, names, section)."""
    flagged: dict[str, list[str]] = {}
    for s in facts["task_sets"]:
        for t in s["tasks"]:
            flagged.setdefault(_flag(t, regression=s["kind"] == "regression"), []).append(t["name"])
    out = [
        (f"{_plural(len(flagged[flag]), 'task')} {words}", flagged[flag], "tasks")
        for flag, words in (
            ("no labels", "without any label"),
            ("none in train", "with no label to train on"),
            ("constant", "of regression whose values are all the same"),
            ("one class", "with labels of one class only"),
        )
        if flag in flagged
    ]
    far = [t["name"] for t, *_ in (r for r in reaches if _reach(r) > FAR)]
    if far:
        out.append((f"{_plural(len(far), 'task')} with values beyond {FAR:g} standard deviations from the mean", far, "ranges"))
    if rejected := sum(facts["rejects"].values()):
        out.append((f"{_plural(rejected, 'row')} of {facts['rows']:,} rejected", [], "left-out"))
    if lost := sum(sum(d.values()) for d in facts["dropped_labels"].values()):
        out.append((f"{_plural(lost, 'label')} left out as infinite or not a number", list(facts["dropped_labels"]), "left-out"))
    if conflicts := {k: n for k, n in ((facts["join"] or {}).get("conflicts") or {}).items() if n}:
        text = f"{_plural(sum(conflicts.values()), 'label')} that differ from an earlier row's of the same molecule, which stayed"
        out.append((text, sorted(conflicts, key=lambda k: (-conflicts[k], k)), "join"))
    return out


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{int(value):,}"


def _number(value: float | None) -> str:
    """Five digits, or a dash for a missing value."""
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e5):
        return f"{int(value):,}".replace("-", "−")
    return f"{value:.5g}".replace("-", "−")


def _percent(fraction: float | None) -> str:
    """Two digits after the point below 1 %, one above; never rounded to 0 or to 100 %."""
    if fraction is None or not math.isfinite(fraction):
        return "–"
    if 0 < fraction < 0.0001:
        return "<0.01%"
    if 0.9995 <= fraction < 1:
        return ">99.9%"
    return f"{fraction:.2%}" if 0 < fraction < 0.01 else f"{fraction:.1%}"


def _size(value: float) -> str:
    """Bytes in powers of 1,000."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f} B"


def _clean(text: str) -> str:
    """The text without characters that HTML and UTF-8 cannot hold: control characters, lone surrogates, non-characters."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") or ord(c) & 0xFFFE == 0xFFFE else c for c in text)


def _finalize(value: Any) -> Any:
    """Clean a value on its way into the page; only plain strings, so that escaped markup stays as it is."""
    return _clean(value) if type(value) is str else value


def _is_long(text: str) -> bool:
    """Whether a name gets a box of its own in which it may break: long names, and those that stack marks on top of each other."""
    return len(text) > 28 or (not text.isascii() and any(unicodedata.combining(c) for c in text))
