"""A very small HTTP server in threads of its own: it reads one short request a connection, answers it, and hangs up.

What is answered is its owner's business. Invariant: whatever a client does or leaves undone costs it a bounded number
of threads, bytes and seconds, and never the process.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchestrator.edge.listener import forget, listening

CONNECTIONS = 16  # at once; one more is told to come again
HEAD_BYTES = 8192
REQUEST_WITHIN_S = 5.0  # from the connection to the end of the answer
_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with: an HTTP status, text, and what kind of text it is."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """A GET or HEAD. ``headers`` has lower-case names."""

    path: str
    headers: Mapping[str, str]
    head_only: bool = False


class Refusal(Exception):
    """A request that is answered before anybody sees it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body)
        self.answer = answer


class HttpServer:
    """Listens from construction on, which raises OSError where that is not possible; answers from `start` on.

    ``host`` may be ``unix:PATH``; ``port`` says nothing then.
    """

    def __init__(self, host: str, port: int, answer: Callable[[Request], Answer]) -> None:
        """``answer`` is called in a thread of its connection; what it raises is told as 500, without its reason."""
        self._answer = answer
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        self._listener = listener = listening(host, port)
        self.host, self.port = host, 0
        if listener.family != socket.AF_UNIX:
            self.host, self.port = listener.getsockname()[:2]
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, name="health", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Hang up. What is being answered ends with its connection, or with the process."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # Linux: wakes accept()
        if self._thread.is_alive():
            self._thread.join(REQUEST_WITHIN_S)
        forget(self._listener)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # stopped; or the client has gone already, or no descriptor is left for it
                time.sleep(0.0 if self._stopping else 0.05)
                continue
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        if not self._places.acquire(blocking=False):
            connection.settimeout(0.0)
            with connection, contextlib.suppress(OSError):
                connection.send(_bytes(Answer(503, "too many connections\n"), head_only=False))
            return
        try:
            threading.Thread(target=self._serve, args=(connection,), name="health request", daemon=True).start()
        except RuntimeError:  # no thread is to be had
            connection.close()
            self._places.release()

    def _serve(self, connection: socket.socket) -> None:
        deadline = time.monotonic() + REQUEST_WITHIN_S
        try:
            with connection, contextlib.suppress(OSError):
                head_only = False
                try:
                    request = _request(_head(connection, deadline))
                    head_only = request.head_only
                    answer = self._reply(request)
                except Refusal as refusal:
                    answer = refusal.answer
                connection.settimeout(max(0.1, deadline - time.monotonic()))
                connection.sendall(_bytes(answer, head_only=head_only))
                _hang_up(connection, deadline)
        finally:
            self._places.release()

    def _reply(self, request: Request) -> Answer:
        try:
            return self._answer(request)
        except Exception:  # noqa: BLE001 - a server's extension may raise anything, and the client need not know what
            return Answer(500, "internal error\n")


def _head(connection: socket.socket, deadline: float) -> bytes:
    """All up to the empty line. Raises Refusal, or OSError where nobody is left to be answered."""
    read = b""
    while b"\r\n\r\n" not in read:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Refusal(Answer(408, "too slow\n"))
        if len(read) >= HEAD_BYTES:
            raise Refusal(Answer(431, f"at most {HEAD_BYTES} bytes\n"))
        connection.settimeout(left)
        try:
            more = connection.recv(HEAD_BYTES - len(read))
        except TimeoutError:
            continue
        if not more:
            raise ConnectionAbortedError
        read += more
    return read.partition(b"\r\n\r\n")[0]


def _request(head: bytes) -> Request:
    first, *lines = head.split(b"\r\n")
    found = _LINE.fullmatch(first)
    if found is None:
        raise Refusal(Answer(400, "this is no HTTP request\n"))
    method, target = found[1].decode(), found[2].decode()
    if method not in ("GET", "HEAD"):
        raise Refusal(Answer(405, "only GET and HEAD\n", headers={"Allow": "GET, HEAD"}))
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise Refusal(Answer(400, "a header line has no colon\n"))
        headers[name.decode("latin-1").strip().lower()] = value.decode("latin-1").strip()
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise Refusal(Answer(413, "a request has no body here\n"))
    return Request(path=target.partition("?")[0], headers=headers, head_only=method == "HEAD")


def _bytes(answer: Answer, *, head_only: bool) -> bytes:
    body = answer.body.encode("utf-8", "backslashreplace")
    lines = [
        f"HTTP/1.1 {answer.status} {_PHRASES.get(answer.status, 'Other')}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
    ]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if head_only else head + body


def _hang_up(connection: socket.socket, deadline: float) -> None:
    """End the connection so that the answer arrives: closing over unread bytes would reset it, and lose the answer."""
    connection.shutdown(socket.SHUT_WR)
    unread = 8 * HEAD_BYTES
    while unread > 0 and (left := min(1.0, deadline - time.monotonic())) > 0:
        connection.settimeout(left)
        more = connection.recv(HEAD_BYTES)
        if not more:
            return
        unread -= len(more)
