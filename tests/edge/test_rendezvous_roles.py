"""What other roles of a run see of a group: how far its workers have come, its rounds, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from orchestrator.core.rendezvous import Closed, Emptied, Lapsed, Notice, Settled, Standing, Superseded, Up
from orchestrator.core.roles import Level, RoleView, heard
from orchestrator.core.words import Outcome
from orchestrator.edge.redis.observer import Observer
from tests.edge import servers
from tests.edge.servers import PATIENCE_S, Server, World, eventually, world
from tests.edge.test_rendezvous_control import JOB
from tests.edge.test_rendezvous_restoring import forget

server, own_server = servers.server, servers.own_server


async def observer(run: World) -> AsyncIterator[RoleView | Notice]:
    connection = run.connection()
    await connection.open(PATIENCE_S)
    return Observer(connection, run.run_id, "r").news()


async def look(run: World) -> RoleView:
    view = await anext(await observer(run))
    assert isinstance(view, RoleView)
    return view


def test_a_role_that_nobody_has_begun_is_seen_as_such(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            assert await look(run) == RoleView()

    asyncio.run(scenario())


def test_a_level_is_reached_when_all_members_have_said_so_and_told_once(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            news = await observer(run)
            assert await anext(news) == RoleView(1)
            assert isinstance(await a.store.up(a.claim, 2), Standing)
            assert await look(run) == RoleView(1)
            for _ in range(2):  # said again, it is counted once
                await b.store.up(b.claim, 1)
            assert await look(run) == RoleView(1, Level.STARTED)
            await b.store.up(b.claim, 2)
            await b.store.up(b.claim, 1)  # late, and no step back
            assert [await anext(news), await anext(news)] == [Up(1, 1), Up(1, 2)]
            assert await look(run) == RoleView(1, Level.HEALTHY)

    asyncio.run(scenario())


def test_what_a_round_had_reached_means_nothing_for_the_next_one(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2), scale_up_s=60)
            for member in (a, b):
                await member.store.up(member.claim, 2)
            await b.store.leave(b.claim, "gone")
            assert (await look(run)).level is Level.SETTLED
            late = a.claim
            await a.sit()
            assert await look(run) == RoleView(2)
            assert isinstance(await a.store.up(late, 2), Superseded | Lapsed)
            assert await look(run) == RoleView(2)
            await a.store.up(a.claim, 2)
            assert await look(run) == RoleView(2, Level.HEALTHY)

    asyncio.run(scenario())


def test_a_server_that_has_lost_its_memory_is_told_again_how_far_workers_had_come(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            for member in (a, b):
                await member.store.up(member.claim, 2)
                member.claim = replace(member.claim, level=2)
            await forget(run)
            assert await look(run) == RoleView()
            for member in (a, b):
                await member.store.renew(member.claim)
            assert await look(run) == RoleView(1, Level.HEALTHY)

    asyncio.run(scenario())


def test_an_observer_hears_of_rounds_and_of_the_end_and_looks_again_after_an_outage(own_server: Server) -> None:
    async def scenario() -> None:
        async with world(own_server) as run:
            view, seen = RoleView(), asyncio.Event()
            news = await observer(run)

            async def follow() -> None:
                nonlocal view
                async for one in news:
                    view = heard(view, one)
                    seen.set()

            async def becomes(expected: RoleView) -> None:
                await eventually(lambda: asyncio.sleep(0, view), lambda found: found == expected)

            following = asyncio.create_task(follow())
            (a,) = await run.seated("a", (1, 1))
            await becomes(RoleView(1))
            await a.store.up(a.claim, 1)
            await becomes(RoleView(1, Level.STARTED))
            own_server.kill()
            own_server.start()  # without memory
            await eventually(lambda: asyncio.sleep(0, view), lambda found: found == RoleView())
            await a.store.renew(a.claim)
            await becomes(RoleView(1))
            await a.store.close(a.claim, Outcome.FAILED, 3, "so it is", None)
            await becomes(RoleView(1, closed=Closed(outcome=Outcome.FAILED, exit_code=3, reason="so it is")))
            following.cancel()

    asyncio.run(scenario())


def test_a_closed_role_is_gone_when_the_last_of_its_members_has_left(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            news = await observer(run)
            assert await anext(news) == RoleView(1)
            closed = await a.store.close(a.claim, Outcome.STOPPED, 143, "so it is", None)
            assert await anext(news) == closed
            for _ in range(2):  # said again, it is counted once
                await a.store.leave(a.claim, "its workers have ended")
            assert await look(run) == RoleView(closed=closed)
            await b.store.leave(b.claim, "its workers have ended")
            assert await anext(news) == Emptied()
            assert await look(run) == RoleView(closed=closed, gone=True)

    asyncio.run(scenario())


def test_a_role_that_is_closed_between_two_rounds_is_gone_at_once(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            await a.store.wish_restart("why", "to have none")
            closed = await a.store.close(a.claim, Outcome.STOPPED, 143, "so it is", None)
            assert await look(run) == RoleView(closed=closed, gone=True)

    asyncio.run(scenario())


def test_a_run_that_is_reopened_begins_without_those_who_never_left(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            a, b = await run.seated("ab", (2, 2))
            await a.store.close(a.claim, Outcome.STOPPED, 143, "so it is", None)
            await a.store.leave(a.claim, "its workers have ended")
            again = [await run.member(name, (2, 2), reopen=True) for name in "ab"]
            await asyncio.gather(*(one.sit() for one in again))
            assert await look(run) == RoleView(2)
            await b.store.leave(b.claim, "late, and of another round")
            assert await look(run) == RoleView(2)

    asyncio.run(scenario())


def test_a_restart_that_several_agents_wish_for_one_reason_happens_once(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            why = "role data, on which this one depends, is restarted"
            for member in (a, b, a):
                await member.store.wish_restart("data:1", why)
            assert await a.store.verdict(a.claim) == Superseded(1, why)
            await asyncio.gather(a.sit(), b.sit())
            await b.store.wish_restart("data:1", why)
            assert isinstance(await a.store.verdict(a.claim), Standing)
            await b.store.wish_restart("data:2", why)
            assert await a.store.verdict(a.claim) == Superseded(2, why)
            assert Settled(2) == Settled(a.claim.round)

    asyncio.run(scenario())
