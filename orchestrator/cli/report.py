"""A finished run in words: what ended it first, then the rest in one line each.

In goes the object of result.json, out come lines; who writes them, and in which colours, is not known here. Invariant:
any object renders: a missing or strange entry leaves something out and never raises.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.cli.paths import shown
from orchestrator.core.failures import Failure
from orchestrator.edge.console import escape

_OTHERS = 20  # failures that get a line of their own
_BACKTRACE = 40  # lines of a traceback
_WIDTH = 400  # characters of a worker's line
_MINUTE, _HOUR = 60, 3600


class Line(NamedTuple):
    """One line for a person; ``style`` is a word of `Console.say`, ``level`` one of `logging`."""

    text: str
    style: str | None = None
    level: int = logging.INFO


def report_lines(result: Mapping[str, Any]) -> list[Line]:
    """The end of a run, from the object of result.json; all that is not a success counts as a warning."""
    state = str(result.get("state", "unknown"))
    if state == "SUCCEEDED":
        already = "; the run had ended before, nothing was started" if result.get("rounds") == 0 else ""
        return [Line(f"succeeded{_took(result, 'in')}{_effort(result)}{already}", "good")]
    cause = result.get("root_cause")
    headline = f"{_ended(result, state, cause)} [exit code {result.get('exit_code', '?')}]"
    lines = [Line(headline, "bad" if state == "FAILED" else "warn")]
    if isinstance(cause, Mapping):
        lines += failure_lines(failure_of(cause), "root cause: ")
    lines += _others(result.get("failures"), cause)
    return [line._replace(level=logging.WARNING) for line in lines]


def _ended(result: Mapping[str, Any], state: str, cause: object) -> str:
    """The first line, without what the next one says: a cause that is shown need not be in the reason as well."""
    reason, how_long = str(result.get("reason") or ""), f"{_took(result, 'after')}{_effort(result)}"
    if isinstance(cause, Mapping):
        failure = failure_of(cause)
        known = f"rank {failure.rank} on node {failure.node}: {failure.how()}"
        reason = reason.removesuffix(known).removesuffix("; ")
    if reason.startswith(f"{state.lower()} "):
        return f"{reason}{how_long}"
    return f"{state.lower()}{how_long}{f': {reason}' if reason else ''}"


def report_text(result: Mapping[str, Any]) -> str:
    """The same as plain text, control characters escaped."""
    return "\n".join(escape(line.text) for line in report_lines(result))


def failure_lines(failure: Failure, lead: str = "") -> list[Line]:
    """One failure in full: who, how, its message, where it happened, and its log."""
    lines = [Line(f"{lead}{who(failure)}, round {failure.round}: {failure.how()}", "bad")]
    lines += [Line(f"    {text}", "bold") for text in _said(failure).splitlines()]
    if failure.stacks:
        texts, title = failure.stacks.splitlines()[:_BACKTRACE], "its stacks:"
    elif failure.traceback:
        texts, title = failure.traceback.splitlines()[-_BACKTRACE:], "its traceback:"
    else:
        probed = failure.kind in ("probe", "start_timeout")
        texts, title = list(failure.last_lines), "the probe's last lines:" if probed else "its last lines:"
    if texts:
        lines += [Line(f"    {title}", "dim"), *(Line(f"    | {_short(text)}") for text in texts)]
    if failure.log:
        lines.append(Line(f"    its log: {shown(failure.log)}", "dim"))
    return lines


def preflight_lines(record: Mapping[str, Any]) -> list[Line]:
    """Why this node is not in the round, and when it tries again."""
    wait = record.get("retry_s")
    then = f"trying again in {duration(wait)}" if isinstance(wait, int | float) else "this was the last attempt"
    count = f"attempt {record.get('attempt')} of {record.get('attempts')}"
    lines = [Line(f"preflight: {record.get('check')}: {record.get('reason')}; {then} ({count})", "bad")]
    said = record.get("last_lines")
    lines += [Line(f"    | {_short(str(text))}") for text in (said if isinstance(said, list) else [])]
    return [line._replace(level=logging.WARNING) for line in lines]


def brief(failure: Failure) -> str:
    """One failure in a line: who, how, and the first line of its message."""
    said = next(iter(_said(failure).splitlines()), "")
    return f"{who(failure)}: {failure.how()}{f', {_short(said)}' if said else ''}"


def last_word(failure: Failure) -> str:
    """What it said, in a line: the first of its message, or else the last that it wrote."""
    lines = _said(failure).splitlines() or [line.strip() for line in reversed(failure.last_lines) if line.strip()]
    return _short(lines[0]) if lines else ""


def who(failure: Failure) -> str:
    """The worker that failed, as a person would point at it."""
    group = "" if failure.group in ("", "default") else f"{failure.group} "
    pid = "" if failure.pid is None else f", pid {failure.pid}"
    return f"{group}rank {failure.rank} on node {failure.node}{pid}"


def failure_of(data: Mapping[str, Any]) -> Failure:
    """A `Failure` from what a journal or a result file holds, however little that is."""
    given = {key: value for key, value in data.items() if value is not None}
    texts: dict[str, Any] = {
        key: str(given[key]) for key in ("message", "error_type", "traceback", "stacks", "log") if key in given
    }
    lines = given.get("last_lines")
    texts["last_lines"] = [str(line) for line in lines] if isinstance(lines, list | tuple) else []
    blank = {"kind": "failed", "group": "", "node": "?", "rank": "?", "local_rank": "?", "round": "?"}
    return Failure.from_dict({**blank, **given, **texts})


def duration(seconds: float) -> str:
    """``0.41 s``, ``12.3 s``, ``2 min 5 s``, ``10 min``, ``3 h 7 min``."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return _units((whole // _MINUTE, "min"), (whole % _MINUTE, "s"))
    return _units((whole // _HOUR, "h"), (whole % _HOUR // _MINUTE, "min"))


def _units(*parts: tuple[int, str]) -> str:
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def counted(number: object, noun: str) -> str:
    """``1 round``, ``2 rounds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _took(result: Mapping[str, Any], word: str) -> str:
    timings = result.get("timings")
    total = timings.get("total_s") if isinstance(timings, Mapping) else None
    return f" {word} {duration(total)}" if isinstance(total, int | float) else ""


def _effort(result: Mapping[str, Any]) -> str:
    rounds, restarts = result.get("rounds"), result.get("restarts")
    if not isinstance(rounds, int) or not isinstance(restarts, int) or (rounds <= 1 and not restarts):
        return ""
    return f" ({counted(rounds, 'round')}, {counted(restarts, 'restart')})"


def _others(failures: object, cause: object) -> list[Line]:
    if not isinstance(failures, Sequence):
        return []
    known = [failure_of(data) for data in failures if isinstance(data, Mapping)]
    first = _identity(failure_of(cause)) if isinstance(cause, Mapping) else None
    others = [failure for failure in known if _identity(failure) != first]
    if not others:
        return []
    lines = [Line("other failures:", "dim")]
    lines += [Line(f"    round {failure.round}, {brief(failure)}") for failure in others[-_OTHERS:]]
    if len(others) > _OTHERS:
        lines.append(Line(f"    and {len(others) - _OTHERS} earlier ones", "dim"))
    return lines


def _identity(failure: Failure) -> tuple[object, ...]:
    return failure.round, failure.group, failure.node, failure.rank, failure.pid, failure.kind


def _said(failure: Failure) -> str:
    """``ValueError: boom``, or what there is of it."""
    return ": ".join(part for part in (failure.error_type, failure.message) if part)


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"
