"""Where the server is: a URL, taken apart once, and what may be shown of it. Pure; agents and workers use the same.

Nothing here connects. Invariant: no text that leaves this module holds a secret, but for `Address.url` and greetings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote

COMMAND_TIMEOUT_S = 5.0  # no command of ours takes long: silence for this time is a fault
PORT, SENTINEL_PORT, PORT_MAX = 6379, 26379, 65535
FORMS = "redis://HOST:PORT/DB, rediss://…, unix:///PATH, redis+sentinel://HOST:PORT,…/SERVICE/DB or redis+cluster://HOST:PORT,…"

Word = bytes | str | int
Command = tuple[Word, ...]

_SECRET = re.compile(r"(?<=[?&])((?:\w+_)?password)=[^&]*")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\s:\[\]/,?#]+))(?::([0-9]{1,5}))?")
_OURS = frozenset({"db", "username", "password", "socket_timeout", "sentinel_username", "sentinel_password"})
_TLS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname"})
# What other programs put into such URLs to tune their client; it means nothing here.
_TUNING = frozenset(
    {
        "client_name",
        "decode_responses",
        "health_check_interval",
        "max_connections",
        "protocol",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "timeout",
    }
)


class Kind(Enum):
    """How the server is found."""

    DIRECT = ""  # it is where the URL says
    SENTINEL = "sentinel"  # Sentinels know which of several it is
    CLUSTER = "cluster"  # any node knows which one has our keys


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server listens: at a host's port, or on a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def mask_url(url: str) -> str:
    """``url`` without its passwords, fit to be shown; whatever is wrong with it, rather too little than too much."""
    scheme, colon, rest = url.partition("://")
    if "@" in rest and not rest.startswith("/"):
        who, at, rest = rest.rpartition("@")
        user, said, _ = who.partition(":")
        rest = f"{user}:***{at}{rest}" if said else f"{user}{at}{rest}"
    return _SECRET.sub(r"\1=***", f"{scheme}{colon}{rest}")


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address and how to reach it. ``masked`` is the URL, fit for messages."""

    masked: str
    seeds: tuple[Place, ...]  # the server itself, or whom to ask for it
    kind: Kind = Kind.DIRECT
    service: str = ""  # what Sentinels call it
    username: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    tls: Mapping[str, str] | None = field(default=None, repr=False)  # options; None: no TLS
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    timeout_s: float = COMMAND_TIMEOUT_S
    url: str = field(default="", repr=False)  # as it was given, for workers

    @classmethod
    def from_url(cls, url: str) -> Address:
        """Take a URL of one of `FORMS` apart; a ValueError, without secrets, says what is wrong with it."""
        scheme, _, rest = url.partition("://")
        base, _, way = scheme.partition("+")
        if base not in ("redis", "rediss", "unix") or scheme in ("unix+sentinel", "unix+cluster"):
            raise ValueError(f"it begins with {scheme!r:.40}" if "://" in url else "it has no ://")
        try:
            kind = Kind(way)
        except ValueError:
            raise ValueError(f"it begins with {scheme!r:.40}") from None
        rest, _, query = rest.partition("?")
        options = _options(query, tls=base == "rediss", kind=kind)
        who, _, rest = rest.rpartition("@") if not rest.startswith("/") else ("", "", rest)
        user, _, password = who.partition(":")
        if base == "unix":
            if not rest.startswith("/"):
                raise ValueError("it names no socket")
            seeds: tuple[Place, ...] = (Place(path=unquote(rest)),)
            parts: list[str] = []
        else:
            hosts, *parts = rest.rstrip("/").split("/")
            seeds = _places(hosts, kind)
        service, db = _service_and_db(parts, options, kind)
        return cls(
            masked=mask_url(url),
            seeds=seeds,
            kind=kind,
            service=service,
            username=unquote(user) or options.get("username", ""),
            password=unquote(password) or options.get("password", ""),
            db=db,
            tls=MappingProxyType({name: options[name] for name in _TLS & options.keys()}) if base == "rediss" else None,
            sentinel_username=options.get("sentinel_username", ""),
            sentinel_password=options.get("sentinel_password", ""),
            timeout_s=_seconds(options.get("socket_timeout")),
            url=url,
        )

    @property
    def host(self) -> str:
        """The host that the URL names first; nothing for a unix socket."""
        return self.seeds[0].host

    def greeting(self) -> tuple[Command, ...]:
        """The commands that a fresh connection needs before any other: AUTH and SELECT, where the URL asks for them."""
        select: tuple[Command, ...] = (("SELECT", self.db),) if self.db else ()
        return (*_auth(self.username, self.password), *select)

    def sentinel_greeting(self) -> tuple[Command, ...]:
        """The same for a connection to a Sentinel."""
        return _auth(self.sentinel_username, self.sentinel_password)

    def will_address(self, place: Place) -> dict[str, object]:
        """``place`` in the words of the guard, which knows no URLs."""
        if place.path:
            return {"unix": place.path}
        if self.tls is None:
            return {"host": place.host, "port": place.port, "tls": False}
        return {"host": place.host, "port": place.port, "tls": dict(self.tls)}


def _auth(username: str, password: str) -> tuple[Command, ...]:
    if not password:
        return ()
    return (("AUTH", username, password),) if username else (("AUTH", password),)


def _places(hosts: str, kind: Kind) -> tuple[Place, ...]:
    found = [_HOST.fullmatch(host) for host in hosts.split(",")]
    port = SENTINEL_PORT if kind is Kind.SENTINEL else PORT
    places = [Place(unquote(one[1] or one[2]), int(one[3] or port)) for one in found if one is not None]
    if len(places) < len(found) or any(place.port not in range(1, PORT_MAX + 1) for place in places):
        raise ValueError("it has no HOST:PORT where one should be (reserved characters in passwords are %XX)")
    if len(places) > 1 and kind is Kind.DIRECT:
        raise ValueError("several hosts need Sentinel or Cluster")
    return tuple(places)


def _service_and_db(parts: list[str], options: Mapping[str, str], kind: Kind) -> tuple[str, int]:
    """What stands in the path of the URL."""
    service = unquote(parts.pop(0)) if kind is Kind.SENTINEL and parts else ""
    if kind is Kind.SENTINEL and not service:
        raise ValueError("its path names no SERVICE")
    db = options.get("db") or (parts.pop(0) if parts else "0")
    if parts or not (db.isascii() and db.isdecimal()):
        raise ValueError(f"its database is a number, not {'/'.join([db, *parts])!r:.40}")
    if kind is Kind.CLUSTER and int(db):
        raise ValueError("a cluster has no databases but 0")
    return service, int(db)


def _options(query: str, *, tls: bool, kind: Kind) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = _OURS | (_TLS if tls else frozenset())
    for name in options.keys() - known - _TUNING:
        wants = " (of rediss://)" if name in _TLS else ""
        raise ValueError(f"its option {name!r:.40}{wants} is not known; known: {', '.join(sorted(known))}")
    if kind is not Kind.SENTINEL and any(name.startswith("sentinel_") for name in options):
        raise ValueError("sentinel_username and sentinel_password belong to redis+sentinel://")
    return options


def _seconds(text: str | None) -> float:
    """The option socket_timeout; a ValueError if it is no time."""
    try:
        seconds = COMMAND_TIMEOUT_S if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"socket_timeout is in seconds, more than 0, not {text!r:.40}")
    return seconds
