"""RESP requests as bytes, for whoever does without a Redis client: the last will of a process, and its workers.

Knows the protocol's framing (https://redis.io/docs/latest/develop/reference/protocol-spec) and nothing of sockets.
"""

from __future__ import annotations


def encode(*words: bytes | str | int) -> bytes:
    """One command as an array of bulk strings."""
    encoded = [word if isinstance(word, bytes) else str(word).encode(errors="replace") for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
