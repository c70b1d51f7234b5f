"""Several listeners on several streams share one blocking read, and none of them misses an entry."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from orchestrator.edge.redis.streams import KEPT, Entry, Found, Streams, instant

COUNT = 100  # entries of a stream that one read brings


class Server:
    """Streams as a server keeps them; a read blocks until something is added."""

    def __init__(self) -> None:
        self.streams: dict[str, list[Entry]] = {}
        self.reads: list[dict[str, str]] = []
        self._news = asyncio.Event()

    def add(self, stream: str, number: int) -> None:
        self.streams.setdefault(stream, []).append((f"{number}-0", {"n": str(number)}))
        self._news.set()

    async def ask(self, after: Mapping[str, str]) -> Found:
        self.reads.append(dict(after))
        while True:
            found = {
                name: [entry for entry in self.streams.get(name, []) if instant(entry[0]) > instant(low)]
                for name, low in after.items()
            }
            if any(found.values()):
                return {name: entries[:COUNT] for name, entries in found.items() if entries}
            self._news.clear()
            await self._news.wait()


async def listen(streams: Streams, name: str, count: int, after: str = "0-0") -> list[int]:
    heard: list[int] = []
    while len(heard) < count:
        for entry, fields in await streams.read(name, after):
            after = entry
            heard.append(int(fields["n"]))
    return heard


def test_two_listeners_of_one_stream_hear_everything_in_one_read_each() -> None:
    async def run() -> None:
        server = Server()
        streams = Streams(server.ask)
        async with asyncio.TaskGroup() as tasks:
            one, other = (tasks.create_task(listen(streams, "a", 5)) for _ in range(2))
            for number in range(1, 6):
                await asyncio.sleep(0)
                server.add("a", number)
        assert one.result() == other.result() == [1, 2, 3, 4, 5]
        assert len(server.reads) <= 6

    asyncio.run(run())


def test_several_streams_are_read_by_one_command() -> None:
    async def run() -> None:
        server = Server()
        streams = Streams(server.ask)
        async with asyncio.TaskGroup() as tasks:
            heard = [tasks.create_task(listen(streams, name, 2)) for name in "ab"]
            for number in (1, 2):
                for name in "ab":
                    await asyncio.sleep(0)
                    server.add(name, number)
        assert [one.result() for one in heard] == [[1, 2], [1, 2]]
        assert any(set(read) == {"a", "b"} for read in server.reads)

    asyncio.run(run())


def test_who_listens_later_still_hears_what_came_before_from_its_place_on() -> None:
    async def run() -> None:
        server = Server()
        streams = Streams(server.ask)
        for number in range(1, 5):
            server.add("a", number)
        assert await listen(streams, "a", 4) == [1, 2, 3, 4]
        assert await listen(streams, "a", 2, after="2-0") == [3, 4]
        assert len(server.reads) == 1

    asyncio.run(run())


def test_what_is_no_longer_kept_is_asked_for_again() -> None:
    async def run() -> None:
        server = Server()
        streams = Streams(server.ask)
        for number in range(1, KEPT + 10):
            server.add("a", number)
        await listen(streams, "a", KEPT + 9)
        assert (await listen(streams, "a", 2, after="1-0"))[:2] == [2, 3]

    asyncio.run(run())


def test_a_server_that_begins_anew_with_smaller_ids_is_heard() -> None:
    async def run() -> None:
        server = Server()
        streams = Streams(server.ask)
        server.add("a", 100)
        assert await listen(streams, "a", 1, after="50-0") == [100]
        server.streams = {}
        server.add("a", 3)
        assert await listen(streams, "a", 1, after="2-0") == [3]

    asyncio.run(run())


def test_the_read_ends_with_its_last_listener() -> None:
    async def run() -> None:
        server = Server()
        streams = Streams(server.ask)
        one, other = (asyncio.create_task(listen(streams, "a", 1)) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.wait([one])
        server.add("a", 1)
        assert await other == [1]
        last = asyncio.create_task(listen(streams, "a", 1, after="1-0"))
        await asyncio.sleep(0.01)
        last.cancel()
        await asyncio.wait([last])
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
