"""Who waits for whom, and from when on: delays of restarts, the patience with survivors, the batch of a scale-up."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from orchestrator.core.policies import Budget, RuleAction
from orchestrator.core.publication import Publication
from orchestrator.core.rendezvous import Restart, Seat, Standing, Superseded, Waiting
from orchestrator.core.status import WishKind
from orchestrator.edge.redis.control import RunControl
from orchestrator.edge.redis.scripts import KEY_NAMES, group_keys
from tests.edge import servers
from tests.edge.servers import RESTART, Server, eventually, failure, world

server = servers.server


def test_a_newcomer_does_not_start_alone_while_the_others_wait_out_a_restart(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 3), last_call_s=0.01)
            await a.store.fail(a.claim, RuleAction.RETRY, 0.4, 1, failure())
            late = await run.member("c", (1, 3), last_call_s=0.01)
            waiting = await late.join()
            assert isinstance(waiting, Waiting)
            assert 300 < waiting.due_ms <= 500, "the delay, and then ten last calls"
            verdict = await b.store.verdict(b.claim)
            assert isinstance(verdict, Restart)
            await asyncio.sleep(verdict.delay_ms / 1000)  # the restart's delay, as an agent waits it out
            seats = await asyncio.gather(*(member.sit() for member in (a, b, late)))
            assert {(seat.round, seat.size) for seat in seats} == {(2, 3)}

    asyncio.run(scenario())


def test_a_server_clock_that_was_set_back_does_not_prolong_the_delay_of_a_restart(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 3), last_call_s=0.01)
            await a.store.fail(a.claim, RuleAction.RETRY, 0.2, 1, failure())
            group = dict(zip(KEY_NAMES, group_keys(run.run_id, "r"), strict=True))["group"]
            tomorrow = str(a.claim.token + 86_400_000)
            server.say("HSET", group, "last_ms", tomorrow, "end_until", tomorrow)
            waiting = await b.join()
            assert isinstance(waiting, Waiting)
            assert 150 < waiting.due_ms <= 300, "the delay that was decided, and ten last calls"
            assert (await b.seat()).size == 1  # a never comes

    asyncio.run(scenario())


def test_the_time_of_a_scale_up_begins_anew_when_whoever_asked_for_it_has_gone(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 3), scale_up_s=0.3)
            hasty = await run.member("b", (1, 3), scale_up_s=0.3)
            await hasty.join()
            await hasty.store.leave(hasty.claim, "changed its mind")
            await asyncio.sleep(0.3)  # until the time that it had set has passed
            patient = await run.member("c", (1, 3), scale_up_s=0.3)
            waiting = await patient.join()
            assert isinstance(waiting, Waiting)
            assert 200 < waiting.due_ms <= 300
            assert isinstance(await a.store.renew(a.claim), Standing)
            ended = await eventually(lambda: a.store.renew(a.claim), lambda reply: isinstance(reply, Superseded))
            assert ended == Superseded(1, "scale up")

    asyncio.run(scenario())


def test_durations_and_budgets_without_end_are_taken_as_very_long(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            endless = replace(RESTART, budget=Budget(max=10**30, per_s=1e30), free=Budget(max=10**30, per_s=1e30))
            times = {"scale_up_s": 1e30, "server_grace_s": 1e30, "last_call_s": 0.0}
            (a,) = await run.seated("a", (1, 2), restart=endless, **times)
            verdict = await a.store.fail(a.claim, RuleAction.RETRY, 1e30, 1, failure())
            assert isinstance(verdict, Restart)
            assert verdict.delay_ms > 10**11
            assert verdict.remaining is not None
            assert verdict.remaining > 10**14

    asyncio.run(scenario())


def test_patience_with_survivors_begins_with_the_wish_that_ended_their_round(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = Publication({"role": "r", "nodes": 1}, {})
            await run.seated("a", (1, 1), last_call_s=0.05)
            spare = await run.member("b", (1, 1), spares=1, last_call_s=0.05)
            await spare.join()
            await RunControl(spare.store.connection, run.run_id).wish(WishKind.RESTART)
            await asyncio.sleep(0.5)  # ten last calls, in which nobody says anything
            assert isinstance(await spare.ask(), Seat), "and a has not come"

    asyncio.run(scenario())


def test_patience_with_members_begins_with_the_scale_up_that_ended_their_round(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            await run.seated("a", (1, 2), last_call_s=0.05, scale_up_s=0.05)
            late = await run.member("b", (1, 2), last_call_s=0.05, scale_up_s=0.05)
            await late.join()
            await asyncio.sleep(0.1)
            other = await run.member("b", (1, 2), last_call_s=0.05, scale_up_s=0.05)
            await other.join()  # its name is held, but the scale-up is due
            await asyncio.sleep(0.5)  # ten last calls
            assert isinstance(await late.ask(), Seat), "and a has not come"

    asyncio.run(scenario())
