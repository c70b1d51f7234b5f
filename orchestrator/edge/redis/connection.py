"""The two connections of an agent to its server, and the patience with which they are kept.

The only module that opens connections to Redis. One connection takes commands, one blocks on streams. It knows nothing
of rounds. Invariant: a command is sent again only here, so every command must bear to be executed twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from redis.exceptions import NoScriptError, RedisError

from orchestrator.edge.network import published_addr
from orchestrator.edge.redis.address import Address
from orchestrator.edge.redis.faults import Fault, judge
from orchestrator.edge.redis.scripts import Script
from orchestrator.errors import InternalError, RendezvousError

TELL_AFTER_S = 1.0  # a server that is just being started answers before
MAX_BLOCK_S = 2.0  # a blocked read comes back this often, so that a silent server is noticed
FIRST_PAUSE_S, MAX_PAUSE_S = 0.02, 1.0

Entry = tuple[str, dict[str, str]]


class Wire:
    """One connection, used by one command at a time; it connects when it is used."""

    def __init__(self, address: Address, extra_timeout_s: float = 0.0) -> None:
        self._link = address.new_link()
        self._timeout_s = address.timeout_s + extra_timeout_s
        self._turn = asyncio.Lock()

    async def ask(self, *words: str | int) -> object:
        """Send a command and return its reply; raises what the client library raises."""
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._link.send_command(*words)
                    reply: object = await self._link.read_response()
            except TimeoutError as error:
                raise TimeoutError(f"Timeout: no reply within {self._timeout_s:g} s") from error
            return reply

    async def close(self) -> None:
        """Disconnect."""
        await self._link.disconnect()

    def local_addr(self) -> str:
        """Our own IP address on this connection; that of the loopback for a unix socket."""
        writer = getattr(self._link, "_writer", None)  # the library shows it nowhere else
        transport_socket = writer.get_extra_info("socket") if writer is not None else None
        if transport_socket is None or transport_socket.family == socket.AF_UNIX:
            return "127.0.0.1"
        return str(transport_socket.getsockname()[0]).removeprefix("::ffff:")


class Connection:
    """An agent's way to the server.

    While the server is away, commands wait for it with growing pauses, for ``grace_s`` at most. ``on_lost`` and
    ``on_back`` hear of every outage, once each; also of one at the beginning, when it has lasted for a second.
    """

    def __init__(
        self,
        address: Address,
        *,
        grace_s: float = 600.0,
        on_lost: Callable[[str], None] | None = None,
        on_back: Callable[[], None] | None = None,
    ) -> None:
        self.address = address
        self._grace_s = grace_s
        self._on_lost = on_lost or (lambda _: None)
        self._on_back = on_back or (lambda: None)
        self._commands = Wire(address)
        self._reader = Wire(address, MAX_BLOCK_S)
        self._opened = False
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
    ) -> Self:
        """A connection to ``redis://``, ``rediss://`` or ``unix://``; nothing is sent yet."""
        return cls(Address.from_url(url), grace_s=grace_s, on_lost=on_lost, on_back=on_back)

    @property
    def local_addr(self) -> str:
        """The address under which other clients of the server reach this host, once open."""
        return self._local_addr

    async def open(self, within_s: float, bound: str = " (rendezvous.join_timeout_s)") -> None:
        """Meet the server; what waiting cannot mend is raised at once, everything else after ``within_s``.

        ``bound`` says, in the message, what set that time.
        """
        if self._opened:
            return
        silence = asyncio.get_running_loop().call_later(TELL_AFTER_S, self._lose, self._commands)
        try:
            async with asyncio.timeout(within_s):
                await self._insist(self._commands, lambda: self._commands.ask("PING"))
        except TimeoutError as error:
            raise RendezvousError(
                f"no server at {self.address.masked} within {within_s:g} s{bound}: {self._reason}"
            ) from error
        finally:
            silence.cancel()
        self._local_addr = published_addr(self._commands.local_addr(), self.address.options.get("host", ""))
        self._opened = True

    async def close(self) -> None:
        """Disconnect. Whoever still waits for a reply should have been cancelled."""
        for wire in (self._commands, self._reader):
            try:
                await wire.close()
            except (RedisError, OSError):  # it is gone, which is what was wanted
                continue

    async def alone(self, within_s: float) -> bool:
        """Wait until nobody else is connected: who hosts the server lets the others hear the end before it goes."""
        try:
            async with asyncio.timeout(within_s):
                await self._reader.close()
                while await self._clients() > 1:  # noqa: ASYNC110 - the server tells nobody when a client goes
                    await asyncio.sleep(FIRST_PAUSE_S)
        except (TimeoutError, RedisError, OSError, IndexError, ValueError):  # or a reply that is none
            return False
        return True

    async def _clients(self) -> int:
        """How many connections the server has, ours included."""
        info = str(await self._commands.ask("INFO", "clients"))
        return int(info.partition("connected_clients:")[2].split()[0])

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int]) -> object:
        """Execute a command of ours; a server that does not know it yet is sent its source."""
        if not self._opened:  # `open` has waited long enough; a last word to nobody need not wait again
            raise RendezvousError(f"the server at {self.address.masked} was never reached: {self._reason}")

        async def once() -> object:
            rest = (len(keys), *keys, *args)
            try:
                return await self._commands.ask("EVALSHA", script.sha, *rest)
            except NoScriptError:
                return await self._commands.ask("EVAL", script.source, *rest)

        return await self._insist(self._commands, once)

    async def read(self, stream: str, after: str) -> list[Entry]:
        """What stands in ``stream`` after an id. Waits for it, but comes back with nothing now and then."""
        block_ms = int(MAX_BLOCK_S * 1000)
        ask = ("XREAD", "COUNT", 100, "BLOCK", block_ms, "STREAMS", stream, after)
        reply = await self._insist(self._reader, lambda: self._reader.ask(*ask))
        return _entries(reply)

    async def server_ms(self) -> int:
        """The server's clock; only differences between two of its readings mean anything."""
        match await self._insist(self._reader, lambda: self._reader.ask("TIME")):
            case [str(seconds), str(micros)]:
                return int(seconds) * 1000 + int(micros) // 1000
        raise RendezvousError(f"the server at {self.address.masked} does not tell the time")

    async def _insist(self, wire: Wire, ask: Callable[[], Awaitable[object]]) -> object:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                reply = await ask()
            except (RedisError, OSError) as error:
                self._setback(wire, error)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
            else:
                self._recovered(wire)
                return reply

    def _setback(self, wire: Wire, error: Exception) -> None:
        """Note an error that may pass; raise any other."""
        fault, said = judge(error)
        self._reason = _plainly(error) or said
        at = self.address.masked
        if fault is Fault.BUG:
            raise InternalError(f"a command of ours is malformed: {self._reason}") from error
        if fault is Fault.REFUSED:
            raise RendezvousError(f"the server at {at} refuses a command: {self._reason}") from error
        if not self._opened:
            if fault is Fault.WRONG:
                raise RendezvousError(f"cannot use the server at {at}: {self._reason}; see rendezvous.url") from error
            return
        if time.monotonic() - self._lose(wire) >= self._grace_s:
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
        if not self._away:
            self._on_back()


def _plainly(error: Exception) -> str:
    """The system's own word for a connection that could not be made, which asyncio hides; empty for other errors."""
    below = error.__cause__ or error.__context__
    if not isinstance(below, OSError) or isinstance(below, socket.gaierror | ssl.SSLError) or not below.errno:
        return ""  # those two have numbers of their own
    return os.strerror(below.errno).lower()


def _entries(reply: object) -> list[Entry]:
    match reply:
        case None:
            return []
        case [[_, list(rows)]]:
            with contextlib.suppress(ValueError, TypeError):  # rows that are none
                return [(str(entry), dict(zip(fields[::2], fields[1::2], strict=True))) for entry, fields in rows]
    raise RendezvousError(f"the server replied to XREAD with something unknown: {reply!r:.200}")
