"""Which server to go to: at once where a URL names it, else by asking Sentinels or the nodes of a cluster.

Asks by yielding a question and being sent its answer, so that agents (asyncio) and workers (blocking) find their way by
the same steps. Opens nothing itself. Invariant: every key of a run is in one slot, so one place serves a run at a time.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import chain

from orchestrator.core.address import PORT_MAX, Address, Command, Kind, Place
from orchestrator.edge.redis.resp import Reply, ServerError

SLOTS = 16384
_MOVED = re.compile(r"\bMOVED \d+ (\S*):(\d{1,5})")
_ELSEWHERE = re.compile(r"\b(READONLY|MASTERDOWN|NOAUTH)\b")


class NotMasterError(OSError):
    """Whoever should serve us says that it does not, or nobody knows who does; a failover may be under way."""


@dataclass(frozen=True, slots=True)
class Question:
    """A command to one server, and what has to be said before it."""

    place: Place
    greeting: tuple[Command, ...]
    command: Command


Answer = Reply | Exception
"""TimeoutError if there was none, and nothing that shows why."""


class Route:
    """The way to the server of one URL. Remembers where it was, and who has answered."""

    def __init__(self, address: Address, on_moved: Callable[[], None] = lambda: None) -> None:
        self.address = address
        self.key = ""  # any one of the keys that will be used
        self.place: Place | None = None  # where the server was reached last
        self._on_moved = on_moved
        self._told: Place | None = None  # where a node has sent us
        self._known = list(address.seeds)  # those who can be asked; who answered last comes first
        self._masters: tuple[Place, ...] = ()  # of a cluster

    def find(self) -> Generator[Question, Answer, Place]:
        """Ask until the place is known. OSError: nobody knows it now; ValueError: the URL must be wrong."""
        told, self._told = self._told, None
        match self.address.kind:
            case Kind.SENTINEL:
                return (yield from self._ask_sentinels())
            case Kind.CLUSTER:
                return told or (yield from self._ask_nodes())
        return self.address.seeds[0]

    def reached(self, place: Place) -> None:
        """Take note that the server was found there."""
        before, self.place = self.place or self.address.seeds[0], place
        if place != before:
            self._on_moved()

    def redirects(self, error: ServerError) -> bool:
        """Whether the error reply names the place to go to; then the next `find` leads there."""
        found = _MOVED.search(str(error))
        if found is None or self.address.kind is not Kind.CLUSTER or int(found[2]) not in range(1, PORT_MAX + 1):
            return False
        host = found[1].strip("[]") or (self.place.host if self.place else self.address.host)
        self._told = Place(host, int(found[2]))
        return True

    def explained(self, error: Exception) -> Exception:
        """``error``, or what it really means."""
        if self.address.kind is Kind.DIRECT and isinstance(error, ServerError) and _MOVED.search(str(error)):
            return ServerError("it is a node of a Redis Cluster; write redis+cluster://")
        return error

    @staticmethod
    def misled(error: ServerError) -> bool:
        """Whether the server that gave this error reply is no longer the one to talk to, or not on this connection."""
        return bool(_ELSEWHERE.search(str(error)) or _MOVED.search(str(error)))

    def watchers(self) -> tuple[Question, ...]:
        """A question to each of those of whom most must be in sight, else it may be we who are cut off."""
        match self.address.kind:
            case Kind.SENTINEL:
                greeting = self.address.sentinel_greeting()
                return tuple(Question(place, greeting, ("PING",)) for place in self.address.seeds)
            case Kind.CLUSTER:
                places = self._masters or self.address.seeds
                return tuple(Question(place, self.address.greeting(), ("PING",)) for place in places)
        return ()

    # -- those who know

    def _ask_sentinels(self) -> Generator[Question, Answer, Place]:
        service, greeting = self.address.service, self.address.sentinel_greeting()
        answers: list[Answer] = []
        for sentinel in tuple(self._known):
            answer = yield Question(sentinel, greeting, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service))
            place = _place(answer, sentinel)
            if place is not None:
                answer = yield Question(place, self.address.greeting(), ("ROLE",))
                if isinstance(answer, list) and answer[:1] == [b"master"]:
                    self._prefer(sentinel)
                    return place
                answer = answer if isinstance(answer, Exception) else NotMasterError(f"{place} is not the master yet")
            answers.append(answer)
        if None in answers:
            raise ValueError(f"its Sentinels know no service {service!r}")
        raise _none_of(answers, "no Sentinel leads to a master")

    def _ask_nodes(self) -> Generator[Question, Answer, Place]:
        answers: list[Answer] = []
        for node in tuple(self._known):
            answer = yield Question(node, self.address.greeting(), ("CLUSTER", "SLOTS"))
            if isinstance(answer, list):
                ranges = list(_ranges(answer, node))
                self._masters = tuple(dict.fromkeys(place for _, _, place in ranges))
                self._known = list(dict.fromkeys(chain([node], self._known, self._masters)))
                if not self.key:
                    return node
                slot = slot_of(self.key)
                for first, last, place in ranges:
                    if first <= slot <= last:
                        return place
                answer = NotMasterError(f"no node of the cluster serves slot {slot}")
            elif isinstance(answer, ServerError) and "cluster support disabled" in str(answer):
                raise ValueError("it is no cluster: write redis:// and one host")
            answers.append(answer)
        raise _none_of(answers, "no node of the cluster answers")

    def _prefer(self, place: Place) -> None:
        self._known.remove(place)
        self._known.insert(0, place)


def slot_of(key: str) -> int:
    """The slot of a cluster that a key is in (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec)."""
    tag = re.search(r"\{([^}]+)\}", key) if "{" in key and not re.match(r"[^{]*\{\}", key) else None
    return crc_hqx((tag[1] if tag else key).encode(), 0) % SLOTS


def _none_of(answers: list[Answer], what: str) -> Exception:
    """What is to be raised when nobody could help: the most telling of their answers."""
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    for error in errors:
        if isinstance(error, ServerError | ValueError):
            return error
    if errors and all(isinstance(error, TimeoutError) for error in errors):
        return TimeoutError(what)
    return NotMasterError(
        ": ".join([what, *(str(error) for error in errors if not isinstance(error, TimeoutError))][:2])
    )


def _place(reply: Answer, asked: Place) -> Place | None:
    """A host and a port, checked; a node that does not know its own name leaves the host empty."""
    match reply:
        case [bytes(host) | (None as host), bytes() | int() as port, *_] if str(_number(port)).isdigit():
            name = host.decode(errors="replace") if host else ""
            if _number(port) in range(1, PORT_MAX + 1):
                return Place(name if name not in ("", "?") else asked.host, _number(port))
    return None


def _number(value: bytes | int) -> int:
    return value if isinstance(value, int) else int(value) if value.isdigit() else 0


def _ranges(reply: list[Reply], asked: Place) -> Iterator[tuple[int, int, Place]]:
    """Of CLUSTER SLOTS: the first and the last of slots that are together, and who serves them."""
    for row in reply:
        match row:
            case [int(first), int(last), list(master), *_]:
                place = _place(master, asked)
                if place is not None:
                    yield first, last, place
