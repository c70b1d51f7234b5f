"""Sweeps for tests of what is shown of them."""

from __future__ import annotations

import math

from orchestrator.core.sweep import Direction, JobState, Scalar, Sweep, SweepJob

S, F, P, C = JobState.SUCCEEDED, JobState.FAILED, JobState.PRUNED, JobState.CANCELLED


def job(n: int, state: JobState = S, value: float | None = None, message: str = "", **params: Scalar) -> SweepJob:
    """One job, in its words: ``lr=0.1`` is ``worker.flags.lr=0.1``."""
    full = {f"worker.flags.{name}": given for name, given in params.items()}
    return SweepJob(
        n=n,
        key=f"k{n}",
        overrides=tuple(f"{key}={given}" for key, given in full.items()),
        params=full,
        state=state,
        value=value,
        attempts=1,
        dir=f"/sweeps/lr/k{n}",
        seconds=None if state is JobState.RUNNING else 1.5,
        message=message,
    )


def sweep(*jobs: SweepJob, direction: Direction = "minimize", objective: str | None = "loss") -> Sweep:
    """Jobs as a sweep."""
    keys = dict.fromkeys(key for one in jobs for key in one.params)
    return Sweep(name="lr", jobs=jobs, objective=objective, direction=direction, params=tuple(keys))


MIXED = sweep(
    job(0, S, 0.5, lr=0.1, opt="sgd"),
    job(1, S, 0.25, lr=0.01, opt="adam"),
    job(2, P, 0.125, "3 of 4 were better at step 2", lr=1, opt="sgd"),
    job(3, F, None, "exit code 1, ValueError: <b>&", lr=10, opt="=1+1"),
    job(4, S, math.nan, lr=0.001, opt="adam"),
    job(5, C, None, "the sweep was stopped", lr=100, opt="sgd"),
)
