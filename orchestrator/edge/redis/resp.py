"""The Redis protocol as bytes: requests, and replies that may arrive in any pieces.

Knows RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec) and nothing of sockets: agents read with
asyncio, workers and last wills block. Invariant: what a peer sends can neither be taken for a reply that it is not, nor
ask for more memory than a reply may have.
"""

from __future__ import annotations

import re
from collections.abc import Generator

from orchestrator.core.address import Word

LINE_LIMIT, BULK_LIMIT, COUNT_LIMIT, DEPTH_LIMIT = 65536, 1 << 29, 1 << 20, 8


class ServerError(Exception):
    """The server has understood the command, and says that it failed."""


PASSING = re.compile(
    r"\b(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|ASK|MOVED|OOM|BUSY|MISCONF|NOREPLICAS|UNBLOCKED)\b"
    r"|max number of clients"
)
"""Errors of a server that may be well again soon. Inside of scripts the code stands anywhere in the text."""
REFUSES_USER = re.compile(
    r"\b(WRONGPASS|NOAUTH|DENIED)\b|invalid password|without any password|no password is set"
    r"|unauthenticated (multi)?bulk"  # NOAUTH, for a command that is longer than strangers may send
)


class NotRedisError(EOFError):
    """The peer does not speak the Redis protocol."""


Reply = bytes | int | list["Reply"] | ServerError | None


def encode(*words: Word) -> bytes:
    """One command as an array of bulk strings."""
    encoded = [word if isinstance(word, bytes) else str(word).encode(errors="replace") for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def replying(depth: int = 0) -> Generator[int, bytes, Reply]:
    """Take one reply apart: yields how many bytes it needs (0: a line, with its end), and returns the reply."""
    line = yield 0
    kind, rest = line[:1], line[1:-2]
    if line.endswith(b"\r\n"):
        match kind:
            case b"+":
                return rest
            case b"-":
                return ServerError(rest.decode(errors="replace"))
            case b":" if rest.removeprefix(b"-").isdigit():
                return int(rest)
            case b"$" | b"*" if rest == b"-1":
                return None
            case b"$" if rest.isdigit() and int(rest) <= BULK_LIMIT:
                bulk = yield int(rest) + 2
                return bulk[:-2]
            case b"*" if rest.isdigit() and int(rest) <= COUNT_LIMIT and depth < DEPTH_LIMIT:
                items: list[Reply] = []
                for _ in range(int(rest)):
                    items.append((yield from replying(depth + 1)))  # noqa: PERF401 - a comprehension cannot yield
                return items
    raise NotRedisError(f"it does not speak the Redis protocol: {line[:80]!r}")
