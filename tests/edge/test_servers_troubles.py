"""Whatever becomes of the server while a run goes on: commands wait, and the round stands."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest

from orchestrator.core.lease import Attempt, Contact
from orchestrator.core.rendezvous import RenewReply, Standing
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.scripts import Script, script
from tests.edge import servers
from tests.edge.proxy import Proxy
from tests.edge.servers import PATIENCE_S, Member, Server, binary_of, eventually, kinds, world
from tests.edge.test_rendezvous_connection import free_port

own_server = servers.own_server

Do = Callable[[], object]


@pytest.fixture(params=kinds())
def durable_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that keeps what it is told."""
    running = Server(binary_of(request.param), "--appendonly", "yes", "--appendfsync", "always")
    running.start()
    yield running
    running.stop()


@dataclass
class Run:
    """A settled run of two agents, and what one of them hears of its server."""

    a: Member
    b: Member
    connection: Connection
    attempts: list[Attempt] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    back: list[bool] = field(default_factory=list)

    async def renew(self, within_s: float = 0.3) -> RenewReply:
        """As the lease is kept: short attempts, and each is heard of."""
        store = self.a.store
        caller = store._caller(self.a.claim)
        await self.connection.call(
            script("renew"), store._keys, caller, within_s=within_s, on_attempt=self.attempts.append
        )
        return await store.renew(self.a.claim)

    @property
    def shown(self) -> set[Contact]:
        return {attempt.contact for attempt in self.attempts}


@asynccontextmanager
async def settled(server: Server, url: str = "") -> AsyncIterator[Run]:
    async with world(server) as there:
        lost: list[str] = []
        back: list[bool] = []
        connection = there.connection(url or server.url, on_lost=lost.append, on_back=lambda: back.append(True))
        await connection.open(PATIENCE_S)
        a = await there.member("a", (2, 2), connection=connection)
        b = await there.member("b", (2, 2))
        await asyncio.gather(a.sit(), b.sit())
        yield Run(a, b, connection, lost=lost, back=back)


async def trouble(run: Run, begin: Do, end: Do, attempts: int = 3) -> None:
    """Whatever ``begin`` does, a renewal waits for ``end``, and then the round stands as it did for everyone."""
    begin()
    renewal = asyncio.create_task(run.renew())
    await eventually(lambda: asyncio.sleep(0, run.attempts), lambda heard: len(heard) >= attempts)
    assert not renewal.done()
    end()
    assert isinstance(await asyncio.wait_for(renewal, PATIENCE_S), Standing)
    assert isinstance(await run.b.store.renew(run.b.claim), Standing)
    assert run.attempts[-1].contact is Contact.ANSWERED
    assert run.lost
    await eventually(lambda: asyncio.sleep(0, run.back), lambda heard: len(heard) == len(run.lost))


def ok(server: Server, *words: str) -> None:
    said = server.say(*words)
    assert said.startswith(b"+OK"), said


def config(server: Server, name: str, value: str) -> None:
    ok(server, "CONFIG", "SET", name, value)


def converse(server: Server, *commands: bytes) -> None:
    """Several commands over one connection."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(PATIENCE_S)
        link.connect(server.path)
        for command in commands:
            link.sendall(command + b"\r\n")
            said = link.recv(1000)
            assert said.startswith((b"+OK", b":")), said


def kill_clients(server: Server) -> None:
    server.say("CLIENT", "KILL", "TYPE", "normal")


def test_killed_and_back_with_its_data(durable_server: Server) -> None:
    async def scenario() -> None:
        async with settled(durable_server) as run:
            await trouble(run, durable_server.kill, durable_server.start)
            assert run.shown == {Contact.AWAY, Contact.ANSWERED}

    asyncio.run(scenario())


def test_forgotten_scripts_are_sent_again(own_server: Server) -> None:
    async def scenario() -> None:
        async with settled(own_server) as run:
            for _ in range(3):
                ok(own_server, "SCRIPT", "FLUSH")
                assert isinstance(await run.renew(), Standing)
            assert (run.shown, run.lost) == ({Contact.ANSWERED}, [])

    asyncio.run(scenario())


def test_every_connection_killed(own_server: Server) -> None:
    async def scenario() -> None:
        async with settled(own_server) as run:
            notices = run.a.store.notices()
            await anext(notices)
            listening = asyncio.ensure_future(anext(notices))
            for _ in range(3):
                kill_clients(own_server)
                assert isinstance(await run.renew(), Standing)
            assert Contact.SILENT not in run.shown
            await run.b.store.leave(run.b.claim, "over")
            await asyncio.wait_for(listening, PATIENCE_S)  # nothing was missed
            await notices.aclose()  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_read_only_after_a_failover(own_server: Server) -> None:
    async def scenario() -> None:
        async with settled(own_server) as run:
            notices = run.a.store.notices()
            await anext(notices)
            listening = asyncio.ensure_future(anext(notices))
            await eventually(
                lambda: asyncio.to_thread(own_server.say, "INFO", "clients"),
                lambda said: b"\nblocked_clients:1" in said,
            )
            demote = partial(ok, own_server, "REPLICAOF", "127.0.0.1", str(free_port()))
            await trouble(run, demote, partial(ok, own_server, "REPLICAOF", "NO", "ONE"))
            assert run.shown == {Contact.AWAY, Contact.ANSWERED}
            assert re.search("READONLY|UNBLOCKED", run.lost[0]), "also what waits for news is turned away"
            assert not listening.done()
            await run.b.store.leave(run.b.claim, "over")
            await asyncio.wait_for(listening, PATIENCE_S)
            await notices.aclose()  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_paused(own_server: Server) -> None:
    async def scenario() -> None:
        async with settled(own_server) as run:
            pause = partial(ok, own_server, "CLIENT", "PAUSE", "1500", "ALL")  # it would not hear of an end
            await trouble(run, pause, lambda: None)
            contacts = [attempt.contact for attempt in run.attempts]
            assert contacts[:3] == [Contact.SILENT, Contact.AWAY, Contact.AWAY], "fresh connections show it"

    asyncio.run(scenario())


def test_out_of_memory(own_server: Server) -> None:
    """A script that has freed something may go on; one that begins by storing waits for memory."""

    async def scenario() -> None:
        async with settled(own_server) as run:
            config(own_server, "maxmemory-policy", "noeviction")
            config(own_server, "maxmemory", "1")
            key = f"orchestrator:{{{run.a.store.run_id}}}:x"
            store = Script("store", "return redis.call('SET', KEYS[1], 'x')", "f" * 40)
            storing = asyncio.create_task(run.connection.call(store, [key], [], on_attempt=run.attempts.append))
            await eventually(lambda: asyncio.sleep(0, run.attempts), lambda heard: len(heard) >= 3)
            assert not storing.done()
            assert run.shown == {Contact.AWAY}
            assert "OOM" in run.lost[0]
            renewal = asyncio.create_task(run.renew())
            config(own_server, "maxmemory", "0")
            await asyncio.wait_for(storing, PATIENCE_S)
            assert isinstance(await asyncio.wait_for(renewal, PATIENCE_S), Standing)

    asyncio.run(scenario())


def test_a_password_that_is_changed_while_the_run_goes_on(own_server: Server) -> None:
    def begin() -> None:
        converse(own_server, b"CONFIG SET requirepass changed", b"AUTH changed", b"CLIENT KILL TYPE normal")

    async def scenario() -> None:
        async with settled(own_server) as run:
            end = partial(converse, own_server, b"AUTH changed", b"CONFIG SET requirepass ''")
            await trouble(run, begin, end)
            assert run.shown == {Contact.AWAY, Contact.ANSWERED}
            assert any("refuses the user name or password" in reason for reason in (*run.lost, run.connection._reason))

    asyncio.run(scenario())


def test_too_many_clients(own_server: Server) -> None:
    async def scenario() -> None:
        async with settled(own_server) as run:
            kill_clients(own_server)
            hog = await asyncio.open_unix_connection(own_server.path)
            ok(own_server, "CONFIG", "SET", "maxclients", "1")
            renewal = asyncio.create_task(run.renew())
            await eventually(lambda: asyncio.sleep(0, run.attempts), lambda heard: len(heard) >= 3)
            assert run.shown == {Contact.AWAY}
            hog[1].close()
            assert isinstance(await asyncio.wait_for(renewal, PATIENCE_S), Standing)

    asyncio.run(scenario())


@pytest.mark.parametrize("after", [1, 12, 40])
def test_a_reply_cut_in_half(own_server: Server, after: int) -> None:
    async def scenario() -> None:
        with Proxy(own_server.path) as proxy:
            async with settled(own_server, proxy.url) as run:
                for _ in range(3):
                    proxy.cut(after)
                    assert isinstance(await run.renew(), Standing)
                assert run.shown <= {Contact.AWAY, Contact.ANSWERED}

    asyncio.run(scenario())


def test_no_answer_at_all_on_an_open_connection(own_server: Server) -> None:
    async def scenario() -> None:
        with Proxy(own_server.path) as proxy:
            async with settled(own_server, proxy.url) as run:
                await trouble(run, proxy.freeze, proxy.flow)
                assert run.attempts[0].contact is Contact.SILENT

    asyncio.run(scenario())


def test_refused_and_reset_by_turns(own_server: Server) -> None:
    async def scenario() -> None:
        with Proxy(own_server.path) as proxy:
            async with settled(own_server, proxy.url) as run:
                await trouble(run, proxy.refuse, proxy.flow)
                await trouble(run, proxy.reset, proxy.flow, 9)
                assert run.shown == {Contact.AWAY, Contact.ANSWERED}

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", kinds())
def test_down_at_start(kind: str) -> None:
    async def scenario() -> None:
        port = free_port()
        late = Server(binary_of(kind), "--port", str(port), "--bind", "127.0.0.1")
        try:
            async with world(late) as there:
                connections = [there.connection(f"redis://127.0.0.1:{port}") for _ in "ab"]
                opening = asyncio.gather(*(connection.open(PATIENCE_S) for connection in connections))
                await asyncio.sleep(0)
                assert not opening.done()
                late.start()
                await opening
                a, b = [
                    await there.member(node, (2, 2), connection=connection)
                    for node, connection in zip("ab", connections, strict=True)
                ]
                assert {seat.round for seat in await asyncio.gather(a.sit(), b.sit())} == {1}
        finally:
            late.stop()

    asyncio.run(scenario())
