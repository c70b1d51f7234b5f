"""One worker process of a round, and the files that are its: logs, error file, result file.

What opens a file here waits for the disk: call it where no event loop waits with it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.core.failures import Failure
from orchestrator.core.ranks import Place
from orchestrator.core.snapshot import WorkerView
from orchestrator.edge.errorfile import last_lines, python_error, read_error_file
from orchestrator.edge.memory_marks import MemoryMark

RESULT_FILE = "result.json"
RESULT_LIMIT = 1 << 20  # bytes of a result file; beyond that it is no result


def worker_name(rank: int, incarnation: int) -> str:
    """What a worker's directory is called."""
    return f"{rank}.{incarnation}" if incarnation else str(rank)


def read_report(path: Path) -> Mapping[str, Any] | None:
    """The JSON object in a result file; None if there is no such thing."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(RESULT_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(slots=True)
class Worker:
    """One process of this round, and the files that are its."""

    place: Place
    handle: int
    directory: Path
    incarnation: int = 0  # how often it was started again within the round
    row: int = 0  # of these times, in a row: without a long life in between
    pid: int | None = None
    started_s: float = 0.0  # on the monotonic clock
    was_ready: bool = False
    memory: MemoryMark | None = None
    ended: bool = False
    settled: bool = False  # it has succeeded, or counts no more
    ignored: bool = False  # because its failure is ignored
    replaced: bool = False  # another one is to be started in its place

    def view(self, *, ready: bool) -> WorkerView:
        """What others may know of it."""
        running = self.pid is not None and not self.ended
        return WorkerView(self.place.rank, self.place.local_rank, self.pid, running, ready and running)

    def make_directory(self) -> None:
        """Make its directory; what an earlier run of the same run_id left there is kept beside it, as RANK~1."""
        if self.directory.exists():
            others = (self.directory.with_name(f"{self.directory.name}~{number}") for number in itertools.count(1))
            self.directory.rename(next(other for other in others if not other.exists()))
        self.directory.mkdir(parents=True)

    def reported(self) -> Mapping[str, Any] | None:
        """The JSON object that it wrote to its result file; None if there is no such thing."""
        return read_report(self.result_file)

    def explain(self, failure: Failure, *, logged: bool) -> Failure:
        """``failure`` with what it has left to explain its death: its error file, or the end of its stderr, if kept."""
        lines = last_lines(self.stderr) if logged else ()
        told = read_error_file(self.error_file)
        error_type, message = (told.error_type, told.message) if told else python_error(lines)
        return replace(
            failure,
            error_type=error_type,
            message=message,
            traceback=told.traceback if told else "",
            last_lines=lines,
            log=str(self.stderr) if logged else "",
        )

    def add_lines(self, failure: Failure, *, logged: bool) -> Failure:
        """``failure`` with the end of its stderr, if kept; for one that has not died, and has explained nothing."""
        return replace(failure, last_lines=last_lines(self.stderr), log=str(self.stderr)) if logged else failure

    def written(self) -> int:
        """How many bytes its logs hold."""
        sizes = 0
        for log in (self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                sizes += log.stat().st_size
        return sizes

    @property
    def stacks_file(self) -> Path:
        """Where it writes the stacks of its threads, when asked."""
        return self.directory / "stacks.log"

    @property
    def error_file(self) -> Path:
        """Where the worker, or torch in it, describes its error."""
        return self.directory / "error.json"

    @property
    def result_file(self) -> Path:
        """Where it reports values."""
        return self.directory / RESULT_FILE

    @property
    def stderr(self) -> Path:
        """Its standard error."""
        return self.directory / "stderr.log"

    @property
    def stdout(self) -> Path:
        """Its standard output."""
        return self.directory / "stdout.log"
