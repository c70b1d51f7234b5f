"""What an operator may see and wish of a run, through the server on which its agents meet.

An operator is no member: has no lease, and claims nothing. Invariant: looking changes nothing, and a wish is granted or
refused by the group as a whole, in one command.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.core.publication import Publication
from orchestrator.core.rendezvous import Closed, Restart, Superseded
from orchestrator.core.status import (
    Denied,
    Granted,
    GroupState,
    GroupStatus,
    MemberStatus,
    RunStatus,
    WishKind,
    WishReply,
)
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.replies import parse
from orchestrator.edge.redis.scripts import group_keys, script
from orchestrator.errors import RendezvousError

T = TypeVar("T")
_NAME = "an operator"  # a node's name has no blanks
_NO_CLAIM = (0, 0, -1, 0, "", 0)
NO_CHARGES = (0, 0, 0)
NO_RULES = (1, 1, 1, 1, 0, 0, -1, 0, 0, *NO_CHARGES)  # for a command that does not look at them
_RULES = ("lease_ms", "ttl_ms", "min", "max", "last_call_ms", "scale_up_ms", "free_max", "free_per_ms", "spares")
_BUDGET = ("budget_max", "budget_per_ms")


@dataclass(frozen=True, slots=True)
class Published:
    """What the agents of a run have told of it."""

    job: str  # a `Publication` as text
    rules: Mapping[str, Mapping[str, int]]  # by role, what commands to its group have to bring

    def publication(self) -> Publication:
        """The job; RendezvousError if it makes no sense."""
        try:
            return Publication.from_text(self.job)
        except ValueError as problem:
            raise RendezvousError(f"the job that the server has cannot be read: {problem}") from problem


class RunControl:
    """One run, as an operator deals with it."""

    def __init__(self, connection: Connection, run_id: str) -> None:
        self._connection = connection
        self._run_id = run_id
        self._published: Published | None = None

    async def published(self) -> Published:
        """What is known of the run; RendezvousError if there is none of this name."""
        if self._published is None:
            keys = group_keys(self._run_id, "-")  # the run's own key is the same in every group
            raw = await self._connection.call(script("job"), keys, (*caller(), *NO_RULES))
            if raw == ["unpublished"]:
                raise RendezvousError(
                    f"there is no run {self._run_id!r} on the server at {self._connection.address.masked}, "
                    "or it ended more than a day ago"
                )
            self._published = read(raw, _published)
        return self._published

    async def status(self) -> RunStatus:
        """The run as it stands."""
        found = []
        for role, rules in (await self.published()).rules.items():
            raw = await self._call("status", role, rules, *(rules[name] for name in _BUDGET))
            found.append(read(raw, lambda row, role=role, rules=rules: _group(role, rules, row)))  # type: ignore[misc]
        return RunStatus(run_id=self._run_id, groups=tuple(found))

    async def wish(self, kind: WishKind, node: str = "") -> dict[str, WishReply]:
        """Ask something of every group of the run; what each of them says, by role."""
        nonce = secrets.token_hex(8)
        said = {}
        for role, rules in (await self.published()).rules.items():
            raw = await self._call("wish", role, rules, kind.value, node, "", nonce=nonce)
            said[role] = read(raw, _wish_reply)
        return said

    async def _call(
        self, command: str, role: str, rules: Mapping[str, int], *args: str | int, nonce: str = "-"
    ) -> object:
        given = (*caller(nonce), *(rules[name] for name in _RULES), *NO_CHARGES, *args)
        return await self._connection.call(script(command), group_keys(self._run_id, role), given)


def caller(nonce: str = "-") -> tuple[str | int, ...]:
    """ARGV[1] to ARGV[8], see lua/lib: nobody whom the group knows."""
    return (_NAME, nonce, *_NO_CLAIM)


def read(raw: object, parser: Callable[[list[Any]], T]) -> T:
    """A reply to an operator, typed; a RendezvousError if it is none that we know."""
    try:
        if not isinstance(raw, list):
            raise TypeError("not a list")  # noqa: TRY301 - one door for everything that is wrong with it
        return parser(raw)
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as problem:
        raise RendezvousError(
            f"the server's reply is not one that this version knows ({problem}): {raw!r:.200}"
        ) from problem


def _published(row: list[Any]) -> Published:
    match row:
        case ["job", str(), str(job), list(roles)]:
            return Published(job, {str(role): _rules(text) for role, text in zip(roles[::2], roles[1::2], strict=True)})
    raise ValueError("no job")


def _rules(text: str) -> dict[str, int]:
    found = json.loads(text)
    return {name: int(found[name]) for name in (*_RULES, *_BUDGET)}


def _wish_reply(row: list[Any]) -> WishReply:
    match row:
        case ["granted", int(alive), int(needed)]:
            return Granted(alive, needed)
        case ["refused", str(why)]:
            return Denied(why)
    reply = parse(row)
    if isinstance(reply, Closed):
        return reply
    raise ValueError("no reply to a wish")


def _group(role: str, rules: Mapping[str, int], row: list[Any]) -> GroupStatus:
    match row:
        case [
            "status", str(state), int(number), int(size), int(world), str(why), int(charged), int(left), int(free),
            list(members), list(waiting), list(end), list(closed),
        ]:  # fmt: skip
            last_end, ending = parse(end) if end else None, parse(closed) if closed else None
            if not isinstance(last_end, Restart | Superseded | None) or not isinstance(ending, Closed | None):
                raise TypeError("an end that is none")
            return GroupStatus(
                role=role,
                state=GroupState(state or "unmet"),
                round=number,
                why=why,
                size=size,
                min_nodes=rules["min"],
                max_nodes=rules["max"],
                world_size=world,
                charged=charged,
                remaining=None if left < 0 else left,
                free_remaining=None if free < 0 else free,
                members=tuple(map(_member, members)),
                waiting=tuple(map(_waiter, waiting)),
                last_end=last_end,
                closed=ending,
            )
    raise ValueError("no status")


def _member(row: list[Any]) -> MemberStatus:
    match row:
        case [str(node), int(slot), int(base), int(nproc), str(addr), int(port), int(lease_ms), int(done)]:
            return MemberStatus(
                node=node,
                nproc=nproc,
                addr=addr,
                port=port,
                lease_s=lease_ms / 1000,
                slot=slot,
                base_rank=base,
                succeeded=bool(done),
            )
    raise ValueError("no member")


def _waiter(row: list[Any]) -> MemberStatus:
    match row:
        case [str(node), int(nproc), str(addr), int(port), int(lease_ms)]:
            return MemberStatus(node=node, nproc=nproc, addr=addr, port=port, lease_s=lease_ms / 1000)
    raise ValueError("no waiting agent")
