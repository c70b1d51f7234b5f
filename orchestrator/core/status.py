"""A group as an operator sees it, and what becomes of a wish: values only, from whoever asked the server.

Times are seconds left, counted from the reply. Invariant: nothing here is acted upon by an agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator.core.rendezvous import Closed, Restart, Superseded
from orchestrator.core.words import Outcome


class GroupState(StrEnum):
    """Where a group is, as its server keeps it."""

    UNMET = "unmet"  # published, but nobody has joined yet
    OPEN = "open"  # its agents are meeting
    SETTLED = "settled"  # a round runs
    RESTORING = "restoring"  # its server had lost its memory, and hears from its agents of the round that runs
    CLOSED = "closed"


class WishKind(StrEnum):
    """What an operator may ask of a group."""

    STOP = "stop"
    RESTART = "restart"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """One agent. ``slot`` and ``base_rank`` are None while it waits for a round."""

    node: str
    nproc: int
    addr: str
    port: int
    lease_s: float  # left; zero or less: it has lapsed, and nobody has noticed yet
    slot: int | None = None
    base_rank: int | None = None
    succeeded: bool = False  # all its workers; it waits for the others


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """One group. Remaining restarts are None where there is no bound."""

    role: str
    state: GroupState
    round: int
    why: str  # what made the round, what the group meets for, or why the run ended
    size: int
    min_nodes: int
    max_nodes: int
    world_size: int
    charged: int
    remaining: int | None
    free_remaining: int | None
    members: tuple[MemberStatus, ...] = ()
    waiting: tuple[MemberStatus, ...] = ()
    last_end: Restart | Superseded | None = None
    closed: Closed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """One run, group by group."""

    run_id: str
    groups: tuple[GroupStatus, ...]

    @property
    def closed(self) -> Closed | None:
        """How the run ended, if all its groups have: the end that is no success comes first."""
        ends = [group.closed for group in self.groups if group.closed is not None]
        if len(ends) < len(self.groups) or not ends:
            return None
        return next((end for end in ends if end.outcome is not Outcome.SUCCEEDED), ends[0])


@dataclass(frozen=True, slots=True)
class Granted:
    """The group does as was wished. ``alive`` counts the agents that are left to it, of which it needs ``needed``."""

    alive: int
    needed: int


@dataclass(frozen=True, slots=True)
class Denied:
    """The group does not do as was wished, and why."""

    why: str


WishReply = Granted | Denied | Closed


def status_dict(status: RunStatus) -> dict[str, Any]:
    """The object of ``orchestratectl status --json``."""
    closed = status.closed
    return {
        "run_id": status.run_id,
        "outcome": closed.outcome.value if closed else None,
        "exit_code": closed.exit_code if closed else None,
        "groups": [_group(group) for group in status.groups],
    }


def _group(group: GroupStatus) -> dict[str, Any]:
    closed, end = group.closed, group.last_end
    return {
        "role": group.role,
        "state": group.state.value,
        "round": group.round,
        "why": group.why,
        "size": group.size,
        "nodes": [group.min_nodes, group.max_nodes],
        "world_size": group.world_size,
        "restarts": {
            "charged": group.charged,
            "remaining": group.remaining,
            "free_remaining": group.free_remaining,
        },
        "members": [_member(member) for member in group.members],
        "waiting": [_member(member) for member in group.waiting],
        "last_end": _end(end) if end else None,
        "outcome": closed.outcome.value if closed else None,
        "exit_code": closed.exit_code if closed else None,
        "cause": _plain(closed.cause) if closed else None,
    }


def _member(member: MemberStatus) -> dict[str, Any]:
    return {
        "node": member.node,
        "slot": member.slot,
        "base_rank": member.base_rank,
        "nproc": member.nproc,
        "addr": member.addr,
        "port": member.port,
        "lease_s": member.lease_s,
        "succeeded": member.succeeded,
    }


def _end(end: Restart | Superseded) -> dict[str, Any]:
    if isinstance(end, Superseded):
        return {"kind": "superseded", "round": end.round, "why": end.why}
    return {
        "kind": "restart",
        "round": end.round,
        "why": end.reason,
        "charged": end.charged,
        "delay_s": end.delay_ms / 1000,
        "cause": _plain(end.cause),
    }


def _plain(cause: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if cause is None else dict(cause)
