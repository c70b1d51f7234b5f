"""A sweep's pictures as SVG inside a page: a panel for each parameter, and all parameters side by side.

Shapes only; colours are those of ``page/sweep.css``, so that they follow the reader's light or dark. Invariant: what is
a text stays a text in the page, whatever it holds.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from statistics import median

from orchestrator.cli.sweep.plot import Axis, Panel, Plot, Point, fit
from orchestrator.core.sweep import JobState
from orchestrator.edge.console import escape

_W, _H = 360, 250  # of a panel
_LEFT, _RIGHT, _TOP, _FOOT, _BOTTOM = 52, 346, 12, 192, 206  # the box of values, where the foot is, and the axis
_SHADES = 5


def text(words: str) -> str:
    """Text as it stands in a page, without control characters."""
    return html.escape(escape(words).replace("\n", " "))


def panel(one: Panel, y: Axis) -> str:
    """One parameter against the objective."""
    parts = [f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{text(one.x.label)} against {text(y.label)}">']
    for tick, label in y.ticks:
        height = _height(y, tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {height:.1f}H{_RIGHT}"/>')
        parts.append(_words(_LEFT - 6, height + 4, label, "end"))
    for tick, label in _labelled(one.x):
        at = _across(one.x, tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {_TOP}V{_BOTTOM}"/>')
        parts.append(_words(at, _BOTTOM + 15, label, "middle"))
    parts.append(f'<path class="axis" d="M{_LEFT} {_BOTTOM}H{_RIGHT}"/>')
    parts.append(
        _words((_LEFT + _RIGHT) / 2, _H - 8, fit(one.x.label + (" (log)" if one.x.log else ""), 44), "middle", "name")
    )
    parts += _medians(one, y)
    parts += [
        _mark(point, _across(one.x, point.x + (point.jitter if one.x.categories else 0)), y) for point in one.points
    ]
    return "".join([*parts, "</svg>"])


def _medians(one: Panel, y: Axis) -> list[str]:
    """The middle of each category, where there is more than one job in it."""
    if not one.x.categories:
        return []
    found: dict[float, list[float]] = {}
    for point in one.points:
        if point.y is not None and point.state is JobState.SUCCEEDED:
            found.setdefault(point.x, []).append(point.y)
    half = min(28.0, 0.32 * (_RIGHT - _LEFT) / (one.x.high - one.x.low))
    return [
        f'<path class="median" d="M{_across(one.x, at) - half:.1f} {_height(y, median(values)):.1f}h{2 * half:.1f}"/>'
        for at, values in found.items()
        if len(values) > 1
    ]


def _mark(point: Point, at: float, y: Axis) -> str:
    """A job: a star, a point, a ring, or a cross at the foot."""
    title = f"<title>{text(point.says)}</title>"
    if point.y is None:
        state = "cancelled" if point.state is JobState.CANCELLED else "failed"
        return f'<path class="foot {state}" d="M{at - 3.5:.1f} {_FOOT + 3.5}l7 -7m-7 0l7 7">{title}</path>'
    height = _height(y, point.y)
    if point.best:
        return f'<path class="star" d="{star(at, height)}">{title}</path>'
    kind, radius = ("succeeded", 4) if point.state is JobState.SUCCEEDED else ("pruned", 3.5)
    return f'<circle class="{kind}" cx="{at:.1f}" cy="{height:.1f}" r="{radius}">{title}</circle>'


def star(x: float, y: float, size: float = 1.0) -> str:
    """The outline of a star around a place."""
    corners = (
        (0, -9),
        (2.4, -3),
        (8.6, -2.8),
        (3.8, 1.2),
        (5.3, 7.3),
        (0, 3.9),
        (-5.3, 7.3),
        (-3.8, 1.2),
        (-8.6, -2.8),
        (-2.4, -3),
    )
    return "M" + "L".join(f"{x + size * dx:.1f} {y + size * dy:.1f}" for dx, dy in corners) + "Z"


def parallel(plot: Plot) -> str:
    """All parameters side by side, the objective at the right: a line for each job that succeeded, the best on top."""
    shown = plot.panels[:10]
    width, height, top, foot = 1120, 300, 40, 270
    step = (width - 140) / len(shown)
    axes: list[Axis] = [*(one.x for one in shown), plot.y]
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="all parameters side by side">']

    def place(at: int, value: float) -> tuple[float, float]:
        return 70 + at * step, foot - (foot - top) * axes[at].at(value)

    by_job: dict[int, list[tuple[float, float]]] = {}
    jobs: dict[int, Point] = {}
    for at, one in enumerate(shown):
        for point in one.points:
            if point.state is JobState.SUCCEEDED and point.y is not None:
                by_job.setdefault(point.n, []).append(place(at, point.x))
                jobs[point.n] = point
    for n, point in sorted(jobs.items(), key=lambda item: (item[1].best, -item[1].share)):
        points = [*by_job[n], place(len(shown), point.y or 0.0)]
        shade = "top" if point.best else f"q{min(_SHADES - 1, int(point.share * _SHADES))}"
        parts.append(f'<path class="line {shade}" d="{_curve(points)}"><title>{text(point.says)}</title></path>')
    for at, axis in enumerate(axes):
        x = 70 + at * step
        parts.append(f'<path class="axis" d="M{x:.1f} {top}V{foot}"/>')
        parts.append(_words(x, 16, fit(axis.label, max(8, int(step / 7))), "middle", "name"))
        parts += [
            _words(x - 6, place(at, tick)[1] + 4, fit(label, 12), "end") for tick, label in _labelled(axis, room=16)
        ]
    return "".join([*parts, "</svg>"])


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """A smooth line through places, level at each of them."""
    found = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        middle = (x + to_x) / 2
        found += f"C{middle:.1f} {y:.1f} {middle:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
    return found


def _labelled(axis: Axis, room: int = 12) -> list[tuple[float, str]]:
    """Ticks with words that fit: of many categories not each."""
    if not axis.categories:
        return list(axis.ticks)
    every = -(-len(axis.ticks) // room)
    letters = max(3, 52 // max(1, -(-len(axis.ticks) // every)))
    return [(at, fit(words, letters)) for at, words in axis.ticks[::every]]


def _words(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text{css} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(words)}</text>'


def _across(axis: Axis, value: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * axis.at(value)


def _height(axis: Axis, value: float) -> float:
    return _FOOT - 10 - (_FOOT - 10 - _TOP) * axis.at(value)
