"""An agent that dies, or is cut off, at any step of any command: the group goes on, and nothing counts twice."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from orchestrator.core.policies import RuleAction
from orchestrator.core.result import Ending
from orchestrator.core.words import Outcome
from orchestrator.edge.redis.scripts import script
from tests.chaos.lag import lag
from tests.chaos.light import Crowd, LightAgent, crowd, together, when
from tests.chaos.scissors import Scissors, Step, scissors
from tests.edge import servers
from tests.edge.servers import PATIENCE_S, Server, World, failure, world

server = servers.server

COMMANDS = ("join", "seat", "renew", "fail", "done", "verdict", "leave", "close")
LEASE_S = 1.0
LONG_S = 3.0  # where nobody's lease, and no last call, may run out
SLACK_S = 0.2 + 0.5  # DESIGN 5's, and what a busy machine may take for a moment
STOPPED = Ending(outcome=Outcome.STOPPED, exit_code=143, reason="it says so")


class Trio:
    """Two light agents behind no proxy, ``a`` and ``b``, and one behind scissors, ``m``."""

    def __init__(self, group: Crowd, cutter: Scissors) -> None:
        self.group, self.cutter = group, cutter

    async def meet(self, command: str, step: Step, *, deadly: bool, lease_s: float) -> None:
        """All are in the first round, or on their way to it, and the scissors are armed."""
        self.m, self.a, self.b = [
            await self.group.agent(
                name, (2, 3), url=url, lease_s=lease_s, last_call_s=0.1 * lease_s if deadly else lease_s, scale_up_s=0.1
            )
            for name, url in {"m": self.cutter.url, "a": None, "b": None}.items()
        ]
        early = command in ("join", "seat")
        if early:
            self.cutter.arm(command, step, deadly=deadly)
        self.m.begin()
        if command == "seat":  # who joins last has its seat at once, and need not ask
            await when(self.m.store._joined.is_set)
        for agent in (self.a, self.b):
            agent.begin()
        if not early:
            await together([self.m, self.a, self.b])
            self.cutter.arm(command, step, deadly=deadly)

    async def say(self, command: str) -> None:
        """``m`` says it, if it does not do so by itself."""
        m, store = self.m, self.m.store
        match command:
            case "fail":
                await store.fail(m.membership.claim, RuleAction.RETRY, 0.0, 1, failure("m"))
                m.again()
            case "done":
                await m.membership.reporting.success()
            case "verdict":
                await store.verdict(m.membership.claim)
            case "leave":
                await m.leave()
            case "close":
                await store.close(m.membership.claim, STOPPED.outcome, STOPPED.exit_code, STOPPED.reason, None)

    async def finish(self, agents: list[LightAgent]) -> None:
        """These succeed, and the run with them."""
        for agent in agents:
            await agent.membership.reporting.success()
        await when(lambda: all(agent.ended for agent in (self.a, self.b)))
        assert {agent.ending.outcome for agent in (self.a, self.b) if agent.ending} == {Outcome.SUCCEEDED}


async def trio(run: World, stack: AsyncExitStack) -> Trio:
    group = await stack.enter_async_context(crowd(run))
    return Trio(group, await stack.enter_async_context(scissors(run.server)))


async def dies(server: Server, command: str, step: Step) -> None:
    async with world(server) as run, AsyncExitStack() as stack:
        three = await trio(run, stack)
        await three.meet(command, step, deadly=True, lease_s=LEASE_S)
        saying = asyncio.create_task(three.say(command))
        async with asyncio.timeout(PATIENCE_S):
            await three.cutter.cut.wait()
        saying.cancel()
        await asyncio.wait([saying])
        await three.m.die()
        a, b, gone = three.a, three.b, step.executed
        if command == "close" and gone:
            await when(lambda: a.ended and b.ended)
            assert [agent.ending.exit_code for agent in (a, b) if agent.ending] == [143, 143]
            return
        if command == "done" and gone:  # who had reported is no loss
            await three.finish([a, b])
            assert [len(agent.seats) for agent in (a, b)] == [1, 1]
            return
        if command not in ("join", "seat"):
            with lag() as machine:
                await when(lambda: all(agent.seat is None or agent.seat.round > 1 for agent in (a, b)))
                assert time.monotonic() - (three.cutter.cut_at or 0) <= LEASE_S + SLACK_S + 3 * machine.s
        await together([a, b])
        assert {agent.seats[-1].charged for agent in (a, b)} == {int(command == "fail" and gone)}
        await three.finish([a, b])


async def loses_its_connection(server: Server, command: str, step: Step) -> None:
    async with world(server) as run, AsyncExitStack() as stack:
        three = await trio(run, stack)
        await three.meet(command, step, deadly=False, lease_s=LONG_S)
        await three.say(command)
        async with asyncio.timeout(PATIENCE_S):
            await three.cutter.cut.wait()
        m, a, b = three.m, three.a, three.b
        if command == "close":
            await when(lambda: all(agent.ended for agent in (a, b, m)))
            assert [agent.ending.exit_code for agent in (a, b, m) if agent.ending] == [143] * 3
            return
        if command == "leave":
            assert await together([a, b]) == 2
            return
        number = await together([m, a, b])
        assert number == (2 if command == "fail" else 1), "no other round than those that are needed"
        assert {agent.seats[-1].charged for agent in (m, a, b)} == {int(command == "fail")}
        await three.finish([a, b] if command == "done" else [m, a, b])


def know_the_scripts(server: Server) -> None:
    """Have all commands known by their hashes, which is what the scissors look for."""
    import redis  # noqa: PLC0415 - the only place

    with redis.Redis.from_url(server.url) as client:
        for command in COMMANDS:
            assert client.script_load(script(command).source) == script(command).sha


@pytest.mark.parametrize("command", COMMANDS)
def test_an_agent_that_dies_at_any_step_of_a_command_is_survived(server: Server, command: str) -> None:
    know_the_scripts(server)

    async def scenario() -> None:
        await asyncio.gather(*(dies(server, command, step) for step in Step))

    asyncio.run(scenario())


@pytest.mark.parametrize("command", COMMANDS)
def test_an_agent_that_loses_its_connection_at_any_step_says_it_again_and_it_counts_once(
    server: Server, command: str
) -> None:
    know_the_scripts(server)

    async def scenario() -> None:
        await asyncio.gather(*(loses_its_connection(server, command, step) for step in Step))

    asyncio.run(scenario())
