"""Frames: whole, bounded, and dictionaries, or no conversation."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from orchestrator.edge.guard import protocol
from orchestrator.edge.guard.client import GuardLost, SpawnFailed
from orchestrator.edge.guard.protocol import Channel, Decoder, ProtocolError, encode
from tests.edge.procs import is_alive, wait_until

if TYPE_CHECKING:
    from tests.edge.guard.conftest import Agent


def test_messages_survive_any_cut_of_the_stream() -> None:
    messages: list[protocol.Message] = [
        {"op": "a", "text": "\udcff ü", "raw": b"\0\xff"},
        {"op": "b"},
        {"op": "c", "list": [1, None, 0.5]},
    ]
    stream = b"".join(encode(message) for message in messages)
    for size in (1, 2, 3, 7, len(stream)):
        decoder = Decoder()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [message for piece in pieces for message in decoder.feed(piece)] == messages


def test_a_frame_beyond_the_limit_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        encode({"op": "will", "payloads": [bytes(protocol.LIMIT)]})


def test_an_announced_frame_beyond_the_limit_is_refused_before_it_is_gathered() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        Decoder().feed((protocol.LIMIT + 1).to_bytes(4, "big"))


@pytest.mark.parametrize("body", [b"", b"\xff\xff", b"[\x00\x00\x00\x00", b"i\x01\x00\x00\x00"])
def test_a_frame_that_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(len(body).to_bytes(4, "big") + body)


def test_what_the_wire_cannot_carry_is_refused_by_name() -> None:
    with pytest.raises(ProtocolError, match="spawn"):
        encode({"op": "spawn", "argv": [signal.SIGTERM]})


def test_a_slow_reader_gets_everything_in_order() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender, receiver = Channel(ours.fileno()), Channel(theirs.fileno())
        for number in range(100):
            sender.send({"op": "data", "number": number, "bulk": bytes(20_000)})
        assert sender.pending
        received: list[int] = []
        while len(received) < 100:
            received += [message["number"] for message in receiver.receive()]
            sender.flush()
        assert received == list(range(100))


def test_the_other_ends_death_is_an_end_of_file() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        channel = Channel(ours.fileno())
        assert channel.receive() == []
        theirs.close()
        channel.send({"op": "into the void"})
        with pytest.raises(EOFError):
            channel.receive()


def test_garbage_ends_the_guard_and_its_workers(agent: Agent) -> None:
    pid = agent.pid_of(agent.sh("exec sleep 1000"))
    os.write(agent.client._channel.fd, (protocol.LIMIT + 1).to_bytes(4, "big"))
    agent.wait(GuardLost)
    wait_until(lambda: not is_alive(pid), "the worker is gone")


def test_an_oversized_request_is_refused_in_the_agent_and_harms_nothing(agent: Agent) -> None:
    with pytest.raises(ProtocolError):
        agent.client.will({"unix": "/x"}, [bytes(protocol.LIMIT)])
    agent.wait(SpawnFailed, agent.spawn("/no/such/program"))


def test_requests_larger_than_the_sockets_buffer_arrive(agent: Agent) -> None:
    agent.client.will({"unix": "/x"}, [bytes(8 * 1024 * 1024)])
    agent.round_trip()
