"""The model runs what production sends: only the clock is another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from orchestrator.core.rendezvous import Claim, Seat
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.scripts import library, script
from tests.edge.servers import PATIENCE_S, Server, binary_of
from tests.model.history import Rules
from tests.model.virtual import PROLOGUE, finish
from tests.model.world import EPOCH_MS, World

Words = tuple[str | int, ...]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server(binary_of("valkey"))
    running.start()
    yield running
    running.stop()


def test_what_is_sent_is_productions_but_for_the_clock(server: Server) -> None:
    world = World(server.url, Rules(minimum=1, maximum=1), pace_ms=0)
    agent = world.spawn("a")
    finish(agent.store.join(agent.bid, Claim()))
    virtual = world.connection.sent
    world.close()
    real: list[Words] = []

    async def production() -> None:
        connection = Connection.from_url(server.url)
        await connection.open(PATIENCE_S)
        ask = connection._commands.first_known

        async def recorded(*commands: Words, within_s: float | None = None) -> object:
            real.extend(commands)
            return await ask(*commands, within_s=within_s)

        connection._commands.first_known = recorded  # type: ignore[method-assign,assignment]  # to see what is sent
        agent.store.connection = connection
        await agent.store.join(agent.bid, Claim())
        await connection.close()

    asyncio.run(production())
    by_hash, by_source = (next(words for words in reversed(real) if words[0] == how) for how in ("EVALSHA", "EVAL"))
    assert by_hash[1] == script("join").sha
    assert by_source[1] == script("join").source
    assert virtual[2:] == (*by_source[2:], world.server_ms)
    assert world.connection.texts["join"] == PROLOGUE + str(by_source[1])


def test_the_prologue_is_one_line_and_the_clock_has_one_reader() -> None:
    assert PROLOGUE.count("\n") == 1
    assert library().count("'TIME'") == 1
    assert "redis.call(" not in library(), "the library calls by its local, which the prologue has shadowed"


def test_time_is_what_the_world_says(server: Server) -> None:
    world = World(server.url, Rules(minimum=1, maximum=1), pace_ms=0)
    agent = world.spawn("a")
    reply = finish(agent.store.join(agent.bid, Claim()))
    assert isinstance(reply, Seat)
    assert reply.token == EPOCH_MS
    assert world.now.leases == {"a": EPOCH_MS + 6000}
    world.true_ms += 1500
    finish(agent.store.renew(reply.claim()))
    assert world.now.leases == {"a": EPOCH_MS + 7500}
    world.close()
