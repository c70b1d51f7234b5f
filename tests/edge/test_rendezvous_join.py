"""How agents come together: ranks, MIN:MAX, last call, names."""

from __future__ import annotations

import asyncio

from orchestrator.core.rendezvous import Claim, Held, Place, Refused, Seat, Standing, Superseded, Waiting
from tests.edge import servers
from tests.edge.servers import Member, Server, eventually, world

server = servers.server


def test_a_lone_agent_is_seated_by_its_join(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            seat = await (await run.member("a", nproc=4)).join()
            assert isinstance(seat, Seat)
            assert (seat.round, seat.slot, seat.size, seat.base_rank, seat.world_size) == (1, 0, 1, 0, 4)
            assert (seat.master_addr, seat.master_port, seat.charged, seat.why) == ("addr-a", 1001, 0, "first")
            assert seat.token > 1_600_000_000_000
            assert len(seat.members_hash) == 40

    asyncio.run(scenario())


def test_a_round_settles_at_once_when_max_are_in(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.member("a", (2, 2), nproc=2), await run.member("b", (2, 2), nproc=3)
            waiting = await a.join()
            assert isinstance(waiting, Waiting)
            assert (waiting.joined, waiting.place) == (1, Place.NEXT)
            second = await b.join()
            first = await a.ask()
            assert isinstance(first, Seat)
            assert isinstance(second, Seat)
            assert (first.slot, first.base_rank, second.slot, second.base_rank) == (0, 0, 1, 2)
            assert first.world_size == second.world_size == 5
            assert (first.round, first.token, first.members_hash) == (second.round, second.token, second.members_hash)
            assert (second.master_addr, second.master_port) == ("addr-a", 1001)

    asyncio.run(scenario())


def test_ranks_are_unique_and_contiguous_when_fifty_join_at_once(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            members = [await run.member(f"n{i}", (50, 50), nproc=1 + i % 3) for i in range(50)]
            seats = await asyncio.gather(*(member.sit() for member in members))
            assert sorted(seat.slot for seat in seats) == list(range(50))
            assert len({(seat.round, seat.token, seat.members_hash, seat.master_addr) for seat in seats}) == 1
            ranks = [
                seat.base_rank + local
                for member, seat in zip(members, seats, strict=True)
                for local in range(member.bid.nproc)
            ]
            assert sorted(ranks) == list(range(seats[0].world_size))

    asyncio.run(scenario())


def test_hints_order_the_first_round_and_arrival_the_rest(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            hints = {"late": None, "two": 2, "later": None, "zero": 0}
            members = [await run.member(name, (4, 4), hint=hint) for name, hint in hints.items()]
            for member in members:
                await member.join()
            slots = {member.node: (await member.seat()).slot for member in members}
            assert slots == {"zero": 0, "two": 1, "late": 2, "later": 3}

    asyncio.run(scenario())


def test_a_last_call_is_given_before_fewer_than_max_begin(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            first = await run.member("a", (1, 3), last_call_s=0.3)
            waiting = await first.join()
            assert isinstance(waiting, Waiting)
            assert 200 < waiting.due_ms <= 300
            second = await run.member("b", (1, 3), last_call_s=0.3)
            assert isinstance(await second.join(), Waiting)  # the quiet begins anew
            seats = await asyncio.gather(first.sit(), second.sit())
            assert [seat.size for seat in seats] == [2, 2]

    asyncio.run(scenario())


def test_a_join_that_is_repeated_changes_nothing(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.member("a", (2, 2)), await run.member("b", (2, 2))
            for _ in range(3):
                reply = await a.join()
                assert isinstance(reply, Waiting)
                assert reply.joined == 1
            first = await b.store.join(b.bid, Claim())
            assert isinstance(first, Seat)
            assert await b.store.join(b.bid, Claim()) == first
            assert isinstance(await b.store.verdict(first.claim()), Standing)

    asyncio.run(scenario())


def test_a_member_that_asks_for_the_next_round_ends_its_own(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            assert isinstance(await a.join(), Waiting)
            verdict = await b.store.verdict(b.claim)
            assert isinstance(verdict, Superseded)
            assert "node a left the round" in verdict.why
            assert (await b.sit()).round == 2

    asyncio.run(scenario())


def test_a_live_name_is_held_and_a_lapsed_one_is_taken_over_with_its_slot(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b, _ = await run.seated("abc", (3, 3), lease_s=0.4)
            rival = await run.member("b", (3, 3), lease_s=0.4)
            held = await rival.join()
            assert isinstance(held, Held)
            assert 0 < held.ms_left <= 400
            assert "addr-b" in held.holder
            assert isinstance(await rival.store.renew(rival.claim), Waiting)  # nothing is lost that it never had

            async def renew_a() -> object:
                return await a.store.renew(a.claim)

            await eventually(renew_a, lambda reply: isinstance(reply, Superseded))
            c_again = await run.member("c", (3, 3), lease_s=0.4)
            slot = {"a": 0, "b": b.claim.slot, "c": 3 - b.claim.slot}
            slot["a"] = a.claim.slot
            seats = await asyncio.gather(a.sit(), eventually_sit(rival), eventually_sit(c_again))
            assert seats[0].slot == slot["a"]
            assert seats[1].slot == slot["b"]
            assert {seat.slot for seat in seats} == {0, 1, 2}

    async def eventually_sit(member: Member) -> Seat:
        reply = await eventually(member.join, lambda found: not isinstance(found, Held))
        return reply if isinstance(reply, Seat) else await member.sit()

    asyncio.run(scenario())


def test_survivors_keep_their_ranks_and_newcomers_fill_the_holes(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            members = []
            for name in "abcd":
                members.append(await run.member(name, (3, 4)))
                await members[-1].join()
            a, b, c, d = members
            assert [(await member.seat()).slot for member in members] == [0, 1, 2, 3]
            await b.store.leave(b.claim, "maintenance")
            newcomer = await run.member("e", (3, 4))
            await newcomer.join()
            seats = await asyncio.gather(a.sit(), c.sit(), d.sit(), newcomer.sit())
            assert [seat.slot for seat in seats] == [0, 2, 3, 1]
            assert seats[0].round == 2
            assert "node b left: maintenance" in seats[0].why

    asyncio.run(scenario())


def test_the_highest_ranks_move_down_into_holes_that_nobody_fills(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            members = []
            for name in "abcd":
                members.append(await run.member(name, (2, 4)))
                await members[-1].join()
            a, b, c, d = members
            await asyncio.gather(*(member.seat() for member in members))
            await b.store.leave(b.claim, "gone")
            seats = await asyncio.gather(a.sit(), c.sit(), d.sit())
            assert [seat.slot for seat in seats] == [0, 2, 1]
            assert [seat.size for seat in seats] == [3, 3, 3]

    asyncio.run(scenario())


def test_survivors_alone_settle_without_a_last_call(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b, c = await run.seated("abc", (2, 4), last_call_s=0.2)
            await c.store.leave(c.claim, "gone")
            assert isinstance(await a.join(), Waiting)
            seat = await b.join()
            assert isinstance(seat, Seat)
            assert seat.size == 2

    asyncio.run(scenario())


def test_a_survivor_that_is_still_stopping_is_waited_for_but_not_for_ever(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b, c = await run.seated("abc", (1, 3), last_call_s=0.1)
            await c.store.leave(c.claim, "gone")
            reply = await a.join()
            assert isinstance(reply, Waiting)
            assert 500 < reply.due_ms <= 1000  # ten last calls, not one
            await b.store.renew(b.claim)
            seat = await a.sit()
            assert seat.size == 1
            late = await b.join()  # the round went on without it: it waits for the next one
            assert isinstance(late, Waiting)
            assert late.place is Place.STANDBY

    asyncio.run(scenario())


def test_who_comes_after_max_is_told_that_the_round_is_full(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2))
            extra = await run.member("c", (1, 2))
            waiting = await extra.join()
            assert isinstance(waiting, Waiting)
            assert waiting.place is Place.FULL
            await b.store.leave(b.claim, "makes room")
            waiting = await extra.ask()
            assert isinstance(waiting, Waiting)
            assert waiting.place is not Place.FULL
            seats = await asyncio.gather(a.sit(), extra.sit())
            assert [seat.slot for seat in seats] == [a.claim.slot, 1 - a.claim.slot]

    asyncio.run(scenario())


def test_survivors_go_before_those_who_waited_beyond_max(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b, c = await run.seated("abc", (1, 3))
            extras = [await run.member(name, (1, 3)) for name in "xyz"]
            for extra in extras:
                await extra.join()
            await c.store.leave(c.claim, "makes room for one")
            replies = [await extra.ask() for extra in extras]
            full = [isinstance(reply, Waiting) and reply.place is Place.FULL for reply in replies]
            assert full == [False, True, True]
            seats = await asyncio.gather(a.sit(), b.sit(), extras[0].sit())
            assert sorted(seat.slot for seat in seats) == [0, 1, 2]
            assert {seat.size for seat in seats} == {3}

    asyncio.run(scenario())


def test_newcomers_below_max_cause_one_new_round_for_all_of_them(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 4), scale_up_s=0.3)
            newcomers = [await run.member(name, (1, 4), scale_up_s=0.3) for name in "bc"]
            for newcomer in newcomers:
                waiting = await newcomer.join()
                assert isinstance(waiting, Waiting)
                assert waiting.due_ms <= 300
                assert waiting.place is Place.STANDBY
            assert isinstance(await a.store.verdict(a.claim), Standing)
            ended = await eventually(lambda: a.store.renew(a.claim), lambda reply: isinstance(reply, Superseded))
            assert ended == Superseded(1, "scale up")
            seats = await asyncio.gather(a.sit(), *(newcomer.sit() for newcomer in newcomers))
            assert [(seat.round, seat.slot, seat.size) for seat in seats] == [(2, 0, 3), (2, 1, 3), (2, 2, 3)]

    asyncio.run(scenario())


def test_a_seat_without_a_join_is_refused(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            assert isinstance(await (await run.member("a")).ask(), Refused)

    asyncio.run(scenario())


def test_a_claim_makes_rounds_tokens_and_charges_go_on_above_it_on_an_empty_server(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.member("a", (2, 2)), await run.member("b", (2, 2))
            far = 9_000_000_000_000
            a.claim = Claim(round=7, token=far, slot=1, size=2, members_hash="0" * 40, charged=2)
            b.claim = Claim(round=6, token=far - 5, slot=0, size=2, members_hash="0" * 40, charged=1)
            await a.join()
            seats = await asyncio.gather(a.sit(), b.sit())
            assert {(seat.round, seat.token, seat.charged) for seat in seats} == {(8, far + 1, 2)}
            assert [seat.slot for seat in seats] == [1, 0]

    asyncio.run(scenario())
