"""Jobs of a sweep that another launcher runs, such as submitit's on Slurm; `task` is what it runs there.

Here they are handed over and waited for. What became of one is in its result.json, which must be on a disk that both
sides see. Invariant: of a job whose end nobody knows it is not said that it succeeded.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from orchestrator.cli.quoting import quoted
from orchestrator.cli.sweep.book import Book
from orchestrator.cli.sweep.folder import Folder
from orchestrator.cli.sweep.interrupts import Interrupted, heed
from orchestrator.cli.sweep.jobs import Planned
from orchestrator.config.sweep import SweepConfig
from orchestrator.core.sweep import JobState, SweepJob

_PICKLES = ".submitit"


class ElsewhereRun:
    """The part of a sweep that hands its jobs to ``launcher``."""

    def __init__(self, launcher: Launcher, config: SweepConfig, *, book: Book, folder: Folder) -> None:
        self._launcher = launcher
        self._config = config
        self._book = book
        self._folder = folder
        self.halted = ""
        self.exit_code: int | None = None

    def batch(self, jobs: Sequence[Planned], first: int) -> None:
        """Have jobs run, as often as each may be tried, and take note of how each has ended."""
        todo = jobs
        for left in range(self._config.retries, -1, -1):
            self._attempt(todo, first, left)
            todo = [planned for planned in todo if self._book[planned.key].state is JobState.PENDING]
            if not todo:
                break
        failed = [job for planned in jobs if (job := self._book[planned.key]).state is JobState.FAILED]
        if failed and self._config.on_failure == "stop":
            self.halted = self.halted or f"job {failed[0].n} has failed"

    def request_stop(self, signum: int) -> None:
        """Hand over no more, because of a signal."""
        self.halted, self.exit_code = f"stopped by {signal.Signals(signum).name}", 128 + signum

    def _attempt(self, jobs: Sequence[Planned], first: int, left: int) -> None:
        """Hand jobs over once; what fails is PENDING again if there are attempts ``left`` for it."""
        jobs = [planned for planned in jobs if self._begin(self._book[planned.key])]
        if not jobs:
            return
        _keep_private(self._folder.path / _PICKLES)
        returned: Sequence[JobReturn | None] = [None] * len(jobs)
        why = ""
        try:
            heed()
            returned = self._launcher.launch([_words(planned) for planned in jobs], first)
        except Interrupted as end:
            self.request_stop(end.signum)
            why = f"{self.halted}; where it was handed to, it may still run"
        except Exception as error:  # noqa: BLE001 - any launcher's way to say that it lost a job
            self.halted = "the launcher has given up"  # and of those that it did not wait for, some may still run
            why = f"{self.halted}: {type(error).__name__}: {error}"
        again = left > 0 and not self.halted
        for planned, one in zip(jobs, returned, strict=True):
            self._end(self._book[planned.key], planned.secrets.mask(_why(one) or why), again=again)

    def _begin(self, job: SweepJob) -> bool:
        """Take note that a job is about to be handed over; False if its directory cannot be made."""
        began = job.begun(time.time())
        try:
            self._book.begin(began)
        except OSError as error:
            self._book.put(replace(began, state=JobState.FAILED, message=f"{job.dir}: {error.strerror}"))
            return False
        return True

    def _end(self, job: SweepJob, why: str, *, again: bool) -> None:
        """What the job's own agent says counts; what the launcher says, if there is nothing else."""
        past = self._folder.past(job.key)
        told = self._folder.result(job.key)
        timings = told.get("timings")
        seconds = timings.get("total_s") if isinstance(timings, dict) else None
        if not isinstance(seconds, int | float):
            seconds = max(0.0, time.time() - (job.started_at or time.time()))
        if past is not None and past.state is JobState.SUCCEEDED:
            self._book.put(replace(job, state=JobState.SUCCEEDED, value=past.value, seconds=seconds))
            return
        stopped = told.get("state") == "STOPPED" or (self.halted and not told)
        state = JobState.CANCELLED if stopped else JobState.PENDING if again else JobState.FAILED
        message = str(told.get("reason") or why or "it has left no result.json").partition("\n")[0]
        if told.get("state") == "SUCCEEDED":
            message = f"it reported no number as {self._config.objective!r}"
        self._book.put(replace(job, state=state, seconds=seconds, message=message))


def _keep_private(directory: Path) -> None:
    """Where submitit keeps the composed jobs, and secrets in them, until it is told to keep them elsewhere."""
    with contextlib.suppress(OSError):
        directory.mkdir(mode=0o700)


def _words(planned: Planned) -> list[str]:
    """A job as the launcher composes it: with the directory that its content gives it."""
    return [*planned.arguments, f"hydra.sweep.subdir={quoted(planned.key)}"]


def _why(returned: JobReturn | None) -> str:
    """What a launcher says of a job that it could not run."""
    if returned is None or returned.status is not JobStatus.FAILED:
        return ""
    error: Any = returned._return_value  # noqa: SLF001 - its public name prints before it raises
    return f"{type(error).__name__}: {error}"
