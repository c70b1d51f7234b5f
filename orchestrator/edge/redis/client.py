"""One asyncio connection to one server over TCP or TLS: redis-py's, with what it hides told again.

redis-py speaks the protocol and TLS. What an attempt shows of the server (`faults`) rests on the system's own errors
and on the server's own words, which redis-py wraps, cuts and renames; here they come back. Invariant: nothing is
retried and nothing is sent that was not asked for: a command may have been executed already.
"""

from __future__ import annotations

import socket
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from orchestrator.core.address import Address, Command, Place, Word
from orchestrator.edge.redis.resp import NotRedisError, Reply, ServerError
from orchestrator.edge.redis.tls import context

_FALSE = ("false", "0", "no")


class AsyncLink:
    """A connection. Whoever uses it keeps time."""

    def __init__(self, link: AbstractConnection) -> None:
        self._link = link

    @classmethod
    async def reach(cls, place: Place, address: Address) -> AsyncLink:
        """Connect, with TLS where the URL asks for it, and no more. OSError, EOFError or ValueError if that fails."""
        made = cls(_connection(place, address))
        try:
            await made._link.connect()  # type: ignore[no-untyped-call]  # the library has no types here
        except RedisError as error:
            made.drop()
            raise _plain(error) from error
        except BaseException:
            made.drop()
            raise
        return made

    async def greet(self, greeting: tuple[Command, ...]) -> None:
        """What comes before the first command: credentials, the database."""
        for command in greeting:
            await self.ask(*command)

    async def ask(self, *words: Word) -> Reply:
        """Send a command and return its reply; an error reply is raised as a ServerError with the server's words."""
        try:
            await self._link.send_command(*words)
            reply: Reply = await self._link.read_response()
        except RedisError as error:
            raise _plain(error) from error
        return reply

    def drop(self) -> None:
        """Disconnect at once, and forget what was not sent or read.

        The library knows only a gentle end, which waits for a silent peer to take what is buffered.
        """
        writer = getattr(self._link, "_writer", None)
        if writer is not None:
            writer.transport.abort()
            self._link._reader = self._link._writer = None  # noqa: SLF001 - or it warns of a connection left open

    def local_addr(self) -> str:
        """Our own IP address on this connection."""
        writer = getattr(self._link, "_writer", None)  # the library shows it nowhere else
        own: socket.socket | None = writer.get_extra_info("socket") if writer is not None else None
        if own is None:
            return "127.0.0.1"
        return str(own.getsockname()[0]).removeprefix("::ffff:")


def _connection(place: Place, address: Address) -> AbstractConnection:
    ours: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # no HELLO, and the same shapes from every server
        "driver_info": None,  # saves two commands
        # Its own timeout of sends is asyncio.wait_for, which now and then swallows a cancellation before Python 3.12
        # (https://github.com/python/cpython/issues/86296). Whoever sends keeps time.
        "socket_timeout": None,
        "socket_connect_timeout": None,
    }
    if address.tls is None:
        return Connection(host=place.host, port=place.port, **ours)
    context(address.tls)  # says which of its files cannot be used; the library does not
    tls: dict[str, Any] = dict(address.tls)
    if "ssl_check_hostname" in tls:
        tls["ssl_check_hostname"] = tls["ssl_check_hostname"].lower() not in _FALSE
    if tls.get("ssl_cert_reqs") == "none":
        tls["ssl_check_hostname"] = False
    return SSLConnection(host=place.host, port=place.port, **tls, **ours)


def _plain(error: RedisError) -> Exception:
    """What the library's error was made of."""
    if isinstance(error, InvalidResponse):
        return NotRedisError(f"it does not speak the Redis protocol: {error}")
    if isinstance(error, ResponseError) or error.status_code is not None:
        return ServerError(" ".join([*([error.status_code] if error.status_code else []), str(error)]))
    below = error.__cause__ or error.__context__
    return below if isinstance(below, OSError | ValueError) else EOFError(str(error))
