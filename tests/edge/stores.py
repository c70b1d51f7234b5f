"""Real store processes for tests, and a client of theirs in the standard library that says what it is told to."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.edge import tcpstore
from orchestrator.edge.guard.launch import launch
from orchestrator.edge.tcpstore import wire

MAIN = str(Path(tcpstore.__file__).with_name("__main__.py"))
HELLO = bytes([wire.VALIDATE]) + struct.pack("<I", wire.MAGIC)
PATIENCE_S = 20.0


@dataclass
class Store:
    """A store's process, as its agent sees it."""

    port: int
    pid: int
    control: socket.socket
    _said: bytes = b""

    def complaint(self) -> str:
        """What it says next."""
        while b"\n" not in self._said:
            more = self.control.recv(65536)
            assert more, "it ended without a word"
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def client(self) -> Client:
        return Client(self.port)


@contextmanager
def store() -> Iterator[Store]:
    helper = launch(MAIN)
    helper.sock.settimeout(PATIENCE_S)
    with helper.sock, socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        socket.send_fds(helper.sock, [b"!"], [listener.fileno()])
        port = listener.getsockname()[1]
        listener.close()
        try:
            yield Store(port, helper.pid, helper.sock)
        finally:
            os.kill(helper.pid, signal.SIGKILL)
            os.waitpid(helper.pid, 0)


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def request(op: int, *fields: bytes | int, count: int | None = None) -> bytes:
    """Bytes as keys and values, numbers as i64."""
    parts = [struct.pack("<q", field) if isinstance(field, int) else text(field) for field in fields]
    return bytes([op]) + (b"" if count is None else struct.pack("<Q", count)) + b"".join(parts)


class Client:
    """A connection that has said hello."""

    def __init__(self, port: int, hello: bytes = HELLO) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(hello)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise EOFError(data)
            data += more
        return data

    def number(self) -> int:
        return int(struct.unpack("<q", self.read(8))[0])

    def value(self) -> bytes:
        return self.read(self.number())

    def ping(self) -> None:
        """Everything sent before has been dealt with when this returns."""
        self.send(bytes([wire.PING]) + b"abcd")
        assert self.read(4) == b"abcd"

    def gone(self) -> bool:
        """Whether the server has cut the connection, with nothing more to be read."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.sock.close()

    def __del__(self) -> None:
        if hasattr(self, "sock"):  # else it was not even connected
            self.close()
