"""The figures of a report, drawn to be read on light and on dark pages."""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from openclara.errors import ConfigError
from openclara.reports.page import INK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Point = tuple[float, float]
    Box = tuple[float, float, float, float]

AVERAGE = "average"
"""What stands for the task in rows over all tasks."""

SIZE = (5.2, 4.1)
"""Inches."""

ZOOM = 10
"""Dots to a point while labels are measured: few would round the widths of letters."""

BROKEN = (0, (4, 3))
DOTTED = (0, (1, 1.5))
LEADER = {"arrowstyle": "-", "color": INK, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4}

READERS = {
    "latents": ("latents", "#2f7fc1", "o"),
    "text": ("full text", "#d55e00", "s"),
    "shortened": ("shortened text", "#009e73", "^"),
    "none": ("no passage", INK, "D"),
}
"""Name, colour and shape of each kind of system. Colours after Okabe & Ito (2008), darkened or
lightened to stand out on either background; shapes tell the same without them."""

LINES = (
    ("#2f7fc1", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#b8609a", "D"),
    ("#a87b00", "v"),
    ("#6a6fd0", "P"),
)

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.borderaxespad": 0,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "openclara",
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, drawn.

    Attributes:
        kind: What is drawn: "prompt_tokens", "stored_bytes" or "recall".
        setting: For which setting.
        caption: What it shows, in a sentence.
        svg: With text as text, on no background.
        png: The same in pixels.
    """

    kind: str
    setting: str
    caption: str
    svg: str
    png: bytes

    @property
    def name(self) -> str:
        """Of its files, without a suffix."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.kind} {self.setting}".lower()).strip("-")


def overall_tasks(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For each setting the average over tasks, or the only task there is.

    Args:
        rows: Of answers or of retrieval.
    """
    tasks: dict[str, list[str]] = {}
    for row in rows:
        tasks.setdefault(row["setting"], []).append(row["task"])
    return {setting: AVERAGE if AVERAGE in own else own[0] for setting, own in tasks.items()}


def draw(results: Mapping[str, Any]) -> list[Drawing]:
    """Draw F1 against what it costs, and recall against how many passages are kept.

    Args:
        results: Scores of an evaluation; names in it are single lines.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(
            "a report needs matplotlib for its figures; run `pip install 'openclara[eval]'`"
        ) from None
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in a script the font lacks is drawn as boxes in the PNG, and well in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        return [*_tradeoffs(results), *_recalls(results)]


def _tradeoffs(results: Mapping[str, Any]) -> Iterator[Drawing]:
    kinds = {
        one["name"]: "shortened" if one["shorten"] else one["reader"] for one in results["systems"]
    }
    for setting, task in overall_tasks(results["answers"]).items():
        rows = [r for r in results["answers"] if (r["setting"], r["task"]) == (setting, task)]
        scope = _scope(setting, task)
        for cost in ("prompt_tokens", "stored_bytes"):
            caption = (
                f"F1 against {cost.replace('_', ' ')} per question, {scope}. Bars are 95 % "
                "intervals, the horizontal axis is logarithmic, and what costs nearly the same "
                "stands side by side."
            )
            if any(row["costs"][cost] <= 0 for row in rows):
                caption += " A broken line is a system that has no such cost."
            figure = _tradeoff(rows, kinds, cost=cost, title=scope)
            yield Drawing(cost, setting, caption, *_rendered(figure))


def _recalls(results: Mapping[str, Any]) -> Iterator[Drawing]:
    controls = {one["name"] for one in results["rankers"] if one["control"]}
    for setting, task in overall_tasks(results["retrieval"]).items():
        rows = [r for r in results["retrieval"] if (r["setting"], r["task"]) == (setting, task)]
        scope = _scope(setting, task)
        caption = f"Share of the gold passages among the first k, {scope}. Grey lines are controls."
        figure = _recall(rows, controls, title=scope)
        yield Drawing("recall", setting, caption, *_rendered(figure))


def _scope(setting: str, task: str) -> str:
    return f"{setting} setting, {'averaged over tasks' if task == AVERAGE else task}"


def _rendered(figure: Figure) -> tuple[str, bytes]:
    svg, png = io.StringIO(), io.BytesIO()
    nameless = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(svg, format="svg", transparent=True, metadata=nameless)
    figure.savefig(png, format="png", transparent=True, dpi=200, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def _axes(title: str, y_label: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=72 * ZOOM)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.115, 0.9, 0.75))
    figure.text(0.012, 0.97, title, weight="bold", va="top")
    figure.text(0.012, 0.915, y_label, va="top")
    return figure, axes


def _legend(figure: Figure, key: dict[str, Line2D], corner: Point, **how: Any) -> Legend:
    # Labels are set afterwards: one that begins with an underscore would be left out.
    legend = figure.legend(
        list(key.values()), [" "] * len(key), loc="upper right", bbox_to_anchor=corner, **how
    )
    for text, label in zip(legend.get_texts(), key, strict=True):
        text.set_text(_short(label))
    return legend


# --- F1 against a cost -------------------------------------------------------------------------


def _tradeoff(
    rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], *, cost: str, title: str
) -> Figure:
    figure, axes = _axes(title, "F1, per cent")
    free = [row for row in rows if row["costs"][cost] <= 0]
    paid = [row for row in rows if row["costs"][cost] > 0]
    costs = [row["costs"][cost] for row in paid] or [1.0]
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.5, max(costs) * 1.5)
    axes.set_ylim(0, 1.12 * max([1.0, *(100 * row["metrics"]["f1"][2] for row in rows)]))
    _log_ticks(axes, _bytes if cost == "stored_bytes" else _count)
    axes.set_xlabel(cost.replace("_", " ") + " per question", labelpad=2)
    names, anchors, obstacles = [], [], []
    for row, x in zip(paid, _side_by_side(axes, costs), strict=False):
        _, colour, marker = READERS[kinds[row["system"]]]
        mean, low, high = (100 * value for value in row["metrics"]["f1"])
        axes.plot([x, x], [low, high], color=colour, linewidth=1.1, solid_capstyle="butt")
        axes.plot(x, mean, marker, color=colour, markersize=6)
        (left, bottom), (_, middle), (_, top) = _points(axes, (x, low), (x, mean), (x, high))
        obstacles += [(left - 1, bottom, left + 1, top), _around((left, middle), 4)]
        anchors.append((left, middle))
        names.append(row["system"])
    for row in free:
        mean = 100 * row["metrics"]["f1"][0]
        axes.axhline(mean, color=INK, linewidth=1, linestyle=BROKEN)
        (left, y), (right, _) = _points(
            axes, (axes.get_xlim()[0], mean), (axes.get_xlim()[1], mean)
        )
        obstacles.append((left, y - 1, right, y + 1))
        anchors.append((left, y))
        names.append(row["system"])
    _label(axes, names, anchors, obstacles)
    key: dict[str, Line2D] = {}
    for kind in (kind for kind in READERS if kind in {kinds[row["system"]] for row in paid}):
        name, colour, marker = READERS[kind]
        (key[name],) = axes.plot([], [], marker, color=colour, markersize=5)
    _legend(figure, key, (1, 0.93), ncols=4, handlelength=1.4)
    return figure


def _log_ticks(axes: Axes, amount: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    steps = (1, 2, 5) if decades < 1.8 else (1, 3) if decades < 3.5 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def _side_by_side(axes: Axes, costs: Sequence[float]) -> list[float]:
    """Costs moved just as far apart as keeps one bar from covering another."""
    places = [x for x, _ in _points(axes, *((cost, 0) for cost in costs))]
    moved = spread(places, 6)
    to_data = axes.transData.inverted()
    return [float(to_data.transform((x * ZOOM, 0))[0]) for x in moved]


def _points(axes: Axes, *data: tuple[float, float]) -> list[Point]:
    return [(float(x), float(y)) for x, y in axes.transData.transform(data) / ZOOM]


def _around(point: Point, radius: float) -> Box:
    x, y = point
    return x - radius, y - radius, x + radius, y + radius


def _label(
    axes: Axes, names: Sequence[str], anchors: Sequence[Point], obstacles: Sequence[Box]
) -> None:
    where: dict[str, Any] = {
        "xycoords": "figure points",
        "textcoords": "figure points",
        "annotation_clip": False,
    }
    texts = [axes.annotate(_short(name), (0, 0), (0, 0), va="bottom", **where) for name in names]
    extents = [text.get_window_extent() for text in texts]
    sizes = [(extent.width / ZOOM, extent.height / ZOOM) for extent in extents]
    inside = axes.get_window_extent()
    frame = inside.x0 / ZOOM, inside.y0 / ZOOM, inside.x1 / ZOOM, inside.y1 / ZOOM
    boxes = placed(sizes, anchors, obstacles, frame)
    for text, anchor, box in zip(texts, anchors, boxes, strict=True):
        text.xyann = box[:2]
        end = min(max(anchor[0], box[0]), box[2]), min(max(anchor[1], box[1]), box[3])
        if math.dist(end, anchor) > 8:
            axes.annotate("", anchor, end, arrowprops=LEADER, **where)


def placed(
    sizes: Sequence[Point], anchors: Sequence[Point], obstacles: Sequence[Box], frame: Box
) -> list[Box]:
    """Boxes for labels, near their anchors, clear of each other and of the obstacles if they can.

    Each label in turn takes the cheapest place that the others leave it, until nothing moves any
    more; of a few orders in which they may take turns, the best outcome is kept.

    Args:
        sizes: Width and height of each label.
        anchors: What each label names.
        obstacles: Boxes better not covered.
        frame: Box better not left.
    """
    orders = list(range(len(sizes))), sorted(range(len(sizes)), key=lambda at: -anchors[at][1])
    tried = []
    for order in (*orders, *(list(reversed(order)) for order in orders)):
        boxes: dict[int, Box] = {}
        for _ in range(6):
            before, total = dict(boxes), 0.0
            for at in order:
                taken = [*obstacles, *(box for other, box in boxes.items() if other != at)]
                costs_P, places_P4 = _places(sizes[at], anchors[at])
                costs_P = costs_P + _crowding(places_P4, anchors[at], taken, frame)
                left, bottom, right, top = places_P4[np.argmin(costs_P)].tolist()
                boxes[at] = left, bottom, right, top
                total += float(costs_P.min())
            if boxes == before:
                break
        tried.append((total, [boxes[at] for at in sorted(boxes)]))
    return min(tried)[1]


def _places(size: Point, anchor: Point) -> tuple[Array, Array]:
    """All places around an anchor, and how far off each is; beside it is better than above."""
    angles_A = np.arange(24) * np.pi / 12
    distances_P = np.repeat((7, 11, 16, 22, 30, 40, 52, 66, 82, 100), 24)
    turns_P2 = np.tile(np.stack([np.cos(angles_A), np.sin(angles_A)], axis=1), (10, 1))
    size_2 = np.array(size)
    corners_P2 = anchor + turns_P2 * (distances_P[:, None] + size_2 / 2) - size_2 / 2
    sideways_P = np.tile([0.0, *[2.0] * 11, 1.0, *[2.0] * 11], 10)
    return distances_P**2 / 40 + sideways_P, np.concatenate(
        [corners_P2, corners_P2 + size_2], axis=1
    )


def _crowding(places_P4: Array, anchor: Point, taken: Sequence[Box], frame: Box) -> Array:
    """What each place covers, leaves, or crosses with the line that leads to it."""
    taken_T4 = np.array(taken).reshape(-1, 4)
    wide_P4 = places_P4 + np.array((-2.0, -1.0, 2.0, 1.0))
    area_P = (wide_P4[:, 2] - wide_P4[:, 0]) * (wide_P4[:, 3] - wide_P4[:, 1])
    outside_P = area_P - _overlaps(wide_P4, np.array([frame]))[:, 0]
    ends_P2 = np.clip(anchor, places_P4[:, :2], places_P4[:, 2:])
    steps_S = np.linspace(0.2, 1, 6)[:, None, None]
    dots_SP2 = anchor + (ends_P2 - anchor) * steps_S
    dots_SP4 = np.concatenate([dots_SP2 - 0.5, dots_SP2 + 0.5], axis=2)
    is_foreign_T = _overlaps(np.array([_around(anchor, 4.5)]), taken_T4)[0] == 0
    crossed_PT = (_overlaps(dots_SP4, taken_T4) > 0).any(axis=0) & is_foreign_T
    covered_P = _overlaps(wide_P4, taken_T4).sum(axis=1)
    cost_P: Array = 10 * outside_P + 5 * covered_P + 25 * crossed_PT.sum(axis=1)
    return cost_P


def _overlaps(boxes: Array, others_N4: Array) -> Array:
    """Shared area of every box (..., 4) with each of N others: (..., N)."""
    low = np.maximum(boxes[..., None, :2], others_N4[:, :2])
    high = np.minimum(boxes[..., None, 2:], others_N4[:, 2:])
    area_N: Array = np.clip(high - low, 0, None).prod(axis=-1)
    return area_N


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Values moved, around where they are, so that any two are at least a gap apart.

    Args:
        values: Where things would like to be.
        gap: Between two of them.
    """
    order = sorted(range(len(values)), key=lambda at: values[at])
    up, down = list(values), list(values)
    for one, other in itertools.pairwise(order):
        up[other] = max(up[other], up[one] + gap)
    for one, other in itertools.pairwise(reversed(order)):
        down[other] = min(down[other], down[one] - gap)
    return [(a + b) / 2 for a, b in zip(up, down, strict=True)]


# --- recall ------------------------------------------------------------------------------------


def _recall(rows: Sequence[Mapping[str, Any]], controls: set[str], *, title: str) -> Figure:
    figure, axes = _axes(title, "Recall@k, per cent")
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
    key: dict[str, Line2D] = {}
    styles, dashes = itertools.cycle(LINES), itertools.cycle((DOTTED, BROKEN))
    for row in sorted(rows, key=lambda row: -sum(row["recall_curve"])):
        ys = [100 * value for value in row["recall_curve"]]
        name = row["ranker"]
        style: dict[str, Any]
        if name in controls:
            label = f"{name}, control"
            style = {"color": INK, "linestyle": next(dashes)}
        else:
            label = name
            colour, marker = next(styles)
            style = {"color": colour, "marker": marker}
        x = range(1, len(ys) + 1)
        (key[label],) = axes.plot(x, ys, linewidth=1.3, markersize=4.5, **style)
    last = max(len(row["recall_curve"]) for row in rows)
    axes.set_xlim(0.8, last + 0.2)
    axes.set_ylim(0, 102)
    axes.set_xticks(range(1, last + 1))
    axes.set_xlabel("first k passages", labelpad=2)
    legend = _legend(figure, key, (1, 0.87), handlelength=2.4)
    left, bottom, _, height = axes.get_position().bounds
    room = legend.get_window_extent().width / (72 * ZOOM * SIZE[0])
    axes.set_position((left, bottom, max(0.3, 0.98 - room - left), height))
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 34 else name[:33].rstrip() + "…"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"
