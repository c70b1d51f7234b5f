"""Single attempts: what each shows, how long it may take, and that no reply is ever taken for another command's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from orchestrator.core.lease import Attempt, Contact
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.scripts import Script
from tests.edge import servers
from tests.edge.proxy import Proxy, deaf_port
from tests.edge.servers import PATIENCE_S, Server, eventually

own_server = servers.own_server

ECHO = Script("echo", "return ARGV[1]", "10d15cd2f5fd4be8e1ee9d7e5ec3e6d3a7aaf26d")  # an unknown hash: EVAL follows
SLOW = Script("slow", "return {ARGV[1], string.rep('x', tonumber(ARGV[2]))}", "f" * 40)


def boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.fixture
def proxy(own_server: Server) -> Iterator[Proxy]:
    with Proxy(own_server.path) as standing:
        yield standing


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = Connection.from_url(url)
    await connection.open(PATIENCE_S)
    try:
        yield connection
    finally:
        await connection.close()


async def echo(connection: Connection, word: str, attempts: list[Attempt], within_s: float | None = None) -> object:
    return await connection.call(ECHO, [], [word], within_s=within_s, on_attempt=attempts.append)


def shown(attempts: list[Attempt]) -> list[Contact]:
    return [attempt.contact for attempt in attempts]


def test_an_answered_attempt_tells_when_it_was_sent(proxy: Proxy) -> None:
    async def scenario() -> None:
        async with connected(proxy.url) as connection:
            attempts: list[Attempt] = []
            before = boot_s()
            assert await echo(connection, "a", attempts) == "a"
            (attempt,) = attempts
            assert attempt.contact is Contact.ANSWERED
            assert before <= attempt.at_s <= boot_s()

    asyncio.run(scenario())


def test_silence_on_an_open_connection_is_no_evidence_and_on_a_fresh_one_it_is(proxy: Proxy) -> None:
    async def scenario() -> None:
        async with connected(proxy.url) as connection:
            attempts: list[Attempt] = []
            proxy.freeze()
            asking = asyncio.create_task(echo(connection, "a", attempts, within_s=0.1))
            await eventually(lambda: asyncio.sleep(0, attempts), lambda heard: len(heard) >= 3)
            proxy.flow()
            assert await asking == "a"
            assert shown(attempts)[:2] == [Contact.SILENT, Contact.AWAY]
            assert attempts[-1].contact is Contact.ANSWERED
            assert [attempt.at_s for attempt in attempts] == sorted(attempt.at_s for attempt in attempts)

    asyncio.run(scenario())


def test_after_silence_on_a_fresh_connection_later_attempts_have_twice_as_long(proxy: Proxy) -> None:
    async def scenario() -> None:
        async with connected(f"{proxy.url}?socket_timeout=0.4") as connection:
            attempts: list[Attempt] = []
            proxy.freeze()
            asking = asyncio.create_task(echo(connection, "a", attempts, within_s=0.1))
            await eventually(lambda: asyncio.sleep(0, attempts), lambda heard: len(heard) >= 6)
            proxy.flow()
            assert await asking == "a"
            took = [after.at_s - before.at_s for before, after in pairwise(attempts[:6])]
            for seconds, least in zip(took, (0.1, 0.1, 0.2, 0.2, 0.2), strict=True):
                assert seconds >= least
            assert took[0] < 0.2, "the first is not given more"

    asyncio.run(scenario())


def test_a_connection_that_cannot_be_made_in_time_is_no_evidence(own_server: Server) -> None:
    async def scenario() -> None:
        with Proxy(own_server.path) as proxy:
            async with connected(proxy.url) as connection:
                proxy.refuse()
                attempts: list[Attempt] = []
                asking = asyncio.create_task(echo(connection, "a", attempts, within_s=0.1))
                await eventually(lambda: asyncio.sleep(0, attempts), lambda heard: len(heard) >= 2)
                assert set(shown(attempts)) == {Contact.AWAY}
                asking.cancel()
        with deaf_port() as port:
            connection = Connection.from_url(f"redis://127.0.0.1:{port}")
            connection._opened = True  # as if it had been reached once
            attempts = []
            asking = asyncio.create_task(echo(connection, "a", attempts, within_s=0.1))
            await eventually(lambda: asyncio.sleep(0, attempts), lambda heard: len(heard) >= 2)
            assert set(shown(attempts)) == {Contact.SILENT}
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(scenario())


def test_a_reset_is_evidence(proxy: Proxy) -> None:
    async def scenario() -> None:
        async with connected(proxy.url) as connection:
            attempts: list[Attempt] = []
            proxy.reset()
            asking = asyncio.create_task(echo(connection, "a", attempts, within_s=1))
            await eventually(lambda: asyncio.sleep(0, attempts), lambda heard: len(heard) >= 3)
            proxy.flow()
            assert await asking == "a"
            assert set(shown(attempts)) == {Contact.AWAY, Contact.ANSWERED}

    asyncio.run(scenario())


def test_a_reply_that_comes_late_is_never_taken_for_the_next_commands(proxy: Proxy) -> None:
    async def scenario() -> None:
        async with connected(proxy.url) as connection:
            await echo(connection, "warm", [])
            proxy.freeze()
            late = asyncio.create_task(echo(connection, "late", [], within_s=0.1))
            attempts: list[Attempt] = []
            next_one = asyncio.create_task(echo(connection, "next", attempts, within_s=0.1))
            await eventually(lambda: asyncio.sleep(0, attempts), lambda heard: len(heard) >= 2)
            proxy.flow()  # what was held back arrives, on connections that nobody reads any more
            assert [await late, await next_one] == ["late", "next"]
            assert [await echo(connection, str(n), []) for n in range(20)] == [str(n) for n in range(20)]

    asyncio.run(scenario())


@pytest.mark.parametrize("after", [0, 1, 3, 5, 7, 300])
def test_a_reply_that_is_cut_in_half_is_asked_for_again_and_not_completed_by_the_next(proxy: Proxy, after: int) -> None:
    async def scenario() -> None:
        async with connected(proxy.url) as connection:
            await connection.call(SLOW, [], ["warm", "1"])
            attempts: list[Attempt] = []
            proxy.cut(after)
            reply = await connection.call(SLOW, [], ["whole", "500"], on_attempt=attempts.append)
            assert reply == ["whole", "x" * 500]
            assert proxy.cuts == 1
            assert shown(attempts) == [Contact.AWAY, Contact.ANSWERED]
            assert await echo(connection, "next", []) == "next"

    asyncio.run(scenario())


def test_whoever_waits_for_his_turn_is_not_held_up_by_one_who_gets_no_answer(proxy: Proxy) -> None:
    async def scenario() -> None:
        async with connected(proxy.url) as connection:
            proxy.freeze()
            patient_ones: list[Attempt] = []
            patient = asyncio.create_task(echo(connection, "patient", patient_ones))  # has five seconds
            attempts: list[Attempt] = []
            before = boot_s()
            hasty = asyncio.create_task(echo(connection, "hasty", attempts, within_s=0.1))
            await eventually(lambda: asyncio.sleep(0, attempts), lambda heard: len(heard) >= 2)
            proxy.flow()
            assert [await patient, await hasty] == ["patient", "hasty"]
            assert boot_s() - before < 4
            assert attempts[0].contact is Contact.SILENT
            assert patient_ones[0].contact is Contact.SILENT, "it was given up; that shows nothing"

    asyncio.run(scenario())


def test_a_command_that_is_cancelled_leaves_no_reply_behind(proxy: Proxy) -> None:
    async def scenario() -> None:
        async with connected(proxy.url) as connection:
            proxy.freeze()
            asking = asyncio.create_task(echo(connection, "cancelled", []))
            await asyncio.sleep(0.05)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            proxy.flow()
            assert await echo(connection, "next", []) == "next"

    asyncio.run(scenario())
