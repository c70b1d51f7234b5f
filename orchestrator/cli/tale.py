"""What the records of one group mean to the person at the terminal: few lines, each a fact and what follows from it.

Knows nothing that the records do not say. Invariant: a record in, lines out; the only memory is what was told already,
so that nothing is told twice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from orchestrator.cli.paths import shown
from orchestrator.cli.report import (
    Line,
    brief,
    counted,
    duration,
    failure_lines,
    failure_of,
    preflight_lines,
    who,
)
from orchestrator.cli.round_lines import group_of, restart_decided_line, round_settled_line
from orchestrator.core.failures import Failure, signal_name
from orchestrator.core.restart import judges_first
from orchestrator.core.specs import JobSpec, LogsKind, OnIsolation
from orchestrator.core.stopping import in_time
from orchestrator.edge.embedded import LOG_NAME

QUIET = {"worker_started", "worker_exited", "failure_reported"}  # told by what they lead to, if they lead anywhere
_NO_WORKERS = {
    "INIT",
    "WAITING",
    "PREFLIGHT",
    "RENDEZVOUS",
    "STANDBY",
    "DECIDING",
    "BACKOFF",
}  # states in which there is nobody to wait for


class Tale:
    """Tells of one group, or of what concerns the whole run."""

    def __init__(self, job: JobSpec) -> None:
        self._job = job
        self._told: set[tuple[object, ...]] = set()
        self._state = ""
        self._round = ""

    @property
    def status(self) -> str:
        """Where the group is, in a few words."""
        return f"{self._round}{self._state.lower()}"

    def lines(self, record: Mapping[str, Any]) -> list[Line]:
        """What a record means to a person."""
        lines = self._lines(record)
        if record.get("event") == "round_settled":
            self._round = f"round {record.get('round')} · {counted(record.get('world_size'), 'worker')} · "
        elif record.get("event") == "transition":
            self._state = str(record.get("to", ""))
        return lines

    def _lines(self, record: Mapping[str, Any]) -> list[Line]:
        event = record.get("event")
        if event == "lease_lost" and ("fenced", record.get("round")) in self._told:
            self._first(event, record.get("round"))
            return []  # told with its reason, and what it has cost
        if event in ("fenced", "lease_lost", "member_lost"):
            self._first(event, record.get("round"))
        if not self._round and event in ("server_lost", "server_back", "leave_failed"):
            return _before_the_first_round(record, self._job)
        match event:
            case "worker_exited":
                return self._first_failure(record)
            case "failure_reported":
                return self._verdict_line(record)
            case "restart_decided":
                lines = self._decision_lines(record)
            case "stop_requested":
                idle = self._state in _NO_WORKERS
                lines = [stop_line(record, self._job, again=not self._first("stop"), idle=idle)]
            case "transition":
                lines = self._membership_line(record)
            case _:
                lines = lines_of(record, self._job)
        return lines

    def _first_failure(self, record: Mapping[str, Any]) -> list[Line]:
        """A round's first failure is told at once: what is decided about it may be a grace period away."""
        failed = not record.get("sent_by_us") and (record.get("exit_code") != 0 or record.get("signal") is not None)
        alone = judges_first(group_of(record, self._job).restart)  # then it may concern nobody else
        if not failed or not self._first("failure", record.get("round"), record.get("pid") if alone else None):
            return []
        failure = failure_of(record)
        self._first("pid", failure.pid)
        then = "" if alone else "; stopping its round"
        return [Line(f"{who(failure)} failed: {failure.how()}{then}", "bad", logging.WARNING)]

    def _verdict_line(self, record: Mapping[str, Any]) -> list[Line]:
        """What forbids a restart, or which rule has one done; that one is to come is told when it is decided."""
        fatal, why = record.get("action") == "fatal", str(record.get("why"))
        if not (fatal or why.startswith("restart.rules")) or not self._first(record.get("action"), record.get("round")):
            return []
        return [Line(f"no restart: {why}" if fatal else why, "warn", logging.WARNING)]

    def _decision_lines(self, record: Mapping[str, Any]) -> list[Line]:
        """A restart: its cause, the rule if nobody has named it yet, and what is restarted."""
        lines = self._cause_lines(record.get("cause"))
        reason = str(record.get("reason"))
        if record.get("ranks") and reason.startswith("restart.rules"):
            lines.append(Line(reason, "warn", logging.WARNING))
        return [*lines, restart_decided_line(record, group_of(record, self._job))]

    def _cause_lines(self, cause: object) -> list[Line]:
        """A restart's cause: in full, unless its output is on this screen already, or even its end was told."""
        if not isinstance(cause, Mapping):
            return []
        failure = failure_of(cause)
        if not _is_on_screen(failure, self._job):
            lines = failure_lines(failure, "root cause: ")
        elif ("pid", failure.pid) in self._told and not (failure.message or failure.error_type):
            lines = []
        else:
            lines = [Line(f"root cause: {brief(failure)}", "bad")]
        return [line._replace(level=logging.WARNING) for line in lines]

    def _membership_line(self, record: Mapping[str, Any]) -> list[Line]:
        """What ends a round without anyone's failure is only told by the transition that it causes."""
        if record.get("on") == "stood_by":
            return [Line(f"standing by: {record.get('reason')}")]
        word = {
            "round_superseded": "the membership changes",
            "lease_lost": "this node's lease has lapsed",
            "guard_lost": "the guard is gone",
        }.get(str(record.get("on")))
        about = record.get("round")
        told = (record.get("on"), about) in self._told or ("member_lost", about) in self._told
        if word is None or told or not self._first(record.get("on"), about):
            return []
        reason = record.get("reason")
        return [Line(f"{word}: {reason}" if reason else word, "warn", logging.WARNING)]

    def _first(self, *what: object) -> bool:
        first = what not in self._told
        self._told.add(what)
        return first


def lines_of(record: Mapping[str, Any], job: JobSpec) -> list[Line]:
    """The lines of a record that speaks for itself; unknown events are for LOGLEVEL=DEBUG."""
    event = str(record.get("event"))
    if event in QUIET:
        return []
    if event == "round_settled":
        return [round_settled_line(record, group_of(record, job))]
    news = {
        "role_waiting": f"waiting: {record.get('reason')}",
        "run_decided": f"the run is decided: {record.get('reason')}",
        "health_listening": f"health: {record.get('url') or record.get('server')}",
        "limits_learned": f"the watchdog has learnt from this run: {_limits(record)}",
        "server_back": f"the rendezvous server is back{_because(record)}",
    }.get(event)
    if news is not None:
        return [Line(news)]
    if event == "preflight_failed":
        return preflight_lines(record)
    problem = _problem(event, record, job)
    return [problem._replace(level=logging.WARNING)] if problem else [Line(raw(record), "dim", logging.DEBUG)]


def _problem(event: str, record: Mapping[str, Any], job: JobSpec) -> Line | None:
    because = _because(record)
    text = {
        "server_lost": f"the rendezvous server does not answer{because}; {_meanwhile(record, job)}",
        "member_lost": str(record.get("reason") or "a node was lost"),  # it names them
        "lease_lost": f"this node's lease has lapsed{because}",
        "fenced": f"this node's workers were killed, for others may soon start in their place{because}",
        "lease_late": f"the lease is renewed late{because}",
        "log_degraded": _degraded(record),
        "log_trimmed": f"{shown(str(record.get('path')))} is over logs.max_bytes: its oldest output is removed, and so "
        "will that of others",
        "worker_hung": f"rank {record.get('rank', '?')} {_hangs(record)}{because}",
        "worker_stuck": f"rank {record.get('rank', '?')} does not stop; its stacks are in the journal{because}",
        "watchdog_off": f"the watchdog is off{because}",
        "watchdog_refused": f"the watchdog cannot use what it was told{because}",
        "probe_failed": f"rank {record.get('rank', '?')} failed its {record.get('probe', '')} probe{because}",
        "zygote_failed": f"no zygote, so workers are started by exec{because}",
        "ghosts_killed": f"what an earlier agent of this run had left here was killed: pids {_pids(record)}",
        "store_trouble": f"the store of the workers{because}",
        "leave_failed": f"the group could not be told of the end{because}",
        "failure_judged": str(record.get("why")),
    }.get(event)
    return Line(text, "warn") if text else None


def _pids(record: Mapping[str, Any]) -> str:
    return ", ".join(str(pid) for pid in record.get("pids", ()))


def _degraded(record: Mapping[str, Any]) -> str:
    """The journal's own records were lost, or workers' logs are not what they should be."""
    if "path" in record:
        return f"{shown(str(record['path']))}: {record.get('reason')}"
    return f"the journal can be written again; it lacks {counted(record.get('dropped'), 'record')}"


def _hangs(record: Mapping[str, Any]) -> str:
    """A hang that is a failure, or one that is only told; then nobody else tells where its stacks are."""
    return "hangs" if record.get("fails", True) else "seems to hang; its stacks are in the journal"


def _meanwhile(record: Mapping[str, Any], job: JobSpec) -> str:
    """What becomes of workers whose agent does not reach the server."""
    most = duration(job.rendezvous.server_grace_s)
    group = group_of(record, job)
    if group.max_nodes + group.spare_nodes == 1 or job.rendezvous.on_isolation is OnIsolation.RUN:
        return f"workers run on, for {most} at most"
    return f"workers run on, for {most} at most, unless this node is cut off (rendezvous.on_isolation)"


def _before_the_first_round(record: Mapping[str, Any], job: JobSpec) -> list[Line]:
    """The server before anything runs; that it cannot be told of our end is no news if it was never met."""
    event, url = record.get("event"), job.rendezvous.url
    if event == "leave_failed":
        return [Line(raw(record), "dim", logging.DEBUG)]
    if event == "server_back":
        return [Line("the rendezvous server answers")]
    where = f"the rendezvous server at {url}" if url else "the embedded server"
    log = "" if url else f" (its log: {shown(f'{job.run_dir}/{LOG_NAME}')})"
    text = f"{where} does not answer yet{_because(record)}{log}; trying for {duration(job.rendezvous.join_timeout_s)}"
    return [Line(f"{text} (rendezvous.join_timeout_s)", "warn", logging.WARNING)]


def _is_on_screen(failure: Failure, job: JobSpec) -> bool:
    """Whether what the worker wrote was shown here."""
    ranks = job.logs.console
    shows = job.logs.kind is not LogsKind.FILES and (ranks is None or failure.rank in ranks)
    return shows and failure.node == job.node.name


def stop_line(record: Mapping[str, Any], job: JobSpec, *, again: bool, idle: bool) -> Line:
    """What a signal to the launcher leads to."""
    number = record.get("signal")
    name = signal_name(number) if isinstance(number, int) else "stop requested"
    if again:
        then = "workers have been told" if number in job.stop.preempt else "killing now"
        return Line(f"{name} again: {then}", "warn", logging.WARNING)
    if idle:
        return Line(f"{name}: leaving the run", "warn", logging.WARNING)
    ladder = in_time(job.stop, number) if isinstance(number, int) else job.stop
    cut = " (stop.platform_grace_s)" if ladder.grace_s < job.stop.grace_s else ""
    hint = "" if number in job.stop.preempt else "; again to kill now"
    return Line(f"{name}: stopping, grace {ladder.grace_s:g} s{cut}{hint}", "warn", logging.WARNING)


def _limits(record: Mapping[str, Any]) -> str:
    limits = record.get("limits")
    told = limits.items() if isinstance(limits, Mapping) else ()
    return ", ".join(f"watchdog.{limit} is {duration(seconds)}" for limit, seconds in told)


def _because(record: Mapping[str, Any]) -> str:
    reason = record.get("reason")
    return f": {reason}" if reason else ""


def raw(record: Mapping[str, Any]) -> str:
    """A record as it is, in one line, but for what stands in every one of them."""
    head = {"ts", "mono", "run_id", "group", "node", "round", "event"}
    fields = " ".join(f"{key}={value}" for key, value in record.items() if key not in head)
    return f"[{record.get('round')}] {record.get('event')} {fields}".rstrip()
