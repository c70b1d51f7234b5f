"""A sweep as data: its jobs, how each ended, and which is best; and the object of sweep.json, both ways.

What is run, when and where is not known here. Invariant: what `to_dict` makes, `from_dict` reads back as an equal
`Sweep`, and whatever else it is given ends in a ValueError that names the place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

Scalar = str | int | float | bool | None
Direction = Literal["minimize", "maximize"]
Curve = tuple[tuple[int, float], ...]  # (step, objective), by rising step

_MOST_POINTS = 400


class JobState(StrEnum):
    """Where a job of a sweep is."""

    PENDING = "pending"  # not started yet, or to be started again
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PRUNED = "pruned"  # stopped early because others did better; counts as done
    CANCELLED = "cancelled"  # the sweep was stopped before it had ended, or before it began

    @property
    def is_done(self) -> bool:
        """Whether the same sweep, run again, leaves this job as it is."""
        return self in (JobState.SUCCEEDED, JobState.PRUNED)

    @property
    def is_final(self) -> bool:
        """Whether this sweep does nothing more about it."""
        return self not in (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepJob:
    """One job. ``key`` is the hash of what it is, and the name of its directory; ``n`` its place in the sweep."""

    n: int
    key: str
    overrides: tuple[str, ...]  # as they were typed, those of all jobs included
    params: Mapping[str, Scalar]  # what differs between jobs: override's key -> value
    state: JobState = JobState.PENDING
    value: float | None = None  # of the objective; may be infinite or not a number
    attempts: int = 0  # how often it was started, this time's included
    dir: str = ""  # absolute
    started_at: float | None = None  # epoch seconds, of its last attempt
    seconds: float | None = None  # that its last attempt took, once it has ended
    message: str = ""  # why it failed, was pruned or was cancelled: one line
    run_id: str = ""  # of its last attempt
    curve: Curve = ()  # as reported while it ran

    def begun(self, at: float, run_id: str = "") -> SweepJob:
        """The job as another attempt begins, at epoch second ``at``: what the last one came to is forgotten."""
        return replace(
            self,
            state=JobState.RUNNING,
            attempts=self.attempts + 1,
            started_at=at,
            run_id=run_id,
            seconds=None,
            value=None,
            message="",
            curve=(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A whole sweep, as it stands. ``expected`` is how many jobs there will be, where that is known beforehand."""

    name: str
    jobs: tuple[SweepJob, ...] = ()  # by n
    objective: str | None = None
    direction: Direction = "minimize"
    slots: int = 1
    expected: int | None = None
    started_at: float | None = None  # epoch seconds, of this run of the sweep
    params: tuple[str, ...] = field(default=())  # the keys of the jobs' params, in the order of the command line

    @property
    def best(self) -> SweepJob | None:
        """The job that succeeded with the best value, the earlier of equals; None without an objective or values."""
        found = [(job.value, job) for job in self.jobs if job.state is JobState.SUCCEEDED and job.value is not None]
        found = [(value, job) for value, job in found if not math.isnan(value)]
        sign = 1 if self.direction == "minimize" else -1
        return min(found, key=lambda one: (sign * one[0], one[1].n))[1] if found else None

    def count(self, *states: JobState) -> int:
        """How many jobs are in one of these states."""
        return sum(job.state in states for job in self.jobs)

    @property
    def exit_code(self) -> int:
        """0 if all jobs succeeded or were pruned, else 1."""
        return 0 if all(job.state.is_done for job in self.jobs) else 1


def extended(curve: Curve, step: object, value: float) -> Curve:
    """``curve`` with another point, if its step is one and lies beyond the others; of very many, every second stays."""
    if isinstance(step, bool) or not isinstance(step, int) or (curve and step <= curve[-1][0]):
        return curve
    longer = (*curve, (step, value))
    return longer if len(longer) <= _MOST_POINTS else longer[(len(longer) - 1) % 2 :: 2]  # the last one


def to_dict(sweep: Sweep) -> dict[str, Any]:
    """The object of sweep.json; numbers that JSON cannot hold are the texts ``nan``, ``inf`` and ``-inf``."""
    best = sweep.best
    return {
        "name": sweep.name,
        "objective": sweep.objective,
        "direction": sweep.direction,
        "slots": sweep.slots,
        "expected": sweep.expected,
        "started_at": sweep.started_at,
        "params": list(sweep.params),
        "best": None if best is None else {"n": best.n, "value": _plain(best.value), "overrides": list(best.overrides)},
        "jobs": [job_to_dict(job) for job in sweep.jobs],
    }


def from_dict(data: object) -> Sweep:
    """The sweep that an object of sweep.json tells of; ValueError names what is wrong with it."""
    read = _Reader(data, "sweep.json")
    jobs = read.list_of("jobs")
    return Sweep(
        name=read.text("name"),
        jobs=tuple(job_from_dict(job, f"jobs[{at}]") for at, job in enumerate(jobs)),
        objective=read.text("objective") if read.given("objective") else None,
        direction="maximize" if read.text("direction") == "maximize" else "minimize",
        slots=read.whole("slots"),
        expected=read.whole("expected") if read.given("expected") else None,
        started_at=read.number("started_at"),
        params=tuple(str(key) for key in read.list_of("params")),
    )


def job_to_dict(job: SweepJob) -> dict[str, Any]:
    """One of the jobs of `to_dict`."""
    return {
        "n": job.n,
        "key": job.key,
        "overrides": list(job.overrides),
        "params": {key: _plain(value) for key, value in job.params.items()},
        "state": job.state.value,
        "value": _plain(job.value),
        "attempts": job.attempts,
        "dir": job.dir,
        "started_at": job.started_at,
        "seconds": job.seconds,
        "message": job.message,
        "run_id": job.run_id,
        "curve": [[step, _plain(value)] for step, value in job.curve],
    }


def job_from_dict(data: object, path: str) -> SweepJob:
    """The job again; ValueError names what is wrong, beginning with ``path``."""
    read = _Reader(data, path)
    states = {state.value: state for state in JobState}
    state = states.get(read.text("state"))
    if state is None:
        raise ValueError(f"{path}.state: {read.text('state')!r} is no state")
    params = read.get("params")
    if not isinstance(params, dict):
        raise ValueError(f"{path}.params: is no object")  # noqa: TRY004 - it is content that is wrong
    return SweepJob(
        n=read.whole("n"),
        key=read.text("key"),
        overrides=tuple(str(one) for one in read.list_of("overrides")),
        params={str(key): value if isinstance(value, str | int | float) else None for key, value in params.items()},
        state=state,
        value=read.number("value"),
        attempts=read.whole("attempts"),
        dir=read.text("dir"),
        started_at=read.number("started_at"),
        seconds=read.number("seconds"),
        message=read.text("message"),
        run_id=read.text("run_id"),
        curve=tuple(_point(point, f"{path}.curve") for point in read.list_of("curve")),
    )


def _point(data: object, path: str) -> tuple[int, float]:
    if isinstance(data, list) and len(data) == 2 and isinstance(data[0], int):  # noqa: PLR2004 - step, value
        value = _Reader({"value": data[1]}, path).number("value")
        if value is not None:
            return data[0], value
    raise ValueError(f"{path}: {data!r} is no [step, value]")


def _plain(value: Scalar) -> Scalar:
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


class _Reader:
    """An object from a file, that may hold anything."""

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, dict):
            raise ValueError(f"{path}: is no object")  # noqa: TRY004 - it is content that is wrong
        self._data, self._path = data, path

    def get(self, key: str) -> object:
        if key not in self._data:
            raise ValueError(f"{self._path}.{key}: is missing")
        return self._data[key]

    def given(self, key: str) -> bool:
        return self.get(key) is not None

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise ValueError(f"{self._path}.{key}: {value!r} is no text")  # noqa: TRY004 - as above
        return value

    def whole(self, key: str) -> int:
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{self._path}.{key}: {value!r} is no whole number")  # noqa: TRY004 - as above
        return value

    def number(self, key: str) -> float | None:
        value = self.get(key)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        if value in ("nan", "inf", "-inf"):
            return float(str(value))
        raise ValueError(f"{self._path}.{key}: {value!r} is no number")

    def list_of(self, key: str) -> list[Any]:
        value = self.get(key)
        if not isinstance(value, list):
            raise ValueError(f"{self._path}.{key}: is no list")  # noqa: TRY004 - as above
        return value
