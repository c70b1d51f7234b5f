"""The agent: one node's part in one run. It has an agent for each group that admits this node, and their common end.

It owns no process-wide state: signals and the terminal belong to its caller. Invariant: it ends when all its groups
have ended, and tells how the run did as far as that is known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.core.failures import signal_name
from orchestrator.core.rendezvous import Closed
from orchestrator.core.result import Ending, RunResult, united
from orchestrator.core.roles import admitted
from orchestrator.core.snapshot import Snapshot
from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.core.words import Event, Outcome
from orchestrator.edge.backend import WorkerBackend
from orchestrator.edge.group_agent import GroupAgent
from orchestrator.edge.journal import Journal
from orchestrator.edge.local_backend import LocalBackend
from orchestrator.edge.messages import Message
from orchestrator.edge.processes import Processes
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.group import GroupStore
from orchestrator.edge.tail import Tailer
from orchestrator.errors import ExitCode

if TYPE_CHECKING:
    from orchestrator.edge.backends import Make
    from orchestrator.edge.company import Company


class Agent:
    """One node's part in one run. ``stores`` are by role, and so are ``backends``: how to make one that is not ours."""

    def __init__(
        self,
        job: JobSpec,
        *,
        processes: Processes,
        connection: Connection,
        stores: Mapping[str, GroupStore],
        journal: Journal,
        tailer: Tailer | None = None,
        backends: Mapping[str, Make] | None = None,
    ) -> None:
        self._job = job
        self._journal = journal
        mine = admitted(job.groups, job.node.name)
        self._company = self._make_company(mine, connection) if len(job.groups) > 1 else None
        own = backends or {}
        self.groups = tuple(
            GroupAgent(
                job,
                group,
                backend=own.get(group.role, _as_it_is)(LocalBackend(processes)),
                processes=processes,
                connection=connection,
                store=stores[group.role],
                journal=journal,
                tailer=tailer,
                company=self._company,
            )
            for group in mine
        )
        processes.needs_server(self, self._lose_server)
        self._tasks: asyncio.TaskGroup | None = None
        self._stops = 0

    def _make_company(self, mine: Sequence[GroupSpec], connection: Connection) -> Company:
        from orchestrator.edge.company import Company  # noqa: PLC0415 - most runs have one role

        return Company(self._job, mine, connection, self._log)

    def _log(self, event: str, **fields: object) -> None:
        self._journal.write(event, round=0, **fields)

    def _lose_server(self, reason: str) -> None:
        for group in self.groups:
            group.lose_server(reason)

    def alive_at(self) -> float:
        """When the watchdog that turned longest ago turned last, in epoch seconds. From any thread."""
        return min(group.watchdog.alive_at() for group in self.groups)

    def request_stop(self, signum: int) -> None:
        """Stop the run because of a signal. A second request kills what the first is still stopping."""
        preempted = signum in self._job.stop.preempt
        reason = f"{'pre-empted' if preempted else 'stopped'} by {signal_name(signum)}"
        ending = Ending(
            outcome=Outcome.STOPPED,
            exit_code=int(ExitCode.PREEMPTED) if preempted else 128 + signum,
            reason=reason,
            declares=not preempted,  # a pre-empted node leaves the run open for its return
        )
        event = Event.PREEMPTED if preempted else Event.STOP_REQUESTED
        self._stops += not preempted  # that may be said more than once, and hurries nobody
        if self._stops > 1 and self._company is not None:
            self._company.hurry()
        for group in self.groups:
            group.request_stop(Message(event=event, reason=reason, ending=ending), signum)

    def forward(self, signum: int) -> None:
        """Pass a signal on to the workers as it is."""
        for group in self.groups:
            group.forward(signum)

    def abort(self, error: BaseException) -> None:
        """End the run because of a bug that showed where nobody awaits it, as in a callback: no hang may come of it."""

        async def fail() -> None:
            raise error

        if self._tasks is not None:
            self._tasks.create_task(fail())

    async def run(self) -> RunResult:
        """Take part until the run ends; returns how it did. Raises for our own bugs only, as a group."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                watching = [tasks.create_task(self._company.run(), name="company")] if self._company else []
                await asyncio.wait([tasks.create_task(self._take_part(group)) for group in self.groups])
                for task in watching:
                    task.cancel()
        except Exception as bug:
            reason = f"a bug of the orchestrator: {_first(bug)}"
            ending = Ending(outcome=Outcome.FAILED, exit_code=int(ExitCode.INTERNAL), reason=reason)
            for group in self.groups:
                await group.fail(ending)
            raise
        finally:
            self._tasks = None
        return self.result()

    async def _take_part(self, group: GroupAgent) -> None:
        await group.run()
        if self._company is not None:
            self._company.ended(group.role, _closed(group), alone=group.alone)

    def snapshot(self) -> Snapshot:
        """What this agent is doing now, for whoever asks for its health."""
        first, *others = (group.snapshot() for group in self.groups)
        return replace(first, others=tuple(others))

    def result(self) -> RunResult:
        """How the run ended, once `run` is over, by whatever."""
        results = {group.role: group.result() for group in self.groups}
        found = self._company.verdict if self._company is not None else None
        closed = self._company.closing(found.role) if self._company is not None and found is not None else None
        return united(results, found, closed)


def _as_it_is(local: LocalBackend) -> WorkerBackend:
    return local


def _closed(group: GroupAgent) -> Closed | None:
    """How the group ended for everyone, if it did."""
    if not group.closed:
        return None
    result = group.result()
    cause = result.root_cause.to_dict() if result.root_cause else None
    outcome = Outcome(result.state.value.lower())
    return Closed(outcome=outcome, exit_code=result.exit_code, reason=result.reason, cause=cause)


def _first(error: BaseException) -> BaseException:
    """What a group of exceptions began with."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
