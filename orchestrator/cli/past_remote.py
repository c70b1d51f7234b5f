"""What the server of a run still knows of its past: the last 256 events of each group, and how it ended.

In goes a URL and a run_id, out come records like a journal's and an object like a result file's. Invariant: nothing is
written to the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.cli.control import PATIENCE_S, WATCH_PATIENCE_S, connected
from orchestrator.cli.rundir import Record
from orchestrator.core.rendezvous import Closed, Drained, Emptied, Notice, Restart, Settled, Superseded, Up
from orchestrator.core.status import GroupStatus
from orchestrator.edge.redis import replies
from orchestrator.edge.redis.scripts import EVENTS, group_keys
from orchestrator.edge.redis.streams import instant
from orchestrator.errors import ConfigError, Problem

if TYPE_CHECKING:
    from orchestrator.edge.redis.connection import Connection

_BEGIN = "0-0"
_AT_ONCE = 100  # events that a read brings at most; with fewer there are no more
_NAMES: dict[type[Any], str] = {
    Settled: "round_settled",
    Superseded: "round_superseded",
    Restart: "restart_decided",
    Closed: "run_closed",
    Drained: "drained",
    Up: "workers_up",
    Emptied: "all_left",
}


async def remote_events(url: str, run_id: str, *, follow: bool) -> AsyncIterator[Record]:
    """The events of all groups of a run in order of time. With ``follow`` until the run ends. RendezvousError."""
    async with connected(url, run_id, WATCH_PATIENCE_S if follow else PATIENCE_S) as (connection, run):
        roles = sorted((await run.published()).rules)
        seen = dict.fromkeys(roles, _BEGIN)  # the id of the last event
        over: set[str] = set()
        while True:
            found = await asyncio.gather(*(_new_events(connection, run_id, role, seen) for role in roles))
            for record in sorted((one for each in found for one in each), key=lambda record: record["ts"]):
                over |= {record["group"]} if record["event"] == "run_closed" else set()
                yield record
            if over.issuperset(roles) or (not follow and max(map(len, found)) < _AT_ONCE):
                return


async def _new_events(connection: Connection, run_id: str, role: str, seen: dict[str, str]) -> list[Record]:
    entries = await connection.read(group_keys(run_id, role)[EVENTS], seen[role])
    if entries:
        seen[role] = entries[-1][0]
    return [_record(run_id, role, id_, replies.notice(fields)) for id_, fields in entries]


def _record(run_id: str, role: str, id_: str, notice: Notice) -> Record:
    told = {key: value for key, value in asdict(notice).items() if key not in ("head", "round")}
    head = {"ts": instant(id_)[0] / 1000, "run_id": run_id, "group": role, "round": getattr(notice, "round", None)}
    return {**head, "event": _NAMES[type(notice)], **told}


def remote_result(url: str, run_id: str) -> Record:
    """How a run ended, as far as its server knows; ConfigError while it has not. RendezvousError."""

    async def ask() -> tuple[GroupStatus, ...]:
        async with connected(url, run_id, PATIENCE_S) as (_, run):
            return (await run.status()).groups

    groups = asyncio.run(ask())
    open_ = [group.role for group in groups if group.closed is None]
    if open_:
        fact = f"has not ended: group {', '.join(open_)}"
        raise ConfigError([Problem(run_id, fact, "see orchestratectl status --watch")])
    ends = {group.role: _ending(group) for group in groups}
    worst = max(ends.values(), key=lambda end: int(end["exit_code"]))
    return {**worst, "groups": ends} if len(ends) > 1 else worst


def _ending(group: GroupStatus) -> Record:
    closed = group.closed
    if closed is None:
        raise AssertionError("only ended groups are asked for their end")
    return {
        "state": closed.outcome.name,
        "exit_code": closed.exit_code,
        "reason": closed.reason,
        "rounds": group.round,
        "restarts": group.charged,
        "root_cause": closed.cause,
        "failures": [],
    }
