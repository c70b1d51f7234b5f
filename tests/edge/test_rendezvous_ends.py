"""How rounds and runs end: failures and their budget, lost members, success, close."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from orchestrator.core.failures import Failure
from orchestrator.core.policies import Budget, RestartKind, RuleAction
from orchestrator.core.rendezvous import Closed, Lapsed, Restart, Standing, Superseded, Verdict, Waiting
from orchestrator.core.words import Outcome
from tests.edge import servers
from tests.edge.servers import RESTART, Member, Server, eventually, failure, world

server = servers.server
RETRY, FREE, FATAL = RuleAction.RETRY, RuleAction.RETRY_FREE, RuleAction.FATAL


async def fail(member: Member, action: RuleAction = RETRY, delay_s: float = 0.0, consecutive: int = 1) -> Verdict:
    return await member.store.fail(member.claim, action, delay_s, consecutive, failure(member.node))


def test_a_failure_restarts_the_group_once_for_all_who_report_it(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            members = await run.seated("abcd", (4, 4))
            verdicts = await asyncio.gather(*(fail(member, delay_s=5, consecutive=2) for member in members))
            for verdict in verdicts:
                assert isinstance(verdict, Restart)
                assert (verdict.round, verdict.charged, verdict.remaining) == (1, True, 2)
                assert 0 < verdict.delay_ms <= 5000
            assert len({str(verdict.cause) for verdict in verdicts if isinstance(verdict, Restart)}) == 1
            seats = await asyncio.gather(*(member.sit() for member in members))
            assert {(seat.round, seat.charged, seat.consecutive, seat.why) for seat in seats} == {
                (2, 1, 2, "worker failed")
            }

    asyncio.run(scenario())


def test_the_cause_reaches_the_others_whole(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            cause = failure("a", message="bäng \u2028 \x00", last_lines=("x", "y\udcff"), rank=3)
            await a.store.fail(a.claim, RETRY, 0, 1, cause)
            verdict = await b.store.verdict(b.claim)
            assert isinstance(verdict, Restart)
            assert verdict.cause is not None
            assert Failure.from_dict(verdict.cause) == cause
            assert verdict.reason == "rank 3 on node a: exit code 3"

    asyncio.run(scenario())


def test_a_cause_of_any_size_is_cut_to_what_the_group_keeps(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            huge = failure("a", message="m" * 300_000, traceback="t" * 300_000 + "end", last_lines=("ü" * 5_000,) * 500)
            verdict = await a.store.fail(a.claim, RETRY, 0, 1, huge)
            assert isinstance(verdict, Restart)
            assert verdict.cause is not None
            assert verdict.cause["traceback"].endswith("end")
            assert verdict.cause["message"].startswith("mmm")

    asyncio.run(scenario())


def test_a_more_severe_verdict_replaces_a_milder_one_and_is_charged_once(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b, c = await run.seated("abc", (3, 3), restart=replace(RESTART, free=Budget(max=1)))
            mild = await fail(a, FREE)
            assert isinstance(mild, Restart)
            assert (mild.charged, mild.remaining) == (False, 3)
            severe = await fail(b, RETRY, delay_s=5)
            assert isinstance(severe, Restart)
            assert (severe.charged, severe.remaining) == (True, 2)
            assert severe.cause is not None
            assert severe.cause["node"] == "b"
            late = await fail(a, FREE)
            assert isinstance(late, Restart)
            assert replace(late, delay_ms=0) == replace(severe, delay_ms=0)
            assert 0 < late.delay_ms <= severe.delay_ms
            await fail(c, RETRY)
            assert [seat.charged for seat in await asyncio.gather(a.sit(), b.sit(), c.sit())] == [1, 1, 1]
            again = await fail(a, FREE)
            assert isinstance(again, Restart)  # the free budget of one got its unit back
            assert not again.charged

    asyncio.run(scenario())


def test_a_fatal_failure_closes_the_run_even_after_a_restart_was_decided(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            assert isinstance(await fail(a, RETRY), Restart)
            closed = await fail(b, FATAL)
            assert isinstance(closed, Closed)
            assert (closed.outcome, closed.exit_code) == (Outcome.FAILED, 1)
            assert closed.cause is not None
            assert closed.cause["node"] == "b"
            assert await a.store.verdict(a.claim) == closed
            assert await a.join() == closed

    asyncio.run(scenario())


def test_a_spent_budget_closes_the_run_and_says_so(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1), restart=replace(RESTART, budget=Budget(max=2)))
            for left in (1, 0):
                verdict = await fail(a)
                assert isinstance(verdict, Restart)
                assert verdict.remaining == left
                await a.sit()
            closed = await fail(a)
            assert isinstance(closed, Closed)
            assert closed.reason == "restart.budget is spent (2 restarts); rank 0 on node a: exit code 3"
            assert (closed.outcome, closed.exit_code, closed.charged) == (Outcome.FAILED, 1, 2)

    asyncio.run(scenario())


def test_a_sliding_budget_forgets_what_is_old(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1), restart=replace(RESTART, budget=Budget(max=1, per_s=1)))
            assert isinstance(await fail(a), Restart)
            await a.sit()
            await asyncio.sleep(1.05)  # the window itself is what passes here
            assert isinstance(await fail(a), Restart)
            assert (await a.sit()).charged == 2
            closed = await fail(a)
            assert isinstance(closed, Closed)
            assert "(1 restarts within 1 s)" in closed.reason

    asyncio.run(scenario())


def test_a_budget_without_a_bound_never_ends_the_run(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1), restart=replace(RESTART, budget=Budget(max=None)))
            for _ in range(5):
                verdict = await fail(a)
                assert isinstance(verdict, Restart)
                assert verdict.remaining is None
                await a.sit()
            assert a.claim.charged == 5

    asyncio.run(scenario())


def test_uncharged_restarts_have_a_bound_of_their_own(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1), restart=replace(RESTART, free=Budget(max=1)))
            assert isinstance(await fail(a, FREE), Restart)
            await a.sit()
            closed = await fail(a, FREE)
            assert isinstance(closed, Closed)
            assert "restart.free is spent" in closed.reason

    asyncio.run(scenario())


def test_a_failure_of_a_superseded_round_is_charged_to_nobody(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b, c = await run.seated("abc", (1, 3))
            await c.store.leave(c.claim, "gone")
            for member in (a, b):
                assert isinstance(await fail(member), Superseded)
            assert (await asyncio.gather(a.sit(), b.sit()))[0].charged == 0

    asyncio.run(scenario())


def test_the_last_success_closes_the_run(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b, c = await run.seated("abc", (3, 3))
            for member in (a, a, b):
                assert isinstance(await member.store.done(member.claim), Standing)
            closed = await c.store.done(c.claim)
            assert isinstance(closed, Closed)
            assert (closed.outcome, closed.exit_code) == (Outcome.SUCCEEDED, 0)
            for member in (a, b, c):
                assert await member.store.done(member.claim) == closed

    asyncio.run(scenario())


def test_a_member_that_had_succeeded_is_no_loss(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b, c = await run.seated("abc", (3, 3), lease_s=0.3)
            await b.store.done(b.claim)
            await b.store.leave(b.claim, "its work is done")
            await c.store.done(c.claim)  # and lapses

            async def c_is_gone() -> bool:
                assert isinstance(await a.store.renew(a.claim), Standing)
                return isinstance(await c.store.verdict(c.claim), Lapsed)

            await eventually(c_is_gone, bool)
            closed = await a.store.done(a.claim)
            assert isinstance(closed, Closed)
            assert closed.outcome is Outcome.SUCCEEDED

    asyncio.run(scenario())


def test_the_name_of_a_member_that_had_succeeded_does_not_give_its_seat_to_another_agent(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            await b.store.done(b.claim)
            await b.store.leave(b.claim, "its work is done")
            successor = await run.member("b", (2, 2))
            assert isinstance(await successor.join(), Waiting)
            closed = await a.store.done(a.claim)
            assert isinstance(closed, Closed)
            assert await successor.ask() == closed

    asyncio.run(scenario())


def test_a_round_that_finishes_is_not_scaled_up(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 3), scale_up_s=0.0)
            await a.store.done(a.claim)
            assert isinstance(await (await run.member("c", (2, 3), scale_up_s=0.0)).join(), Waiting)
            assert isinstance(await b.store.renew(b.claim), Standing)

    asyncio.run(scenario())


def test_success_is_repeated_until_the_budget_is_spent_when_restart_is_always(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            always = replace(RESTART, kind=RestartKind.ALWAYS, budget=Budget(max=1))
            a, b = await run.seated("ab", (2, 2), restart=always)
            assert isinstance(await a.store.done(a.claim), Standing)
            verdict = await b.store.done(b.claim)
            assert isinstance(verdict, Restart)
            assert (verdict.charged, verdict.cause, verdict.remaining) == (True, None, 0)
            assert 0 < verdict.delay_ms <= 50
            await asyncio.gather(a.sit(), b.sit())
            await a.store.done(a.claim)
            closed = await b.store.done(b.claim)
            assert isinstance(closed, Closed)
            assert (closed.outcome, closed.exit_code) == (Outcome.SUCCEEDED, 0)

    asyncio.run(scenario())


def test_the_first_close_wins(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            first = await a.store.close(a.claim, Outcome.STOPPED, 143, "stopped by SIGTERM", None)
            assert first == Closed(outcome=Outcome.STOPPED, exit_code=143, reason="stopped by SIGTERM")
            assert await b.store.close(b.claim, Outcome.FAILED, 1, "too late", failure()) == first
            latecomer = await run.member("c", (2, 2))
            assert await latecomer.join() == first
            assert await latecomer.ask() == first
            assert await b.store.renew(b.claim) == first
            await b.store.leave(b.claim, "closed already")

    asyncio.run(scenario())


def test_a_run_can_be_closed_before_anybody_has_joined(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a = await run.member("a")
            closed = await a.store.close(a.claim, Outcome.FAILED, 3, "gave up", failure())
            assert (closed.exit_code, closed.reason) == (3, "gave up")
            assert await a.join() == closed

    asyncio.run(scenario())
