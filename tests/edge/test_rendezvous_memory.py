"""What a group remembers from round to round, and what it forgets: tokens, slots, charges, the stream."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from orchestrator.core.policies import Budget, RestartKind, RuleAction
from orchestrator.core.rendezvous import Claim, Restart, Seat, Superseded, Waiting
from orchestrator.core.words import Outcome
from orchestrator.edge.redis.scripts import KEY_NAMES, group_keys
from tests.edge import servers
from tests.edge.servers import RESTART, Server, World, eventually, failure, world

server = servers.server


def key(run: World, name: str) -> str:
    return dict(zip(KEY_NAMES, group_keys(run.run_id, "r"), strict=True))[name]


def test_tokens_grow_although_the_servers_clock_went_back(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2))
            ahead = a.claim.token + 86_400_000  # as if the clock had been a day ahead when the round was settled
            server.say("HSET", key(run, "group"), "token", str(ahead))
            await b.store.leave(b.claim, "gone")
            assert (await a.sit()).token == ahead + 1

    asyncio.run(scenario())


def test_a_slot_that_another_has_taken_is_not_given_back(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            members = []
            for name in "abc":
                members.append(await run.member(name, (2, 3), scale_up_s=0.05))
                await members[-1].join()
            a, b, c = members
            assert [(await member.seat()).slot for member in members] == [0, 1, 2]
            await b.store.leave(b.claim, "gone")
            assert [seat.slot for seat in await asyncio.gather(a.sit(), c.sit())] == [0, 1]
            b.claim = Claim()  # another process on the same node
            assert isinstance(await b.join(), Waiting)
            await eventually(lambda: a.store.renew(a.claim), lambda reply: isinstance(reply, Superseded))
            seats = await asyncio.gather(*(member.sit() for member in (a, c, b)))
            assert [seat.slot for seat in seats] == [0, 1, 2], "survivors keep theirs"

    asyncio.run(scenario())


def test_the_stream_keeps_no_more_than_what_a_late_reader_needs(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1), restart=replace(RESTART, free=Budget(max=None)))
            for _ in range(300):  # each ends one round and settles another
                assert isinstance(await a.join(), Seat)
            assert a.claim.round == 301
            assert int(server.say("XLEN", key(run, "events")).strip(b":\r\n")) < 400

    asyncio.run(scenario())


def test_a_close_knows_what_the_caller_was_charged_where_the_server_has_forgotten_it(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a = await run.member("a")
            claim = Claim(round=4, token=9, slot=0, size=1, members_hash="0" * 40, charged=2)
            assert (await a.store.close(claim, Outcome.FAILED, 1, "enough", None)).charged == 2

    asyncio.run(scenario())


def test_a_success_that_is_repeated_ends_a_row_of_failures(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1), restart=replace(RESTART, kind=RestartKind.ALWAYS))
            await a.store.fail(a.claim, RuleAction.RETRY, 0.0, 2, failure())
            assert (await a.sit()).consecutive == 2
            assert isinstance(await a.store.done(a.claim), Restart)
            assert (await a.sit()).consecutive == 0

    asyncio.run(scenario())
