"""The bytes of torch's TCPStore protocol (2.13): opcodes, bounds, and what arrives, cut into requests.

Little-endian; a key or a value is its length (u64) and its bytes. Invariant: a request costs time and memory in
proportion to the bytes that have arrived of it, whatever lengths it announces, and in however many pieces.
"""

from __future__ import annotations

import struct

MAGIC = 0x3C85F7CE

VALIDATE, SET, COMPARE_SET, GET, ADD, CHECK, WAIT, GETNUMKEYS, DELETE_KEY, APPEND = range(10)
MULTI_GET, MULTI_SET, CANCEL_WAIT, PING, QUEUE_PUSH, QUEUE_POP, QUEUE_LEN, LIST_KEYS, BARRIER = range(10, 19)

READY, NOT_READY = b"\0", b"\1"
STOP_WAITING, WAIT_CANCELED = b"\0", b"\1"

KEY_MAX = 8 * 1024  # these three are torch's own: what its server refuses, ours does
VALUE_MAX = 8 * 1024 * 1024
COUNT_MAX = 128 * 1024
REQUEST_MAX = 64 * 1024 * 1024  # of all that one request holds; torch has no bound

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
I64 = struct.Struct("<q")

Field = int | bytes

_LAYOUT: dict[
    int, tuple[str, bool]
] = {  # of fields: k key, v value, i i64, u u32; and whether a count goes before them
    VALIDATE: ("u", False),
    SET: ("kv", False),
    COMPARE_SET: ("kvv", False),
    GET: ("k", False),
    ADD: ("ki", False),
    CHECK: ("k", True),
    WAIT: ("k", True),
    GETNUMKEYS: ("", False),
    DELETE_KEY: ("k", False),
    APPEND: ("kv", False),
    MULTI_GET: ("k", True),
    MULTI_SET: ("kv", True),
    CANCEL_WAIT: ("", False),
    PING: ("u", False),
    QUEUE_PUSH: ("kv", False),
    QUEUE_POP: ("k", False),
    QUEUE_LEN: ("k", False),
    LIST_KEYS: ("", False),
    BARRIER: ("ki", False),
}
_FIXED = {"i": I64, "u": U32}
_BOUND = {"k": KEY_MAX, "v": VALUE_MAX}


class WireError(Exception):
    """What a client sent is no request that we take; the message says why. Its connection is to be closed."""


def packed(data: bytes | bytearray) -> bytes:
    """A key or a value as it is sent."""
    return U64.pack(len(data)) + data


class Decoder:
    """Cuts one client's bytes into requests. It goes on where it stopped, and never looks at a byte twice."""

    __slots__ = ("_at", "_data", "_fields", "_layout", "_left", "_op", "_size", "_want")

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0  # what is before it was consumed
        self._op = -1  # of the request that has begun; -1: none
        self._layout = ""
        self._left = 0  # fields of it that are still to come; -1: their count is
        self._fields: list[Field] = []
        self._size = 0  # bytes in the fields so far
        self._want = -1  # the length of a key or value that has begun; -1: none

    def __len__(self) -> int:
        """Bytes that are held for requests to come."""
        return len(self._data) - self._at + self._size

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        return self._op < 0 and self._at >= len(self._data)

    def feed(self, data: bytes) -> None:
        """These have arrived."""
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    def take(self) -> tuple[int, list[Field]] | None:
        """The next request: its opcode and its fields; None if it is not all there. Raises WireError."""
        if self._op < 0 and not self._begin():
            return None
        if self._left < 0:
            count = self._number(U64)
            if count is None:
                return None
            if count > COUNT_MAX:
                raise WireError(f"a request of {count} keys; {COUNT_MAX} at most")
            self._left = count * len(self._layout)
        fields, layout = self._fields, self._layout
        while self._left:
            kind = layout[len(fields) % len(layout)]
            field = self._number(_FIXED[kind]) if kind in _FIXED else self._bytes(_BOUND[kind])
            if field is None:
                return None
            fields.append(field)
            self._left -= 1
        op, self._op = self._op, -1
        self._fields, self._size = [], 0
        return op, fields

    def _begin(self) -> bool:
        if self._at >= len(self._data):
            return False
        op = self._data[self._at]
        if op not in _LAYOUT:
            raise WireError(f"unknown opcode {op}; the highest of torch 2.13 is {BARRIER}")
        self._at += 1
        self._op = op
        self._layout, counted = _LAYOUT[op]
        self._left = -1 if counted else len(self._layout)
        return True

    def _number(self, form: struct.Struct) -> int | None:
        if len(self._data) - self._at < form.size:
            return None
        (number,) = form.unpack_from(self._data, self._at)
        self._at += form.size
        return int(number)

    def _bytes(self, bound: int) -> bytes | None:
        if self._want < 0:
            length = self._number(U64)
            if length is None:
                return None
            if length > bound:
                raise WireError(f"{'a key' if bound == KEY_MAX else 'a value'} of {length} bytes; {bound} at most")
            self._size += length
            if self._size > REQUEST_MAX:
                raise WireError(f"a request of more than {REQUEST_MAX} bytes")
            self._want = length
        end = self._at + self._want
        if len(self._data) < end:
            return None
        with memoryview(self._data) as view:
            field = bytes(view[self._at : end])
        self._at, self._want = end, -1
        return field
