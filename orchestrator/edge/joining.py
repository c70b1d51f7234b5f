"""Joining a round: from a bid to a seat, however long the others take.

Knows the manners of waiting: for the others, for a name that a dead agent still holds, for a gap in a full group. It
keeps nothing but what it offers for others to meet at. What a seat leads to is not its business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import assert_never

from orchestrator.core.rendezvous import Bid, Claim, Closed, Held, JoinReply, Place, Refused, Seat, Waiting
from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.edge.lease import LeaseKeeper
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.round_store import RoundStore
from orchestrator.errors import Excluded, RendezvousError

Knows = Callable[[], Claim]  # what we know of the group by now: others may be heard of while we wait
GRAIN_S = 0.05  # differences between two looks at a lease that mean nothing


class Joining:
    """One agent's way into rounds. ``settled`` is set by whoever hears that one was settled."""

    def __init__(
        self, job: JobSpec, group: GroupSpec, connection: Connection, lease: LeaseKeeper, log: Callable[..., None]
    ) -> None:
        self._job = job
        self._group = group
        self._connection = connection
        self._lease = lease
        self._store = RoundStore(group.worker.store, log)
        self._bid = Bid(nproc=0, addr="", port=0)  # the last one
        self.settled = asyncio.Event()

    def close(self) -> None:
        """Give back what the last bid offered."""
        self._store.close()

    async def enter(self, claim: Knows) -> Seat | Closed | Waiting:
        """Join the next round and wait for a seat in it, for word that we are to stand by, or for the end of the run.

        Raises RendezvousError.
        """
        addr = self._job.node.addr or self._connection.local_addr
        nproc, port = self._group.worker.nproc, self._store.offer(addr)
        bid = self._bid = Bid(nproc=nproc, addr=addr, port=port, hint=self._job.node.rank)
        self.settled.clear()
        reply = await self._lease.join(bid, claim())
        full_since = time.monotonic()
        while not isinstance(reply, Seat | Closed):
            if isinstance(reply, Waiting) and reply.place is Place.STANDBY:
                return reply
            if not isinstance(reply, Waiting) or reply.place is not Place.FULL:
                full_since = time.monotonic()
            elif time.monotonic() - full_since >= self._job.rendezvous.lease_s:  # nobody's lease ran out meanwhile
                most = self._group.max_nodes
                raise RendezvousError(
                    f"run {self._job.run_id} has all {most} nodes that it may have, and all spares "
                    f"({self._group.spare_nodes}, rendezvous.spares)"
                )
            reply = await self._wait(reply, bid, claim)
        return self._seated(reply)

    async def stand_by(self, claim: Knows) -> Seat | Closed:
        """Wait for a seat in any round to come, or for the end of the run: whoever stands by is never sent away."""
        reply = await self._lease.seat(claim())
        while not isinstance(reply, Seat | Closed):
            reply = await self._wait(reply, self._bid, claim)
        return self._seated(reply)

    def _seated(self, reply: Seat | Closed) -> Seat | Closed:
        if isinstance(reply, Seat):
            self._store.open(reply)
        return reply

    async def _wait(self, reply: Waiting | Held | Refused, bid: Bid, claim: Knows) -> JoinReply:
        match reply:
            case Waiting():
                try:
                    async with asyncio.timeout(reply.due_ms / 1000):
                        await self.settled.wait()
                except TimeoutError:
                    pass  # due: our asking makes the server look again
                self.settled.clear()
                return await self._lease.seat(claim())
            case Held():
                return await self._outwait(reply, bid, claim)
            case Refused():
                raise Excluded(f"this node may take part no more, as restart.rules have it: {reply.why}")
            case _:
                assert_never(reply)

    async def _outwait(self, held: Held, bid: Bid, claim: Knows) -> JoinReply:
        """Wait until the lease of whoever has our name ends. Ask often: a group that nobody asks prolongs its leases.

        For the same reason one prolongation proves nothing: the server gives every lease one when it was away.
        """
        ends, prolonged = time.monotonic() + held.ms_left / 1000, 0
        while True:
            left = max(0.0, ends - time.monotonic()) + GRAIN_S
            await asyncio.sleep(min(left, self._job.rendezvous.lease_s / 3))
            answer = await self._lease.join(bid, claim())
            if not isinstance(answer, Held):
                return answer
            now_ends = time.monotonic() + answer.ms_left / 1000
            prolonged += now_ends > ends + GRAIN_S
            ends = now_ends
            if prolonged > 1:
                raise RendezvousError(
                    f"node name {self._job.node.name!r} belongs to a live agent ({answer.holder}); "
                    "give this one another node.name"
                )
