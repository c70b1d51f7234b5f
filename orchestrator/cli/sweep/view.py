"""A sweep as it goes on, at the terminal: live where there is one, else a line for each job that has ended.

On a terminal each running job has a line, with what it reported last; failures stay above. Invariant: nothing here
waits for the terminal, for the agents of all running jobs live in this process; any thread may call.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from orchestrator.cli.report import Line
from orchestrator.cli.secrets import Secrets
from orchestrator.cli.sweep.lines import JobLines, begin_line, end_lines
from orchestrator.cli.sweep.progress import Progress
from orchestrator.cli.sweep.table import columns, short_names
from orchestrator.cli.terminal import level_of
from orchestrator.core.sweep import JobState, Sweep, SweepJob

_EVERY_S = 0.25  # the panel is drawn anew


class Voice(Protocol):
    """The part of `Console` that is needed here."""

    live: bool

    def say(self, text: str, style: str | None = None, *, masked: bool = True) -> None:
        """Write a line."""

    def panel(self, lines: Sequence[tuple[str, str | None]]) -> None:
        """Show lines below everything else."""


class SweepView:
    """Shows one sweep, from `begin` to `end`. ``now`` gives epoch seconds; ``level`` is what LOGLEVEL holds."""

    def __init__(
        self,
        console: Voice,
        sweep: Sweep,
        secrets: Secrets,
        *,
        now: Callable[[], float] = time.time,
        level: str | int | None = None,
    ) -> None:
        self._console = console
        self._sweep = sweep
        self._secrets = secrets
        self._now = now
        self._level = level_of(os.environ.get("LOGLEVEL", "INFO") if level is None else level)
        self._names = short_names(columns(sweep))
        self._told = JobLines(sweep, self._names, secrets)
        self._progress = Progress(sweep)
        self._guard = threading.Lock()  # of what is known; never held while something is written
        self._over = threading.Event()
        self._drawer: threading.Thread | None = None

    def begin(self) -> None:
        """Say which sweep this is, and show what runs from now on."""
        self._say(begin_line(self._sweep, self._progress))
        if self._console.live and self._drawer is None and self._level <= logging.INFO:
            self._drawer = threading.Thread(target=self._draw_often, name="sweep view", daemon=True)
            self._drawer.start()

    def expect(self, count: int | None) -> None:
        """How many jobs there will be, as it is known now."""
        with self._guard:
            self._progress.expected = count

    def known(self, job: SweepJob) -> None:
        """A job as an earlier sweep has left it, which is no news."""
        with self._guard:
            self._learn(job)
            self._progress.known(job)

    def changed(self, job: SweepJob) -> None:
        """A job as it is now: it may be new, have started, reported, ended, or be tried again."""
        with self._guard:
            self._learn(job)
            was = self._progress.put(job)
            line = self._line(was, job)
        if line is not None:
            self._say(line)

    def _learn(self, job: SweepJob) -> None:
        new = [key for key in job.params if key not in self._names]
        if new:
            self._names.update(short_names([*self._names, *new]))

    def _line(self, was: SweepJob | None, job: SweepJob) -> Line | None:
        if job.state.is_final and (was is None or not was.state.is_final):
            line = self._told.ended(job, self._progress)
            quiet = self._console.live and line.level < logging.WARNING  # the panel counts it
            return None if quiet else line
        if job.state is JobState.RUNNING and was is not None and job.attempts > was.attempts > 0:
            return self._told.again(replace(job, message=was.message))
        return None

    def end(self, sweep: Sweep) -> None:
        """Take the panel away, and say how the sweep ended. Whoever made the console closes it."""
        self._over.set()
        if self._drawer is not None:
            self._drawer.join()
        self._console.panel([])
        took = None if sweep.started_at is None else max(0.0, self._now() - sweep.started_at)
        for line in end_lines(sweep, self._secrets, self._names, took):
            self._say(line)

    def _draw_often(self) -> None:
        while not self._over.wait(_EVERY_S):
            with self._guard:
                lines = self._told.panel(self._progress, self._now())
            self._console.panel(lines)

    def _say(self, line: Line) -> None:
        if line.level >= self._level:
            self._console.say(line.text, line.style)
