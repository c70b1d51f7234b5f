"""Keeping the lease: when to renew it, what every attempt shows, and the fence that follows; and how late we are.

What a reply means for the round is `membership`'s business, and the killing is the guard's. Invariant: the fence counts
from before a prolongation was sent, and moves only forward while workers run.

The lease is renewed by the agent's own loop, on purpose: one that outlived a hung agent would keep a node in the group
that can neither start nor stop anything. So the loop is kept free instead. Nothing in it waits for a disk once there is
a lease: the journal is written, workers' directories are made and their logs read by threads (`filework`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

from orchestrator.core.lease import (
    Attempt,
    Contact,
    OnAttempt,
    extended_s,
    fence_s,
    is_at_fault,
    lateness,
    patience_s,
    renewal_s,
    tolerance_s,
)
from orchestrator.core.rendezvous import (
    Bid,
    Claim,
    Closed,
    JoinReply,
    Lapsed,
    RenewReply,
    Restart,
    Restoring,
    Seat,
    Standing,
    Superseded,
    Waiting,
)
from orchestrator.core.specs import JobSpec
from orchestrator.core.words import Event
from orchestrator.edge.messages import Message, Post
from orchestrator.edge.redis.group import GroupStore

_PUNCTUAL = (0.0, "")

R_co = TypeVar("R_co", covariant=True)
Fence = Callable[[float | None], None]


class _Ask(Protocol[R_co]):
    """A command that prolongs the lease, bar the ear for its attempts."""

    def __call__(self, *, on_attempt: OnAttempt) -> Awaitable[R_co]: ...


class LeaseKeeper:
    """One agent's lease in one group. Joins go through it too: they prolong it as renewals do.

    ``claim`` says what we know of the group, ``heard`` takes what a renewal with that claim has told. ``fence`` sets
    the guard's; without it, or where no other node could take our place, nothing fences.
    """

    def __init__(
        self,
        job: JobSpec,
        store: GroupStore,
        *,
        claim: Callable[[], Claim],
        heard: Callable[[Claim, RenewReply], None],
        post: Post,
        log: Callable[..., None],
        fence: Fence | None = None,
    ) -> None:
        self._lease_s = job.rendezvous.lease_s
        self._on_isolation = job.rendezvous.on_isolation
        self._store = store
        self._claim = claim
        self._heard = heard
        self._post = post
        self._log = log
        several = any(group.max_nodes + group.spare_nodes > 1 for group in job.groups)
        self._fence = fence if several else None  # one role's falls on the workers of all
        self._until_s = 0.0  # workers may run until then, by all that was granted; as all instants here, of boot time
        self._held = False  # whether there may be workers, so that the guard must know
        self._fallen = False  # the fence, since we began to hold it: heard once, it is no news
        self._over_s = 0.0  # what the guard tells of moments up to this is about rounds that are over
        self._answered_s = _now()  # when the last question that was answered had been sent
        self._renew_now = asyncio.Event()
        self._joins = 0
        self._beat_s = math.inf  # when this loop should turn next
        self._beat_cpu_s = 0.0
        self._late = False  # at its last turn
        self._worst = _PUNCTUAL  # by how much we were late since the lease was prolonged last, and why

    # -- asking

    async def join(self, bid: Bid, claim: Claim) -> JoinReply:
        """`GroupStore.join`."""
        self._joins += 1
        return await self._ask(partial(self._store.join, bid, claim))

    async def seat(self, claim: Claim) -> JoinReply:
        """`GroupStore.seat`."""
        return await self._ask(partial(self._store.seat, claim))

    def renew_now(self) -> None:
        """Do not wait for the next renewal's turn."""
        self._renew_now.set()

    async def keep(self) -> None:
        """Renew for ever; RendezvousError when that is no longer to be hoped for."""
        due_s = _now() + renewal_s(self._lease_s)
        while True:
            await self._turn(due_s)
            claim, joins, asked_s = self._claim(), self._joins, _now()
            reply = await self._ask(partial(self._store.renew, claim, within_s=patience_s(self._lease_s)))
            due_s = max(asked_s, self._answered_s) + renewal_s(self._lease_s)
            if isinstance(reply, Standing | Waiting) and reply.due_ms:
                due_s = min(due_s, _now() + reply.due_ms / 1000)  # another's lease may end then
            if not isinstance(reply, Lapsed):
                self._heard(claim, reply)
                await self._ask(partial(self._store.publish, claim, within_s=patience_s(self._lease_s)))
            elif joins == self._joins:  # otherwise a join has overtaken the question
                _, ours = self._our_fault()
                self._heard(claim, Lapsed(f"{ours}; {reply.why}" if ours else reply.why))

    async def _turn(self, due_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, due_s - _now())):
                await self._renew_now.wait()
        except TimeoutError:
            pass  # it is due
        self._renew_now.clear()

    async def _ask(self, ask: _Ask[R_co]) -> R_co:
        sent_s = 0.0

        def note(attempt: Attempt) -> None:
            nonlocal sent_s
            if attempt.contact is Contact.ANSWERED:
                sent_s = self._answered_s = attempt.at_s
            else:
                self._extend(extended_s(attempt, _now(), self._lease_s, self._on_isolation))

        reply = await ask(on_attempt=note)
        if _is_prolonged(reply):
            self._extend(fence_s(sent_s, self._lease_s))
            self._worst = _PUNCTUAL
        elif isinstance(reply, Closed):
            self.release()  # no other round can begin: what is stopped has the time that it was promised
        return reply

    # -- the fence

    def hold(self) -> None:
        """There will be workers: they may run as long as the lease does."""
        if self._fence is not None:
            self._held, self._fallen = True, False
            self._fence(self._until_s)

    def release(self) -> None:
        """There are no workers any more."""
        if self._held and self._fence is not None:
            self._held = False
            self._over_s = self._until_s
            self._fence(None)

    def _extend(self, until_s: float | None) -> None:
        if until_s is not None and until_s > self._until_s:
            self._until_s = until_s
            if self._held and self._fence is not None:
                self._fence(until_s)

    def fenced(self, at_s: float) -> None:
        """The guard has killed our workers, because nobody had prolonged the lease: it is as good as lost."""
        if not self._held or self._fallen or at_s <= self._over_s:
            return
        self._fallen = True
        lag_s, ours = self._our_fault()
        reason = ours or f"no answer from the server for {_now() - self._answered_s:.1f} s"
        self._log("fenced", reason=reason, lag_s=round(lag_s, 3))
        self._post(Message(event=Event.LEASE_LOST, reason=reason))

    # -- our own lateness

    async def watch_lag(self) -> None:
        """Notice when this loop turns late, as it does when we are paused, or blocked by a call that should not block.

        It looks often, because a renewal's turn comes too rarely to tell how long that lasted.
        """
        while self._fence is not None:
            self._beat_s = _now() + tolerance_s(self._lease_s)
            self._beat_cpu_s = time.thread_time()
            await asyncio.sleep(tolerance_s(self._lease_s))
            self._note_lag()

    @property
    def lag_s(self) -> float | None:
        """By how much the loop turns late, at the moment; None where nobody measures it."""
        return None if math.isinf(self._beat_s) else round(self._lag()[0], 3)

    def _note_lag(self) -> None:
        lag_s, reason = self._lag()
        late, self._late = self._late, lag_s > tolerance_s(self._lease_s)
        if self._late:
            self._worst = max(self._worst, (lag_s, reason))
            if not late:  # told once, however long it stays so
                self._log("lease_late", lag_s=round(lag_s, 3), reason=reason)

    def _lag(self) -> tuple[float, str]:
        """By how much the loop turns late at this moment, and why."""
        lag_s = max(0.0, _now() - self._beat_s)
        return lag_s, lateness(lag_s, time.thread_time() - self._beat_cpu_s)

    def _our_fault(self) -> tuple[float, str]:
        """By how much we were late at the most, and what we have done to lose the lease; empty if it was not us."""
        lag_s, reason = max(self._worst, self._lag())
        return lag_s, reason if is_at_fault(lag_s, self._lease_s) else ""


def _is_prolonged(reply: object) -> bool:
    """Whether the server has prolonged our lease, whatever it says of the round."""
    if isinstance(reply, Restoring):
        return reply.back
    return isinstance(reply, Seat | Waiting | Standing | Superseded | Restart)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
