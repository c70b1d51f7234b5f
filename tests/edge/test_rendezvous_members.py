"""Who counts as a member, and until when: leases, leaving, strangers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from orchestrator.core.policies import Budget, RuleAction
from orchestrator.core.rendezvous import Closed, Lapsed, Standing, Superseded, Waiting
from orchestrator.core.words import Outcome
from orchestrator.edge.redis.scripts import KEY_NAMES, group_keys
from tests.edge import servers
from tests.edge.servers import RESTART, Server, eventually, failure, world

server = servers.server


def test_who_speaks_of_a_round_that_is_long_over_has_lapsed(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            old = a.claim
            for _ in range(2):
                await a.store.fail(a.claim, RuleAction.RETRY, 0, 1, failure())
                await a.sit()
            for reply in (
                await a.store.fail(old, RuleAction.FATAL, 0, 1, failure()),
                await a.store.done(old),
                await a.store.verdict(old),
            ):
                assert isinstance(reply, Lapsed)
                assert "round 3" in reply.why
            assert isinstance(
                await a.store.renew(replace(old, seat=None)), Waiting
            )  # its seat in the newer round is there
            assert isinstance(await a.store.renew(old), Lapsed), "who runs on is not one that waits"

    asyncio.run(scenario())


def test_nobody_but_members_is_heard(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            stranger = await run.member("b", (1, 1))
            stranger.claim = a.claim
            imposter = await run.member("a", (1, 1))
            imposter.claim = a.claim
            for other in (stranger, imposter):
                assert isinstance(await other.store.fail(other.claim, RuleAction.FATAL, 0, 1, failure()), Lapsed)
                assert isinstance(await other.store.done(other.claim), Lapsed)
                assert isinstance(await other.store.renew(other.claim), Lapsed)
                await other.store.leave(other.claim, "not mine to end")
            assert isinstance(await a.store.verdict(a.claim), Standing)

    asyncio.run(scenario())


def test_a_lapsed_lease_ends_the_round_for_the_survivors(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2), lease_s=0.3)
            standing = await a.store.renew(a.claim)
            assert isinstance(standing, Standing)
            assert 0 < standing.due_ms <= 100
            ended = await eventually(lambda: a.store.renew(a.claim), lambda reply: not isinstance(reply, Standing))
            assert ended == Superseded(1, "lost node b", ("b",))
            assert isinstance(await b.store.renew(b.claim), Lapsed)
            assert (await a.sit()).size == 1

    asyncio.run(scenario())


def test_leases_do_not_lapse_because_nobody_could_renew(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2), lease_s=0.2)
            await asyncio.sleep(0.5)  # silence of the whole group, longer than the lease, is what is tested
            assert isinstance(await a.store.renew(a.claim), Standing)
            assert isinstance(await b.store.renew(b.claim), Standing)

    asyncio.run(scenario())


def test_leaving_twice_is_leaving_once(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2))
            await b.store.leave(b.claim, "first")
            (await a.sit())
            await b.store.leave(b.claim, "second")
            assert isinstance(await a.store.renew(a.claim), Standing)

    asyncio.run(scenario())


def test_a_server_clock_that_was_set_back_ends_no_lease_and_keeps_none_for_ever(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2), lease_s=0.4)
            keys = dict(zip(KEY_NAMES, group_keys(run.run_id, "r"), strict=True))
            tomorrow = a.claim.token + 86_400_000  # as the group would look if its clock had been a day ahead
            server.say("HSET", keys["group"], "last_ms", str(tomorrow))
            for name in "ab":
                server.say("ZADD", keys["leases"], str(tomorrow), name)
            standing = await a.store.renew(a.claim)
            assert isinstance(standing, Standing)
            assert isinstance(await b.store.renew(b.claim), Standing)
            ended = await eventually(lambda: a.store.renew(a.claim), lambda reply: not isinstance(reply, Standing))
            assert ended == Superseded(1, "lost node b", ("b",))

    asyncio.run(scenario())


def test_a_loss_that_the_free_budget_does_not_cover_ends_the_run_and_growth_waits(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated(
                "ab", (1, 3), scale_up_s=0.0, restart=replace(RESTART, free=Budget(max=1, per_s=3600))
            )
            await b.store.leave(b.claim, "gone")
            assert (await a.sit()).size == 1
            await b.join()
            assert isinstance(await a.store.renew(a.claim), Standing)  # to grow would cost one that is not there
            closed = await a.store.close(a.claim, Outcome.STOPPED, 143, "enough", None)
            assert closed.reason == "enough"

        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2), restart=replace(RESTART, free=Budget(max=0)))
            await b.store.leave(b.claim, "gone")
            verdict = await a.store.verdict(a.claim)
            assert isinstance(verdict, Closed)
            assert "restart.free is spent" in verdict.reason
            assert "node b left: gone" in verdict.reason

    asyncio.run(scenario())
