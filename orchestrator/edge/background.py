"""A membership for callers without an event loop: it lives in a thread of its own, and they ask it and wait.

Translates between threads, and remembers whether the round still stands; all dealings with the group are
`membership.Membership`'s. Invariant: the lease is kept whatever the caller's threads do, and given up when they end.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from orchestrator.core.rendezvous import Seat
from orchestrator.core.result import Ending
from orchestrator.core.specs import JobSpec
from orchestrator.core.words import Event, Outcome
from orchestrator.edge.membership import Membership
from orchestrator.edge.messages import Message
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.stores import store_of
from orchestrator.errors import RendezvousError

T = TypeVar("T")

_ROUND_IS_OVER = frozenset({Event.ROUND_SUPERSEDED, Event.ROUND_REPEATED, Event.PEER_FAILED, Event.LEASE_LOST})
END_WITHIN_S = 10.0  # how long a thread may take to end


class RunClosed(Exception):
    """The run is over for everyone, and this is how it ended."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(f"{ending.outcome}: {ending.reason}" if ending.reason else str(ending.outcome))
        self.ending = ending


class BackgroundMembership:
    """One agent's part in one group. Begins with the first `join`, ends with `leave` or with the process."""

    def __init__(self, job: JobSpec, url: str, nonce: str, say: Callable[[str], None]) -> None:
        """``say`` is told, from another thread, when the server cannot be reached and when it can again."""
        self._connection = Connection.from_url(
            url,
            grace_s=job.rendezvous.server_grace_s,
            on_lost=lambda reason: say(f"no answer from {self._connection.address.masked}, trying on: {reason}"),
            on_back=lambda: say(f"{self._connection.address.masked} answers again"),
        )
        group = job.groups[0]
        self._store = store_of(job, group, self._connection, nonce)
        self._membership = Membership(
            job, group, self._connection, self._store, post=self._take, log=lambda *_, **__: None
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._pid = os.getpid()
        # Written by the loop's thread, read by any.
        self._seat: Seat | None = None
        self._over = False
        self._ending: Ending | None = None
        self._trouble: str | None = None

    # -- what the caller asks

    @property
    def over(self) -> bool:
        """Whether the round in which we have our seat has ended; a RendezvousError if that can no longer be told."""
        if self._trouble is not None:
            raise RendezvousError(self._trouble)
        return self._over

    @property
    def ending(self) -> Ending | None:
        """How the run ended, once it has."""
        return self._ending

    def join(self) -> Seat:
        """Take part in the next round, and wait until it is settled; RunClosed if there will be none."""
        return self._run(self._join())

    def succeed(self, within_s: float) -> None:
        """Say that our workers succeeded, and wait so long at most for the others of our round to say so too.

        The last one to say so closes the run. It stays open when the round ends before that, for those who go on.
        """
        if self._seat is not None:
            self._run(self._succeed(within_s))

    def close(self, outcome: Outcome, reason: str) -> None:
        """End the run for everyone."""
        self._run(self._close(outcome, reason))

    def leave(self, reason: str) -> None:
        """Give up our place, and end the thread. The others learn of it at once; the run stays open for our return."""
        if self._thread is None or self._loop is None or self._pid != os.getpid():
            return  # never joined; or we are a forked child, and the place is our parent's
        atexit.unregister(self._leave_at_exit)
        thread, self._thread = self._thread, None
        try:
            asyncio.run_coroutine_threadsafe(self._leave(reason), self._loop).result(END_WITHIN_S)
        except (CancelledError, TimeoutError, RuntimeError):  # the loop has ended by itself: then the lease runs out
            return
        thread.join(END_WITHIN_S)

    # -- across the threads

    def _run(self, what: Coroutine[Any, Any, T]) -> T:
        self._begin()
        if self._loop is None or self._loop.is_closed():
            what.close()
            raise RendezvousError(self._trouble or "this agent has left the run")
        future = asyncio.run_coroutine_threadsafe(what, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise RendezvousError(self._trouble or "this agent has left the run") from None
        finally:
            future.cancel()  # a signal handler may have raised here while we waited

    def _begin(self) -> None:
        if self._thread is not None or self._loop is not None:
            return
        self._thread = threading.Thread(target=self._work, name="orchestrator-membership", daemon=True)
        self._thread.start()
        self._ready.wait()
        atexit.register(self._leave_at_exit)

    def _leave_at_exit(self) -> None:
        self.leave("its process ended")

    def _work(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - it is told where the caller asks next
            self._trouble = f"the membership has ended: {error!r}"
        finally:
            self._ready.set()

    # -- in the loop's thread

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._end = asyncio.Event()
        self._ready.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._membership.attach(tasks)
                await self._end.wait()
                self._membership.unwatch()
        finally:
            await self._connection.close()

    def _take(self, message: Message) -> None:
        """What the membership posts: in an agent, this would move the machine."""
        if message.event in _ROUND_IS_OVER:
            if self._seat is not None and message.round in (None, self._seat.round):
                self._over = True
        elif message.event is Event.RUN_CLOSED:
            self._ending = message.ending
        elif message.event is Event.RENDEZVOUS_FAILED:
            self._trouble = message.reason
        self._news.set()

    async def _join(self) -> Seat:
        self._seat = None
        message = await self._membership.join(0)
        while message.event is Event.STOOD_BY:
            message = await self._membership.stand_by(0)
        if message.seat is None:
            self._ending = message.ending
            if message.ending is None:
                raise RendezvousError(f"no seat: {message.reason}")
            raise RunClosed(message.ending)
        self._seat, self._over = message.seat, False
        return message.seat

    async def _succeed(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                self._news.clear()
                await self._membership.reporting.success()
                while self._ending is None and not self._over and self._trouble is None:
                    await self._news.wait()
                    self._news.clear()
        except TimeoutError:
            return

    async def _close(self, outcome: Outcome, reason: str) -> None:
        await self._store.close(self._membership.claim, outcome, int(outcome is not Outcome.SUCCEEDED), reason, None)

    async def _leave(self, reason: str) -> None:
        await self._membership.leave(Ending(outcome=Outcome.STOPPED, exit_code=1, reason=reason))
        self._end.set()
