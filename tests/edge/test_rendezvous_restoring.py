"""A server that loses its memory: the agents' claims bring the round back, or end it in order."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from orchestrator.core.memory import Memory
from orchestrator.core.policies import Budget, RuleAction
from orchestrator.core.rendezvous import Closed, Lapsed, Restart, Restoring, Seat, Standing, Superseded, Waiting
from orchestrator.core.words import Outcome
from orchestrator.edge.redis.arguments import seat_words
from orchestrator.edge.redis.scripts import KEY_NAMES, group_keys
from tests.edge import servers
from tests.edge.servers import RESTART, Member, Server, World, eventually, failure, world

server = servers.server
own_server = servers.own_server

SHORT_S = 0.4  # a lease that is over soon


def key(run: World, name: str) -> str:
    return dict(zip(KEY_NAMES, group_keys(run.run_id, "r"), strict=True))[name]


async def forget(run: World) -> None:
    """What a restart without data does to one run."""
    wire = run.connection()
    await wire.open(5)
    assert await wire._commands.ask("DEL", *group_keys(run.run_id, "r")) is not None


async def number(run: World, field: str) -> int:
    wire = run.connection()
    await wire.open(5)
    return int(str(await wire._commands.ask("HGET", key(run, "group"), field)))


def test_all_seats_back_and_the_round_stands_as_if_nothing_had_been(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            members = await run.seated("abc", (3, 3))
            before = [await member.ask() for member in members]
            await forget(run)
            a, b, c = members
            for member in (a, b):
                assert await member.store.renew(member.claim) == Restoring(1666, back=True)
            assert isinstance(await c.store.renew(c.claim), Standing)
            assert isinstance(await a.store.renew(a.claim), Standing)
            assert [await member.ask() for member in members] == before

    asyncio.run(scenario())


def test_members_that_stay_away_for_two_leases_end_the_round(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2), lease_s=SHORT_S)
            await forget(run)
            said = await eventually(lambda: a.store.renew(a.claim), lambda reply: not isinstance(reply, Restoring))
            assert isinstance(said, Superseded)
            assert said.why == "the server had lost its memory, and 1 of 2 members came back"
            seat = await a.sit()
            assert (seat.round, seat.size) == (2, 1)
            assert seat.token > b.claim.token
            assert isinstance(await b.store.renew(b.claim), Lapsed)

    asyncio.run(scenario())


def test_memory_may_be_lost_again_and_again(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            for _ in range(3):
                await forget(run)
                await a.store.renew(a.claim)  # the next loss may come before all are back
                await forget(run)
                assert isinstance(await b.store.renew(b.claim), Restoring)
                assert isinstance(await a.store.renew(a.claim), Standing)

    asyncio.run(scenario())


def test_newcomers_wait_while_a_round_is_restored_and_let_it_grow_afterwards(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 3))
            await forget(run)
            c = await run.member("c", (1, 3))
            assert isinstance(await c.join(), Waiting)  # on a server that knows nothing of the others
            assert isinstance(await a.store.renew(a.claim), Restoring)
            assert isinstance(await c.ask(), Waiting)
            assert isinstance(await b.store.renew(b.claim), Standing)
            await eventually(lambda: a.store.renew(a.claim), lambda reply: isinstance(reply, Superseded))
            seats = await asyncio.gather(a.sit(), b.sit(), c.sit())
            assert [(seat.slot, seat.round) for seat in seats] == [(0, 2), (1, 2), (2, 2)]

    asyncio.run(scenario())


def test_a_failure_is_decided_and_charged_although_nobody_else_is_back(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            await forget(run)
            said = await a.store.fail(a.claim, RuleAction.RETRY, 0.0, 1, failure())
            assert isinstance(said, Restart)
            assert (said.charged, said.remaining) == (True, 2)
            assert isinstance(await b.store.renew(b.claim), Lapsed)  # it ran on, and learns that the round is over
            seats = await asyncio.gather(a.sit(), b.sit())
            assert [(seat.round, seat.slot, seat.charged) for seat in seats] == [(2, 0, 1), (2, 1, 1)]

    asyncio.run(scenario())


def test_charges_are_united_and_a_sliding_budget_forgets_none_of_them(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            sliding = replace(RESTART, budget=Budget(max=2, per_s=600))
            (a,) = await run.seated("a", (1, 1), restart=sliding)
            memory = Memory()
            for _ in range(2):
                said = await a.store.fail(a.claim, RuleAction.RETRY, 0.0, 1, failure())
                assert isinstance(said, Restart)
                memory.seated(await a.sit(), 0.0)
                await forget(run)
            a.claim = memory.claim(60.0)
            assert [charge.id for charge in a.claim.ledger.charges] == ["2", "1"]
            assert all(60_000 <= charge.age_ms < 120_000 for charge in a.claim.ledger.charges)
            await a.store.renew(a.claim)
            said_last = await a.store.fail(a.claim, RuleAction.RETRY, 0.0, 1, failure())
            assert isinstance(said_last, Closed)
            assert said_last.reason.startswith("restart.budget is spent (2 restarts within 600 s)")

    asyncio.run(scenario())


def test_a_charge_that_only_members_have_heard_of_survives(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            memory = Memory()
            memory.seated(await a.seat(), 0.0)
            said = await a.store.fail(memory.claim(0.0), RuleAction.RETRY, 0.0, 1, failure())
            assert isinstance(said, Restart)
            for _ in range(2):  # from the reply, and from the stream
                memory.restarting(said, 1.0)
            await forget(run)
            a.claim = memory.claim(2.0)
            assert a.claim.charged == 1
            assert (await a.sit()).charged == 1

    asyncio.run(scenario())


def test_a_success_that_was_told_before_the_loss_counts_after_it(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            assert isinstance(await a.store.done(a.claim), Standing)
            await forget(run)
            a.claim = replace(a.claim, succeeded=True)
            assert isinstance(await a.store.renew(a.claim), Restoring)
            said = await b.store.done(b.claim)
            assert isinstance(said, Closed)
            assert said.outcome is Outcome.SUCCEEDED

    asyncio.run(scenario())


def test_who_comes_back_without_workers_ends_the_round_at_once_and_for_free(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            thrifty = replace(RESTART, free=Budget(max=0))
            a, b = await run.seated("ab", (2, 2), restart=thrifty)
            await forget(run)
            assert isinstance(await a.join(), Waiting)
            assert isinstance(await b.store.renew(b.claim), Lapsed)
            b_seat = await b.sit()
            assert (b_seat.round, b_seat.slot) == (2, 1), "its slot is its own still"

    asyncio.run(scenario())


def test_a_server_that_has_fallen_behind_goes_forward_to_what_its_members_claim(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            wire = run.connection()
            await wire.open(5)
            a, b = await run.seated("ab", (2, 2))
            # what a replica had when it was promoted: round 1
            fields = ("state", "settled", "round", "1", "token", str(a.claim.token), "size", "2", "last_ms", "0")
            await b.store.fail(b.claim, RuleAction.RETRY, 0.0, 1, failure())
            await asyncio.gather(a.sit(), b.sit())
            assert a.claim.round == 2
            await forget(run)
            await wire._commands.ask("HSET", key(run, "group"), *fields)
            assert isinstance(await a.store.renew(a.claim), Restoring)
            assert isinstance(await b.store.renew(b.claim), Standing)
            assert await number(run, "charged") == 1

    asyncio.run(scenario())


def test_rounds_of_two_histories_end_both_and_the_next_is_above_both(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2))
            ahead = replace(a.claim, round=7, token=a.claim.token - 5, seat=None)  # of a server that went on elsewhere
            c = await run.member("c", (1, 2))
            c.claim = ahead
            assert isinstance(await c.store.renew(c.claim), Lapsed)
            said = await b.store.renew(b.claim)
            assert isinstance(said, Superseded)
            assert said.why == "two servers had each gone on with this run"
            seats = await asyncio.gather(a.sit(), b.sit())
            assert [seat.round for seat in seats] == [8, 8]
            assert seats[0].token > max(ahead.token, b.claim.token - 1)

    asyncio.run(scenario())


def test_who_stands_by_knows_how_far_rounds_and_tokens_had_got(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            for _ in range(3):
                await a.join()
            c = await run.member("c", (1, 1), spares=1)
            memory, reply = Memory(), await c.join()
            assert isinstance(reply, Waiting)
            assert (reply.round, reply.token) == (4, a.claim.token)
            memory.waiting(reply)
            await forget(run)  # and a is gone for good
            c.claim = memory.claim(0.0)
            seat = await c.sit()
            assert seat.round == 5
            assert seat.token > a.claim.token

    asyncio.run(scenario())


def test_a_name_that_another_agent_has_taken_is_not_given_back(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            await forget(run)
            other = await run.member("a", (2, 2))
            assert isinstance(await other.join(), Waiting)
            assert isinstance(await b.store.renew(b.claim), Restoring)
            said = await a.store.renew(a.claim)
            assert isinstance(said, Restoring)
            assert not said.back

    asyncio.run(scenario())


def test_a_clock_that_was_set_back_does_not_prolong_the_wait_for_members(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, _ = await run.seated("ab", (1, 2))
            await forget(run)
            await a.store.renew(a.claim)
            wire = run.connection()
            await wire.open(5)
            day = 86_400_000
            for field in ("last_ms", "restore_until"):
                later = await number(run, field) + day
                await wire._commands.ask("HSET", key(run, "group"), field, later)
            await a.store.renew(a.claim)
            assert await number(run, "restore_until") - await number(run, "last_ms") <= 10_000

    asyncio.run(scenario())


def test_no_key_of_a_restored_run_lives_for_ever(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            await forget(run)
            for member in (a, b):
                await member.store.renew(member.claim)
            wire = run.connection()
            await wire.open(5)
            for name in group_keys(run.run_id, "r"):
                assert await wire._commands.ask("PTTL", name) != -1, name

    asyncio.run(scenario())


def test_restoring_twice_is_restoring_once(server: Server) -> None:
    async def restore(member: Member) -> object:
        assert member.claim.seat is not None
        words = (*seat_words(member.claim.seat, member.bid), "0,0,-1,0")
        return await member.store._call("restore", member.claim, *words)

    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            await forget(run)
            await a.store.verdict(a.claim)
            first = [await restore(a), await restore(a)]
            assert [reply[0] for reply in first] == ["restoring", "restoring"]  # type: ignore[index]
            assert [reply[0] for reply in (await restore(b), await restore(b))] == ["standing", "standing"]  # type: ignore[index]
            seat = await a.ask()
            assert isinstance(seat, Seat)
            assert seat.size == 2

    asyncio.run(scenario())
