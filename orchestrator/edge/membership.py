"""One agent's dealings with its group: join, keep the lease, listen, report, leave.

Turns what the rendezvous replies into messages for the inbox. What it remembers of the group is `core.memory`'s, and
goes with every command as its claim. It never touches a process and never decides what a reply leads to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import assert_never

from orchestrator.core.failures import Failure
from orchestrator.core.learning import Gaps
from orchestrator.core.memory import Memory
from orchestrator.core.policies import Budget
from orchestrator.core.rendezvous import (
    Claim,
    Closed,
    Drained,
    Emptied,
    Lapsed,
    Notice,
    RenewReply,
    Restart,
    Restoring,
    Seat,
    Settled,
    Standing,
    Superseded,
    Up,
    Verdict,
    Waiting,
)
from orchestrator.core.result import Ending
from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.core.words import Event, Outcome
from orchestrator.edge.joining import Joining
from orchestrator.edge.lease import Fence, LeaseKeeper
from orchestrator.edge.messages import Message, Post, rendezvous_failed
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.group import GroupStore
from orchestrator.edge.reporting import Reporting
from orchestrator.errors import ExitCode, RendezvousError

LEAVE_WITHIN_S = 3.0  # the last word is a courtesy: a server that does not answer must not hold up the end


class Membership:
    """The agent's side of the rendezvous of one group."""

    def __init__(
        self,
        job: JobSpec,
        group: GroupSpec,
        connection: Connection,
        store: GroupStore,
        *,
        post: Post,
        log: Callable[..., None],
        fence: Fence | None = None,
    ) -> None:
        """``fence`` sets the guard's, where there is one."""
        self._job = job
        self._group = group
        self._connection = connection
        self._store = store
        self._post = post
        self._log = log
        self.lease = LeaseKeeper(
            job, store, claim=lambda: self.claim, heard=self._renewed, post=post, log=log, fence=fence
        )
        self._joining = Joining(job, group, connection, self.lease, log)
        self._tasks: asyncio.TaskGroup | None = None
        self._background: list[asyncio.Task[None]] = []
        self._memory = Memory()
        self._mourned = 0  # the last round whose loss of members is in the journal
        self.reporting = Reporting(store, self._memory, log, heard=self._hear, mourn=self._mourn, closed=self.closed)

    @property
    def seat(self) -> Seat | None:
        """Our place in the newest round that we were in."""
        return self._memory.seat

    @property
    def charged(self) -> int:
        """Restarts of the run, as far as we have heard."""
        return self._memory.charged

    def remaining(self, budget: Budget) -> int | None:
        """Charged restarts that are left; None: there is no bound, or it is not known here."""
        if budget.max is None or budget.per_s is not None:
            return None
        return max(0, budget.max - self._memory.spent)

    def got_to(self, step: int) -> None:
        """One of our workers has said to which step it got."""
        self._memory.got_to(step)

    @property
    def claim(self) -> Claim:
        """What we know of the group."""
        return self._memory.claim(time.monotonic())

    def _knows(self) -> Claim:
        return self.claim

    # -- joining

    async def join(self, visit: int) -> Message:
        """Take part in the next round; returns once it is settled, we are to stand by, or the run is over."""
        self._memory.round_over()
        limit_s = self._job.rendezvous.join_timeout_s
        deadline = asyncio.get_running_loop().time() + limit_s
        await self._connect()
        try:
            async with asyncio.timeout_at(deadline):
                reply = await self._joining.enter(self._knows)
        except TimeoutError as error:
            raise RendezvousError(
                f"no round of at least {self._group.min_nodes} nodes came together within {limit_s:g} s "
                "(rendezvous.join_timeout_s); are the other agents started, with the same run_id?"
            ) from error
        return self._placed(reply, visit)

    async def stand_by(self, visit: int) -> Message:
        """Wait for a seat, however long it takes: a round stands without us."""
        return self._placed(await self._joining.stand_by(self._knows), visit)

    def _placed(self, reply: Seat | Closed | Waiting, visit: int) -> Message:
        if isinstance(reply, Closed):
            return self.closed(reply)
        if isinstance(reply, Waiting):
            self._memory.waiting(reply)
            reason = f"round {reply.round} runs without this node, which takes the next place that is free"
            return Message(event=Event.STOOD_BY, reason=reason, visit=visit)
        self._memory.seated(reply, time.monotonic())
        self.lease.renew_now()
        return Message(event=Event.ROUND_SETTLED, reason=reply.why, seat=reply, visit=visit)

    # -- staying

    def attach(self, tasks: asyncio.TaskGroup) -> None:
        """Where the tasks that listen and keep the lease will belong; they begin with the first join."""
        self._tasks = tasks

    async def _connect(self) -> None:
        """Meet the server, once."""
        if self._background or self._tasks is None:
            return
        await self._connection.open(self._job.rendezvous.join_timeout_s)
        self._background = [
            self._tasks.create_task(self._listen(), name="notices"),
            self._tasks.create_task(self._keep_lease(), name="lease"),
            self._tasks.create_task(self.lease.watch_lag(), name="lag"),
        ]

    def lose_server(self, reason: str) -> None:
        """The embedded server does not run. One that has served before is waited for, as any other server is."""
        if not self._background:
            self._gone(RendezvousError(f"the embedded server: {reason}"))

    def unwatch(self) -> None:
        """Stop to listen, and let the lease run out."""
        for task in self._background:
            task.cancel()

    async def _listen(self) -> None:
        try:
            async for notice in self._store.notices():
                self._hear(notice)
        except RendezvousError as error:
            self._gone(error)

    async def _keep_lease(self) -> None:
        try:
            await self.lease.keep()
        except RendezvousError as error:
            self._gone(error)

    def _renewed(self, asked: Claim, reply: RenewReply) -> None:
        if isinstance(reply, Waiting) and not reply.due_ms:
            self._joining.settled.set()  # a seat is there to be asked for
        now = self.claim  # whose ledger has grown older
        if (asked.round, asked.token, asked.slot) == (now.round, now.token, now.slot):  # else a join was faster
            self._hear(reply)

    def _hear(self, said: Notice | RenewReply | Verdict) -> None:
        """Post what a reply or a notice means to the machine."""
        match said:
            case Standing() | Restoring() | Up() | Emptied():
                pass
            case Waiting():
                self._memory.waiting(said)
            case Settled():
                self._joining.settled.set()
            case Superseded():
                self._memory.round_over(said.round)
                self._mourn(said)
                self._tell(Event.ROUND_SUPERSEDED, said.why, said.round)
            case Restart():
                self._memory.restarting(said, time.monotonic())
                self._hear_restart(said)
            case Lapsed():
                self._memory.round_over()
                self._tell(Event.LEASE_LOST, said.why)
            case Closed():
                self._post(self.closed(said))
            case Drained():
                ending = Ending(outcome=Outcome.STOPPED, exit_code=int(ExitCode.SUCCEEDED), reason="drained")
                self._post(Message(event=Event.DRAINED, reason="this node is drained", ending=ending))
            case _:
                assert_never(said)

    def _mourn(self, said: Superseded) -> None:
        """Note who was lost, once a round, however often it is heard."""
        if said.lost and said.round > self._mourned:
            self._mourned = said.round
            self._log("member_lost", members=said.lost, reason=said.why)

    def _hear_restart(self, said: Restart) -> None:
        if said.cause is None:
            self._tell(Event.ROUND_REPEATED, said.reason, said.round)
        elif said.cause.get("node") != self._job.node.name:  # our own failure is no news to us
            self._tell(Event.PEER_FAILED, said.reason, said.round)

    def _tell(self, event: Event, reason: str, about: int | None = None) -> None:
        self._post(Message(event=event, reason=reason, round=about))

    def _gone(self, error: RendezvousError) -> None:
        self._post(rendezvous_failed(error))

    def closed(self, said: Closed) -> Message:
        """The run's end, as a message."""
        self._memory.closed(said.charged)
        cause = Failure.from_dict(said.cause) if said.cause else None
        ending = Ending(outcome=said.outcome, exit_code=said.exit_code, reason=said.reason, cause=cause)
        return Message(event=Event.RUN_CLOSED, reason=said.reason, ending=ending)

    async def share_gaps(self, known: Mapping[str, Gaps]) -> Mapping[str, Gaps]:
        """Tell the run what our watchdog knows of gaps; returns what all know."""
        return await self._store.gaps(self.claim, known)

    # -- leaving

    async def leave(self, ending: Ending) -> None:
        """Say the last word, within bounds. Whoever ``declares`` the ending closes the run for everyone."""
        self.unwatch()
        if not self._background:
            return  # nobody there knows of us
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S):
                if ending.declares:
                    await self._store.close(self.claim, ending.outcome, ending.exit_code, ending.reason, ending.cause)
                await self._store.leave(self.claim, ending.reason)
        except (TimeoutError, RendezvousError) as error:
            self._log("leave_failed", reason=str(error) or "no answer")
        self.close()

    def close(self) -> None:
        """Give back what others met at."""
        self._joining.close()
