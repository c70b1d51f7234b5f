"""Real servers for tests, and agents' stores on them: nothing here is a mock."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from orchestrator.core.failures import Failure
from orchestrator.core.policies import Backoff, Budget, RestartKind, RestartPolicy
from orchestrator.core.publication import Publication
from orchestrator.core.rendezvous import Bid, Claim, JoinReply, Seat, Waiting
from orchestrator.core.specs import RendezvousKind, RendezvousSpec
from orchestrator.edge.embedded import find_server
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.group import GroupStore

PATIENCE_S = 20.0  # the most that a wait may take; no test depends on how long it does
REDIS = shutil.which("redis-server")
T = TypeVar("T")


def until(what: Callable[[], T | None], why: str) -> T:
    """Wait for ``what()`` to be true, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < deadline, f"waited in vain: {why}"
        time.sleep(0.005)
    return found


async def eventually(what: Callable[[], Awaitable[T]], accept: Callable[[T], bool], pause_s: float = 0.02) -> T:
    """Ask ``what`` again and again until its answer is acceptable, and return that."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await what()
            if accept(answer):
                return answer
            await asyncio.sleep(pause_s)


class Server:
    """A server of one test or of all, on a unix socket and, if a port is given, on TCP."""

    running: ClassVar[set[Server]] = set()  # of this process

    def __init__(self, binary: str, *options: str) -> None:
        self.directory = tempfile.mkdtemp(prefix="orch-test-")
        self.path = f"{self.directory}/s"
        self.url = self.local_url = f"unix://{self.path}"
        self._argv = [binary, "--unixsocket", self.path, "--save", "", "--dir", self.directory, *options]
        if "--port" not in options:
            self._argv += ["--port", "0"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.running.add(self)
        log = Path(self.directory, "log")
        with log.open("ab") as out:
            self.process = subprocess.Popen(self._argv, stdout=out, stderr=out)
        until(lambda: self.answers() or self.process is None or self.process.poll() is not None, "the server starts")
        assert self.process.poll() is None, log.read_text()

    def answers(self) -> bool:
        return self.say("PING").strip() != b""

    def say(self, *words: str) -> bytes:
        """One inline command over a connection of its own; nothing when there is no server."""
        import socket  # noqa: PLC0415 - only this needs it

        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            try:
                link.connect(self.path)
                link.sendall(" ".join(words).encode() + b"\r\n")
                return link.recv(65536)
            except OSError:
                return b""

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        Path(self.path).unlink(missing_ok=True)

    def stop(self) -> None:
        self.running.discard(self)
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def kinds() -> list[Any]:
    missing = pytest.mark.skipif(REDIS is None, reason="no redis-server on PATH")
    return [pytest.param("valkey", id="valkey"), pytest.param("redis", id="redis", marks=missing)]


def binary_of(kind: str) -> str:
    return find_server() if kind == "valkey" else str(REDIS)


@pytest.fixture(scope="session", params=kinds())
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server shared by tests, which keep apart by their run_id."""
    running = Server(binary_of(request.param))
    running.start()
    yield running
    running.stop()


@pytest.fixture(params=kinds())
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that a test may kill, stop or flush."""
    running = Server(binary_of(request.param))
    running.start()
    yield running
    running.stop()


RENDEZVOUS = RendezvousSpec(
    kind=RendezvousKind.REDIS,
    join_timeout_s=10,
    last_call_s=0.1,
    lease_s=5,
    scale_up_s=0.2,
    server_grace_s=10,
)
RESTART = RestartPolicy(
    kind=RestartKind.ON_FAILURE,
    budget=Budget(max=3),
    free=Budget(max=100, per_s=3600),
    backoff=Backoff(initial_s=0.05, factor=2, max_s=1, jitter=0, reset_after_s=60),
)


def failure(
    node: str = "a", *, rank: int = 0, message: str = "", traceback: str = "", last_lines: tuple[str, ...] = ()
) -> Failure:
    return Failure(
        kind="exited",
        group="r",
        node=node,
        rank=rank,
        local_rank=0,
        round=1,
        exit_code=3,
        message=message,
        traceback=traceback,
        last_lines=last_lines,
    )


@dataclass
class Member:
    """An agent as the group sees it: a store, and the claim that its seats have given it."""

    node: str
    store: GroupStore
    bid: Bid
    claim: Claim = field(default_factory=Claim)

    async def join(self) -> JoinReply:
        return self.take(await self.store.join(self.bid, self.claim))

    async def ask(self) -> JoinReply:
        return self.take(await self.store.seat(self.claim))

    def take(self, reply: T) -> T:
        if isinstance(reply, Seat):
            self.claim = reply.claim()
        return reply

    async def sit(self) -> Seat:
        """Join, and ask when told to, until there is a seat."""
        await self.join()
        return await self.seat()

    async def seat(self) -> Seat:
        """Having joined, ask when told to, until there is a seat."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                reply = await self.ask()
                if not isinstance(reply, Waiting):
                    assert isinstance(reply, Seat), reply
                    return reply
                await asyncio.sleep(min(reply.due_ms / 1000, 0.05))


class World:
    """One run on one server: hands out members, each with a connection of its own."""

    def __init__(self, server: Server, stack: AsyncExitStack) -> None:
        self.server = server
        self.run_id = f"run-{secrets.token_hex(4)}"
        self.publication: Publication | None = None  # what members publish
        self._stack = stack

    def connection(
        self,
        url: str | None = None,
        *,
        grace_s: float = 10.0,
        on_lost: Callable[[str], None] | None = None,
        on_back: Callable[[], None] | None = None,
    ) -> Connection:
        connection = Connection.from_url(url or self.server.url, grace_s=grace_s, on_lost=on_lost, on_back=on_back)
        self._stack.push_async_callback(connection.close)
        return connection

    async def member(
        self,
        node: str,
        nodes: tuple[int, int] = (1, 1),
        *,
        nproc: int = 1,
        spares: int = 0,
        hint: int | None = None,
        nonce: str | None = None,
        restart: RestartPolicy = RESTART,
        connection: Connection | None = None,
        **rendezvous: float,
    ) -> Member:
        if connection is None:
            connection = self.connection()
            await connection.open(PATIENCE_S)
        store = GroupStore(
            connection,
            run_id=self.run_id,
            role="r",
            node=node,
            nonce=nonce or secrets.token_hex(8),
            min_nodes=nodes[0],
            max_nodes=nodes[1],
            spare_nodes=spares,
            rendezvous=replace(RENDEZVOUS, **rendezvous),  # type: ignore[arg-type]  # only the durations are varied
            restart=restart,
            publication=self.publication,
        )
        return Member(node, store, Bid(nproc=nproc, addr=f"addr-{node}", port=1000 + len(node), hint=hint))

    async def seated(
        self, names: str, nodes: tuple[int, int], *, restart: RestartPolicy = RESTART, **rendezvous: float
    ) -> list[Member]:
        """Members by the letters of ``names``, all in one round."""
        members = [
            await self.member(name, nodes, restart=restart, **rendezvous)  # type: ignore[arg-type]  # only durations
            for name in names
        ]
        seats = await asyncio.gather(*(member.sit() for member in members))
        assert {seat.round for seat in seats} == {seats[0].round}
        return members


@asynccontextmanager
async def world(server: Server) -> AsyncIterator[World]:
    """A run on ``server``; its connections are closed at the end."""
    async with AsyncExitStack() as stack:
        yield World(server, stack)
