"""What a sweep knows of its jobs, and whoever is told when that changes: the directory, and the view.

Invariant: each key has one job; a disk that takes nothing costs what would have been written, and no job.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from orchestrator.cli.sweep.folder import Folder
from orchestrator.cli.sweep.jobs import Planned
from orchestrator.core.sweep import Sweep, SweepJob


class View(Protocol):
    """Who shows a sweep."""

    def changed(self, job: SweepJob) -> None:
        """A job as it is now."""

    def known(self, job: SweepJob) -> None:
        """A job as an earlier sweep has left it."""

    def expect(self, count: int | None) -> None:
        """How many jobs there will be."""


class Book:
    """The jobs of one sweep, by key. ``say`` tells a person what could not be written, once."""

    def __init__(self, sweep: Sweep, folder: Folder, say: Callable[[str], None]) -> None:
        self._sweep = replace(sweep, started_at=time.time())
        self._folder = folder
        self._say = say
        self._told = False
        self._later: asyncio.TimerHandle | None = None
        self._jobs: dict[str, SweepJob] = {}
        self.view: View | None = None

    def __getitem__(self, key: str) -> SweepJob:
        return self._jobs[key]

    @property
    def sweep(self) -> Sweep:
        """All of it, as it stands."""
        return replace(self._sweep, jobs=tuple(self._jobs.values()), expected=len(self._jobs))

    def add(self, planned: Planned) -> SweepJob:
        """The job of a plan: as it is known, as an earlier sweep has left it, or new. PENDING is what is to be run."""
        if planned.key in self._jobs:
            return self._jobs[planned.key]
        past = self._folder.past(planned.key)
        job = replace(
            past or SweepJob(n=0, key=planned.key, overrides=(), params={}),
            n=len(self._jobs),
            overrides=planned.overrides,
            params=planned.params,
            dir=str(self._folder.of(planned.key)),
        )
        new = tuple(key for key in planned.params if key not in self._sweep.params)
        self._sweep = replace(self._sweep, params=(*self._sweep.params, *new))
        self._jobs[planned.key] = job
        if self.view is not None:
            self.view.known(job)
        return job

    def begin(self, job: SweepJob) -> None:
        """A job starts; raises OSError if its directory cannot be made."""
        self._folder.begin(job)
        self._jobs[job.key] = job
        self._shown(job)

    def put(self, job: SweepJob) -> None:
        """A job has changed."""
        self._jobs[job.key] = job
        self._written(lambda: self._folder.keep(job) if job.attempts else None)
        self._shown(job)

    def heard(self, job: SweepJob) -> None:
        """A running job has reported; that is not worth a file."""
        self._jobs[job.key] = job
        if self.view is not None:
            self.view.changed(job)

    def close(self) -> Sweep:
        """Write what stands."""
        if self._later is not None:
            self._later.cancel()
        sweep = self.sweep
        self._written(lambda: self._folder.tell(sweep, last=True))
        return sweep

    def _shown(self, job: SweepJob) -> None:
        if self._later is None:
            self._written(self._tell)
        if self.view is not None:
            self.view.changed(job)

    def _tell(self) -> None:
        """Write sweep.json, or have it written as soon as it may be."""
        self._later = None
        wait_s = self._folder.tell(self.sweep)
        if wait_s:
            with contextlib.suppress(RuntimeError):  # no loop: jobs are being added, and none of them runs yet
                self._later = asyncio.get_running_loop().call_later(wait_s, self._written, self._tell)

    def _written(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if not self._told:
                self._say(f"{self._folder.path}: {error.strerror}: what the jobs come to is not kept")
            self._told = True
