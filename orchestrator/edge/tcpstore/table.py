"""What the store holds: values, queues, and who waits for what, by the number of its connection. It knows no sockets.

Does what torch's own server does, also where that is odd. Invariant: all that is held stays within one budget; what
would exceed it changes nothing.
"""

from __future__ import annotations

from collections import deque

from orchestrator.edge.tcpstore.wire import I64, REQUEST_MAX, STOP_WAITING, WireError, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

MAX_BYTES = 256 * 1024 * 1024
_ENTRY = 128  # bytes that an entry costs beyond its own, about
_I64_MAX = 2**63 - 1
_DIGITS_MAX = 20


class Budget:
    """Bytes that may still be held: by the table, and for requests and replies that are not through yet."""

    __slots__ = ("_all", "_free")

    def __init__(self, size: int = MAX_BYTES) -> None:
        self._all = self._free = size

    def take(self, size: int) -> None:
        """Hold more, or less if it is negative. Raises WireError, and holds what it did, if that is too much."""
        if size > self._free:
            raise WireError(f"the store is full: it holds {self._all} bytes at most")
        self._free -= size


class Table:
    """Keys and values. ``tell`` sends a reply to a client that has waited long enough."""

    def __init__(self, tell: Callable[[int, bytes], None], budget: Budget) -> None:
        self.values: dict[bytes, bytes | bytearray] = {}
        self._queues: dict[bytes, deque[bytes]] = {}
        self._waiting: dict[bytes, dict[int, None]] = {}  # in the order of their coming
        self._awaited: dict[int, dict[bytes, None]] = {}
        self._tell = tell
        self._budget = budget

    # -- values

    def get(self, key: bytes) -> bytes | bytearray:
        """Its value; empty if there is none."""
        return self.values.get(key, b"")

    def set(self, key: bytes, value: bytes | bytearray) -> None:
        """Let this be its value."""
        old = self.values.get(key)
        self._budget.take(len(value) - len(old) if old is not None else len(value) + len(key) + _ENTRY)
        self.values[key] = value
        if key in self._waiting:
            self._reached(key)

    def compare_set(self, key: bytes, expected: bytes, desired: bytes) -> bytes:
        """Set it if its value is as expected, or if it has none and none is; its value then."""
        old = self.values.get(key)
        if old is None and expected:
            return expected  # as torch: it cannot say that there is none
        if old is None or old == expected:
            self.set(key, desired)
            return desired
        return bytes(old)

    def add(self, key: bytes, amount: int) -> int:
        """Its value as a number, and so much more; the sum."""
        old = self.values.get(key, b"0")
        digits = old[1:] if old[:1] == b"-" else old
        if not digits.isdigit() or len(digits) > _DIGITS_MAX:
            raise WireError(f"add to a value that is no number: {bytes(old[:_DIGITS_MAX])!r}")
        total = int(old) + amount
        if not -_I64_MAX - 1 <= total <= _I64_MAX:
            raise WireError("a sum of more than 64 bits")
        self.set(key, b"%d" % total)
        return total

    def append(self, key: bytes, more: bytes) -> None:
        """Put something at the end of its value."""
        old = self.values.get(key)
        if old is None:
            self.set(key, more)
            return
        if len(old) + len(more) > REQUEST_MAX:
            raise WireError(f"a value that has grown to more than {REQUEST_MAX} bytes")
        self._budget.take(len(more))
        if not isinstance(old, bytearray):
            old = self.values[key] = bytearray(old)  # from here on, a piece costs its own length
        old += more

    def delete(self, key: bytes) -> int:
        """Forget it; how many were forgotten."""
        old = self.values.pop(key, None)
        if old is None:
            return 0
        self._budget.take(-(len(old) + len(key) + _ENTRY))
        return 1

    def multi_get(self, keys: Sequence[bytes]) -> bytes:
        """The values of all, as they are sent."""
        found = [self.get(key) for key in keys]
        if sum(map(len, found)) > REQUEST_MAX:
            raise WireError(f"a reply of more than {REQUEST_MAX} bytes")
        return b"".join(map(packed, found))

    def list_keys(self) -> bytes:
        """All that have a value, as they are sent."""
        if sum(map(len, self.values)) > REQUEST_MAX:
            raise WireError(f"a reply of more than {REQUEST_MAX} bytes")
        return I64.pack(len(self.values)) + b"".join(map(packed, self.values))

    # -- queues

    def push(self, key: bytes, value: bytes) -> None:
        """Put it at the end of a queue, and wake one who waits for it."""
        self._budget.take(len(value) + len(key) + _ENTRY)
        self._queues.setdefault(key, deque()).append(value)
        for client in list(self._waiting.get(key, ())):
            if self._came(client, key):
                return

    def pop(self, key: bytes) -> bytes:
        """How many are in the queue, and the first of them, as they are sent."""
        queue = self._queues.get(key)
        if not queue:
            return I64.pack(0)
        reply = I64.pack(len(queue)) + packed(value := queue.popleft())
        self._budget.take(-(len(value) + len(key) + _ENTRY))
        if not queue:
            del self._queues[key]
        return reply

    def queue_len(self, key: bytes) -> int:
        """How many are in the queue."""
        return len(self._queues.get(key, ()))

    # -- waiting

    def has(self, key: bytes) -> bool:
        """Whether there is a value, or something in its queue."""
        return key in self.values or key in self._queues

    def wait(self, client: int, keys: Sequence[bytes]) -> bytes:
        """The reply if all are there; else nothing, and it is told when they have come."""
        missing = {key for key in keys if not self.has(key)}
        if not missing:
            return STOP_WAITING
        self._await(client, missing)
        return b""

    def barrier(self, client: int, key: bytes, size: int) -> bytes:
        """The reply if ``size`` have come by now; else nothing, and it is told when they have."""
        waiting = self._waiting.pop(key, {})  # to be counted is not to have a value
        try:
            count = self.add(key, 1)
        finally:
            if waiting:
                self._waiting[key] = waiting
        if count < size:
            self._await(client, {key})
            return b""
        self._reached(key)
        return STOP_WAITING

    def forget(self, client: int) -> None:
        """It waits no longer."""
        for key in self._awaited.pop(client, ()):
            self._wait_no_more(client, key)

    def _await(self, client: int, keys: Collection[bytes]) -> None:
        if client in self._awaited:
            raise WireError("a request to wait while it waits")
        self._budget.take(sum(map(len, keys)) + _ENTRY * len(keys))
        self._awaited[client] = dict.fromkeys(keys)
        for key in keys:
            self._waiting.setdefault(key, {})[client] = None

    def _reached(self, key: bytes) -> None:
        for client in list(self._waiting.get(key, ())):
            self._came(client, key)

    def _came(self, client: int, key: bytes) -> bool:
        """One that it waits for is there; whether that was the last."""
        awaited = self._awaited[client]
        awaited.pop(key, None)
        self._wait_no_more(client, key)
        if awaited:
            return False
        del self._awaited[client]
        self._tell(client, STOP_WAITING)
        return True

    def _wait_no_more(self, client: int, key: bytes) -> None:
        clients = self._waiting[key]
        del clients[client]
        if not clients:
            del self._waiting[key]
        self._budget.take(-(len(key) + _ENTRY))
