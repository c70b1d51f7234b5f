"""A TCP proxy that does to connections what networks and dying servers do, when a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self


class Proxy:
    """Stands before a server on a port of the loopback. It lives in a thread of its own; use it with `with`."""

    def __init__(self, target: str | tuple[str, int]) -> None:
        """``target`` is the path of a unix socket, or a host and a port."""
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._flowing = asyncio.Event()
        self._resetting = False
        self._cut_after: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._deaf = contextlib.ExitStack()
        self.port = 0
        self.accepted = 0
        self.cuts = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    # -- what a test tells it

    def freeze(self) -> None:
        """Accept, and forward nothing, in either direction, until `flow`: half-open."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self) -> None:
        """Forward everything, also what was held back."""
        self._do(self._flow())

    def reset(self) -> None:
        """Reset every connection, and every new one at once, until `flow`."""
        self._do(self._reset())

    def refuse(self) -> None:
        """Reset every connection, and listen no longer, until `flow`."""
        self._do(self._refuse())

    def part(self) -> None:
        """Cut the cable: what is connected hears nothing, and connecting takes for ever, until `flow`."""
        self._do(self._part())

    def cut(self, after: int) -> None:
        """Forward ``after`` bytes of the next reply and close that connection."""
        self._cut_after = after

    # -- how it does it

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._flow())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._refuse())
        self._deaf.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _flow(self) -> None:
        self._resetting, self._cut_after = False, None
        self._flowing.set()
        self._deaf.close()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _part(self) -> None:
        self._flowing.clear()
        if self._server is not None:
            self._server.close()
            self._server = None
            self._deaf.enter_context(deaf_port(self.port))

    async def _reset(self) -> None:
        self._resetting = True
        for writer in tuple(self._writers):
            _slam(writer)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        ends = [writer]
        self._writers.add(writer)
        try:
            if self._resetting:
                return
            connect = asyncio.open_unix_connection if isinstance(self._target, str) else asyncio.open_connection
            target = (self._target,) if isinstance(self._target, str) else self._target
            theirs, upstream = await connect(*target)
            ends.append(upstream)
            self._writers.add(upstream)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, upstream, replies=False))
                pumps.create_task(self._pump(theirs, writer, replies=True))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # an end is gone, or we are
        finally:
            for end in ends:
                (_slam if self._resetting else asyncio.StreamWriter.close)(end)
                self._writers.discard(end)
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            if replies and self._cut_after is not None:
                after, self._cut_after = self._cut_after, None
                self.cuts += 1
                writer.write(data[:after])
                await writer.drain()
                break
            writer.write(data)
            await writer.drain()
        raise ConnectionError  # ends the other direction too


def _slam(writer: asyncio.StreamWriter) -> None:
    """Close with a reset instead of a goodbye."""
    end = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # closed already
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def deaf_port(port: int = 0) -> Iterator[int]:
    """A port to which connecting takes for ever: its backlog is full, so the kernel drops what asks for more."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        for _ in range(4):
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(("127.0.0.1", port))
        yield port
