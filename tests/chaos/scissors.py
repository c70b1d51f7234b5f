"""A proxy in front of a server that cuts an agent's connection at one step of one command.

It knows a command by the hash of its script and nothing else of the protocol: the client sends a command in one piece
and waits for its reply. Invariant: until it is armed, and after it has cut, it passes everything on, or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum

from orchestrator.edge.redis.scripts import script
from tests.edge.servers import Server


class Step(StrEnum):
    """How far a command comes."""

    UNSENT = "before it is sent"
    TORN = "in the middle of the request"
    UNHEARD = "before the reply"
    HALF_HEARD = "in the middle of the reply"
    HEARD = "after the reply"

    @property
    def executed(self) -> bool:
        return self not in (Step.UNSENT, Step.TORN)


class Scissors:
    """One agent's way to its server. ``deadly``: a cut is the end of the agent, which is never heard of again."""

    numbers = itertools.count()

    def __init__(self, server: Server) -> None:
        self.path = f"{server.directory}/p{next(self.numbers)}"
        self.url = f"unix://{self.path}"
        self.cut_at: float | None = None  # on the monotonic clock
        self.cut = asyncio.Event()
        self._upstream = server.path
        self._armed: tuple[bytes, Step, bool] | None = None
        self._dead = False
        self._links: set[asyncio.StreamWriter] = set()

    def arm(self, command: str, step: Step, *, deadly: bool) -> None:
        """Cut at this step of the next such command."""
        self._armed = (script(command).sha.encode(), step, deadly)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the agent."""
        if self._dead:
            writer.transport.abort()
            return
        up, down = await asyncio.open_unix_connection(self._upstream)
        mine = {writer, down}
        self._links |= mine
        try:
            with contextlib.suppress(OSError):
                await self._relay(reader, writer, up, down)
        finally:
            self._links -= mine
            for link in mine:
                link.transport.abort()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up: asyncio.StreamReader,
        down: asyncio.StreamWriter,
    ) -> None:
        while request := await reader.read(1 << 20):
            step = self._step_of(request)
            if step in (Step.UNSENT, Step.TORN):
                down.write(b"" if step is Step.UNSENT else request[: len(request) // 2])
                await down.drain()
                return self._snip()
            down.write(request)
            reply = await up.read(1 << 20)
            if not reply:
                return None
            kept = {None: len(reply), Step.UNHEARD: 0, Step.HALF_HEARD: len(reply) // 2}.get(step, len(reply))
            writer.write(reply[:kept])
            await writer.drain()
            if step is not None:
                return self._snip()
        return None

    def _step_of(self, request: bytes) -> Step | None:
        if self._armed is None or self._armed[0] not in request:
            return None
        return self._armed[1]

    def _snip(self) -> None:
        deadly, self._armed = bool(self._armed and self._armed[2]), None
        self.cut_at = time.monotonic()
        self._dead = deadly
        if deadly:
            for link in self._links:
                link.transport.abort()
        self.cut.set()


@asynccontextmanager
async def scissors(server: Server) -> AsyncIterator[Scissors]:
    """A proxy for one agent of a test."""
    made = Scissors(server)
    listener = await asyncio.start_unix_server(made.serve, made.path)
    try:
        yield made
    finally:
        listener.close()
        for link in list(made._links):
            link.transport.abort()
        await asyncio.sleep(0)
        os.unlink(made.path)  # noqa: PTH108 - in a coroutine, where it is as quick
