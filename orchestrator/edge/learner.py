"""Shares what the watchdog of one group learns with the other agents of the run, by way of the server.

What follows from it is `core.learning`'s. Nothing polls: the server is asked when a round begins, and told when there
is news, or when it may have forgotten. Invariant: at most one command every few seconds, however much is learnt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from orchestrator.core.learning import Gaps, Learning
from orchestrator.edge.redis.connection import Connection
from orchestrator.errors import RendezvousError

EVERY_S = 5.0
NOTABLE = 1.2  # the factor by which a limit must have changed since it was told of, for the journal

Share = Callable[[Mapping[str, Gaps]], Awaitable[Mapping[str, Gaps]]]  # tell the run, and hear what it knows


class Learner:
    """One agent's, for one group."""

    def __init__(self, learning: Learning, share: Share, connection: Connection, log: Callable[..., None]) -> None:
        self._learning = learning
        self._share = share
        self._connection = connection
        self._log = log
        self._bell = asyncio.Event()
        self._outages = 0  # of the server, when it was told last
        self._told = dict(learning.limits)

    def ask(self) -> None:
        """Workers are about to be started: what does the run know by now?"""
        self._bell.set()

    def turn(self) -> None:
        """See whether there is anything to tell."""
        if self._learning.news() or self._outages != self._connection.outages:
            self._bell.set()
        self._journal()

    async def run(self) -> None:
        """Share for ever, or as long as the server is waited for."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            outages = self._connection.outages
            try:
                self._learning.hear(await self._share(self._learning.known))
            except RendezvousError:
                return  # the lease's keeper hears the same, and tells
            self._outages = outages
            self._journal()
            await asyncio.sleep(EVERY_S)

    def _journal(self) -> None:
        now = self._learning.limits
        if any(not told / NOTABLE < now[limit] < told * NOTABLE for limit, told in self._told.items()):
            self._told = dict(now)
            self._log("limits_learned", limits={limit: round(limit_s, 3) for limit, limit_s in now.items()})
