"""A connection through a unix socket, as to the server that a run brings along, without a client library.

redis-py takes 45 ms to import, a twelfth of what a small job takes in all, and there is neither TLS nor a network whose
errors it would have to be asked about. Same invariant as `client`: nothing is retried, nothing is sent unasked.
"""

from __future__ import annotations

import asyncio

from orchestrator.core.address import Command, Word
from orchestrator.edge.redis.resp import LINE_LIMIT, Reply, ServerError, encode, replying


class NearLink:
    """A connection. Whoever uses it keeps time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def reach(cls, path: str) -> NearLink:
        """Connect, and no more. OSError if that fails."""
        return cls(*await asyncio.open_unix_connection(path, limit=LINE_LIMIT))

    async def greet(self, greeting: tuple[Command, ...]) -> None:
        """What comes before the first command: credentials, the database."""
        for command in greeting:
            await self.ask(*command)

    async def ask(self, *words: Word) -> Reply:
        """Send a command and return its reply; an error reply is raised as a ServerError with the server's words.

        OSError, or EOFError where the server ends the connection or speaks something else.
        """
        self._writer.write(encode(*words))
        await self._writer.drain()
        steps = replying()
        wanted = next(steps)
        try:
            while True:
                wanted = steps.send(await self._read(wanted))
        except StopIteration as done:
            reply: Reply = done.value
        if isinstance(reply, ServerError):
            raise reply
        return reply

    async def _read(self, wanted: int) -> bytes:
        """So many bytes; 0 means a line, with its end. EOFError if the server says less than that."""
        try:
            return await (self._reader.readexactly(wanted) if wanted else self._reader.readuntil(b"\r\n"))
        except asyncio.IncompleteReadError:
            raise EOFError("the server hung up") from None
        except asyncio.LimitOverrunError:
            return await self._reader.readexactly(80)  # not a line, and `replying` says so

    def drop(self) -> None:
        """Disconnect at once, and forget what was not sent or read."""
        self._writer.transport.abort()

    def local_addr(self) -> str:
        """Our own IP address as others on this machine reach it."""
        return "127.0.0.1"
