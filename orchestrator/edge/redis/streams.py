"""All the streams that one agent listens to, read by one blocking command on one connection.

Who listens asks for what stands behind an id, and may be one of several. Invariant: nothing that arrives between two
questions of a listener is lost, as long as it asks again before so much has come that the server has trimmed it too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

KEPT = 256  # entries of a stream, as many as `lua/lib/2_ends.lua` has the server keep

Entry = tuple[str, dict[str, str]]
Found = Mapping[str, list[Entry]]
Ask = Callable[[Mapping[str, str]], Awaitable[Found]]


class _Stream:
    """What is known of one stream: all of it behind ``low``."""

    def __init__(self, low: str) -> None:
        self.low = self.last = low
        self.entries: deque[Entry] = deque(maxlen=KEPT)

    def add(self, entries: list[Entry]) -> None:
        for entry in entries:
            if len(self.entries) == KEPT:
                self.low = self.entries[0][0]
            self.entries.append(entry)
            self.last = entry[0]

    def after(self, id_: str) -> list[Entry]:
        return [entry for entry in self.entries if instant(entry[0]) > instant(id_)]


class Streams:
    """``ask`` blocks until there is something behind the ids that it is given, by stream, or for a while."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: dict[str, _Stream] = {}
        self._reading: asyncio.Task[None] | None = None
        self._listeners = 0

    async def read(self, stream: str, after: str) -> list[Entry]:
        """What stands in ``stream`` behind an id. Waits for it, but comes back with nothing now and then."""
        known = self._known.get(stream)
        if known is None or instant(after) < instant(known.low):
            known = self._known[stream] = _Stream(after)
        if not known.after(after):
            await self._wait()
        return known.after(after)

    def forget(self) -> None:
        """The server may have begun anew: what was read before says nothing about its streams any more."""
        self._known.clear()

    async def _wait(self) -> None:
        """Until the read that is under way is over. It ends with whoever waits for it last."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="streams")
        reading = self._reading
        self._listeners += 1
        try:
            await asyncio.shield(reading)
        finally:
            self._listeners -= 1
            if self._listeners == 0:
                reading.cancel()  # nothing, if it is over

    async def _read(self) -> None:
        streams = dict(self._known)
        for name, entries in (await self._ask({name: one.last for name, one in streams.items()})).items():
            if name in streams:
                streams[name].add(entries)


def instant(id_: str) -> tuple[int, int]:
    """A stream id, comparable: milliseconds of the server's clock, then a counter."""
    ms, _, counter = id_.partition("-")
    return int(ms), int(counter or 0)
