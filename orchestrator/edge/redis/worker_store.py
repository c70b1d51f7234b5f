"""What the workers of one round share: values, counters and barriers, on the server through which their agents met.

Standard library only, and blocking: workers are not asked to run a loop. Every operation is one Lua command of
``lua/store``, which refuses a worker whose round is over. Waiting is a blocking read of a stream that gets its entry
with the value, so that nobody polls and a late reader misses nothing. Invariant: a command that is sent again, because
its reply was lost, has its effect once.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.core.address import Address, Word
from orchestrator.edge.redis.link import Link
from orchestrator.edge.redis.resp import PASSING, REFUSES_USER, Reply, ServerError
from orchestrator.edge.redis.route import Route
from orchestrator.errors import RendezvousError, RoundEnded, ValuesLost

TIMEOUT_S = 300.0  # of waits, unless told otherwise
PATIENCE_S = 60.0  # how long what waits for nothing bears with a server that is away
COMMAND_TIMEOUT_S = 5.0  # silence for this time is a fault
MAX_BLOCK_S = 20.0  # a blocked read looks again this often, should it have slept through its wake-up
FIRST_PAUSE_S, MAX_PAUSE_S = 0.02, 1.0
KEY_LIMIT, VALUE_LIMIT = 1024, 64 << 20  # bytes
_INT64 = 1 << 63
_NEEDED = (
    "ORCHESTRATOR_STORE",
    "ORCHESTRATOR_RUN_ID",
    "ORCHESTRATOR_GROUP",
    "ORCHESTRATOR_ROUND",
    "ORCHESTRATOR_TOKEN",
)


@cache
def source(name: str) -> tuple[str, str]:
    """The command ``name`` of ``lua/store`` with the library before it, and its SHA-1."""
    lua = Path(__file__).with_name("lua") / "store"
    text = (lua / "lib.lua").read_text("utf-8") + (lua / f"{name}.lua").read_text("utf-8")
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Store:
    """What the workers of one group share in one round. May be used by many threads at once.

    Keys are text; values go in as bytes or text and come out as bytes. A round begins with nothing. Whatever takes
    part in a round that is over gets `RoundEnded`; what does not happen in time is a TimeoutError. If the server loses
    its memory the round goes on, but every use of values ends in `ValuesLost`: none is ever silently another one.
    """

    def __init__(
        self,
        url: str,
        *,
        run_id: str,
        group: str,
        round: int,  # noqa: A002 - the word for it
        token: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._route = Route(Address.from_url(url))
        self._who = f"round {round} of group {group} in run {run_id}"
        self._fence = (round, token)
        self._rank, self._world_size = rank, world_size
        group_prefix = f"orchestrator:{{{run_id}}}:{group}"
        self._prefix = f"{group_prefix}:store:{round}:{token}"
        self._events = f"{group_prefix}:events"
        self._keys = (f"{group_prefix}:group", self._events, f"{self._prefix}:values")
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._client = f"{self._rank}:{os.urandom(8).hex()}"
        self._requests = 0
        self._counting = threading.Lock()
        self._passed: dict[str, int] = {}
        self._idle: list[Link] = []

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Store:
        """The store of the worker that has this environment; a RuntimeError if the orchestrator did not start it."""
        absent = [name for name in _NEEDED if not environment.get(name)]
        if absent:
            raise RuntimeError(
                f"store() works in workers that the orchestrator has started: {', '.join(absent)} not set; "
                "start this script with `orchestrate -- python …`"
            )
        return cls(
            environment["ORCHESTRATOR_STORE"],
            run_id=environment["ORCHESTRATOR_RUN_ID"],
            group=environment["ORCHESTRATOR_GROUP"],
            round=int(environment["ORCHESTRATOR_ROUND"]),
            token=int(environment["ORCHESTRATOR_TOKEN"]),
            rank=int(environment["RANK"]),
            world_size=int(environment["WORLD_SIZE"]),
        )

    # -- what workers do with it

    def set(self, key: str, value: bytes | str) -> None:
        """Give ``key`` a value; whoever waits for it goes on."""
        if len(value) > VALUE_LIMIT:
            raise ValueError(f"the value of {key!r} has more than {VALUE_LIMIT} bytes")
        self._call("set", (self._wake("k", _checked(key)),), key, value, within_s=PATIENCE_S)

    def get(self, key: str, timeout_s: float = TIMEOUT_S) -> bytes:
        """The value of ``key``; waits until somebody has set it."""
        _checked(key)
        reply = self._wait("k", lambda within_s: self._call("get", (), key, within_s=within_s), timeout_s, repr(key))
        return _bytes(reply[1])

    def wait(self, keys: Iterable[str], timeout_s: float = TIMEOUT_S) -> None:
        """Wait until all of these keys have values."""
        names = [_checked(key) for key in keys]
        what = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004
        if names:
            text = json.dumps(names)
            self._wait("k", lambda within_s: self._call("wait", (), text, within_s=within_s), timeout_s, what)

    def add(self, key: str, amount: int = 1) -> int:
        """Add ``amount`` to the number that ``key`` holds (0 at first), and return the sum."""
        _checked(key)
        if not -_INT64 <= amount < _INT64:
            raise ValueError(f"{amount} does not fit 64 bits")
        self._check_process()
        with self._counting:  # one request at a time: the server remembers the last one
            self._requests += 1
            more = (self._wake("k", key), f"{self._prefix}:requests")
            reply = self._call("add", more, key, amount, self._client, self._requests, within_s=PATIENCE_S)
        if reply[0] != b"sum":
            raise ValueError(f"{key!r} does not hold a number, or the sum does not fit 64 bits")
        return int(_bytes(reply[1]))

    def barrier(self, name: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until all WORLD_SIZE workers of the group have come here. A name may be used again and again."""
        _checked(name)
        self._check_process()
        n = self._passed.get(name, 0)
        more = (self._wake(f"b:{n}", name), f"{self._prefix}:arrived:{n}:{name}", f"{self._prefix}:opened")
        who = (name, n, self._rank, self._world_size)
        what = f"all {self._world_size} workers at barrier {name!r}"
        self._wait(f"b:{n}", lambda within_s: self._call("barrier", more, *who, within_s=within_s), timeout_s, what)
        self._passed[name] = n + 1

    def close(self) -> None:
        """Disconnect. The next use connects again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- how it is done

    def _wake(self, kind: str, name: str) -> str:
        return f"{self._prefix}:wake:{kind}:{name}"

    def _wait(self, kind: str, ask: Callable[[float], list[Reply]], timeout_s: float, what: str) -> list[Reply]:
        """Ask until nothing is missing; in between, sleep on the stream that tells of it and on the group's."""
        ends = time.monotonic() + timeout_s
        within_s = max(timeout_s, COMMAND_TIMEOUT_S)  # a short wait is no reason to doubt the server
        while (reply := ask(within_s))[0] == b"missing":
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"waited {timeout_s:g} s in vain for {what} in {self._who}")
            stream, cursor = self._wake(kind, _bytes(reply[1]).decode()), _bytes(reply[2])
            self._sleep(min(left, MAX_BLOCK_S), stream, cursor)
            within_s = max(ends - time.monotonic(), COMMAND_TIMEOUT_S)
        return reply

    def _sleep(self, block_s: float, stream: str, cursor: bytes) -> None:
        """Sleep until ``stream`` has an entry, or the group's has a newer one."""
        words = ("XREAD", "BLOCK", max(1, round(block_s * 1000)), "STREAMS", stream, self._events, "0-0", cursor)
        within_s = block_s + COMMAND_TIMEOUT_S
        self._insist(lambda link: link.ask(*words, within_s=within_s), within_s)

    def _call(self, name: str, more_keys: tuple[str, ...], *args: Word, within_s: float) -> list[Reply]:
        text, sha = source(name)
        keys = (*self._keys, *more_keys)
        rest: tuple[Word, ...] = (len(keys), *keys, *self._fence, *args)

        def once(link: Link) -> Reply:
            try:
                return link.ask("EVALSHA", sha, *rest, within_s=COMMAND_TIMEOUT_S)
            except ServerError as error:
                if "NOSCRIPT" not in str(error):
                    raise
            return link.ask("EVAL", text, *rest, within_s=COMMAND_TIMEOUT_S)

        reply = self._insist(once, within_s)
        if not isinstance(reply, list) or not reply:
            raise RendezvousError(f"the server at {self._route.address.masked} gives an unknown reply: {reply!r:.100}")
        if reply[0] == b"lost":
            raise ValuesLost(
                f"the server at {self._route.address.masked} has lost its memory, and what the workers of {self._who} "
                "had shared; barriers still work, values do in the next round"
            )
        if reply[0] == b"ended":
            state, now = _bytes(reply[1]).decode(), _number(reply[2])
            raise RoundEnded(
                f"{self._who} is over: the group is {state}, its last round is {now}; this worker is stale"
            )
        return reply

    def _insist(self, ask: Callable[[Link], Reply], within_s: float) -> Reply:
        """Ask over a link of our own, again and again while the server is away, but no longer than ``within_s``."""
        ends, pause_s = time.monotonic() + within_s, FIRST_PAUSE_S
        while True:
            link = None
            try:
                link = self._take()
                reply = ask(link)
            except (OSError, EOFError, ServerError) as error:
                if link is not None:
                    link.close()
                if isinstance(error, ServerError) and not self._passes(error):
                    raise RendezvousError(f"the server at {self._route.address.masked} refuses: {error}") from error
                if time.monotonic() + pause_s > ends:
                    raise TimeoutError(
                        f"no answer from {self._route.address.masked} within {within_s:g} s: {error}"
                    ) from error
            except BaseException:
                if link is not None:
                    link.close()
                raise
            else:
                with self._lock:
                    self._idle.append(link)
                return reply
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _passes(self, error: ServerError) -> bool:
        """Whether to try again; refused credentials may be good again too, if they once were."""
        said = str(error)
        refused = self._route.place is not None and REFUSES_USER.search(said)
        return self._route.redirects(error) or bool(refused or PASSING.search(said))

    def _take(self) -> Link:
        self._check_process()
        with suppress(IndexError), self._lock:
            return self._idle.pop()
        return Link.to_server(self._route, COMMAND_TIMEOUT_S)

    def _check_process(self) -> None:
        """A forked child shares no connection with its parent, and counts by itself."""
        if self._pid != os.getpid():
            inherited, self._lock = self._idle, threading.Lock()
            self._begin()
            for link in inherited:
                link.close()


def _checked(key: str) -> str:
    if not 0 < len(key.encode()) <= KEY_LIMIT:
        raise ValueError(f"a key has 1 to {KEY_LIMIT} bytes, not {key!r:.80}")
    return key


def _bytes(value: Reply) -> bytes:
    if not isinstance(value, bytes):
        raise RendezvousError(f"the server gives an unknown reply: {value!r:.100}")
    return value


def _number(value: Reply) -> int:
    if not isinstance(value, int):
        raise RendezvousError(f"the server gives an unknown reply: {value!r:.100}")
    return value
