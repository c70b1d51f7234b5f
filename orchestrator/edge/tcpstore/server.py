"""The store's process: one loop over all connections, which answers all that has arrived of one in one piece.

Who may reach it is the agent's business, which hands over the listening socket and reads our complaints. Invariant: no
client makes others wait for it, whether it sends half a request, reads nothing, or says nothing at all.
"""

from __future__ import annotations

import select
import socket
import time

from orchestrator.edge.tcpstore import wire
from orchestrator.edge.tcpstore.answers import answer
from orchestrator.edge.tcpstore.table import Budget, Table
from orchestrator.edge.tcpstore.wire import I64, U64, Decoder, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Told = Callable[[str], None]

STRANGER_S = 60.0  # within which a client must say that it speaks this protocol
_AT_ONCE = 64  # connections taken before those that are there have their turn
_PAUSE_S = 0.01
_CHUNK = 256 * 1024
_BATCH = 1024 * 1024  # bytes of replies after which a client must read before we go on
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_HEAD, _HEAD2 = 9, 17  # bytes before the key of a request with one key, and with a count of one
_ONE = U64.pack(1)
_SHORT = frozenset((wire.GET, wire.ADD))
_COMPLAINTS = 100  # who provokes more of them learns nothing from us


class _Client:
    __slots__ = ("decoder", "fd", "held", "lost", "out", "peer", "recv", "send", "sock", "stranger")

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.recv = sock.recv_into
        self.send = sock.send
        self.peer = peer
        self.decoder = Decoder()
        self.held = 0  # bytes of the budget, for what is half received and half sent
        self.out = b""  # what it has not read yet
        self.stranger = True
        self.lost = False  # nothing reaches it any more


class Server:
    """Serves ``listener`` until a handler calls `stop`; complains of clients, once of each kind."""

    def __init__(
        self, listener: socket.socket, complain: Told, *, clients: int, stranger_s: float = STRANGER_S
    ) -> None:
        self._listener = listener
        self._complain = complain
        self._most = clients
        self._stranger_s = stranger_s
        self._budget = Budget()
        self._table = Table(self._tell, self._budget)
        self._clients: dict[int, _Client] = {}
        self._strangers: dict[_Client, float] = {}  # until when, soonest first
        self._told: set[str] = set()
        self._epoll = select.epoll()
        self._others: dict[int, Callable[[], None]] = {}
        self._arrived = memoryview(bytearray(_CHUNK))  # one for all: to allocate so much for each turn is dear
        self._running = True
        self._served: _Client | None = None  # whose replies are being collected
        self._replies: list[bytes] = []
        listener.setblocking(False)
        self.watch(listener.fileno(), self._accept)

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` when ``fd`` can be read."""
        self._others[fd] = handler
        self._epoll.register(fd, _IN)

    def stop(self) -> None:
        """Serve no longer."""
        self._running = False

    def close(self) -> None:
        """Cut all connections."""
        for client in self._clients.values():
            client.sock.close()
        self._listener.close()
        self._epoll.close()

    # -- the loop

    def run(self) -> None:
        """Serve until `stop` is called."""
        poll, clients, serve = self._epoll.poll, self._clients, self._serve
        while self._running:
            for fd, events in poll(self._patience()):
                client = clients.get(fd)
                if client is None:
                    if fd in self._others:
                        self._others[fd]()
                elif events & _OUT:
                    self._drained(client)
                else:
                    serve(client)

    def _serve(self, client: _Client) -> None:
        """Take what has come from it. What nearly all requests are is answered without detours."""
        try:
            data = self._arrived[: client.recv(self._arrived)].tobytes()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        try:
            plain = not (client.stranger or client.out) and client.decoder.idle
            if plain and data[0] == wire.SET:
                data = data[self._sets(data) :]
                if not data:
                    return
            reply = self._shortcut(client, data) if plain else None
            if reply is None:
                client.decoder.feed(data)
                self._work(client)
            elif reply:
                self._put(client, reply)
        except WireError as problem:
            self._refuse(client, str(problem))

    def _sets(self, data: bytes) -> int:
        """Do what whole requests to set it begins with, which come in crowds since none is answered; their length."""
        at, size, put = 0, len(data), self._table.set
        while at + _HEAD <= size and data[at] == wire.SET:
            key = at + _HEAD
            value = key + U64.unpack_from(data, at + 1)[0] + 8
            if value > size or value - key > wire.KEY_MAX:
                break
            end = value + U64.unpack_from(data, value - 8)[0]
            if end > size:
                break
            put(data[key : value - 8], data[value:end])
            at = end
        return at

    def _shortcut(self, client: _Client, data: bytes) -> bytes | None:
        """The reply to a single whole request of the most frequent kinds; None: it has to go the long way."""
        size, op, table = len(data), data[0], self._table
        if op == wire.WAIT and size >= _HEAD2 and data[1:_HEAD] == _ONE:
            if size == _HEAD2 + U64.unpack_from(data, _HEAD)[0] <= _HEAD2 + wire.KEY_MAX:
                return table.wait(client.fd, (data[_HEAD2:],))
        elif op in _SHORT and size >= _HEAD:
            end = _HEAD + U64.unpack_from(data, 1)[0]
            if end > _HEAD + wire.KEY_MAX:
                pass
            elif op == wire.GET and size == end:
                value = table.values.get(data[_HEAD:], b"")
                return U64.pack(len(value)) + value
            elif op == wire.ADD and size == end + 8:
                return I64.pack(table.add(data[_HEAD:end], I64.unpack_from(data, end)[0]))
        return None

    def _work(self, client: _Client) -> None:
        """Answer all that has arrived whole, as long as it reads the answers. Raises WireError."""
        while not (client.out or client.lost) and self._answer_some(client):
            pass
        held = len(client.decoder) + len(client.out)
        self._budget.take(held - client.held)
        client.held = held

    def _answer_some(self, client: _Client) -> bool:
        """Whether there may be more to answer."""
        self._served, self._replies = client, []
        size, request = 0, client.decoder.take()
        while request is not None:
            op, fields = request
            if client.stranger or op == wire.VALIDATE:
                reply = self._know(client, op, *fields[:1])
            else:
                reply = answer(self._table, client.fd, op, fields)
            self._replies.append(reply)
            size += len(reply)
            if size >= _BATCH:
                break
            request = client.decoder.take()
        self._served = None
        self._put(client, b"".join(self._replies))
        return request is not None

    # -- sending

    def _tell(self, fd: int, reply: bytes) -> None:
        """To one that has waited."""
        client = self._clients[fd]
        if client is self._served:
            self._replies.append(reply)
        else:
            self._put(client, reply)

    def _put(self, client: _Client, reply: bytes) -> None:
        """Send it, now or when there is room; until then nothing is read from this client."""
        if client.out:
            client.out += reply
            return
        try:
            sent = client.send(reply)
        except BlockingIOError:
            sent = 0
        except OSError:
            client.lost = True  # it is dropped when it is read from, lest a table that is at work loses its clients
            return
        if sent < len(reply):
            client.out = reply[sent:]
            self._epoll.modify(client.fd, _OUT)

    def _drained(self, client: _Client) -> None:
        """It can take more."""
        out, client.out = client.out, b""
        self._put(client, out)
        try:
            self._work(client)
        except WireError as problem:
            self._refuse(client, str(problem))
            return
        if client.lost:
            self._drop(client)
        elif not client.out:
            self._epoll.modify(client.fd, _IN)

    # -- coming and going

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # it was gone before we looked
            except OSError as problem:  # the machine has none left to give, but knocks go on
                self._complain_once(f"a connection was not taken: {problem.strerror}")
                time.sleep(_PAUSE_S)
                return
            if len(self._clients) >= self._most:
                self._complain_once(f"a connection was refused: there are {self._most}, which is all that may be")
                sock.close()
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = _Client(sock, address[0])
            self._clients[client.fd] = client
            self._strangers[client] = time.monotonic() + self._stranger_s
            self._epoll.register(client.fd, _IN)

    def _patience(self) -> float:
        """Send strangers away whose time is up; seconds until that of the next one is, -1 if there is none."""
        while self._strangers:
            client, until = next(iter(self._strangers.items()))
            left = until - time.monotonic()
            if left > 0:
                return left
            self._refuse(client, f"it said nothing of this protocol for {self._stranger_s:g} s")
        return -1

    def _know(self, client: _Client, op: int, magic: object = None) -> bytes:
        if op != wire.VALIDATE or magic != wire.MAGIC:
            raise WireError("it does not speak this protocol")
        client.stranger = False
        self._strangers.pop(client, None)
        return b""

    def _refuse(self, client: _Client, why: str) -> None:
        self._drop(client)
        self._complain_once(f"a client at {client.peer} was sent away: {why}")

    def _complain_once(self, what: str) -> None:
        if what not in self._told and len(self._told) < _COMPLAINTS:
            self._told.add(what)
            self._complain(what)

    def _drop(self, client: _Client) -> None:
        self._served = None
        del self._clients[client.fd]
        self._strangers.pop(client, None)
        self._table.forget(client.fd)
        self._budget.take(-client.held)
        client.sock.close()
