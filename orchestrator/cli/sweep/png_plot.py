"""``sweep.png``: the same pictures as in the page, drawn by matplotlib where it is installed.

Nothing of matplotlib is loaded before something is drawn, and none of its global state is used (no pyplot). Invariant:
texts are drawn as they are, never read as formulas.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.cli.sweep.plot import Axis, Panel, Plot, Point, fit
from orchestrator.core.sweep import JobState
from orchestrator.edge.console import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT, _RULE = "#1a1f26", "#5b6570", "#e3e7ec"
_GOOD, _PRUNED, _BAD, _BEST = "#2563c9", "#a16207", "#c62828", "#d97706"
_DPI = 130
_ACROSS = 3  # panels
_BOXED = 4  # jobs in a category, from which on a box says more than they do


def png(drawn: Plot, title: str, subtitle: str) -> bytes:
    """The picture; raises ImportError where matplotlib is not installed."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its font cache
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that its font lacks
        return _png(drawn, escape(title), escape(subtitle))


def _png(drawn: Plot, title: str, subtitle: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - 0.3 s, and optional
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    panels = [one for one in drawn.panels if one.points]
    across = 2 if len(panels) == 4 else min(_ACROSS, max(1, len(panels)))  # noqa: PLR2004 - two rows of two
    down = max(1, math.ceil(len(panels) / across))
    width, height = max(5.0, 4.1 * across), 3.3 * down + 1.3
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        0.3 / width,
        1 - 0.34 / height,
        fit(title, int(7 * width)),
        fontsize=14,
        fontweight="bold",
        color=_INK,
        parse_math=False,
    )
    figure.text(
        0.3 / width, 1 - 0.62 / height, fit(subtitle, int(14 * width)), fontsize=9, color=_SOFT, parse_math=False
    )
    grid = figure.add_gridspec(
        down,
        across,
        left=0.75 / width,
        right=1 - 0.25 / width,
        bottom=0.62 / height,
        top=1 - 1.25 / height,
        wspace=0.28,
        hspace=0.42,
    )
    for at, one in enumerate(panels):
        _panel(figure.add_subplot(grid[at // across, at % across]), one, drawn.y)
    if panels:
        _legend(figure, panels)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": "orchestrator"})
    return file.getvalue()


def _panel(axes: Axes, one: Panel, y: Axis) -> None:
    """One parameter against the objective."""
    _style(axes, one.x, y)
    if one.x.categories:
        _boxes(axes, one)
    floor = y.low  # where jobs without a value stand: on the frame itself, so that no value can be taken from them
    for points, style in _kinds(one.points):
        xs = [point.x + point.jitter if one.x.categories else point.x for point in points]
        ys = [floor if point.y is None else point.y for point in points]
        axes.scatter(xs, ys, clip_on=False, **style)


def _kinds(points: Sequence[Point]) -> list[tuple[list[Point], dict[str, Any]]]:
    """The points in the order in which they are drawn, the best last, and how."""
    whole = [point for point in points if point.y is not None and point.state is JobState.SUCCEEDED and not point.best]
    early = [point for point in points if point.y is not None and point.state is not JobState.SUCCEEDED]
    none = [point for point in points if point.y is None]
    best = [point for point in points if point.best and point.y is not None]
    return [
        (early, {"marker": "o", "s": 26, "facecolors": "none", "edgecolors": _PRUNED, "linewidths": 1.1, "zorder": 3}),
        (none, {"marker": "x", "s": 26, "color": _BAD, "linewidths": 1.3, "zorder": 4}),
        (
            whole,
            {
                "marker": "o",
                "s": 30,
                "color": _GOOD,
                "alpha": 0.75,
                "edgecolors": "white",
                "linewidths": 0.6,
                "zorder": 5,
            },
        ),
        (best, {"marker": "*", "s": 190, "color": _BEST, "edgecolors": "white", "linewidths": 0.9, "zorder": 6}),
    ]


def _style(axes: Axes, x: Axis, y: Axis) -> None:
    """Axes as they are in the page."""
    if y.log:
        axes.set_yscale("log")
    if x.log:
        axes.set_xscale("log")
    axes.set_xlim(x.low, x.high)
    axes.set_ylim(y.low, y.high)
    every = max(1, -(-len(x.ticks) // 8)) if x.categories else 1
    letters = max(4, 48 // max(1, len(x.ticks[::every])))
    axes.set_xticks(
        [at for at, _ in x.ticks[::every]], [fit(words, letters) for _, words in x.ticks[::every]], parse_math=False
    )
    axes.set_yticks([at for at, _ in y.ticks], [words for _, words in y.ticks], parse_math=False)
    axes.minorticks_off()
    axes.tick_params(colors=_SOFT, labelsize=8, length=0, pad=5)
    axes.grid(visible=True, color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)
    axes.set_xlabel(fit(x.label, 40) + (" (log)" if x.log else ""), fontsize=9.5, color=_INK, parse_math=False)
    axes.set_ylabel(fit(y.label, 30), fontsize=9, color=_SOFT, parse_math=False)


def _boxes(axes: Axes, one: Panel) -> None:
    """The middle half of each category, and its median."""
    found: dict[float, list[float]] = {}
    for point in one.points:
        if point.y is not None and point.state is JobState.SUCCEEDED:
            found.setdefault(point.x, []).append(point.y)
    found = {at: values for at, values in found.items() if len(values) >= _BOXED}
    if found:
        axes.boxplot(
            list(found.values()),
            positions=list(found),
            widths=0.55,
            showfliers=False,
            showcaps=False,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": "#e9effa", "edgecolor": "none"},
            medianprops={"color": _INK, "linewidth": 1.6, "alpha": 0.6},
            whiskerprops={"color": "#c4d1e8"},
            zorder=2,
        )


def _legend(figure: Figure, panels: Sequence[Panel]) -> None:
    """Only of what is there."""
    width, height = figure.get_size_inches()
    points = [point for one in panels for point in one.points]
    words = ("pruned", "failed, or no value", "succeeded", "best")
    entries = [(kind, word) for kind, word in zip(_kinds(points), words, strict=True) if kind[0]]
    handles = []
    for (_, style), _word in entries:
        axes = figure.axes[0]
        handles.append(axes.scatter([], [], **{**style, "s": min(style["s"], 90)}))
    figure.legend(
        handles,
        [word for _, word in entries],
        loc="upper left",
        bbox_to_anchor=(0.16 / width, 1 - 0.72 / height),
        ncols=len(entries),
        frameon=False,
        fontsize=8.5,
        labelcolor=_SOFT,
        handletextpad=0.2,
        columnspacing=1.1,
    )
