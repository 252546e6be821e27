"""Plots of a shard set as inline SVG: only numbers, no names that a user chose, colours from the style sheet of the page.

matplotlib draws in marker colours that are exchanged for CSS variables, so one picture serves light, dark and paper. It is
imported when the first plot is drawn (`molstream[report]`). More than MAX_COLUMNS tasks are drawn as that many groups of
neighbours. The same numbers give the same bytes, whatever the reader's matplotlibrc.
"""

import io
import math
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np

MAX_COLUMNS = 240
MAX_ELEMENTS = 20
NORMAL_REACH = 5.0
"""Approximate largest of a million draws from a normal distribution, in standard deviations."""
_INK, _LINE, _MAIN, _WARN = "#010101", "#020202", "#030303", "#040404"
_CSS = {_INK: "var(--muted)", _LINE: "var(--line)", _MAIN: "var(--main)", _WARN: "var(--warn)"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "molstream",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


def plot_coverage(fractions: list[float], *, label: str) -> str:
    """Share of items that carry each task, most covered first; on a log axis where a share is below 1 %, without those at 0."""
    shares = np.sort(np.asarray([f for f in fractions if f > 0]))[::-1] * 100
    log = bool(len(shares)) and shares[-1] < 1
    shown = np.unique(np.linspace(0, len(shares) - 1, min(MAX_COLUMNS, len(shares))).astype(int))

    def draw(ax: Any) -> None:
        ranks, drawn = shown + 1, shares[shown]
        if log:
            _log(ax)
            bottom = 10.0 ** math.floor(math.log10(shares[-1]))
            ax.set_ylim(bottom, 130)
            ax.plot(ranks, drawn, color=_MAIN, linewidth=1.6, marker="o" if len(shares) <= 60 else None, markersize=4)
            powers = _powers(bottom, 100)
            ax.set_yticks(powers, [f"{p:.9f}".rstrip("0").rstrip(".") + "%" for p in powers])
        else:
            _bars(ax, ranks, np.zeros(len(ranks)), drawn)
            ax.set_ylim(0, 100)
            ax.set_yticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"])
        _ranks(ax, len(shares), "tasks, most covered first")

    return _svg(label, draw)


def plot_ranges(reaches: list[tuple[float, float]], *, label: str) -> str:
    """Least and largest value of each task in standard deviations from its mean, farthest first; linear up to 1, then log."""
    ordered = sorted(reaches, key=lambda r: -max(-r[0], r[1]))
    groups = np.array_split(np.asarray(ordered).reshape(-1, 2), min(MAX_COLUMNS, len(ordered)) or 1)
    low = np.asarray([g[:, 0].min() for g in groups if len(g)])
    high = np.asarray([g[:, 1].max() for g in groups if len(g)])
    far = max(10.0, float(max(-low.min(), high.max()))) if len(low) else 10.0

    def draw(ax: Any) -> None:
        _log(ax, "symlog", linthresh=1, linscale=0.6)
        ax.set_ylim(-far * 1.5, far * 1.5)
        _bars(ax, np.linspace(1, len(ordered), len(low)) if len(low) > 1 else np.ones(len(low)), low, high)
        ax.axhline(0, color=_INK, linewidth=0.8)
        for reach in (-NORMAL_REACH, NORMAL_REACH):
            ax.axhline(reach, color=_WARN, linewidth=1.1, dashes=(4, 3))
        powers = _powers(1, far, most=4)
        ticks = [*(-p for p in reversed(powers)), 0.0, *powers]
        ax.set_yticks(ticks, [_short(t) for t in ticks])
        ax.set_ylabel("standard deviations")
        _ranks(ax, len(ordered), "tasks, farthest value first")

    return _svg(label, draw, height=3.0)


def tail_start(counts: dict[int, int]) -> int | None:
    """The size beyond which a histogram is one bar: 99.9 % of the molecules are at or below it. None: no such tail."""
    sizes = np.asarray(sorted(counts), np.int64)
    seen = np.cumsum([counts[int(s)] for s in sizes])
    cut = int(sizes[np.searchsorted(seen, 0.999 * seen[-1])])
    return cut if sizes[-1] > 1.2 * cut + 4 else None


def plot_histogram(counts: dict[int, int], *, what: str, label: str) -> str:
    """Molecules by size, sizes in equal bins; those beyond `tail_start` in one bar of its own."""
    cut = tail_start(counts)
    sizes = np.asarray(sorted(counts), np.int64)
    weights = np.asarray([counts[int(s)] for s in sizes], np.float64)
    last = int(sizes[-1]) if cut is None else cut
    width = max(1, math.ceil((last - int(sizes[0]) + 1) / 60))
    edges = np.arange(int(sizes[0]), last + width + 1, width) - 0.5
    heights, _ = np.histogram(sizes[sizes <= last], bins=edges, weights=weights[sizes <= last])

    def draw(ax: Any) -> None:
        span = float(edges[-1] - edges[0])
        _bars(ax, (edges[:-1] + edges[1:]) / 2, np.zeros(len(heights)), heights, step=width)
        if len(heights) < 8:
            ax.set_xlim(edges[0] - 4 * width, edges[-1] + 4 * width)
            ticks = (edges[:-1] + 0.5).tolist()
        else:
            ax.locator_params(axis="x", nbins=7, integer=True)
            ticks = [t for t in ax.get_xticks() if edges[0] <= t <= edges[-1]]
        texts = [f"{t:,.0f}" for t in ticks]
        if cut is not None:
            at = float(edges[-1]) + max(0.06 * span, 2.5 * width)
            _bars(ax, np.asarray([at]), np.zeros(1), weights[sizes > last].sum(keepdims=True), step=width * 2, color=_WARN)
            # room for the text under the last bar
            near = sum(t > edges[-1] - 0.07 * span for t in ticks) if len(heights) >= 8 else 0
            ticks, texts = [*ticks[: len(ticks) - near], at], [*texts[: len(texts) - near], f"> {last:,}"]
        ax.set_xticks(ticks, texts)
        _thousands(ax)
        ax.set_xlabel(what)
        ax.set_ylabel("molecules")

    return _svg(label, draw)


def plot_elements(counts: dict[str, int], *, label: str) -> str:
    """Atoms by element on a log axis, the MAX_ELEMENTS most frequent."""
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_ELEMENTS]

    def draw(ax: Any) -> None:
        values = np.asarray([max(1, n) for _, n in top], np.float64)
        places = np.arange(len(top))
        _log(ax)
        ax.set_ylim(0.7, values.max() * 3)
        ax.vlines(places, 0.7, values, color=_LINE, linewidth=1.2)
        ax.plot(places, values, color=_MAIN, linestyle="none", marker="o", markersize=5)
        # symbols, unless the set says otherwise: nothing that could break the picture
        ax.set_xticks(places, [re.sub("[^A-Za-z0-9*]", "?", name)[:3] for name, _ in top])
        ax.set_xlim(-0.7, max(len(top), 6) - 0.3)
        powers = _powers(1, float(values.max()) * 2, most=6)
        ax.set_yticks(powers, [_short(p) for p in powers])
        ax.set_ylabel("atoms")

    return _svg(label, draw)


def _bars(ax: Any, x: np.ndarray, low: np.ndarray, high: np.ndarray, *, step: float | None = None, color: str = _MAIN) -> None:
    """Bars as one path: a picture of 240 of them stays small."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    step = step or (float(x[-1] - x[0]) / (len(x) - 1) if len(x) > 1 else 1.0)
    half = step * (0.4 if len(x) <= 100 else 0.5)
    left, right = x - half, x + half
    corners = np.stack([np.stack(p, 1) for p in ((left, low), (left, high), (right, high), (right, low), (left, low))], 1)
    codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(x))
    ax.add_patch(PathPatch(Path(corners.reshape(-1, 2), codes), facecolor=color, linewidth=0))
    ax.autoscale_view()


def _ranks(ax: Any, num_tasks: int, text: str) -> None:
    ax.set_xlim(0.3, max(num_tasks, 8) + 0.7)
    ax.locator_params(axis="x", nbins=6, integer=True)
    ticks = [t for t in ax.get_xticks() if 1 < t <= num_tasks] if num_tasks > 10 else range(2, num_tasks + 1)
    ax.set_xticks([1, *ticks], ["1", *(f"{t:,.0f}" for t in ticks)])
    ax.set_xlabel(text)


def _log(ax: Any, scale: str = "log", **how: float) -> None:
    """A log axis without minor ticks, whose labels would be formulas."""
    from matplotlib.ticker import NullLocator

    ax.set_yscale(scale, **how)
    ax.yaxis.set_minor_locator(NullLocator())


def _thousands(ax: Any) -> None:
    ax.set_ylim(bottom=0)
    ax.locator_params(axis="y", nbins=5, integer=True)
    ticks = [t for t in ax.get_yticks() if t <= ax.get_ylim()[1]]
    ax.set_yticks(ticks, [_short(t) for t in ticks])


def _powers(low: float, high: float, *, most: int = 6) -> list[float]:
    """Powers of ten from `low` to `high`, every second, third, ... where there would be more than `most`."""
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high) + 1e-9)
    return [10.0**k for k in range(first, last + 1, math.ceil(max(1, last - first + 1) / most))]


def _short(value: float) -> str:
    """1,500 as '1.5k'; a true minus sign."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}".replace("-", "−")
    return f"{value:g}".replace("-", "−")


def _svg(label: str, draw: Callable[[Any], None], *, width: float = 4.9, height: float = 2.6) -> str:
    """One `<svg>` element, `label` its text for readers who cannot see it."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_visible(False)
        ax = figure.subplots()
        ax.patch.set_visible(False)
        draw(ax)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return _inline(out.getvalue(), label)


def _inline(text: str, label: str) -> str:
    """What matplotlib wrote, as an element of an HTML page: no namespaces, no metadata, no ids, colours as CSS variables."""
    root = ElementTree.fromstring(text)
    defined = {node.get("id", ""): node for node in root.iter() if _tag(node) == "path" and node.get("id")}
    for parent in list(root.iter()):
        for node in list(parent):
            if _tag(node) in ("metadata", "style", "clipPath") or (_tag(node) == "use" and not _is_dot(node, defined)):
                parent.remove(node)
    out = ElementTree.Element("svg", {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": label})
    _copy(root, out, defined)
    return _exchange(ElementTree.tostring(out, encoding="unicode"))


def _tag(node: ElementTree.Element) -> str:
    return node.tag.rsplit("}", 1)[-1]


_HREF = "{http://www.w3.org/1999/xlink}href"


def _is_dot(node: ElementTree.Element, defined: dict[str, ElementTree.Element]) -> bool:
    """Whether a marker is a point of data and not a tick of length 0."""
    return "C" in defined[node.get(_HREF, "#")[1:]].get("d", "")


def _copy(source: ElementTree.Element, target: ElementTree.Element, defined: dict[str, ElementTree.Element]) -> None:
    """The shapes and texts of a tree, flat; a marker that is used becomes a path of its own where it is."""
    for node in source:
        tag, style = _tag(node), node.get("style", "")
        if tag == "path":
            path = " ".join(node.get("d", "").split())
            ElementTree.SubElement(target, "path", {"d": _rounded(path), "style": style})
        elif tag == "use":
            path = " ".join(defined[node.get(_HREF, "#")[1:]].get("d", "").split())
            where = f"translate({float(node.get('x', 0)):.1f} {float(node.get('y', 0)):.1f})"
            ElementTree.SubElement(target, "path", {"d": _rounded(path), "style": style, "transform": where})
        elif tag == "text":
            # the page's own font; every text is placed by its start, middle or end, so another width does no harm
            kept = {k: _rounded(node.get(k, "0")) for k in ("x", "y", "transform")}
            if kept["transform"].startswith("rotate(-0 "):
                del kept["transform"]
            kept["style"] = re.sub(r"font-family:[^;]*;?\s*", "", style)
            ElementTree.SubElement(target, "text", kept).text = node.text
        elif tag != "defs":
            _copy(node, target, defined)


def _rounded(numbers: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.1f}", numbers)


def _exchange(text: str) -> str:
    for marker, variable in _CSS.items():
        text = text.replace(marker, variable)
    return text
