"""The two connections of an agent to its server, and the patience with which they are kept.

One takes commands, one blocks on streams. How a single attempt is made is `wire`'s business. It knows nothing of
rounds. Invariant: a command is sent again only here, so every command must bear to be executed twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from orchestrator.core.address import FORMS, Address, Command, mask_url
from orchestrator.core.lease import Attempt, Contact
from orchestrator.edge.network import published_addr
from orchestrator.edge.redis.faults import Fault, judge
from orchestrator.edge.redis.route import Route
from orchestrator.edge.redis.scripts import Script
from orchestrator.edge.redis.streams import Entry, Found, Streams
from orchestrator.edge.redis.wire import Trouble, Wire
from orchestrator.errors import InternalError, RendezvousError

TELL_AFTER_S = 1.0  # a server that is just being started answers before
MAX_BLOCK_S = 2.0  # a blocked read comes back this often, so that a silent server is noticed
FIRST_PAUSE_S, MAX_PAUSE_S = 0.02, 1.0


class Connection:
    """An agent's way to the server.

    While the server is away, commands wait for it with growing pauses, for ``grace_s`` at most. ``on_lost`` and
    ``on_back`` hear of every outage, once each; also of one at the beginning, when it has lasted for a second.
    ``on_moved`` hears when another server than before serves us, see `will_address`.
    """

    def __init__(
        self,
        address: Address,
        *,
        grace_s: float = 600.0,
        on_lost: Callable[[str], None] | None = None,
        on_back: Callable[[], None] | None = None,
        on_moved: Callable[[], None] | None = None,
    ) -> None:
        self.address = address
        self._grace_s = grace_s
        self._on_lost = on_lost or (lambda _: None)
        self._on_back = on_back or (lambda: None)
        self.on_moved = on_moved or (lambda: None)
        self._route = Route(address, self._moved)
        self._commands = Wire(self._route)
        self._reader = Wire(self._route, MAX_BLOCK_S)
        self._streams = Streams(self._block)
        self._opened = False
        self._served = False  # it has executed a command of ours, so that what is wrong now may pass
        self._away: dict[Wire, float] = {}  # who gets no answer, and since when on the monotonic clock
        self.outages = 0  # after each of them the server may have forgotten everything
        self._reason = "no answer"
        self._local_addr = "127.0.0.1"

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        grace_s: float = 600.0,
        on_lost: Callable[[str], None] | None = None,
        on_back: Callable[[], None] | None = None,
        on_moved: Callable[[], None] | None = None,
    ) -> Self:
        """A connection to what a URL names (see `orchestrator.core.address.FORMS`); nothing is sent yet."""
        try:
            address = Address.from_url(url)
        except ValueError as error:
            raise RendezvousError(f"rendezvous.url: {mask_url(url)}: {error}; allowed: {FORMS}") from error
        return cls(address, grace_s=grace_s, on_lost=on_lost, on_back=on_back, on_moved=on_moved)

    @property
    def local_addr(self) -> str:
        """The address under which other clients of the server reach this host, once open."""
        return self._local_addr

    def _moved(self) -> None:
        self.on_moved()

    def will_address(self) -> dict[str, object]:
        """Where the server is now, in the words of the guard, which has no client."""
        return self.address.will_address(self._route.place or self.address.seeds[0])

    async def open(self, within_s: float, bound: str = " (rendezvous.join_timeout_s)") -> None:
        """Meet the server; what waiting cannot mend is raised at once, everything else after ``within_s``.

        ``bound`` says, in the message, what set that time.
        """
        if self._opened:
            return
        silence = asyncio.get_running_loop().call_later(TELL_AFTER_S, self._lose, self._commands)
        try:
            async with asyncio.timeout(within_s):
                await self._insist(self._commands, ("PING",))
        except TimeoutError as error:
            raise RendezvousError(
                f"no server at {self.address.masked} within {within_s:g} s{bound}: {self._reason}"
            ) from error
        finally:
            silence.cancel()
        self._local_addr = published_addr(self._commands.local_addr, self.address.host)
        self._opened = True

    async def close(self) -> None:
        """Disconnect. Whoever still waits for a reply should have been cancelled."""
        for wire in (self._commands, self._reader):
            wire.drop()
        await asyncio.sleep(0)  # in which the sockets are closed

    async def alone(self, within_s: float) -> bool:
        """Wait until nobody else is connected: who hosts the server lets the others hear the end before it goes."""
        try:
            async with asyncio.timeout(within_s):
                self._reader.drop()
                while await self._clients() > 1:  # noqa: ASYNC110 - the server tells nobody when a client goes
                    await asyncio.sleep(FIRST_PAUSE_S)
        except (TimeoutError, Trouble, IndexError, ValueError):  # or a reply that is none
            return False
        return True

    async def _clients(self) -> int:
        """How many connections the server has, ours included."""
        info = str(await self._commands.ask("INFO", "clients"))
        return int(info.partition("connected_clients:")[2].split()[0])

    async def call(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[str | int],
        *,
        within_s: float | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> object:
        """Execute a command of ours; a server that does not know it yet is sent its source.

        ``within_s`` bounds a single attempt, in seconds; after one that was too short for a fresh connection, all later
        ones have twice as long, up to the usual limit. ``on_attempt`` hears of each attempt when it is over.
        """
        if not self._opened:  # `open` has waited long enough; a last word to nobody need not wait again
            raise RendezvousError(f"the server at {self.address.masked} was never reached: {self._reason}")
        self._route.key = keys[0] if keys else ""
        rest = (len(keys), *keys, *args)
        commands = (("EVALSHA", script.sha, *rest), ("EVAL", script.source, *rest))
        reply = await self._insist(self._commands, *commands, within_s=within_s, on_attempt=on_attempt)
        self._served = True
        return reply

    async def read(self, stream: str, after: str) -> list[Entry]:
        """What stands in ``stream`` after an id. Waits for it, but comes back with nothing now and then."""
        return await self._streams.read(stream, after)

    async def _block(self, after: Mapping[str, str]) -> Found:
        self._route.key = next(iter(after))
        block_ms = int(MAX_BLOCK_S * 1000)
        ask: Command = ("XREAD", "COUNT", 100, "BLOCK", block_ms, "STREAMS", *after, *after.values())
        return found_in(await self._insist(self._reader, ask))

    async def server_ms(self) -> int:
        """The server's clock; only differences between two of its readings mean anything."""
        return int(self._time_of(await self._insist(self._reader, ("TIME",))) * 1000)

    async def clock(self) -> tuple[float, float, float]:
        """The server's clock, and ours just before and after it was read, all in epoch seconds."""
        sent_s = 0.0

        def note(attempt: Attempt) -> None:
            nonlocal sent_s
            sent_s = attempt.at_s

        reply = await self._insist(self._commands, ("TIME",), on_attempt=note)
        took_s, heard_s = time.clock_gettime(time.CLOCK_BOOTTIME) - sent_s, time.time()
        return self._time_of(reply), heard_s - took_s, heard_s

    def _time_of(self, reply: object) -> float:
        match reply:
            case [str(seconds), str(micros)] if seconds.isdecimal() and micros.isdecimal():
                return int(seconds) + int(micros) / 1_000_000
        raise RendezvousError(f"the server at {self.address.masked} does not tell the time")

    async def _insist(
        self,
        wire: Wire,
        *commands: Command,
        within_s: float | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> object:
        """Attempt it until there is a reply."""
        hear = on_attempt or (lambda _: None)
        limit_s = self.address.timeout_s if within_s is None else min(within_s, self.address.timeout_s)
        longer_s = min(2 * limit_s, self.address.timeout_s)
        most_s, pause_s = min(limit_s, MAX_PAUSE_S), FIRST_PAUSE_S
        while True:
            sent_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            try:
                reply = await wire.first_known(*commands, within_s=limit_s)
            except Trouble as trouble:
                hear(Attempt(sent_s, trouble.shows))
                self._setback(wire, trouble.error)
                if trouble.too_slow:
                    limit_s = longer_s
            else:
                hear(Attempt(sent_s, Contact.ANSWERED))
                self._recovered(wire)
                return reply
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, most_s)

    def _setback(self, wire: Wire, error: Exception) -> None:
        """Note an error that may pass; raise any other."""
        fault, self._reason = judge(error)
        at = self.address.masked
        if fault is Fault.BUG:
            raise InternalError(f"a command of ours is malformed: {self._reason}") from error
        if fault is Fault.REFUSED:
            raise RendezvousError(f"the server at {at} refuses a command: {self._reason}") from error
        if fault is Fault.WRONG and not self._served:
            raise RendezvousError(f"cannot use the server at {at}: {self._reason}; see rendezvous.url") from error
        if self._opened and time.monotonic() - self._lose(wire) >= self._grace_s:
            raise RendezvousError(
                f"the server at {at} has been away for {self._grace_s:g} s (rendezvous.server_grace_s): {self._reason}"
            ) from error

    def _lose(self, wire: Wire) -> float:
        """Note that the server does not answer on this wire; returns since when."""
        if not self._away:
            self._on_lost(self._reason)
        return self._away.setdefault(wire, time.monotonic())

    def _recovered(self, wire: Wire) -> None:
        if self._away.pop(wire, None) is None:
            return
        self.outages += 1
        self._streams.forget()
        if not self._away:
            self._on_back()


def found_in(reply: object) -> Found:
    """What a reply to XREAD holds, by stream. Raises RendezvousError."""
    match reply:
        case None:
            return {}
        case list():
            with contextlib.suppress(ValueError, TypeError):  # rows that are none
                return {str(stream): [_entry(*row) for row in rows] for stream, rows in reply}
    raise RendezvousError(f"the server replied to XREAD with something unknown: {reply!r:.200}")


def _entry(id_: object, fields: Sequence[str]) -> Entry:
    return str(id_), dict(zip(fields[::2], fields[1::2], strict=True))
