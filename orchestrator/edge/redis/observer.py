"""What a node hears of a role of its run, whether it takes part in that role or not.

An observer has no lease and claims nothing. Invariant: whatever the server has forgotten or said while it was away, the
view that is told last is as the server has it now.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from orchestrator.core.rendezvous import Closed, Notice
from orchestrator.core.roles import Level, RoleView
from orchestrator.edge.redis import replies
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.control import NO_RULES, caller, read
from orchestrator.edge.redis.scripts import EVENTS, group_keys, script


class Observer:
    """One role of a run, as it is seen from outside."""

    def __init__(self, connection: Connection, run_id: str, role: str) -> None:
        self._connection = connection
        self._keys = group_keys(run_id, role)

    async def news(self) -> AsyncIterator[RoleView | Notice]:
        """How the role stands, then what happens to it; again how it stands, whenever the server was away."""
        while True:
            outages = self._connection.outages
            cursor, view = await self._look()
            yield view
            while self._connection.outages == outages:
                for entry, fields in await self._connection.read(self._keys[EVENTS], cursor):
                    cursor = entry
                    yield replies.notice(fields)

    async def _look(self) -> tuple[str, RoleView]:
        return read(await self._connection.call(script("look"), self._keys, (*caller(), *NO_RULES)), _view)


def _view(row: list[Any]) -> tuple[str, RoleView]:
    match row:
        case [str(cursor), int(round_), int(level), list(closed), int(gone)]:
            ending = replies.parse(closed) if closed else None
            if not isinstance(ending, Closed | None):
                raise TypeError("an end that is none")
            return cursor, RoleView(round_, Level(level), ending, bool(gone))
    raise ValueError("no view")
