"""Which running job of a sweep is not worth going on with: asynchronous successive halving, in its stopping variant.

After Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020 (arXiv:1810.05934, 2018): jobs are
compared at rungs, the steps ``min_step * factor**k``, and nobody waits for anybody: a job is judged when it gets to a
rung, by what others had there, whether these still run or not. Pure. Invariants: the best job at a rung goes on; a job
is judged once at a rung, and upwards only; what is not a finite number is worse than any that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HalvingPolicy:
    """``sweep.prune=halving``. Steps are what workers say in ``report(step=…)``."""

    factor: int = 2  # of the jobs at a rung, one in so many goes on; from 2
    min_step: int = 1  # the first rung; from 1
    min_peers: int = 3  # nobody is stopped before so many others were at that rung; from 1
    maximize: bool = False  # whether a larger value is better


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a job is to be stopped, and why; or why not."""

    stop: bool
    why: str


def rung_of(step: int, policy: HalvingPolicy) -> int | None:
    """The highest rung that ``step`` has reached; None below the first."""
    if step < policy.min_step:
        return None
    rung = policy.min_step
    while rung * policy.factor <= step:
        rung *= policy.factor
    return rung


def decide(step: int, value: float, history: Mapping[int, Sequence[float]], policy: HalvingPolicy) -> Verdict:
    """Whether a job with ``value`` at ``step`` is among those that are to end there.

    ``history`` has for each rung what the other jobs had when they came to it, finished ones and running ones.
    """
    rung = rung_of(step, policy)
    if rung is None:
        return Verdict(stop=False, why=f"step {step} is before the first rung, {policy.min_step}")
    others = history.get(rung, ())
    if len(others) < policy.min_peers:
        return Verdict(stop=False, why=f"only {len(others)} others were at step {rung}, of {policy.min_peers} it takes")
    mine = _badness(value, policy)
    better = sum(_badness(other, policy) < mine for other in others)
    kept = math.ceil((len(others) + 1) / policy.factor)
    place = (
        f"{value:g} at step {step} is number {better + 1} of {len(others) + 1} at step {rung}, of which {kept} go on"
    )
    return Verdict(stop=better >= kept, why=place)


class Halving:
    """All jobs of one sweep at their rungs. Reports may skip steps, repeat them, or go back."""

    def __init__(self, policy: HalvingPolicy) -> None:
        self._policy = policy
        self._rungs: dict[int, dict[str, float]] = {}

    def heard(self, job: str, step: object, value: object) -> Verdict:
        """What a job has reported, and what follows; neither need be a number. It counts for others from now on."""
        at, number = _whole(step), _real(value)
        if at is None or number is None:
            return Verdict(stop=False, why="it did not report a step and a value")
        rung = rung_of(at, self._policy)
        judged = max((known for known, values in self._rungs.items() if job in values), default=0)
        if rung is not None and rung <= judged:
            return Verdict(stop=False, why=f"it was judged at step {judged} already")
        others = {known: list(values.values()) for known, values in self._rungs.items() if known == rung}
        if rung is not None:
            self._rungs.setdefault(rung, {})[job] = number
        return decide(at, number, others, self._policy)

    def forget(self, job: str) -> None:
        """It begins anew: what an attempt that failed has reported counts no more."""
        for values in self._rungs.values():
            values.pop(job, None)


def _badness(value: float, policy: HalvingPolicy) -> float:
    """Smaller is better. A loss of -inf is as broken as nan is, and must not win."""
    if not math.isfinite(value):
        return math.inf
    return -value if policy.maximize else value


def _whole(step: object) -> int | None:
    if isinstance(step, bool) or not isinstance(step, int | float):
        return None
    return int(step) if math.isfinite(step) and step == int(step) else None


def _real(value: object) -> float | None:
    """A number as a float; one that is too large for it is infinite. None: no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
