"""The store's process by its bytes: every opcode, and clients that mean no good. Torch is in test_tcpstore_torch."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import pytest

from orchestrator.edge.tcpstore import server as served
from orchestrator.edge.tcpstore import table as tables
from orchestrator.edge.tcpstore import wire
from orchestrator.edge.tcpstore.server import Server
from tests.edge.procs import is_alive, wait_until
from tests.edge.stores import HELLO, PATIENCE_S, Client, Store, request, store, text


@pytest.fixture
def host() -> Iterator[Store]:
    with store() as running:
        yield running


@pytest.fixture
def client(host: Store) -> Iterator[Client]:
    one = host.client()
    yield one
    one.close()


EVERY = [
    (request(wire.SET, b"k", b"v"), b""),
    (request(wire.GET, b"k"), text(b"v")),
    (request(wire.GET, b"none"), text(b"")),
    (request(wire.COMPARE_SET, b"k", b"v", b"w"), text(b"w")),
    (request(wire.COMPARE_SET, b"k", b"v", b"x"), text(b"w")),
    (request(wire.COMPARE_SET, b"c", b"", b"new"), text(b"new")),
    (request(wire.COMPARE_SET, b"d", b"old", b"new"), text(b"old")),
    (request(wire.CHECK, b"d", count=1), b"\1"),
    (request(wire.ADD, b"n", 5), struct.pack("<q", 5)),
    (request(wire.ADD, b"n", -7), struct.pack("<q", -2)),
    (request(wire.GET, b"n"), text(b"-2")),
    (request(wire.CHECK, b"k", b"n", count=2), b"\0"),
    (request(wire.CHECK, count=0), b"\0"),
    (request(wire.WAIT, b"k", b"n", count=2), b"\0"),
    (request(wire.GETNUMKEYS), struct.pack("<q", 3)),
    (request(wire.APPEND, b"a", b"12"), b""),
    (request(wire.APPEND, b"a", b"34"), b""),
    (request(wire.ADD, b"a", 1), struct.pack("<q", 1235)),
    (request(wire.DELETE_KEY, b"a"), struct.pack("<q", 1)),
    (request(wire.DELETE_KEY, b"a"), struct.pack("<q", 0)),
    (request(wire.MULTI_SET, b"x", b"1", b"y", b"2", count=2), b""),
    (request(wire.MULTI_GET, b"y", b"x", b"z", count=3), text(b"2") + text(b"1") + text(b"")),
    (request(wire.CANCEL_WAIT), b"\1"),
    (bytes([wire.PING]) + b"abcd", b"abcd"),
    (HELLO, b""),
    (request(wire.QUEUE_LEN, b"q"), struct.pack("<q", 0)),
    (request(wire.QUEUE_POP, b"q"), struct.pack("<q", 0)),
    (request(wire.QUEUE_PUSH, b"q", b"one"), b""),
    (request(wire.QUEUE_PUSH, b"q", b"two"), b""),
    (request(wire.QUEUE_LEN, b"q"), struct.pack("<q", 2)),
    (request(wire.WAIT, b"q", count=1), b"\0"),
    (request(wire.QUEUE_POP, b"q"), struct.pack("<q", 2) + text(b"one")),
    (request(wire.QUEUE_POP, b"q"), struct.pack("<q", 1) + text(b"two")),
    (request(wire.CHECK, b"q", count=1), b"\1"),
    (request(wire.BARRIER, b"b", 1), b"\0"),
    (
        request(wire.LIST_KEYS),
        struct.pack("<q", 6) + b"".join(map(text, (b"k", b"c", b"n", b"x", b"y", b"b"))),
    ),
]  # fmt: skip
"""A conversation: what is said, and what is answered."""


def test_every_opcode_is_answered(client: Client) -> None:
    assert {said[0] for said, _ in EVERY} == set(range(wire.BARRIER + 1))
    for said, answer in EVERY:
        client.send(said)
        assert client.read(len(answer)) == answer, f"opcode {said[0]}"
    client.ping()


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_requests_may_come_in_pieces_and_together(client: Client, size: int) -> None:
    said, answers = (b"".join(parts) for parts in zip(*EVERY, strict=True))
    for at in range(0, len(said), size):
        client.send(said[at : at + size])
    assert client.read(len(answers)) == answers


def test_who_waits_is_told_at_once_and_only_then(host: Store) -> None:
    waiting, setting = host.client(), host.client()
    waiting.send(request(wire.WAIT, b"a", b"b", b"a", count=3))
    waiting.ping()  # which is answered, so that the wait is not yet
    setting.send(request(wire.SET, b"a", b"1"))
    setting.ping()
    waiting.ping()
    setting.send(request(wire.ADD, b"b", 1))
    assert waiting.read(1) == wire.STOP_WAITING


def test_a_wait_that_is_cancelled_wakes_nobody(host: Store) -> None:
    waiting, setting = host.client(), host.client()
    waiting.send(request(wire.WAIT, b"a", count=1) + request(wire.CANCEL_WAIT))
    assert waiting.read(1) == wire.WAIT_CANCELED
    setting.send(request(wire.SET, b"a", b"1"))
    setting.ping()
    waiting.ping()


def test_who_is_gone_waits_no_more(host: Store) -> None:
    for _ in range(3):
        gone, rude = host.client(), host.client()
        gone.send(request(wire.WAIT, b"a", b"b", count=2))
        gone.ping()
        gone.close()
        rude.send(request(wire.BARRIER, b"a", 9))
        rude.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        rude.close()
    other = host.client()
    other.send(request(wire.SET, b"a", b"1") + request(wire.SET, b"b", b"1"))
    other.ping()


def test_one_push_wakes_one_who_waits(host: Store) -> None:
    first, second, pushing = host.client(), host.client(), host.client()
    for one in (first, second):
        one.send(request(wire.WAIT, b"q", count=1))
        one.ping()
    pushing.send(request(wire.QUEUE_PUSH, b"q", b"1"))
    assert first.read(1) == wire.STOP_WAITING
    second.ping()
    pushing.send(request(wire.QUEUE_PUSH, b"q", b"2"))
    assert second.read(1) == wire.STOP_WAITING
    second.send(request(wire.QUEUE_POP, b"q"))
    assert second.read(8 + 9) == struct.pack("<q", 2) + text(b"1")


def test_a_barrier_opens_for_all_when_the_last_has_come(host: Store) -> None:
    crowd = [host.client() for _ in range(5)]
    watching = host.client()
    watching.send(request(wire.WAIT, b"b", count=1))
    watching.ping()
    for one in crowd[:-1]:
        one.send(request(wire.BARRIER, b"b", 5))
        one.ping()
    watching.ping()
    crowd[-1].send(request(wire.BARRIER, b"b", 5))
    assert [one.read(1) for one in [*crowd, watching]] == [wire.STOP_WAITING] * 6


def test_very_many_clients_are_served_at_once(host: Store) -> None:
    crowd = [host.client() for _ in range(300)]
    for number, one in enumerate(crowd):
        one.send(request(wire.WAIT, b"last", count=1) if number % 2 else request(wire.ADD, b"sum", number))
    assert max(one.number() for one in crowd[::2]) == sum(range(0, 300, 2))
    crowd[0].send(request(wire.SET, b"last", b"1"))
    assert {one.read(1) for one in crowd[1::2]} == {wire.STOP_WAITING}


# -- clients that mean no good

TOO_LONG = struct.pack("<Q", 2**63)
BAD = {
    "unknown opcode 19": bytes([19]),
    "unknown opcode 255": bytes([255]),
    "a key of 8193 bytes": bytes([wire.GET]) + struct.pack("<Q", wire.KEY_MAX + 1),
    "a key of 9223372036854775808 bytes": bytes([wire.GET]) + TOO_LONG,
    "a value of 8388609 bytes": bytes([wire.SET]) + text(b"k") + struct.pack("<Q", wire.VALUE_MAX + 1),
    "a request of 131073 keys": bytes([wire.WAIT]) + struct.pack("<Q", wire.COUNT_MAX + 1),
    "no number: b'1_0'": request(wire.SET, b"k", b"1_0") + request(wire.ADD, b"k", 1),
    "no number: b'v'": request(wire.SET, b"k", b"v") + request(wire.ADD, b"k", 1),
    "no number: b'99999999999999999999'": request(wire.SET, b"k", b"9" * 5000) + request(wire.ADD, b"k", 1),
    "more than 64 bits": request(wire.SET, b"k", b"%d" % (2**63 - 1)) + request(wire.ADD, b"k", 1),
    "wait while it waits": request(wire.WAIT, b"none", count=1) * 2,
    "it does not speak this protocol": bytes([wire.VALIDATE]) + b"abcd",
}


@pytest.mark.parametrize("why", BAD)
def test_what_is_no_request_ends_its_connection_and_is_told(host: Store, why: str) -> None:
    good, bad = host.client(), host.client()
    bad.send(BAD[why])
    assert bad.gone()
    assert why in (said := host.complaint())
    assert "127.0.0.1" in said
    good.ping()


@pytest.mark.parametrize("hello", [b"GET / HTTP/1.1\r\n\r\n", request(wire.SET, b"k", b"v"), request(wire.LIST_KEYS)])
def test_whoever_speaks_another_protocol_is_sent_away(host: Store, hello: bytes) -> None:
    stranger = Client(host.port, hello)
    assert stranger.gone()
    assert "does not speak this protocol" in host.complaint() or hello.startswith(b"GET")
    host.client().ping()


def test_what_is_said_of_a_length_costs_nothing_until_it_comes(host: Store) -> None:
    crowd = [host.client() for _ in range(64)]
    for one in crowd:  # half a GiB is announced, and a byte of it sent
        one.send(bytes([wire.SET]) + text(b"k") + struct.pack("<Q", wire.VALUE_MAX) + b"x")
    host.client().ping()
    assert resident(host.pid) < 64 * 2**20


def test_half_a_request_holds_up_nobody_and_is_forgotten_with_its_client(host: Store) -> None:
    half, other = host.client(), host.client()
    half.send(request(wire.SET, b"k", b"v" * 1000)[:-1])
    other.send(request(wire.GET, b"k"))
    assert other.value() == b""
    half.close()
    other.send(request(wire.GET, b"k"))
    assert other.value() == b""


def until_cut_off(client: Client, requests: Iterable[bytes]) -> None:
    try:
        for said in requests:
            client.send(said)
    except (ConnectionResetError, BrokenPipeError):
        return
    pytest.fail("it was never cut off")


def test_the_store_is_full_before_the_memory_is(host: Store) -> None:
    filling, value = host.client(), b"v" * wire.VALUE_MAX
    until_cut_off(filling, (request(wire.SET, b"%d" % number, value) for number in range(1000)))
    assert "the store is full" in host.complaint()
    other = host.client()
    other.send(request(wire.GETNUMKEYS))
    assert 0.9 * tables.MAX_BYTES < other.number() * wire.VALUE_MAX < tables.MAX_BYTES
    assert resident(host.pid) < tables.MAX_BYTES + 128 * 2**20
    other.send(request(wire.DELETE_KEY, b"0") + request(wire.SET, b"again", value))
    assert other.number() == 1
    other.ping()


def test_values_that_grow_are_bounded_too(host: Store) -> None:
    growing = host.client()
    until_cut_off(growing, [request(wire.APPEND, b"k", b"v" * wire.VALUE_MAX)] * 1000)
    assert "a value that has grown" in host.complaint()
    reading = host.client()
    reading.send(request(wire.MULTI_GET, b"k", b"k", count=2))
    assert reading.gone()
    assert "a reply of more than" in host.complaint()


def test_a_request_of_very_many_keys_takes_time_in_proportion(host: Store) -> None:
    client = host.client()
    keys = [b"k%d" % number for number in range(wire.COUNT_MAX)]
    said = request(wire.MULTI_SET, *(part for key in keys for part in (key, b"v")), count=len(keys))
    for at in range(0, len(said), 4096):
        client.send(said[at : at + 4096])
    client.send(request(wire.CHECK, *keys, count=len(keys)))
    assert client.read(1) == wire.READY
    client.send(request(wire.GETNUMKEYS))
    assert client.number() == wire.COUNT_MAX


def test_who_does_not_read_is_not_answered_without_end(host: Store) -> None:
    deaf, other = host.client(), host.client()
    other.send(request(wire.SET, b"k", b"v" * wire.VALUE_MAX))
    other.ping()
    asked = 2000  # for 16 GiB
    sender = threading.Thread(target=deaf.send, args=(request(wire.GET, b"k") * asked,))
    sender.start()
    for _ in range(100):
        other.ping()
    assert resident(host.pid) < 128 * 2**20
    for _ in range(3):  # and when it reads, it gets them
        assert deaf.value() == b"v" * wire.VALUE_MAX
    deaf.sock.shutdown(socket.SHUT_RDWR)
    sender.join(PATIENCE_S)


def test_the_same_complaint_is_made_once(host: Store) -> None:
    for _ in range(5):
        assert Client(host.port, HELLO + bytes([77])).gone()
    assert Client(host.port, HELLO + bytes([78])).gone()
    assert ["opcode 77" in host.complaint(), "opcode 78" in host.complaint()] == [True, True]


# -- the process


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_it_ends_with_its_agent_whatever_its_clients_do(host: Store) -> None:
    waiting = host.client()
    waiting.send(request(wire.WAIT, b"none", count=1))
    waiting.ping()
    host.control.close()
    assert waiting.gone()
    wait_until(lambda: not is_alive(host.pid), "the store's process has ended")


def test_signals_that_end_an_agent_do_not_end_it(host: Store) -> None:
    one = host.client()
    one.ping()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(host.pid, signum)
    one.ping()


def test_it_is_small(host: Store) -> None:
    host.client().ping()
    assert resident(host.pid) < 16 * 2**20


# -- the loop alone, with other bounds


class Inside:
    """A server in a thread of this process."""

    def __init__(self, *, clients: int = 100, stranger_s: float = served.STRANGER_S) -> None:
        self.said: list[str] = []
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = listener.getsockname()[1]
        self.server = Server(listener, self.said.append, clients=clients, stranger_s=stranger_s)
        self._ours, self._theirs = socket.socketpair()
        self.server.watch(self._theirs.fileno(), self.server.stop)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send(b"!")
        self._thread.join()
        self.server.close()
        self._ours.close()
        self._theirs.close()


def test_whoever_says_nothing_is_sent_away() -> None:
    with Inside(stranger_s=0.1) as inside:
        known = Client(inside.port)
        known.ping()
        silent, slow = Client(inside.port, b""), Client(inside.port, HELLO[:-1])
        assert silent.gone()
        assert slow.gone()
        assert inside.said == ["a client at 127.0.0.1 was sent away: it said nothing of this protocol for 0.1 s"]
        known.ping()


def test_there_is_a_bound_to_clients_and_a_place_is_free_again() -> None:
    with Inside(clients=2) as inside:
        first, second = Client(inside.port), Client(inside.port)
        first.ping()
        second.ping()
        assert Client(inside.port).gone()
        assert inside.said == ["a connection was refused: there are 2, which is all that may be"]
        second.close()
        first.ping()
        wait_until(lambda: len(inside.server._clients) == 1, "the one that left is forgotten")
        Client(inside.port).ping()


def test_nothing_is_held_for_those_who_are_gone() -> None:
    with Inside() as inside:
        for _ in range(3):
            one = Client(inside.port)
            one.send(request(wire.WAIT, b"a", b"b" * 1000, count=2))
            one.ping()
            one.send(request(wire.SET, b"k", b"v" * 10000)[:-1])
            one.close()
        wait_until(lambda: not inside.server._clients, "all are gone")
        table = inside.server._table
        assert inside.server._budget._free == tables.MAX_BYTES
        assert not table._waiting
        assert not table._awaited
