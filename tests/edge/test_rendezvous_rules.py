"""What rules mean to the group: budgets of their own, nodes that are excluded, parts that are replaced, progress."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from orchestrator.core.memory import Memory
from orchestrator.core.policies import Budget, ProgressPolicy, Rule, RuleAction
from orchestrator.core.rendezvous import (
    Closed,
    Part,
    Refused,
    Replacement,
    ReplaceReply,
    Restart,
    Standing,
    Superseded,
    Verdict,
)
from orchestrator.core.words import Outcome
from tests.edge import servers
from tests.edge.servers import RESTART, Member, Server, failure, world
from tests.edge.test_rendezvous_restoring import forget

server = servers.server
RETRY, FREE, EXCLUDE = RuleAction.RETRY, RuleAction.RETRY_FREE, RuleAction.EXCLUDE_NODE
OWN = replace(RESTART, budget=Budget(max=1), rules=(Rule(action=RETRY), Rule(action=RETRY, budget=Budget(max=2))))


async def fail(member: Member, action: RuleAction = RETRY, rule: int | None = None) -> Verdict:
    return await member.store.fail(member.claim, action, 0.0, 1, failure(member.node), rule=rule)


async def part(member: Member, part: Part, action: RuleAction = RETRY, rule: int | None = None) -> ReplaceReply:
    return await member.store.replace(member.claim, part, action, 0.0, failure(member.node), rule=rule)


def test_a_rules_own_budget_is_charged_instead_of_the_groups(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1), restart=OWN)
            remaining = []
            for rule in (1, 1, 0):
                verdict = await fail(a, rule=rule)
                assert isinstance(verdict, Restart)
                remaining.append(verdict.remaining)
                await a.sit()
            assert remaining == [1, 0, 0], "rule 0 has none of its own"
            assert a.claim.charged == 3, "workers count all of them"
            assert [charge.id for charge in a.claim.ledger.charges] == ["3", "2#1", "1#1"]
            closed = await fail(a, rule=1)
            assert isinstance(closed, Closed)
            assert closed.reason.startswith("restart.rules[1].budget is spent (2 restarts); ")

    asyncio.run(scenario())


def test_a_servers_loss_of_memory_forgets_no_budget_of_a_rule(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1), restart=OWN)
            for _ in range(2):
                await fail(a, rule=1)
                await a.sit()
            await forget(run)
            assert isinstance(await a.store.renew(a.claim), Standing)
            plain = await fail(a)
            assert isinstance(plain, Restart)
            assert plain.remaining == 0, "restart.budget has lost nothing to the rule's"
            await a.sit()
            assert isinstance(await fail(a, rule=1), Closed)

    asyncio.run(scenario())


def test_a_part_is_replaced_within_the_round_and_charged_once(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            first = await part(a, Part(3, 1))
            assert isinstance(first, Replacement)
            assert (first.charged, first.remaining, first.delay_ms) == (True, 2, 0)
            assert first.id == f"1/{a.claim.slot}/3/1"
            assert await part(a, Part(3, 1)) == first, "asked again, it is the same one"
            again = await part(a, Part(None, 2), FREE)
            assert isinstance(again, Replacement)
            assert (again.charged, again.remaining) == (False, 2)
            assert isinstance(await b.store.verdict(b.claim), Standing), "the others have nothing to do with it"
            memory = Memory()
            memory.seated(await a.ask(), 0.0)  # type: ignore[arg-type]  # it is seated
            memory.replacing(first, 0.0)
            memory.replacing(first, 0.0)
            assert memory.charged == 1
            assert memory.spent == 1

    asyncio.run(scenario())


def test_a_part_that_is_one_too_many_ends_the_run(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            for incarnation in (1, 2, 3):
                assert isinstance(await part(a, Part(0, incarnation)), Replacement)
            closed = await part(a, Part(0, 4))
            assert isinstance(closed, Closed)
            assert closed.reason.startswith("restart.budget is spent (3 restarts); rank 0 on node a")
            assert isinstance(await b.store.verdict(b.claim), Closed)

    asyncio.run(scenario())


def test_parts_without_a_charge_have_the_bound_of_all_free_restarts(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1), restart=replace(RESTART, free=Budget(max=1)))
            assert isinstance(await part(a, Part(0, 1), FREE), Replacement)
            closed = await part(a, Part(0, 2), FREE)
            assert isinstance(closed, Closed)
            assert closed.reason.startswith("restart.free is spent (1 uncharged restarts); rank 0")

    asyncio.run(scenario())


def test_a_part_of_a_round_that_is_over_is_not_replaced(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            await fail(b)
            said = await part(a, Part(0, 1))
            assert isinstance(said, Restart)
            assert (said.round, said.remaining) == (1, 2)
            await asyncio.gather(a.sit(), b.sit())
            await b.store.leave(b.claim, "had enough")
            assert isinstance(await part(a, Part(0, 1)), Superseded)

    asyncio.run(scenario())


def test_a_server_without_memory_is_given_the_seat_back_before_a_part_is_replaced(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            await forget(run)
            assert isinstance(await part(a, Part(0, 1)), Replacement)
            assert isinstance(await b.store.renew(b.claim), Standing)

    asyncio.run(scenario())


def test_an_excluded_node_is_charged_for_and_refused_from_then_on(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2))
            verdict = await fail(b, EXCLUDE)
            assert isinstance(verdict, Restart)
            assert (verdict.charged, verdict.remaining) == (True, 2)
            assert isinstance(await a.store.verdict(a.claim), Restart)
            why = "rank 0 on node b: exit code 3"
            assert await b.store.verdict(b.claim) == Refused(why)
            await b.store.leave(b.claim, "excluded")
            assert (await a.sit()).size == 1
            b_again = await run.member("b", (1, 2))
            assert await b_again.join() == Refused(why)

    asyncio.run(scenario())


def test_a_retry_that_becomes_an_exclusion_is_charged_once_and_two_can_be_excluded(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b, c = await run.seated("abc", (1, 3), restart=OWN)
            await fail(a, rule=1)
            severe = await fail(b, EXCLUDE)
            assert isinstance(severe, Restart)
            assert severe.cause is not None
            assert (severe.cause["node"], severe.id) == ("b", "1#1")
            await fail(c, EXCLUDE)
            assert isinstance(await b.store.verdict(b.claim), Refused)
            assert isinstance(await c.store.verdict(c.claim), Refused)
            assert isinstance(await a.store.verdict(a.claim), Restart)
            for other in (b, c):
                await other.store.leave(other.claim, "excluded")
            assert (await a.sit()).charged == 1

    asyncio.run(scenario())


def test_progress_since_the_last_charge_lets_budgets_begin_anew(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            restart = replace(RESTART, budget=Budget(max=1), progress=ProgressPolicy(refill=True))
            (a,) = await run.seated("a", (1, 1), restart=restart)
            for step in (5, 9, 12):
                a.claim = replace(a.claim, step=step)
                verdict = await fail(a)
                assert isinstance(verdict, Restart), step
                assert verdict.remaining == 0
                await a.sit()
            assert a.claim.charged == 3
            a.claim = replace(a.claim, step=12)
            closed = await fail(a)
            assert isinstance(closed, Closed)
            assert closed.reason.startswith("restart.budget is spent (1 restarts)")

    asyncio.run(scenario())


def test_a_refill_survives_a_server_that_loses_its_memory(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            restart = replace(RESTART, budget=Budget(max=2, per_s=600), progress=ProgressPolicy(refill=True))
            (a,) = await run.seated("a", (1, 1), restart=restart)
            memory = Memory()
            memory.seated(await a.ask(), 0.0)  # type: ignore[arg-type]  # it is seated
            for step in (3, 3, 4):
                memory.got_to(step)
                a.claim = memory.claim(0.0)
                verdict = await fail(a)
                assert isinstance(verdict, Restart)
                memory.restarting(verdict, 0.0)
                await forget(run)
                a.claim = memory.claim(0.0)
                memory.seated(await a.sit(), 0.0)
            a.claim = memory.claim(0.0)
            assert (a.claim.ledger.forgiven, a.claim.charged, memory.spent) == (2, 3, 1)
            assert isinstance(await fail(a), Restart), "one is left, by what its members know"

    asyncio.run(scenario())


def test_restarts_in_a_row_without_progress_end_the_run(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            restart = replace(RESTART, budget=Budget(max=None), progress=ProgressPolicy(max_stalled=2))
            (a,) = await run.seated("a", (1, 1), restart=restart)
            for step in (5, 6, 6):  # it got further once
                a.claim = replace(a.claim, step=step)
                assert isinstance(await fail(a), Restart)
                await a.sit()
            a.claim = replace(a.claim, step=6)
            closed = await fail(a)
            assert isinstance(closed, Closed)
            assert closed.reason.startswith("2 restarts in a row without progress beyond step 5; rank 0 on node a")

    asyncio.run(scenario())


def test_the_highest_step_of_any_member_counts(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            restart = replace(RESTART, progress=ProgressPolicy(max_stalled=1))
            a, b = await run.seated("ab", (2, 2), restart=restart)
            await fail(a)
            await asyncio.gather(a.sit(), b.sit())
            b.claim = replace(b.claim, step=7)
            await b.store.renew(b.claim)
            assert isinstance(await fail(a), Restart), "the run has got further, whoever failed"
            await asyncio.gather(a.sit(), b.sit())
            closed = await fail(a)
            assert isinstance(closed, Closed)
            assert "without progress beyond step 6" in closed.reason

    asyncio.run(scenario())


def test_failures_that_are_ignored_are_told_with_the_success(server: Server) -> None:
    async def scenario(ignored: tuple[int, int], reason: str) -> None:
        async with world(server) as run:
            members = await run.seated("ab", (2, 2))
            for member, count in zip(members, ignored, strict=True):
                await member.store.done(replace(member.claim, ignored=count))
                said = await member.store.done(replace(member.claim, ignored=count))
            assert isinstance(said, Closed)
            assert (said.outcome, said.exit_code, said.reason) == (Outcome.SUCCEEDED, 0, reason)

    asyncio.run(scenario((0, 0), "all workers succeeded"))
    asyncio.run(scenario((1, 0), "all workers succeeded but 1, whose failures restart.rules ignore"))
    asyncio.run(scenario((1, 1), "all workers failed, which restart.rules ignore"))
