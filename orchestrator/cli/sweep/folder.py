"""A sweep's directory: locked by one sweep, with what each job came to in the job's own directory.

A job's ``job.json`` is written when it starts and when it has ended, and its ``result.json`` is its agent's; from these
two a later sweep knows what is left to do. ``sweep.json`` tells the whole for people and programs, and is not read
again. Invariant: a file is replaced by a whole one, or stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.cli.paths import shown
from orchestrator.config.sweep import SweepConfig
from orchestrator.core.sweep import JobState, Sweep, SweepJob, job_from_dict, job_to_dict, to_dict
from orchestrator.edge.embedded import SERVER_FILES, SERVER_PREFIX
from orchestrator.errors import ConfigError, Problem

_SHARE = 0.05  # of the time: what writing sweep.json may take of a sweep with very many jobs
_LOCK = ".lock"


class Folder:
    """One sweep's directory. Make it to lock it; a ConfigError if that is not possible."""

    def __init__(self, path: Path, config: SweepConfig) -> None:
        self.path = path
        self._objective = config.objective
        self._prunes = config.prune is not None
        self._sought = f"{config.direction} {config.objective}"
        self._due = 0.0  # when sweep.json may be written again, on the monotonic clock
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ConfigError([Problem("hydra.sweep.dir", f"{path}: {error.strerror}", "choose another")]) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._noted()[0]
            os.close(self._lock)
            fact = f"{shown(path)} is that of a sweep which runs, as process {holder or '?'}"
            raise ConfigError([Problem("sweep.name", fact, "wait for it, or give this one another name")]) from None
        except OSError as error:  # some shared disks know no locks
            os.close(self._lock)
            fact = f"{path} cannot be locked: {error.strerror}"
            raise ConfigError([Problem("hydra.sweep.dir", fact, "choose one on another disk")]) from None
        for left in self._noted()[1:]:  # by a sweep that was killed together with its guard
            _remove(Path(left))
        self.note()

    def note(self, temporary: Sequence[str] = ()) -> None:
        """Write down whose the directory is, and which temporary ones a later sweep may find left behind."""
        with contextlib.suppress(OSError):  # a full disk: the lock holds without it
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, "\n".join([str(os.getpid()), *temporary]).encode(), 0)

    def _noted(self) -> list[str]:
        return os.pread(self._lock, 4096, 0).decode(errors="replace").split("\n")

    def close(self) -> None:
        """Let another sweep have the directory."""
        self.note()
        os.close(self._lock)

    def of(self, key: str) -> Path:
        """A job's directory."""
        return self.path / key

    def past(self, key: str) -> SweepJob | None:
        """What an earlier sweep knows of a job; None if it has not begun it.

        What its agent says counts: a sweep may have died before it took note of that. What it reported on its way, and
        that it was pruned, counts for as long as the same is looked for.
        """
        try:
            data = json.loads((self.of(key) / "job.json").read_bytes())
            job = job_from_dict(data, "job.json")
        except (OSError, ValueError, RecursionError):
            return None
        same = data.get("sought") == self._sought
        if not same:
            job = replace(job, curve=())
        if job.state is JobState.PRUNED:
            return job if same and self._prunes else replace(job, state=JobState.PENDING)
        result = self.result(key)
        if result.get("state") != "SUCCEEDED":
            return replace(job, state=JobState.PENDING)
        value = value_of(result.get("results", {}).get("0"), self._objective)
        if self._objective is not None and value is None:
            return replace(job, state=JobState.PENDING)
        return replace(job, state=JobState.SUCCEEDED, value=value, message="")

    def result(self, key: str) -> dict[str, Any]:
        """What a job's agent has said in the end; empty if it has not."""
        try:
            found = json.loads((self.of(key) / "result.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        sound = isinstance(found, dict) and isinstance(found.get("results", {}), dict)
        return found if sound else {}

    def begin(self, job: SweepJob) -> None:
        """Make a job's directory ready for another attempt, and take note that it runs; raises OSError."""
        directory = self.of(job.key)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "result.json").unlink(missing_ok=True)  # of an attempt that came to nothing
        self.keep(job)

    def keep(self, job: SweepJob) -> None:
        """Take note of a job; raises OSError."""
        _replace(self.of(job.key) / "job.json", {**job_to_dict(job), "sought": self._sought})

    def tell(self, sweep: Sweep, *, last: bool = False) -> float:
        """Write sweep.json, unless it was written just now: in how many seconds it may be; raises OSError."""
        began = time.monotonic()
        if began < self._due and not last:
            return self._due - began
        _replace(self.path / "sweep.json", to_dict(sweep))
        now = time.monotonic()
        self._due = now + (now - began) / _SHARE
        return 0.0


def value_of(reported: object, objective: str | None) -> float | None:
    """The number that a worker has reported under the name ``objective``."""
    value = reported.get(objective) if isinstance(reported, Mapping) and objective is not None else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _remove(directory: Path) -> None:
    """A server's private directory; nothing else, whatever somebody has written down."""
    with contextlib.suppress(OSError):
        found = directory.lstat()
        if directory.name.startswith(SERVER_PREFIX) and found.st_uid == os.getuid() and found.st_mode & 0o777 == 0o700:  # noqa: PLR2004
            for name in SERVER_FILES:
                (directory / name).unlink(missing_ok=True)
            directory.rmdir()


def _replace(path: Path, data: object) -> None:
    """A file as a whole: whoever reads it, also after this process was killed, finds the old one or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
