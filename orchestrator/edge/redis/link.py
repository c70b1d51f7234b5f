"""A blocking connection to the server for processes that shall not import a Redis client: workers.

Standard library only. Knows URLs, sockets and RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec), and
nothing of rounds. Invariant: a link on which anything went wrong is closed, for its next reply might be an older one's.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import parse_qsl, unquote, urlsplit

from orchestrator.edge.redis.resp import encode

Reply = bytes | int | list["Reply"] | None
Word = bytes | str | int

_LINE_LIMIT = 65536


class ServerError(Exception):
    """The server has understood the command, and says that it failed."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address, taken from its URL. ``shown`` is fit for messages."""

    shown: str
    path: str = ""  # of a unix socket; else host and port count
    host: str = ""
    port: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    tls: dict[str, str] | None = field(default=None, repr=False)

    @classmethod
    def from_url(cls, url: str) -> Target:
        """Take ``redis://``, ``rediss://`` or ``unix://`` apart, as redis-py does."""
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError(f"{parts.scheme or 'no scheme'}: use redis://, rediss:// or unix://")
        options = dict(parse_qsl(parts.query))
        unix = parts.scheme == "unix"
        path = unquote(parts.path)
        host, port = unquote(parts.hostname or "localhost"), parts.port or 6379
        db = options.get("db") or ("" if unix else path.strip("/"))
        return cls(
            shown=f"unix://{path}" if unix else f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}",
            path=path if unix else "",
            host=host,
            port=port,
            username=unquote(parts.username or options.get("username", "")),
            password=unquote(parts.password or "") or options.get("password", ""),
            db=int(db) if db.isdecimal() else 0,
            tls=options if parts.scheme == "rediss" else None,
        )


class Link:
    """One connection, connected, authenticated, and used by one thread at a time."""

    def __init__(self, target: Target, within_s: float) -> None:
        self._socket = _connect(target, within_s)
        self._replies: BinaryIO = self._socket.makefile("rb")
        try:
            if target.password:
                who = (target.username,) if target.username else ()
                self.ask("AUTH", *who, target.password, within_s=within_s)
            if target.db:
                self.ask("SELECT", target.db, within_s=within_s)
        except BaseException:
            self.close()
            raise

    def ask(self, *words: Word, within_s: float) -> Reply:
        """Send a command and return its reply. OSError or EOFError: the link is of no more use."""
        self._socket.settimeout(within_s)
        self._socket.sendall(encode(*words))
        return self._read()

    def close(self) -> None:
        """Disconnect."""
        self._replies.close()
        self._socket.close()

    def _read(self) -> Reply:
        line = self._replies.readline(_LINE_LIMIT)
        if not line.endswith(b"\r\n"):
            raise EOFError("the server hung up")
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return rest
            case b"-":
                raise ServerError(rest.decode(errors="replace"))
            case b":":
                return int(rest)
            case b"$":
                return self._bulk(int(rest))
            case b"*":
                return None if rest == b"-1" else [self._read() for _ in range(int(rest))]
        raise EOFError(f"the server does not speak the Redis protocol: {line[:80]!r}")

    def _bulk(self, size: int) -> bytes | None:
        if size < 0:
            return None
        data = self._replies.read(size + 2)
        if len(data) != size + 2:
            raise EOFError("the server hung up")
        return data[:-2]


def _connect(target: Target, within_s: float) -> socket.socket:
    if target.path:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(within_s)
        try:
            link.connect(target.path)
        except BaseException:
            link.close()
            raise
        return link
    link = socket.create_connection((target.host, target.port), within_s)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if target.tls is None:
        return link
    try:
        return _secured(link, target.host, target.tls)
    except BaseException:
        link.close()
        raise


def _secured(link: socket.socket, host: str, options: dict[str, str]) -> socket.socket:
    import ssl  # noqa: PLC0415 - 4 MB that only rediss:// needs

    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_check_hostname", "true").lower() in ("false", "0", "no"):
        context.check_hostname = False
    if options.get("ssl_cert_reqs", "required") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    return context.wrap_socket(link, server_hostname=host)
