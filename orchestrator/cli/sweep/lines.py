"""What a sweep says of itself at the terminal: lines that stay, and the panel below them that changes.

Words only: who writes them is `view`. Invariant: a line has what matters first, for its end may be cut off.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from orchestrator.cli.paths import shown
from orchestrator.cli.report import Line, counted, duration
from orchestrator.cli.secrets import Secrets
from orchestrator.cli.sweep.progress import Progress, elapsed
from orchestrator.cli.sweep.table import number, objective, pairs, tally
from orchestrator.core.sweep import JobState, Sweep, SweepJob

_MOST = 40  # running jobs that get a line of their own
_BAR = 20  # characters
_COUNTED = (JobState.RUNNING, JobState.FAILED, JobState.PRUNED, JobState.CANCELLED)
_STYLES = {JobState.SUCCEEDED: "good", JobState.FAILED: "bad", JobState.PRUNED: "dim", JobState.CANCELLED: "warn"}


def begin_line(sweep: Sweep, progress: Progress) -> Line:
    """``sweep lr: 24 jobs, 4 at once; 8 done before``."""
    jobs = "jobs" if progress.total is None else counted(progress.total, "job")
    before = f"; {progress.before} done before" if progress.before else ""
    return Line(f"sweep {sweep.name}: {jobs}, {sweep.slots} at once{before}", "bold")


class JobLines:
    """Tells of single jobs. ``names`` is how their parameters are called."""

    def __init__(self, sweep: Sweep, names: dict[str, str], secrets: Secrets) -> None:
        self._objective = objective(sweep)
        self._names = names
        self._secrets = secrets

    def ended(self, job: SweepJob, progress: Progress) -> Line:
        """``[ 5/24] job 3 succeeded in 12.3 s, loss 0.231: lr=0.1``; of a failure also why, and where its files are."""
        total = "" if progress.total is None else str(progress.total)
        count = f"[{progress.done:>{len(total)}}/{total}]" if total else f"[{progress.done}]"
        took = "" if job.seconds is None else f" in {duration(job.seconds)}"
        value = "" if job.value is None else f", {self._objective} {number(job.value)}"
        bad = job.state in (JobState.FAILED, JobState.CANCELLED)
        where = f"; see {shown(self._secrets.mask(job.dir))}" if job.state is JobState.FAILED and job.attempts else ""
        text = f"{count} job {job.n} {job.state.value}{took}{value}{self._what(job)}{self._why(job)}{where}"
        return Line(text, _STYLES.get(job.state), logging.WARNING if bad else logging.INFO)

    def again(self, job: SweepJob) -> Line:
        """An attempt after one that failed."""
        text = f"job {job.n} is tried again, attempt {job.attempts}{self._what(job)}{self._why(job)}"
        return Line(text, "warn", logging.WARNING)

    def panel(self, progress: Progress, now: float) -> list[tuple[str, str | None]]:
        """One line for each running job, and below them how far it all is."""
        running = progress.running
        shown = running[:_MOST]
        cells = [self._cells(job, now) for job in shown]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines: list[tuple[str, str | None]] = []
        for row, job in zip(cells, shown, strict=True):
            padded = [cell.rjust(width) for cell, width in zip(row, widths, strict=True) if width]
            lines.append(("  ".join([*padded, pairs(job, self._names, self._secrets)]).rstrip(), None))
        if len(running) > _MOST:
            lines.append((f"… and {len(running) - _MOST} more", "dim"))
        return [*lines, (self._sum(progress, now), "bold")]

    def _cells(self, job: SweepJob, now: float) -> Sequence[str]:
        """Who, how long, how far."""
        step, value = job.curve[-1] if job.curve else (None, job.value)
        return (
            f"job {job.n}",
            "" if job.attempts <= 1 else f"attempt {job.attempts}",
            duration(elapsed(job, now)) if elapsed(job, now) >= 1 else "0 s",
            "" if step is None else f"step {step}",
            "" if value is None else f"{self._objective} {number(value)}",
        )

    def _sum(self, progress: Progress, now: float) -> str:
        words = [f"{progress.done} done" if progress.total is None else f"{progress.done}/{progress.total} done"]
        counts = [(progress.count(state), state.value) for state in _COUNTED]
        words += [f"{count} {word}" for count, word in counts if count]
        left = progress.left_s(now)
        if left is not None:
            words.append(f"about {duration(max(1.0, round(left)))} left")
        if progress.best is not None:
            what = pairs(progress.best, self._names, self._secrets)
            words.append(f"best {self._objective} {number(progress.best.value)}: job {progress.best.n} {what}".rstrip())
        return " · ".join([*_bar(progress), *words])

    def _what(self, job: SweepJob) -> str:
        what = pairs(job, self._names, self._secrets)
        return f": {what}" if what else ""

    def _why(self, job: SweepJob) -> str:
        why = " ".join(self._secrets.mask(job.message).split())
        return f": {why}" if why else ""


def end_lines(sweep: Sweep, secrets: Secrets, names: dict[str, str], took_s: float | None) -> list[Line]:
    """How it ended, what was best, and how to go on."""
    good = sweep.exit_code == 0
    took = "" if took_s is None else f" in {duration(took_s)}"
    level = logging.INFO if good else logging.WARNING
    lines = [Line(f"sweep {sweep.name}: {tally(sweep)}{took}", "good" if good else "bad", level)]
    best = sweep.best
    if best is not None:
        what = pairs(best, names, secrets)
        lines.append(Line(f"best {objective(sweep)} {number(best.value)}: job {best.n} {what}".rstrip(), "bold"))
    if sweep.count(JobState.CANCELLED):
        lines.append(Line("the same command again does what is missing", "dim"))
    return lines


def _bar(progress: Progress) -> list[str]:
    if not progress.total:
        return []
    full = _BAR * progress.done // progress.total
    return ["━" * full + "─" * (_BAR - full)]
