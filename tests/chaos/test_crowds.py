"""Many at once, and at the worst moment: joins, deaths, one name for several, a joiner while the round settles."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.chaos.lag import lag
from tests.chaos.light import crowd, together, when
from tests.edge import servers
from tests.edge.servers import Server, world

server = servers.server

LEASE_S = 1.0
LAST_CALL_S = 0.15
SLACK_S = 0.2 + 0.5  # DESIGN 5's, and what a busy machine may take for a moment


@pytest.mark.parametrize("nodes", [(50, 50), (2, 64)], ids=["all are awaited", "a last call ends it"])
def test_fifty_join_at_once_and_ten_of_them_die_at_once(server: Server, nodes: tuple[int, int]) -> None:
    async def scenario() -> None:
        async with world(server) as run, crowd(run) as group:
            low = nodes[0] - 10 if nodes[0] > 10 else nodes[0]
            agents = [await group.agent(f"n{i}", (low, nodes[1]), lease_s=LEASE_S, last_call_s=0.3) for i in range(50)]
            for agent in agents:
                agent.begin()
            first = await together(agents)
            assert first == 1, "one round for all"
            victims, survivors = agents[::5], [agent for i, agent in enumerate(agents) if i % 5]
            died = time.monotonic()
            with lag() as machine:
                await asyncio.gather(*(victim.die() for victim in victims))
                await when(lambda: all(agent.seat is None or len(agent.seats) > 1 for agent in survivors))
                assert time.monotonic() - died <= LEASE_S + SLACK_S + 3 * machine.s
            await together(survivors)
            kept = [agent.seats[-1].slot for agent in survivors if agent.seats[0].slot < 40]
            assert kept == [agent.seats[0].slot for agent in survivors if agent.seats[0].slot < 40], "ranks are sticky"

    asyncio.run(scenario())


def test_one_name_for_five_agents_at_the_same_moment_is_given_to_one_of_them(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run, crowd(run) as group:
            other = await group.agent("other", (2, 6), lease_s=LEASE_S)
            rivals = [await group.agent("same", (2, 6), lease_s=LEASE_S) for _ in range(5)]
            for agent in (other, *rivals):
                agent.begin()
            await when(lambda: sum(rival.ended for rival in rivals) == 4)
            (winner,) = [rival for rival in rivals if not rival.ended]
            await together([other, winner])
            assert other.seats[-1].round == 1, "the refused have disturbed nobody"
            for rival in rivals:
                if rival is not winner:
                    assert "node name 'same' belongs to a live agent (127.0.0.1 (agent " in rival.refusal
                    assert not rival.seats

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(4))
def test_who_joins_while_the_round_settles_is_in_it_or_in_the_next_one(server: Server, seed: int) -> None:
    """Twenty-five runs at once, each with a joiner some ms around the end of the last call."""
    draw = random.Random(seed)

    async def one(offset_s: float) -> int:
        async with world(server) as run, crowd(run) as group:
            a, b, late = [
                await group.agent(name, (2, 3), lease_s=5, last_call_s=LAST_CALL_S, scale_up_s=0.1) for name in "abc"
            ]
            a.begin()
            b.begin()
            await asyncio.sleep(offset_s)
            late.begin()
            return await together([a, b, late])

    async def scenario() -> None:
        rounds = await asyncio.gather(*(one(LAST_CALL_S + draw.uniform(-0.02, 0.04)) for _ in range(25)))
        assert set(rounds) <= {1, 2}, "nobody was lost, and nobody was disturbed twice"

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(2))
def test_who_joins_while_the_run_ends_hears_how_it_ended(server: Server, seed: int) -> None:
    draw = random.Random(seed)

    async def one(offset_s: float) -> None:
        async with world(server) as run, crowd(run) as group:
            a, b, late = [await group.agent(name, (2, 3), lease_s=5, last_call_s=0.05) for name in "abc"]
            a.begin()
            b.begin()
            await together([a, b])
            asyncio.get_running_loop().call_later(offset_s, late.begin)
            for agent in (a, b):
                await agent.membership.reporting.success()
                await asyncio.sleep(0.005)
            await when(lambda: all(agent.ended for agent in group.agents))
            ends = {agent.ending.exit_code if agent.ending else agent.refusal for agent in group.agents}
            assert ends == {0}

    async def scenario() -> None:
        await asyncio.gather(*(one(draw.uniform(0, 0.02)) for _ in range(25)))

    asyncio.run(scenario())
