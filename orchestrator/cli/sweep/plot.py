"""What is drawn of a sweep: each parameter against the objective, as numbers; how it is drawn is for `svg` and `png`.

Pure. Invariant: a job is in every panel of a parameter that it has, in one of three ways: as a point, hollow where it
was stopped early, or at the foot where it has no value that could be drawn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.cli.secrets import MASK, Secrets
from orchestrator.cli.sweep.table import cell, columns, number, objective, pairs, ranked, short_names
from orchestrator.core.sweep import JobState, Scalar, Sweep, SweepJob
from orchestrator.edge.console import cut, escape

MOST_JOBS = 2000  # are drawn, the best ones: more make a picture that no browser likes
_MOST_PANELS = 24
_DECADES = 90.0  # largest over smallest, from which on an axis is logarithmic
_HUGE = 1e100
_FEW = 8  # distinct values that are ticks themselves


@dataclass(frozen=True, slots=True)
class Point:
    """A job in a panel: ``x`` is its value, or its category's number; ``y`` None: at the foot."""

    n: int
    x: float
    y: float | None
    state: JobState
    best: bool
    says: str
    share: float  # 0 for the best of those drawn, 1 for the worst

    @property
    def jitter(self) -> float:
        """How far beside its category it is drawn, always the same."""
        return ((self.n * 0.618034) % 1 - 0.5) * 0.5


@dataclass(frozen=True, slots=True)
class Axis:
    """From ``low`` to ``high``, which are never equal; ``ticks`` are values and what is written there."""

    label: str
    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]
    categories: bool = False

    def at(self, value: float) -> float:
        """Where a value is, 0 at ``low`` and 1 at ``high``."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Panel:
    """One parameter."""

    x: Axis
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """All of it. ``left_out`` says what there is no room for; empty if nothing."""

    y: Axis
    panels: tuple[Panel, ...]
    left_out: str


def plot(sweep: Sweep, secrets: Secrets) -> Plot:
    """What to draw. Without a value to draw, jobs are drawn by how long they took."""
    jobs = [job for job in ranked(sweep) if job.state.is_final]
    drawn = jobs[:MOST_JOBS]
    by_value = any(_drawable(job.value) is not None for job in drawn)
    heights = {job.n: _drawable(job.value if by_value else job.seconds) for job in drawn}
    known = [height for height in heights.values() if height is not None]
    y = _numeric(objective(sweep) if by_value else "seconds", known, few=False)
    keys = columns(sweep)
    names = short_names(keys)
    best = sweep.best if by_value else None
    shares = _shares(drawn, heights, maximize=sweep.direction == "maximize")
    panels = []
    for key in keys[:_MOST_PANELS]:
        axis, places = _places(
            names[key],
            [(job.n, cell(key, job.params[key], secrets), job.params[key]) for job in drawn if key in job.params],
        )
        points = [
            Point(
                n=job.n,
                x=places[job.n],
                y=heights[job.n],
                state=job.state,
                best=best is not None and job.n == best.n,
                says=f"job {job.n} {job.state.value} {number(job.value)} {pairs(job, names, secrets)}",
                share=shares.get(job.n, 1.0),
            )
            for job in reversed(drawn)  # the best on top
            if job.n in places
        ]
        panels.append(Panel(axis, tuple(points)))
    return Plot(y, tuple(panels), _left_out(len(jobs), len(keys)))


def _left_out(jobs: int, keys: int) -> str:
    said = [f"the best {MOST_JOBS} of {jobs} jobs"] if jobs > MOST_JOBS else []
    said += [f"the first {_MOST_PANELS} of {keys} parameters"] if keys > _MOST_PANELS else []
    return " and ".join(said)


def _shares(jobs: Sequence[SweepJob], heights: dict[int, float | None], *, maximize: bool) -> dict[int, float]:
    """Each job's place among those that succeeded with something to draw."""
    sign = -1 if maximize else 1
    found = [
        (sign * height, job.n)
        for job in jobs
        if job.state is JobState.SUCCEEDED and (height := heights[job.n]) is not None
    ]
    last = max(1, len(found) - 1)
    return {n: place / last for place, (_, n) in enumerate(sorted(found))}


def _drawable(value: float | None) -> float | None:
    """A number that an axis may have; None: there is none, or it is not finite or absurdly large."""
    if value is None or not abs(value) < _HUGE:
        return None
    return float(value) if abs(value) > 1 / _HUGE else 0.0


def _places(label: str, given: Sequence[tuple[int, str, Scalar]]) -> tuple[Axis, dict[int, float]]:
    """An axis for a parameter, and where each job is on it."""
    numbers = {n: found for n, text, value in given if text != MASK and (found := _number(value)) is not None}
    if len(numbers) == len(given):
        return _numeric(label, list(numbers.values()), few=True), numbers
    texts = sorted({text for _, text, _ in given})
    order = {text: float(at) for at, text in enumerate(texts)}
    ticks = tuple((at, text) for text, at in order.items())
    return Axis(label, -0.5, len(texts) - 0.5, log=False, ticks=ticks, categories=True), {
        n: order[text] for n, text, _ in given
    }


def _number(value: Scalar) -> float | None:
    return _drawable(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _numeric(label: str, values: Sequence[float], *, few: bool) -> Axis:
    """An axis with room for all values and a little beyond; ``few``: a few values are ticks themselves."""
    distinct = sorted(set(values)) or [0.0, 1.0]
    log = distinct[0] > 0 and (distinct[-1] / distinct[0] > _DECADES or _geometric(distinct))
    few = few and 0 < len(distinct) <= _FEW
    if log:
        margin = (distinct[-1] / distinct[0]) ** 0.06
        low, high = distinct[0] / margin, distinct[-1] * margin
        ticks: Iterable[float] = distinct if few else _log_ticks(low, high)
    else:
        margin = 0.06 * (distinct[-1] - distinct[0]) or 0.5 * abs(distinct[0]) or 0.5
        low, high = distinct[0] - margin, distinct[-1] + margin
        ticks = distinct if few else _ticks(low, high)
    axis = Axis(label, low, high, log, ())
    return Axis(label, low, high, log, _apart(axis, [(tick, f"{tick:.6g}") for tick in ticks]))


def _geometric(distinct: Sequence[float]) -> bool:
    """Whether values double, say, from one to the next: 16, 32, 64."""
    ratios = [after / before for before, after in itertools.pairwise(distinct)]
    return len(ratios) > 1 and max(ratios) - min(ratios) < 0.01 * ratios[0] and ratios[0] >= 2  # noqa: PLR2004


def _apart(axis: Axis, ticks: Sequence[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Ticks whose words do not run into each other."""
    kept: list[tuple[float, str]] = []
    for tick, text in ticks:
        room = 0.02 * (len(text) + len(kept[-1][1])) / 2 + 0.02 if kept else 0.0
        if not kept or axis.at(tick) - axis.at(kept[-1][0]) >= room:
            kept.append((tick, text))
    return tuple(kept)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about five of them."""
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= raw * 0.999)
    first = math.ceil(low / step)
    return [at * step for at in range(first, first + 12) if at * step <= high]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, or where there are few of them also their doubles and fives."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, (last - first) // 6)
    times = (1, 2, 5) if last - first <= 3 else (1,)  # noqa: PLR2004
    found = [10.0**power * one for power in range(first, last + 1, every) for one in times]
    return [tick for tick in found if low <= tick <= high]


def fit(words: str, letters: int) -> str:
    """Words in a picture: one line, no longer than that."""
    words = escape(words).replace("\n", " ")
    short = cut(words, letters)
    return words if short == words else cut(words, letters - 1) + "…"
