"""All through which a run is told: the terminal, the journal, what workers write, and the files that stay.

What is told is known elsewhere. Invariant: a disk that is full or a terminal that takes nothing costs what would have
been told, and never the job.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.cli.report import report_lines
from orchestrator.cli.terminal import Report, Terminal
from orchestrator.core.failures import Failure
from orchestrator.core.result import RunResult
from orchestrator.core.specs import JobSpec, LogsKind
from orchestrator.core.words import State
from orchestrator.edge.console import Console
from orchestrator.edge.errorfile import write_error_file
from orchestrator.edge.journal import Journal, write_result
from orchestrator.edge.tail import Tailer

DRAIN_WITHIN_S = 5.0  # how long the end waits for a terminal that does not take what workers wrote


def open_journal(job: JobSpec, mask: Callable[[str], str], on_trouble: Callable[[str], None]) -> Journal:
    """The journal of a run."""
    return Journal(
        Path(job.run_dir, "events.jsonl"),
        run_id=job.run_id,
        group=job.groups[0].role if len(job.groups) == 1 else "",
        node=job.node.name,
        clock=time.time,
        mono=time.monotonic,
        mask=mask,
        on_trouble=on_trouble,
    )


class Voices:
    """One run's, from its start to its end. ``mask`` keeps secrets from all of them."""

    def __init__(
        self, job: JobSpec, mask: Callable[[str], str], *, level: str | None = None, report: Report = report_lines
    ) -> None:
        """``level``: what is told at the terminal, if LOGLEVEL does not decide; ``report``: its last words."""
        self._run_dir = job.run_dir
        self._error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")  # of whoever launches us as a worker
        self._mask = mask
        self._console = console = Console(mask=mask)
        level = level or os.environ.get("LOGLEVEL", "INFO")
        self.terminal = Terminal(console, colour=console.colour, job=job, level=level, report=report)
        self.journal = open_journal(job, mask, lambda text: console.say(text, "warn"))
        self.journal.subscribe(self.terminal)
        self.tailer: Tailer | None = None
        if job.logs.kind is LogsKind.TEE:
            self.tailer = Tailer(console, bytes_per_s=job.logs.console_bytes_per_s)
            self.tailer.start()

    def keep(self, name: str, write: Callable[[Path], object]) -> None:
        """Write one of the run's files."""
        try:
            write(Path(self._run_dir, name))
        except OSError as error:
            self._console.say(f"{self._run_dir}/{name}: {error.strerror}", "warn")

    def _hand_up(self, path: Path, cause: Failure) -> None:
        try:
            write_error_file(path, cause)
        except OSError as error:
            self._console.say(f"{path}: {error.strerror}", "warn")

    def end(self, result: RunResult) -> None:
        """The last words."""
        told = result.to_dict()
        if self._error_file and result.state is State.FAILED and result.root_cause is not None:
            self._hand_up(Path(self._error_file), result.root_cause)
        self.keep("result.json", lambda path: write_result(path, told, mask=self._mask))
        if self.tailer is not None:
            self.tailer.finish(DRAIN_WITHIN_S)
        self.terminal.end(told)
        self.journal.close()
        self._console.close(DRAIN_WITHIN_S)
