"""Real sweeps for tests: start `orchestrate -m`, and read what it left."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.cli.sweep.show import read
from orchestrator.core.sweep import JobState, Sweep, SweepJob
from tests.e2e.harness import Launch, until

LOSS = (
    "import os",
    "from orchestrator.worker import report",
    "x = float(os.environ['X'])",
    "report(loss=(x - 3) ** 2)",
)
"""A worker that reports how far X is from 3."""


class SweepLaunch(Launch):
    """One `orchestrate -m` of the sweep ``name``, in a directory that several of them may share."""

    def __init__(
        self, directory: Path, arguments: Sequence[str], env: Mapping[str, str] | None = None, name: str = "s"
    ) -> None:
        super().__init__(directory, ["-m", "restart=never", f"sweep.name={name}", *arguments], env)
        self.sweep_dir = directory / "sweeps" / name

    @property
    def sweep(self) -> Sweep:
        """What its sweep.json says."""
        return read(self.sweep_dir)

    def states(self) -> dict[object, JobState]:
        """How each job ended, by the value of its first parameter."""
        return {next(iter(job.params.values()), None): job.state for job in self.sweep.jobs}

    def job(self, value: object) -> SweepJob:
        """The job whose first parameter has this value."""
        return next(job for job in self.sweep.jobs if next(iter(job.params.values())) == value)

    def await_state(self, value: object, state: JobState) -> SweepJob:
        """Wait until a job is in a state."""

        def found() -> SweepJob | None:
            if self.process.poll() is not None:
                raise AssertionError(f"ended before: {self.stderr}")
            if not (self.sweep_dir / "sweep.json").exists():
                return None
            jobs = [job for job in self.sweep.jobs if next(iter(job.params.values())) == value and job.state is state]
            return jobs[0] if jobs else None

        return until(found, f"job {value} {state}")

    def finish(self) -> int:
        """Wait for its end."""
        code = self.wait(60)
        assert code in (0, 1, 2, 130, 143), self.stderr
        return code


def script(directory: Path, *lines: str) -> tuple[str, ...]:
    """A worker's command: a script in a file, so that a later sweep may find it changed."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "worker.py"
    path.write_text("\n".join(lines))
    return ("--", sys.executable, str(path))
