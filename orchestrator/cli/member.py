"""One agent at a guard and a server: makes its connection and its stores, runs it, and puts its end in order.

Guard and server may be those of other agents of this process too. Invariant: an agent that was run has left both, and
a bug of ours is handed on only when it has.
"""
# ruff: noqa: PLC0415 - what is heavy is imported behind the guard's and the server's own start

from __future__ import annotations

import asyncio
import secrets as randomness
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.core.roles import admitted
from orchestrator.core.specs import UNIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.core.publication import Publication
    from orchestrator.core.result import RunResult
    from orchestrator.core.specs import JobSpec
    from orchestrator.edge.backends import Make
    from orchestrator.edge.embedded import EmbeddedServer
    from orchestrator.edge.health import Health
    from orchestrator.edge.journal import Journal
    from orchestrator.edge.processes import Processes
    from orchestrator.edge.tail import Tailer


class Member:
    """One agent, and what is its own. Make it on the loop on which it is to run."""

    def __init__(
        self,
        job: JobSpec,
        *,
        processes: Processes,
        server: EmbeddedServer | None,
        journal: Journal,
        publication: Publication,
        backends: Mapping[str, Make],
        tailer: Tailer | None = None,
    ) -> None:
        from orchestrator.edge.agent import Agent
        from orchestrator.edge.redis.connection import Connection
        from orchestrator.edge.redis.stores import last_will, store_of

        self._job = job
        self._processes = processes
        self._server = server
        self._journal = journal
        self._connection = connection = Connection.from_url(
            server.url if server is not None else job.rendezvous.url or "",
            grace_s=job.rendezvous.server_grace_s,
            on_lost=lambda reason: journal.write("server_lost", round=0, reason=reason),
            on_back=lambda: journal.write("server_back", round=0),
        )
        nonce = randomness.token_hex(8)
        mine = admitted(job.groups, job.node.name)
        stores = {group.role: store_of(job, group, connection, nonce, publication) for group in mine}
        self.agent = Agent(
            job,
            processes=processes,
            connection=connection,
            stores=stores,
            journal=journal,
            tailer=tailer,
            backends=backends,
        )
        connection.on_moved = lambda: processes.bequeath(last_will(stores.values(), "its agent died"), self.agent)
        connection.on_moved()

    def follow(self, health: Health | None) -> None:
        """Let ``health`` show what the agent does, and whether its watchdog is alive."""
        if health is not None:
            health.follow(self.agent.snapshot, self._journal)
            health.board.watch("the watchdog", self.agent.alive_at)
            if self._job.health is not None and self._job.health.host.startswith(UNIX):
                self._processes.inherit(self._job.health.host.removeprefix(UNIX))

    async def run(self) -> tuple[RunResult, Exception | None]:
        """Run the agent to its end; its result, and a bug of ours instead of raising it."""
        try:
            await self.agent.run()
            bug = None
        except Exception as error:  # noqa: BLE001 - the end must be put in order first
            bug = error
        await self._part()
        self._processes.part(self.agent)
        return self.agent.result(), bug

    async def _part(self) -> None:
        """Leave the server; one that we bring along stays until the others have left it too."""
        if self._server is not None and self._server.shared_url is not None:
            await self._connection.alone(self._job.rendezvous.lease_s)
        await self._connection.close()


class Abortable(Protocol):
    """An agent, or several."""

    def abort(self, error: BaseException) -> None:
        """End because of a bug that showed where nobody awaits it."""


def abort_on_fault(whom: Abortable) -> None:
    """Have the running loop abort ``whom`` when a callback fails: what it was to tell is lost, and nobody may wait."""

    def on_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        if "handle" in context and isinstance(context.get("exception"), Exception):
            whom.abort(context["exception"])

    asyncio.get_running_loop().set_exception_handler(on_fault)
