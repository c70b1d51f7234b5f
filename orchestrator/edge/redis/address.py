"""Where the server is: a URL, taken apart once, and what may be shown of it.

Nothing here connects. Invariant: no text that leaves this module holds a secret, but `url`, `will_address` and the
options.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from orchestrator.errors import RendezvousError

COMMAND_TIMEOUT_S = 5.0  # no command of ours takes long: silence for this time is a fault
_SECRET_OPTIONS = ("password", "ssl_password")
_POOL_OPTIONS = ("max_connections", "timeout", "connection_class")


def mask_url(url: str) -> str:
    """``url`` without its password, fit to be shown."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if ":" in user:
        user = f"{user.partition(':')[0]}:***"
    query = urlencode(
        [(key, "***" if key in _SECRET_OPTIONS else value) for key, value in parse_qsl(parts.query)], safe="*/"
    )
    shown = urlunsplit((parts.scheme, f"{user}{at}{host}", parts.path, query, ""))
    # urlunsplit drops the empty authority of schemes that it does not know
    return shown if "://" in shown else shown.replace(":", "://", 1)


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address and how to reach it."""

    masked: str
    options: dict[str, Any]
    connection_class: type[AbstractConnection]
    timeout_s: float = COMMAND_TIMEOUT_S
    url: str = field(default="", repr=False)  # as it was given, for workers

    @classmethod
    def from_url(cls, url: str) -> Address:
        """Take ``redis://``, ``rediss://`` or ``unix://`` apart; anything else is a RendezvousError."""
        try:
            masked = mask_url(url)
            options: dict[str, Any] = dict(parse_url(url))
            connection_class = options.get("connection_class", Connection)
        except ValueError as error:
            raise RendezvousError(f"rendezvous.url: {error}; use redis://, rediss:// or unix://") from error
        for key in _POOL_OPTIONS:
            options.pop(key, None)
        if connection_class is UnixDomainSocketConnection and not options.get("path"):
            raise RendezvousError(f"rendezvous.url: {masked} names no socket; write unix:///path/to/socket")
        address = cls(masked, options, connection_class, options.pop("socket_timeout", COMMAND_TIMEOUT_S), url)
        address.new_link()  # an option that no connection knows shows here
        return address

    def new_link(self) -> AbstractConnection:
        """A connection that is not open yet. It never retries by itself: a command may have been executed already."""
        ours = {
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,  # no HELLO, and the same shapes from every server
            "driver_info": None,  # saves two commands
            "decode_responses": True,
            "encoding_errors": "replace",
            # Its own timeout of sends is asyncio.wait_for, which now and then swallows a cancellation before Python
            # 3.12 (https://github.com/python/cpython/issues/86296). Whoever sends keeps time.
            "socket_timeout": None,
        }
        try:
            return self.connection_class(**{**self.options, **ours})
        except TypeError as error:
            raise RendezvousError(f"rendezvous.url: {self.masked} has an option that is not known: {error}") from error

    def will_address(self) -> dict[str, object]:
        """The address in the words of the guard, which has no Redis client."""
        if self.connection_class is UnixDomainSocketConnection:
            return {"unix": self.options["path"]}
        host, port = self.options.get("host", "localhost"), self.options.get("port", 6379)
        if self.connection_class is Connection:
            return {"host": host, "port": port, "tls": False}
        tls = {
            "ca": self.options.get("ssl_ca_certs"),
            "cert": self.options.get("ssl_certfile"),
            "key": self.options.get("ssl_keyfile"),
            "verify": self.options.get("ssl_cert_reqs", "required") != "none",
        }
        return {"host": host, "port": port, "tls": tls}

    def greeting(self) -> list[tuple[str, ...]]:
        """The commands that a fresh connection needs before any other: AUTH and SELECT, where the URL asks for them."""
        commands: list[tuple[str, ...]] = []
        if password := self.options.get("password"):
            user = self.options.get("username")
            commands.append(("AUTH", user, password) if user else ("AUTH", password))
        if db := self.options.get("db"):
            commands.append(("SELECT", str(db)))
        return commands
