"""The way to the server: patience while it is away, clear words when waiting cannot help."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.core.policies import RuleAction
from orchestrator.core.rendezvous import Closed, Restart, Settled, Standing, Superseded
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.scripts import script
from orchestrator.errors import RendezvousError
from tests.edge import servers
from tests.edge.servers import PATIENCE_S, Server, binary_of, eventually, failure, kinds, world

server, own_server = servers.server, servers.own_server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def refusal(url: str, within_s: float = PATIENCE_S) -> str:
    connection = Connection.from_url(url)
    with pytest.raises(RendezvousError) as caught:
        await connection.open(within_s)
    await connection.close()
    return str(caught.value)


@asynccontextmanager
async def peer(says: bytes) -> AsyncIterator[int]:
    """A TCP server that is none of ours: it answers everything with ``says``."""

    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(says)
        await reader.read(1000)
        writer.close()
        gone.set()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield int(listener.sockets[0].getsockname()[1])
        await asyncio.wait_for(gone.wait(), PATIENCE_S)
    finally:
        listener.close()


def test_a_round_stands_when_the_server_comes_back_empty(own_server: Server) -> None:
    async def scenario() -> None:
        lost: list[str] = []
        back: list[bool] = []
        async with world(own_server) as run:
            connection = run.connection(on_lost=lost.append, on_back=lambda: back.append(True))
            await connection.open(PATIENCE_S)
            a = await run.member("a", connection=connection)
            first = await a.sit()
            own_server.kill()
            renewal = asyncio.create_task(a.store.renew(a.claim))
            await eventually(lambda: asyncio.sleep(0, lost), bool)
            assert not renewal.done()
            own_server.start()
            assert isinstance(await asyncio.wait_for(renewal, PATIENCE_S), Standing)
            assert (len(lost), len(back)) == (1, 1)
            again = await a.sit()
            assert again.round == first.round + 1
            assert again.token > first.token

    asyncio.run(scenario())


def test_the_stream_is_taken_up_again_after_an_outage(own_server: Server) -> None:
    async def scenario() -> None:
        async with world(own_server) as run:
            (a,) = await run.seated("a", (1, 1))
            notices = a.store.notices()
            assert await anext(notices) == Settled(1)
            waiting = asyncio.ensure_future(anext(notices))
            own_server.kill()
            own_server.start()
            assert (await a.sit()).round == 2
            assert isinstance(await asyncio.wait_for(waiting, PATIENCE_S), Superseded)
            assert await asyncio.wait_for(anext(notices), PATIENCE_S) == Settled(2)
            await notices.aclose()  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_a_server_that_stays_away_is_given_up_after_the_grace(own_server: Server) -> None:
    async def scenario() -> None:
        async with world(own_server) as run:
            connection = run.connection(grace_s=0.3)
            await connection.open(PATIENCE_S)
            a = await run.member("a", connection=connection)
            await a.sit()
            own_server.kill()
            with pytest.raises(RendezvousError, match=r"away for 0\.3 s \(rendezvous\.server_grace_s\)"):
                await a.store.renew(a.claim)

    asyncio.run(scenario())


def test_a_frozen_server_makes_no_command_hang(own_server: Server) -> None:
    async def scenario() -> None:
        lost: list[str] = []
        async with world(own_server) as run:
            url = f"{own_server.url}?socket_timeout=0.3"
            connection = run.connection(url, on_lost=lost.append)
            await connection.open(PATIENCE_S)
            a = await run.member("a", connection=connection)
            await a.sit()
            assert own_server.process is not None
            own_server.process.send_signal(signal.SIGSTOP)
            renewal = asyncio.create_task(a.store.renew(a.claim))
            await eventually(lambda: asyncio.sleep(0, lost), bool)
            assert "Timeout" in lost[0]
            own_server.process.send_signal(signal.SIGCONT)
            assert isinstance(await asyncio.wait_for(renewal, PATIENCE_S), Standing)

    asyncio.run(scenario())


class LossyProxy:
    """Stands between an agent and its server; when told to, it loses one reply and hangs up."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.path = f"{target}-lossy"
        self.lose = False
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._target)
        try:
            while request := await reader.read(1_000_000):
                upstream_writer.write(request)
                reply = await upstream_reader.read(1_000_000)
                if self.lose and not reply.startswith(b"-NOSCRIPT"):
                    self.lose, self.lost = False, self.lost + 1
                    break
                writer.write(reply)
        finally:
            for end in (writer, upstream_writer):
                end.close()


def test_a_reply_that_is_lost_changes_nothing_when_the_command_is_sent_again(server: Server) -> None:
    async def scenario() -> None:
        proxy = LossyProxy(server.path)
        listener = await asyncio.start_unix_server(proxy.serve, proxy.path)
        async with world(server) as run:
            connection = run.connection(f"unix://{proxy.path}")
            await connection.open(PATIENCE_S)
            a = await run.member("a", connection=connection)
            proxy.lose = True
            assert (await a.sit()).round == 1
            proxy.lose = True
            verdict = await a.store.fail(a.claim, RuleAction.RETRY, 0, 1, failure())
            assert isinstance(verdict, Restart)
            assert verdict.remaining == 2
            seat = await a.sit()
            assert (seat.round, seat.charged) == (2, 1)
            proxy.lose = True
            closed = await a.store.done(a.claim)
            assert isinstance(closed, Closed)
            assert proxy.lost == 3
            await connection.close()
        listener.close()

    asyncio.run(scenario())
    Path(f"{server.path}-lossy").unlink()


def test_a_server_that_starts_late_is_waited_for() -> None:
    async def scenario() -> None:
        late = Server(binary_of("valkey"))
        try:
            async with world(late) as run:
                connection = run.connection()
                opening = asyncio.create_task(connection.open(PATIENCE_S))
                await asyncio.sleep(0.05)
                assert not opening.done()
                late.start()
                await opening
                await connection.open(PATIENCE_S)  # once is enough
                assert connection.local_addr == "127.0.0.1"
        finally:
            late.stop()

    asyncio.run(scenario())


def test_no_server_is_said_with_address_limit_and_reason() -> None:
    port = free_port()
    text = asyncio.run(refusal(f"redis://u:geheim@127.0.0.1:{port}/0", within_s=0.2))
    assert f"no server at redis://u:***@127.0.0.1:{port}/0 within 0.2 s" in text
    assert "geheim" not in text
    assert text.endswith(": connection refused")


@pytest.mark.parametrize("kind", kinds())
def test_a_wrong_password_is_said_at_once_and_not_shown(kind: str) -> None:
    port = free_port()
    running = Server(binary_of(kind), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", "right")
    running.start()
    try:
        for url in (f"redis://:wrong@127.0.0.1:{port}", f"redis://127.0.0.1:{port}"):
            text = asyncio.run(refusal(url))
            assert "it refuses the user name or password" in text
            assert "wrong@" not in text

        async def welcome() -> None:
            connection = Connection.from_url(f"redis://:right@127.0.0.1:{port}/3")
            await connection.open(PATIENCE_S)
            assert connection.local_addr == "127.0.0.1"
            await connection.close()
            assert connection.address.greeting() == (("AUTH", "right"), ("SELECT", 3))
            assert connection.will_address() == {"host": "127.0.0.1", "port": port, "tls": False}

        asyncio.run(welcome())
    finally:
        running.stop()


def test_a_server_that_does_not_answer_at_first_is_told_of_before_patience_ends() -> None:
    async def scenario() -> None:
        lost: asyncio.Queue[str] = asyncio.Queue()
        back = asyncio.Event()
        port = free_port()
        connection = Connection.from_url(f"redis://127.0.0.1:{port}", on_lost=lost.put_nowait, on_back=back.set)
        opening = asyncio.ensure_future(connection.open(PATIENCE_S))
        assert await asyncio.wait_for(lost.get(), PATIENCE_S) == "connection refused"
        late = Server(binary_of("valkey"), "--port", str(port), "--bind", "127.0.0.1")
        late.start()
        try:
            await opening
            assert back.is_set()
            await connection.close()
        finally:
            late.stop()

    asyncio.run(scenario())


def test_a_last_word_to_a_server_that_was_never_reached_does_not_wait() -> None:
    async def scenario() -> None:
        connection = Connection.from_url(f"redis://127.0.0.1:{free_port()}")
        with pytest.raises(RendezvousError, match="never reached"):
            await asyncio.wait_for(connection.call(script("renew"), [], []), PATIENCE_S)

    asyncio.run(scenario())


def test_what_does_not_speak_redis_is_said_at_once() -> None:
    async def scenario() -> str:
        async with peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
            return await refusal(f"redis://127.0.0.1:{port}")

    assert "does not speak the Redis protocol" in asyncio.run(scenario())


def test_a_silent_peer_is_given_up_in_time() -> None:
    async def scenario() -> str:
        async with peer(b"") as port:
            return await refusal(f"redis://127.0.0.1:{port}", within_s=0.2)

    assert "within 0.2 s" in asyncio.run(scenario())


def test_an_unknown_host_is_said_at_once() -> None:
    assert "no such host" in asyncio.run(refusal("redis://no-such-host.invalid:6379", within_s=10))


def test_an_agent_has_two_connections_at_most(own_server: Server) -> None:
    async def scenario() -> None:
        async with world(own_server) as run:
            (a,) = await run.seated("a", (1, 1))
            listening = asyncio.ensure_future(anext(a.store.notices()))
            await asyncio.gather(*(a.store.renew(a.claim) for _ in range(20)))
            await listening
            links = own_server.say("CLIENT", "LIST").count(b"id=")
            assert links == 2 + 1  # and the one that asks

    asyncio.run(scenario())


def test_redis_is_not_imported_with_the_package() -> None:
    code = "import sys, orchestrator, orchestrator.edge.embedded; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
