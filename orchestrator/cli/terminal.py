"""A run as it is told to the person at the terminal: in lines, and one below them that changes.

Observes the records of `edge/journal.py`; what they mean is `tale`'s. Invariant: several roles are told apart by their
names, and a single one is not named.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.cli.report import Line, report_lines
from orchestrator.cli.tale import QUIET, Tale, raw
from orchestrator.core.specs import GroupSpec, JobSpec

Report = Callable[[Mapping[str, Any]], Sequence[Line]]
"""The last words, from the object of result.json."""


class Voice(Protocol):
    """The part of `Console` that is needed here."""

    def say(self, text: str, style: str | None = None, *, masked: bool = True) -> None:
        """Write a line."""

    def status(self, text: str | None) -> None:
        """Show a line below everything else."""


class Terminal:
    """Tells one agent's run. Subscribe it to the journal; `begin` and `end` are said by whoever runs the agent.

    ``level`` is what LOGLEVEL holds, a name or a number: WARNING tells only problems, DEBUG every record.
    """

    def __init__(
        self,
        console: Voice,
        *,
        colour: bool,
        job: JobSpec,
        level: str | int = logging.INFO,
        report: Report = report_lines,
    ) -> None:
        self._console = console
        self._colour = colour
        self._job = job
        self._level = level_of(level)
        self._report = report
        self._tales: dict[str, Tale] = {}

    def begin(self, server: str | None = None) -> None:
        """Say which run this is and, where others must join, the address at which they do."""
        for line in begin_lines(self._job, server):
            if line.level >= self._level:  # not masked: the server's password was made to be read here, once
                self._console.say(line.text, line.style if self._colour else None, masked=False)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Tell what a record of the journal means to a person."""
        group = str(record.get("group", ""))
        tale = self._tales.setdefault(group, Tale(self._job))
        name = f"{group}: " if group and len(self._job.groups) > 1 else ""
        for line in tale.lines(record):
            self._tell(line._replace(text=f"{name}{line.text}"))
        if self._level <= logging.DEBUG and record.get("event") in {"transition", *QUIET}:
            self._tell(Line(f"{name}{raw(record)}", "dim", logging.DEBUG))
        if record.get("event") == "transition":
            several = len(self._tales) > 1
            states = [f"{role} {told.status}" if several else told.status for role, told in self._tales.items() if role]
            self._console.status(" · ".join([self._job.run_id, *states]))

    def end(self, result: Mapping[str, Any]) -> None:
        """Tell how the run ended, from the object of result.json."""
        self._console.status(None)
        for line in self._report(result):
            self._tell(line)

    def _tell(self, line: Line) -> None:
        if line.level >= self._level:
            self._console.say(line.text, line.style if self._colour else None)


def level_of(text: str | int) -> int:
    """What LOGLEVEL means: a name of `logging`, or a number; INFO if it is neither."""
    names = logging.getLevelNamesMapping()
    word = str(text).strip().upper()
    return int(word) if word.isdecimal() else names.get(word, logging.INFO)


def begin_lines(job: JobSpec, server: str | None) -> list[Line]:
    """The first lines of a run."""
    lines = [Line(f"run {job.run_id}, node {job.node.name}", "bold")]
    wide = [group for group in job.groups if group.max_nodes > 1]
    if wide:
        spans = [f"{_span(group)} nodes{f' as {group.role}' if len(job.groups) > 1 else ''}" for group in wide]
        others = f"run_id={job.run_id}" + (f" rendezvous.url={server}" if server else " and the same server")
        level = logging.CRITICAL if server else logging.INFO  # a password is told nowhere else: it must be heard
        lines.append(Line(f"meeting {', '.join(spans)}; the others need {others}", level=level))
        if server:
            lines.append(Line("this node hosts the server: the run ends with it", "warn", logging.WARNING))
    return lines


def _span(group: GroupSpec) -> str:
    return f"{group.min_nodes}" if group.min_nodes == group.max_nodes else f"{group.min_nodes} to {group.max_nodes}"
