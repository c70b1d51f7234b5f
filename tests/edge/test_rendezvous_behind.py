"""A server that has fallen behind, as a replica that is promoted: it remembers, but not the newest."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from orchestrator.core.address import Address
from orchestrator.core.memory import Memory
from orchestrator.core.policies import RuleAction
from orchestrator.core.rendezvous import Closed, Lapsed, Place, Restart, Restoring, Seat, Standing, Superseded, Waiting
from orchestrator.core.words import Outcome
from orchestrator.edge.redis.link import Link
from orchestrator.edge.redis.resp import Reply
from orchestrator.edge.redis.route import Route
from orchestrator.edge.redis.scripts import group_keys
from tests.edge import servers
from tests.edge.servers import PATIENCE_S, Server, World, failure, world

server = servers.server


class Replica:
    """What a replica has of a run, from the moment on at which nobody tells it more."""

    def __init__(self, run: World) -> None:
        self._keys = group_keys(run.run_id, "r")
        self._address = Address.from_url(run.server.url)
        self._values = {key: self._ask("DUMP", key) for key in self._keys}

    def _ask(self, *words: str | bytes | int) -> Reply:
        link = Link.to_server(Route(self._address), PATIENCE_S)
        try:
            return link.ask(*words, within_s=PATIENCE_S)
        finally:
            link.close()

    def take_over(self) -> None:
        self._ask("DEL", *self._keys)
        for key, value in self._values.items():
            if isinstance(value, bytes):
                self._ask("RESTORE", key, 3_600_000, value)


def test_who_waits_without_workers_is_told_to_join_again_by_a_server_that_forgot(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, _ = await run.seated("ab", (2, 2))
            await a.store.fail(a.claim, RuleAction.RETRY, 0, 1, failure())
            assert isinstance(await a.join(), Waiting)
            nothing = Replica(run)
            nothing._values = {}
            nothing.take_over()
            assert isinstance(await a.ask(), Waiting), "not `restoring`, which is no answer to who waits"

    asyncio.run(scenario())


def test_who_has_heard_of_a_newer_round_is_not_given_its_seat_in_an_older_one(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            replica = Replica(run)
            await a.store.leave(a.claim, "makes room")
            b = await run.member("b", (1, 1), spares=1)
            newer = await b.sit()
            memory = Memory()
            reply = await a.join()
            assert isinstance(reply, Waiting)
            assert (reply.place, reply.round) == (Place.FULL, 2)
            memory.waiting(reply)
            replica.take_over()
            a.claim = memory.claim(0.0)
            said = await a.ask()
            assert not isinstance(said, Seat) or (said.round > newer.round and said.token > newer.token)

    asyncio.run(scenario())


def test_members_of_the_older_round_end_it_once_they_speak_of_a_newer_one(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            old = b.claim
            replica = Replica(run)
            await a.store.fail(a.claim, RuleAction.RETRY, 0, 1, failure())
            await asyncio.gather(a.sit(), b.sit())
            replica.take_over()
            heard = replace(a.claim, slot=-1, size=0, seat=None)  # not a member of that round, but knows of it
            await a.store.renew(heard)
            said = await b.store.renew(old)
            assert isinstance(said, Superseded)
            assert said.why == "the server had fallen behind"
            assert isinstance(await b.store.renew(b.claim), Restoring | Standing), "the newer round comes back"

    asyncio.run(scenario())


def test_a_success_is_told_again_to_a_server_that_had_not_heard_of_it(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            replica = Replica(run)
            assert isinstance(await a.store.done(a.claim), Standing)
            a.claim = replace(a.claim, succeeded=True)
            replica.take_over()
            assert isinstance(await a.store.renew(a.claim), Standing)
            said = await b.store.done(b.claim)
            assert isinstance(said, Closed)
            assert said.outcome is Outcome.SUCCEEDED

    asyncio.run(scenario())


def test_rounds_of_one_number_and_one_token_but_other_members_are_two(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2))
            c = await run.member("c", (1, 2))  # from a server whose clock was behind, as was ours
            c.claim = replace(a.claim, members_hash="0" * 40, seat=None)
            assert isinstance(await c.store.renew(c.claim), Lapsed)
            said = await b.store.renew(b.claim)
            assert isinstance(said, Superseded)
            assert said.why == "two servers had each gone on with this run"

    asyncio.run(scenario())


def test_who_waits_is_not_given_the_seat_that_it_has_left_and_its_charge_is_not_forgotten(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            replica = Replica(run)
            memory = Memory()
            memory.seated(await a.seat(), 0.0)
            said = await a.store.fail(memory.claim(0.0), RuleAction.RETRY, 0, 1, failure())
            assert isinstance(said, Restart)
            memory.restarting(said, 0.0)
            a.claim = memory.claim(0.0)
            assert isinstance(await a.join(), Waiting)
            replica.take_over()
            assert isinstance(await a.ask(), Waiting)
            seats = await asyncio.gather(a.seat(), b.sit())
            assert [(seat.round, seat.charged) for seat in seats] == [(2, 1), (2, 1)]

    asyncio.run(scenario())


def test_what_a_caller_knows_is_heeded_before_anything_falls_due(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a = await run.member("a", (1, 2), last_call_s=0.05)
            assert isinstance(await a.join(), Waiting)
            replica = Replica(run)  # it is about to settle round 1
            first = await a.seat()
            replica.take_over()
            await asyncio.sleep(0.1)  # the last call is over when a speaks again
            a.claim = replace(a.claim, slot=-1, seat=None)
            await a.store.renew(a.claim)
            second = await a.seat()
            assert (second.round, second.token > first.token) == (2, True)

    asyncio.run(scenario())


def test_charges_that_a_claim_tells_of_count_before_the_next_round_is_settled(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a = await run.member("a", (1, 1))
            first = await a.sit()
            a.claim = replace(a.claim, charged=2, seat=None)  # heard of on another server, which is no more
            await a.store.verdict(a.claim)
            await a.store.leave(a.claim, "gone")
            b = await run.member("b", (1, 1))
            second = await b.sit()
            assert (first.charged, second.charged) == (0, 2)

    asyncio.run(scenario())
