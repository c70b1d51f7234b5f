"""What is behind MASTER_ADDR and MASTER_PORT, round after round, as an agent offers it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest

from orchestrator.core.specs import StoreKind
from orchestrator.edge import round_store
from orchestrator.edge.round_store import RoundStore
from orchestrator.edge.tcpstore import wire
from tests.core.specs import seat
from tests.edge.procs import children, is_alive
from tests.edge.stores import Client, request

FIRST = seat()
OTHER = replace(FIRST, slot=1)
Record = dict[str, Any]


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: object, **fixtures: object) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), 60))

    return run


class Agent:
    """A store, and what it wrote to the journal."""

    def __init__(self, kind: StoreKind = StoreKind.AGENT) -> None:
        self.journal: list[Record] = []
        self.written = asyncio.Event()
        self.store = RoundStore(kind, self._log)

    def _log(self, event: str, **fields: object) -> None:
        self.journal.append({"event": event, **fields})
        self.written.set()

    async def told(self, event: str, count: int = 1) -> Record:
        while len(found := [record for record in self.journal if record["event"] == event]) < count:
            self.written.clear()
            await self.written.wait()
        return found[count - 1]


@asynccontextmanager
async def agent(kind: StoreKind = StoreKind.AGENT) -> AsyncIterator[Agent]:
    one, before = Agent(kind), children(os.getpid())
    try:
        yield one
    finally:
        one.store.close()
    assert children(os.getpid()) == before, "a store is left"


async def answered(port: int) -> Client:
    """A client that the store has answered."""
    client = await asyncio.to_thread(Client, port)
    await asyncio.to_thread(client.ping)
    return client


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 10).close()
    except ConnectionRefusedError:
        return True
    return False


def cut_off(port: int) -> bool:
    try:
        return Client(port).gone()
    except (ConnectionResetError, BrokenPipeError):
        return True


@asynchronous
async def test_a_port_listens_before_the_round_and_is_answered_in_it() -> None:
    async with agent() as one:
        port = one.store.offer("127.0.0.1")
        early = await asyncio.to_thread(Client, port)
        one.store.open(FIRST)
        await asyncio.to_thread(early.ping)
        opened = await one.told("store_opened")
        assert (opened["addr"], opened["port"]) == ("127.0.0.1", port)
        assert is_alive(opened["pid"])


@asynchronous
async def test_nothing_is_started_for_those_who_never_ask() -> None:
    before = children(os.getpid())
    async with agent() as one:
        one.store.offer("127.0.0.1")
        one.store.open(FIRST)
        await asyncio.sleep(0)
        assert children(os.getpid()) == before
        one.store.close()
        assert one.journal == []


@asynchronous
async def test_every_round_has_a_store_of_its_own_without_what_was_in_the_last() -> None:
    async with agent() as one:
        ports = []
        for number in (1, 2, 3):
            ports.append(one.store.offer("127.0.0.1"))
            one.store.open(FIRST)
            client = await answered(ports[-1])
            client.send(request(wire.ADD, b"n", 1))
            assert client.number() == 1
            pid = (await one.told("store_opened", number))["pid"]
            one.store.close()
            assert client.gone()
            assert not is_alive(pid)
            assert refused(ports[-1])


@asynchronous
async def test_only_the_agent_of_rank_0_keeps_its_port() -> None:
    async with agent() as one:
        port = one.store.offer("127.0.0.1")
        one.store.open(OTHER)
        assert refused(port)


@asynchronous
async def test_rank_0_may_come_and_go() -> None:
    async with agent() as one:
        for seat in (FIRST, OTHER, FIRST, OTHER, OTHER, FIRST):
            port = one.store.offer("127.0.0.1")
            one.store.open(seat)
            if seat is FIRST:
                await answered(port)
            else:
                assert refused(port)


@asynchronous
async def test_a_port_for_the_workers_own_store_is_held_and_free_for_it() -> None:
    async with agent(StoreKind.WORKER) as one:
        port = one.store.offer("127.0.0.1")
        one.store.open(FIRST)
        assert refused(port)
        with socket.create_server(("127.0.0.1", port)):
            assert not refused(port)


@asynchronous
async def test_no_port_is_held_where_none_is_wanted() -> None:
    async with agent(StoreKind.NONE) as one:
        assert one.store.offer("127.0.0.1") == 0
        one.store.open(FIRST)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return socket.has_dualstack_ipv6()


IPV6 = has_ipv6()


@asynchronous
@pytest.mark.parametrize("addr", ["localhost", "198.51.100.7", *(["::1", "2001:db8::7"] if IPV6 else [])])
async def test_whatever_is_published_is_listened_for(addr: str) -> None:
    """A name may lead to any interface, an address that is none of ours (behind NAT) as well."""
    families = {
        "localhost": [socket.AF_INET, *([socket.AF_INET6] if IPV6 else [])],
        "198.51.100.7": [socket.AF_INET],
    }.get(addr, [socket.AF_INET6])
    async with agent() as one:
        port = one.store.offer(addr)
        one.store.open(FIRST)
        for family in families:
            with socket.socket(family) as client:
                client.connect(("127.0.0.1" if family == socket.AF_INET else "::1", port))
        opened = await one.told("store_opened")
        assert opened["addr"] in ({"::1"} if addr == "::1" else {"::", "0.0.0.0"})


@asynchronous
async def test_a_store_that_dies_is_told_of_and_refuses_instead_of_hanging() -> None:
    async with agent() as one:
        port = one.store.offer("127.0.0.1")
        one.store.open(FIRST)
        client = await answered(port)
        waiting = await answered(port)
        waiting.send(request(wire.WAIT, b"none", count=1))
        os.kill((await one.told("store_opened"))["pid"], signal.SIGKILL)
        assert await asyncio.to_thread(client.gone)
        assert await asyncio.to_thread(waiting.gone)
        trouble = await one.told("store_trouble")
        assert trouble["reason"] == "its process has ended unasked (signal 9): what it held is lost"
        assert refused(port)
        again = one.store.offer("127.0.0.1")
        one.store.open(FIRST)
        await answered(again)


@asynchronous
async def test_what_the_store_has_to_complain_of_is_in_the_journal() -> None:
    async with agent() as one:
        port = one.store.offer("127.0.0.1")
        one.store.open(FIRST)
        client = await answered(port)
        client.send(bytes([200]))
        assert "unknown opcode 200" in (await one.told("store_trouble"))["reason"]
        await answered(port)


@asynchronous
async def test_a_store_that_cannot_be_started_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(_main: str) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(round_store, "launch", exhausted)
    async with agent() as one:
        port = one.store.offer("127.0.0.1")
        one.store.open(FIRST)
        assert await asyncio.to_thread(cut_off, port)
        reason = (await one.told("store_trouble"))["reason"]
        assert reason == "it could not be started: Resource temporarily unavailable"
        assert refused(port)


@asynchronous
async def test_a_store_that_is_paused_is_ended_all_the_same() -> None:
    async with agent() as one:
        port = one.store.offer("127.0.0.1")
        one.store.open(FIRST)
        await answered(port)
        pid = (await one.told("store_opened"))["pid"]
        os.kill(pid, signal.SIGSTOP)
        one.store.close()
        assert not is_alive(pid)


@asynchronous
async def test_a_store_that_somebody_else_has_reaped_is_gone_all_the_same() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    try:
        async with agent() as one:
            port = one.store.offer("127.0.0.1")
            one.store.open(FIRST)
            await answered(port)
            os.kill((await one.told("store_opened"))["pid"], signal.SIGKILL)
            reason = (await one.told("store_trouble"))["reason"]
            assert reason == "its process has ended unasked (unknown): what it held is lost"
            one.store.offer("127.0.0.1")
    finally:
        signal.signal(signal.SIGCHLD, before)
