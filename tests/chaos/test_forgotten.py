"""A server that comes back empty while some agents are slow to return: what others may do meanwhile."""

from __future__ import annotations

import asyncio

from orchestrator.core.memory import Memory
from orchestrator.core.rendezvous import Claim, Place, Restoring, Seat, Standing, Waiting
from orchestrator.edge.redis.scripts import group_keys
from tests.edge import servers
from tests.edge.servers import Server, World, world

server = servers.server

LAST_CALL_S = 0.05


async def forget(run: World) -> None:
    """What a restart without data does to one run."""
    wire = run.connection()
    await wire.open(5)
    await wire._commands.ask("DEL", *group_keys(run.run_id, "r"))


def heard_of(waiting: Waiting) -> Claim:
    """What an agent claims that stands by, and has never had a seat."""
    memory = Memory()
    memory.waiting(waiting)
    return memory.claim(0)


def test_who_stood_by_does_not_settle_a_round_beside_the_one_that_it_knows_of(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 4), last_call_s=LAST_CALL_S)
            c, d = [await run.member(name, (2, 4), last_call_s=LAST_CALL_S) for name in "cd"]
            waiting = await c.join()
            assert isinstance(waiting, Waiting)
            c.claim = heard_of(waiting)
            await forget(run)
            await c.join()
            await d.join()
            await asyncio.sleep(4 * LAST_CALL_S)  # a and b are still between two attempts to reach the server
            assert not isinstance(await c.ask(), Seat), "round 1 may still run"
            assert isinstance(await a.store.renew(a.claim), Restoring)
            assert isinstance(await b.store.renew(b.claim), Standing)

    asyncio.run(scenario())


def test_nobody_is_too_many_while_it_is_open_who_comes_back(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, _ = await run.seated("ab", (2, 2))
            await forget(run)
            assert isinstance(await a.store.renew(a.claim), Restoring)
            again = await run.member("b", (2, 2))  # in the place of b, which has died meanwhile
            waiting = await again.join()
            assert isinstance(waiting, Waiting)
            assert waiting.place is not Place.FULL

    asyncio.run(scenario())
