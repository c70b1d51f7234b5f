"""The wire between agent and guard: frames of a 4-byte length and one dictionary, over a socketpair.

Both ends use this module; what the requests mean lives in `guard`, what the events mean in `client`. The invariant: a
frame is either delivered whole and as a dictionary with an ``op``, or the connection is at an end.

The dictionaries travel as `marshal`: both ends are one program run by one interpreter on a private socketpair, so
there is no foreign input to fear, bytes and surrogates pass as they are, and the guard is spared the import of `json`
(which brings `re` and `enum`: 6 ms and a megabyte in every agent).
"""

from __future__ import annotations

import marshal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` is dear to import, and this module is on the guard's way to its first worker
    from typing import Any, TypeAlias

    Message: TypeAlias = dict[str, Any]

LIMIT = 16 * 1024 * 1024
_HEAD = 4
_CHUNK = 256 * 1024
_VERSION = 2  # of marshal's format: without back-references, which single messages do not profit from


class ProtocolError(Exception):
    """What arrived is no frame of ours, or what should leave does not fit into one."""


def encode(message: Message) -> bytes:
    """One frame. Raises ProtocolError when it would exceed the limit or holds what the wire cannot carry."""
    try:
        body = marshal.dumps(message, _VERSION)
    except ValueError as problem:
        raise ProtocolError(f"{message.get('op')}: {problem}; plain str, bytes, int, float, list, dict only") from None
    if len(body) > LIMIT:
        raise ProtocolError(f"{message.get('op')}: a frame of {len(body)} bytes; at most {LIMIT} are allowed")
    return len(body).to_bytes(_HEAD, "big") + body


class Decoder:
    """Cuts a byte stream into messages."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes. Raises ProtocolError on an oversized or malformed frame."""
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        start = 0
        while len(buffer) - start >= _HEAD:
            size = int.from_bytes(buffer[start : start + _HEAD], "big")
            if size > LIMIT:  # judged by the head alone: nothing of that size is ever gathered
                raise ProtocolError(f"a frame of {size} bytes is announced; at most {LIMIT} are allowed")
            end = start + _HEAD + size
            if len(buffer) < end:
                break
            messages.append(_decode(bytes(buffer[start + _HEAD : end])))
            start = end
        del buffer[:start]
        return messages


def _decode(body: bytes) -> Message:
    try:
        message = marshal.loads(body)  # noqa: S302 - see above: the other end is ourselves
    except (EOFError, ValueError, TypeError) as problem:
        raise ProtocolError(f"a frame that cannot be read: {problem}") from None
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise ProtocolError("a frame without an op")
    return message


class Channel:
    """One non-blocking end of the socketpair. What cannot be sent yet is kept until `flush` is called again."""

    __slots__ = ("_decoder", "_outgoing", "fd")

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._decoder = Decoder()
        self._outgoing = bytearray()

    @property
    def pending(self) -> bool:
        """Whether something waits for the other end to read."""
        return bool(self._outgoing)

    def receive(self) -> list[Message]:
        """What has arrived, at most one chunk. Raises EOFError when the other end is gone."""
        try:
            data = os.read(self.fd, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as problem:  # ECONNRESET: it died with our words unread
            raise EOFError from problem
        if not data:
            raise EOFError
        return self._decoder.feed(data)

    def drain(self) -> list[Message]:
        """Everything that is still to be read, when the other end is known to be dead; up to a frame that is torn."""
        messages: list[Message] = []
        try:
            while data := os.read(self.fd, _CHUNK):
                messages += self._decoder.feed(data)
        except (OSError, ProtocolError):
            return messages
        return messages

    def send(self, message: Message) -> None:
        """Send now what the socket takes, keep the rest."""
        self._outgoing += encode(message)
        self.flush()

    def flush(self) -> None:
        """Send what is kept, as far as the socket takes it. To a dead end it is dropped: `receive` tells of that."""
        try:
            while self._outgoing:
                del self._outgoing[: os.write(self.fd, self._outgoing)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._outgoing.clear()
