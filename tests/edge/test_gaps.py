"""What watchdogs learn is the run's: on real servers, through restarts of agents, and when a server forgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator.core.learning import SILENCE, Gaps, Learning, stay_in
from orchestrator.core.policies import LearnPolicy
from orchestrator.core.rendezvous import Claim
from orchestrator.core.words import Outcome
from orchestrator.edge import learner as learner_module
from orchestrator.edge.learner import Learner
from orchestrator.edge.redis.arguments import LIMITS_TOLD
from orchestrator.errors import RendezvousError
from tests.edge import servers
from tests.edge.servers import Member, Server, World, eventually, world
from tests.edge.test_rendezvous_restoring import forget, key

server, own_server = servers.server, servers.own_server

POLICY = LearnPolicy(factor=3, after=4, floor_s=2)
SAVE = stay_in("save")


def learning() -> Learning:
    return Learning(POLICY, {SILENCE: 30, SAVE: 100})


def taught(gap_s: float = 3) -> Learning:
    found = learning()
    for _ in range(POLICY.after):
        found.saw(SILENCE, 0, gap_s)
    return found


# -- the command


def test_of_each_number_the_largest_that_any_agent_has_told_is_known_to_all(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            assert await a.store.gaps(a.claim, {}) == {}
            for _ in range(2):  # said again, it is the same
                assert await a.store.gaps(a.claim, {SILENCE: Gaps(5, 1, 9)}) == {SILENCE: Gaps(5, 1, 9)}
            both = {SILENCE: Gaps(5, 2.5, 9), SAVE: Gaps(60, 50, 2)}
            assert await b.store.gaps(b.claim, {SILENCE: Gaps(4, 2.5, 4), SAVE: Gaps(60, 50, 2)}) == both
            assert await a.store.gaps(a.claim, {}) == both
            stranger = await run.member("c", (2, 2))
            assert await stranger.store.gaps(Claim(), {}) == both, "who only asks need not have a seat"

    asyncio.run(scenario())


def test_it_lives_as_long_as_the_run_and_for_a_day_after_it(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            await a.store.gaps(a.claim, {SILENCE: Gaps(5, 1, 9)})
            assert 3000 < int(server.say("TTL", key(run, "gaps"))[1:]) <= 3600
            await a.store.close(a.claim, Outcome.FAILED, 1, "", None)
            assert 86000 < int(server.say("TTL", key(run, "gaps"))[1:]) <= 86400
            assert await a.store.gaps(a.claim, {SILENCE: Gaps(9, 9, 9)}) == {SILENCE: Gaps(5, 1, 9)}

    asyncio.run(scenario())


def test_a_group_that_is_not_there_leaves_no_key_behind(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            member = await run.member("a")
            assert await member.store.gaps(Claim(), {SILENCE: Gaps(5, 1, 9)}) == {}
            assert server.say("EXISTS", key(run, "gaps")) == b":0\r\n"

    asyncio.run(scenario())


def test_more_limits_than_a_run_keeps_stay_untold(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            many = {stay_in(f"{'s' * 60}{n:04}"): Gaps(1000.001, 1000, 10**9) for n in range(LIMITS_TOLD + 9)}
            assert len(await a.store.gaps(a.claim, many)) == LIMITS_TOLD
            assert len(await a.store.gaps(a.claim, {SILENCE: Gaps(1, 1, 1)})) == LIMITS_TOLD

    asyncio.run(scenario())


@pytest.mark.parametrize("row", ["a b c d", "a 1 2", "a 1 -2 3", "a 1 2 3 4", "a 1 2 99999999999999999999"])
def test_rows_without_sense_are_refused(server: Server, row: str) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            with pytest.raises(Exception, match="BADARG"):
                await a.store._call("gaps", a.claim, row)

    asyncio.run(scenario())


@pytest.mark.parametrize("reply", [None, [], ["gaps"], ["gaps", "a 1 2"], ["gaps", "a 1 2 x"], ["gaps", 7], ["up", ""]])
def test_a_reply_that_is_none_is_an_error(reply: object) -> None:
    from orchestrator.edge.redis.replies import gaps_reply  # noqa: PLC0415 - only here

    with pytest.raises(RendezvousError, match="not one that this version knows"):
        gaps_reply(reply)


# -- the learner


class Apprentice:
    """A learner that runs, what it knows, and what it has said."""

    def __init__(self, member: Member, known: Learning) -> None:
        self.known = known
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.commands = 0
        self._member = member
        self.learner = Learner(
            known, self._share, member.store.connection, lambda event, **fields: self.told.append((event, fields))
        )

    async def _share(self, known: Mapping[str, Gaps]) -> Mapping[str, Gaps]:
        self.commands += 1
        return await self._member.store.gaps(self._member.claim, known)


@asynccontextmanager
async def learning_of(member: Member, known: Learning) -> AsyncIterator[Apprentice]:
    found = Apprentice(member, known)
    task = asyncio.create_task(found.learner.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two commands."""
    monkeypatch.setattr(learner_module, "EVERY_S", 0.0)


async def told_by(run: World, member: Member) -> Mapping[str, Gaps]:
    return await member.store.gaps(member.claim, {})


async def until_known(run: World, member: Member) -> None:
    await eventually(lambda: told_by(run, member), bool)


def test_an_agent_that_comes_later_knows_what_the_run_has_learnt(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (2, 2))
            async with learning_of(a, taught()) as old, learning_of(b, learning()) as new:
                old.learner.turn()
                await until_known(run, a)
                new.learner.ask()
                await eventually(lambda: asyncio.sleep(0, new.told), bool)
                assert new.known.limits == {SILENCE: 9, SAVE: 100}
                assert new.told == [("limits_learned", {"limits": {SILENCE: 9, SAVE: 100}})]

    asyncio.run(scenario())


def test_what_changes_little_is_neither_sent_nor_told(server: Server, hasty: None) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            async with learning_of(a, taught()) as one:
                one.learner.turn()
                await until_known(run, a)
                await eventually(lambda: asyncio.sleep(0, one.known.news()), lambda news: not news)
                for n in range(100):
                    one.known.saw(SILENCE, 0, 3 + n / 1000)
                    one.learner.turn()
                    await asyncio.sleep(0)
                assert one.commands == 1
                assert one.told == []

    asyncio.run(scenario())


def test_a_server_that_has_lost_its_memory_is_told_again(own_server: Server, hasty: None) -> None:
    async def scenario() -> None:
        async with world(own_server) as run:
            (a,) = await run.seated("a", (1, 1))
            async with learning_of(a, taught()) as one:
                one.learner.turn()
                await until_known(run, a)
                await asyncio.to_thread(own_server.kill)
                await asyncio.to_thread(own_server.start)
                await a.store.renew(a.claim)
                one.learner.turn()
                await until_known(run, a)

    asyncio.run(scenario())


def test_what_one_server_forgets_of_one_run_is_told_with_the_next_round(server: Server, hasty: None) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            async with learning_of(a, taught()) as one:
                one.learner.turn()
                await until_known(run, a)
                await forget(run)
                await a.store.renew(a.claim)
                one.learner.ask()
                await until_known(run, a)

    asyncio.run(scenario())
