"""Several roles of one run, on one node: hears of all of them, and has this node's groups act on it.

Who waits for whom, and what the run's end is, `core.roles` decides. Invariant: a group's inbox is only ever put into;
a stop reaches a group when none of those that depend on it runs any more, here or on another node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from signal import SIGTERM

from orchestrator.core.rendezvous import Claim, Closed, Notice, Restart, Superseded
from orchestrator.core.result import Ending
from orchestrator.core.roles import (
    WORD_S,
    RoleView,
    RunVerdict,
    dependants,
    heard,
    hopeless,
    may_run,
    unmet,
    verdict,
)
from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.core.stopping import in_time
from orchestrator.core.words import Event, Outcome
from orchestrator.edge.messages import Message, Post, rendezvous_failed
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.group import GroupStore
from orchestrator.edge.redis.observer import Observer
from orchestrator.errors import ExitCode, RendezvousError

_STOPS = frozenset({Event.STOP_REQUESTED, Event.PREEMPTED, Event.DRAINED, Event.RUN_CLOSED})


class Company:
    """The roles of a run, and those among them in which this node takes part."""

    def __init__(
        self, job: JobSpec, mine: Sequence[GroupSpec], connection: Connection, log: Callable[..., None]
    ) -> None:
        self._job = job
        self._mine = {group.role: group for group in mine}
        self._connection = connection
        self._log = log
        self._views = {group.role: RoleView() for group in job.groups}
        self._looked: set[str] = set()
        self._news = asyncio.Event()  # another one after each change
        self._inboxes: dict[str, Post] = {}
        self._stores: dict[str, GroupStore] = {}
        self._claims: dict[str, Callable[[], Claim]] = {}
        self._held: list[tuple[str, Message]] = []
        self._held_since: dict[str, float] = {}  # by role, on the loop's clock
        self._most_s = in_time(job.stop, SIGTERM).grace_s  # how long workers that others depend on wait for those
        self._declared: set[str] = set()
        self._hurried = False
        self._tasks: asyncio.TaskGroup | None = None
        self.verdict: RunVerdict | None = None

    def join(self, role: str, inbox: Post, store: GroupStore, claim: Callable[[], Claim]) -> None:
        """This node takes part in ``role``; messages go to that inbox. ``claim``: what it knows of the group."""
        self._inboxes[role], self._stores[role], self._claims[role] = inbox, store, claim

    def closing(self, role: str) -> Closed | None:
        """How the role has ended, if it has."""
        return self._views[role].closed

    async def run(self) -> None:
        """Listen to all roles, until cancelled."""
        try:
            await self._connection.open(self._job.rendezvous.join_timeout_s)
        except RendezvousError as error:
            self._lose(error)
            return
        async with asyncio.TaskGroup() as self._tasks:
            for role in self._views:
                self._tasks.create_task(self._watch(role), name=f"role {role}")

    async def _watch(self, role: str) -> None:
        try:
            async for news in Observer(self._connection, self._job.run_id, role).news():
                self._hear(role, news)
        except RendezvousError as error:
            self._lose(error)

    def _lose(self, error: RendezvousError) -> None:
        for inbox in self._inboxes.values():
            inbox(rendezvous_failed(error))

    # -- what becomes known

    def _hear(self, role: str, news: RoleView | Notice) -> None:
        if isinstance(news, RoleView) and role not in self._looked:
            self._looked.add(role)
            old = news.closed
            if self._job.rendezvous.reopen and old is not None and old.outcome is not Outcome.SUCCEEDED:
                news = RoleView()  # what ended before is to be continued
        view = heard(self._views[role], news)
        if isinstance(news, Restart | Superseded):
            self._cascade(role, news)
        if view != self._views[role]:
            self._views[role] = view
            self._changed()

    def ended(self, role: str, closed: Closed | None, *, alone: bool) -> None:
        """This node's part in a role is over; ``closed``: and so is the role. ``alone``: no other node has a part."""
        self._inboxes.pop(role, None)
        view = self._views[role]
        self._views[role] = replace(view, closed=view.closed or closed, gone=view.gone or alone)
        self._changed()

    def _changed(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
        self._release()
        if self.verdict is None and (found := verdict(self._job.success, self._views)) is not None:
            self.verdict = found
            self._log("run_decided", outcome=found.outcome, role=found.role, reason=found.why)
            self._end_the_others(found)

    def _end_the_others(self, found: RunVerdict) -> None:
        closed = self._views[found.role].closed
        code = int(ExitCode.SUCCEEDED) if closed is None else closed.exit_code
        ending = Ending(outcome=Outcome.STOPPED, exit_code=code, reason=found.why, declares=True)
        for role in list(self._inboxes):
            if self._views[role].closed is None:
                self._pass_on(role, Message(event=Event.RUN_CLOSED, reason=found.why, ending=ending))

    def _cascade(self, role: str, news: Restart | Superseded) -> None:
        """Whoever is restarted with a role has its round ended: by whichever of its agents is the first to say so."""
        for name in dependants(role, self._mine.values()):
            if self._mine[name].cascade and name in self._inboxes and self._tasks is not None:
                why = f"role {role}, on which this one depends, is restarted"
                self._tasks.create_task(self._wish(name, f"{role}:{news.round}", why), name=f"cascade {name}")

    async def _wish(self, role: str, nonce: str, why: str) -> None:
        try:
            await self._stores[role].wish_restart(nonce, why)
        except RendezvousError as error:
            self._lose(error)

    # -- what groups ask

    async def dependencies(self, group: GroupSpec, visit: int) -> Message:
        """Wait until ``group`` may be started, or never will be."""
        told = ""
        while True:
            if role := hopeless(group, self._views):
                return self._in_vain(role, visit)
            why = unmet(group, self._views)
            if not why:
                reason = f"{', '.join(f'{role} is {need}' for role, need in group.depends_on.items())}"
                return Message(event=Event.DEPENDENCIES_MET, reason=reason, visit=visit)
            if why != told:
                told = why
                self._log("role_waiting", group=group.role, reason=why)
            await self._news.wait()

    def _in_vain(self, role: str, visit: int) -> Message:
        closed = self._views[role].closed or Closed(outcome=Outcome.FAILED, exit_code=int(ExitCode.WORKERS_FAILED))
        reason = f"role {role}, on which this one depends, {closed.outcome}"
        ending = Ending(outcome=closed.outcome, exit_code=closed.exit_code, reason=reason, declares=True)
        return Message(event=Event.DEPENDENCY_FAILED, reason=reason, visit=visit, ending=ending)

    # -- stopping in order

    def holds(self, group: GroupSpec, message: Message) -> bool:
        """Whether a message for ``group`` has to wait until those that depend on it have stopped."""
        ending = message.ending
        if message.event not in _STOPS or ending is None or ending.outcome is not Outcome.STOPPED:
            return False
        if ending.declares and message.event is Event.STOP_REQUESTED:
            self._declare(group.role, ending)
        if self._hurried or not self._is_needed(group.role):
            return False
        self._hold(group.role, message)
        return True

    def _declare(self, role: str, ending: Ending) -> None:
        """Tell the other nodes at once that the role ends: those that wait for its workers have to know of it."""
        linked = self._mine[role].depends_on or dependants(role, self._job.groups)
        if linked and self._tasks is not None and role not in self._declared:
            self._declared.add(role)
            self._tasks.create_task(self._close(role, ending), name=f"close {role}")

    async def _close(self, role: str, ending: Ending) -> None:
        try:
            await self._stores[role].close(self._claims[role](), ending.outcome, ending.exit_code, ending.reason, None)
        except RendezvousError as error:
            self._lose(error)

    def _hold(self, role: str, message: Message) -> None:
        loop = asyncio.get_running_loop()
        if role not in self._held_since:
            self._held_since[role] = loop.time()
            for delay_s in (WORD_S, self._most_s):
                loop.call_later(delay_s, self._release)
        self._held.append((role, message))

    def hurry(self) -> None:
        """Nothing is to be waited for any more, now and later."""
        self._hurried = True
        held, self._held = self._held, []
        for role, message in held:
            self._put(role, message)

    def _is_needed(self, role: str) -> bool:
        now = asyncio.get_running_loop().time()
        waited_s = now - self._held_since.get(role, now)
        return any(
            name in self._inboxes or may_run(self._views[name], waited_s, self._most_s)
            for name in dependants(role, self._job.groups)
        )

    def _release(self) -> None:
        held, self._held = self._held, []
        for role, message in held:
            self._pass_on(role, message)

    def _pass_on(self, role: str, message: Message) -> None:
        if not self.holds(self._mine[role], message):
            self._put(role, message)

    def _put(self, role: str, message: Message) -> None:
        inbox = self._inboxes.get(role)
        if inbox is not None:
            inbox(message)
