"""How far a sweep is: what runs, what has ended, which job is best so far, and when it may all be over.

Pure: jobs and instants go in, epoch seconds as in `core/sweep.py`. Invariant: each change costs the same, however many
jobs there are, and what earlier runs of the sweep have done counts as done, but not for the estimate.
"""

from __future__ import annotations

import math
from collections import Counter

from orchestrator.core.sweep import JobState, Sweep, SweepJob


class Progress:
    """One sweep while it goes on."""

    def __init__(self, sweep: Sweep) -> None:
        self._sign = -1 if sweep.direction == "maximize" else 1
        self._slots = max(1, sweep.slots)
        self._jobs: dict[int, SweepJob] = {}
        self._running: dict[int, SweepJob] = {}
        self._counts: Counter[JobState] = Counter()
        self._ended, self._seconds = 0, 0.0  # in this run of the sweep
        self.best: SweepJob | None = None
        self.expected = sweep.expected
        for job in sweep.jobs:
            self.put(job)
        self.before = self.done
        self._ended, self._seconds = 0, 0.0

    def put(self, job: SweepJob) -> SweepJob | None:
        """A job as it is now; returns it as it was."""
        was = self._jobs.get(job.n)
        if was is not None:
            self._counts[was.state] -= 1
        self._jobs[job.n] = job
        self._running.pop(job.n, None)
        if job.state is JobState.RUNNING:
            self._running[job.n] = job
        self._counts[job.state] += 1
        if job.state.is_final and (was is None or not was.state.is_final) and job.seconds is not None:
            self._ended += 1
            self._seconds += job.seconds
        if self._rank(job) < self._rank(self.best):
            self.best = job
        return was

    def known(self, job: SweepJob) -> None:
        """A job as an earlier sweep has left it: how long it took then says nothing of now."""
        ended = self._ended, self._seconds
        self.put(job)
        self._ended, self._seconds = ended

    def count(self, state: JobState) -> int:
        """How many jobs are in a state."""
        return self._counts[state]

    @property
    def done(self) -> int:
        """How many jobs have ended."""
        return sum(count for state, count in self._counts.items() if state.is_final)

    @property
    def total(self) -> int | None:
        """How many there will be; None: it is decided as the sweep goes."""
        return None if self.expected is None else max(self.expected, len(self._jobs))

    @property
    def running(self) -> list[SweepJob]:
        """What runs now, by its number."""
        return sorted(self._running.values(), key=lambda job: job.n)

    def left_s(self, now: float) -> float | None:
        """How much longer it may take, if jobs go on to take as long as they did; None: nobody can tell."""
        if not self._ended or self.total is None:
            return None
        mean = self._seconds / self._ended
        running = [max(0.0, mean - elapsed(job, now)) for job in self.running]
        waiting = max(0, self.total - self.done - len(running))
        return max([(sum(running) + waiting * mean) / self._slots, *running])

    def _rank(self, job: SweepJob | None) -> tuple[float, int]:
        if job is None or job.state is not JobState.SUCCEEDED or job.value is None or math.isnan(job.value):
            return math.inf, 1 << 62
        return self._sign * job.value, job.n


def elapsed(job: SweepJob, now: float) -> float:
    """Seconds since its last attempt began; the clock may have been set back since."""
    return 0.0 if job.started_at is None else max(0.0, now - job.started_at)
