"""A guard's server and wills, when several agents of one process use them."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping, Sequence
from typing import Any, cast

from orchestrator.edge.guard.client import GuardClient, ServerStarted, SpawnFailed
from orchestrator.edge.served import SERVER_HANDLE, Served, Wills


class Told:
    """A guard that remembers the will that it was told."""

    def __init__(self) -> None:
        self.address: Mapping[str, Any] | None = {}
        self.payloads: Sequence[bytes] = ()

    def will(self, addr: Mapping[str, Any] | None, payloads: Sequence[bytes] = ()) -> None:
        self.address, self.payloads = addr, tuple(payloads)


def test_the_wills_of_all_agents_with_one_server_are_told_together() -> None:
    wills, told = Wills(), Told()
    guard = cast("GuardClient", told)
    here, there = {"unix": "/a"}, {"unix": "/b"}
    for owner, where, words in (("x", here, [b"1"]), ("y", here, [b"2"]), ("z", there, [b"3"])):
        wills.keep((where, words), owner)
    wills.tell(guard)
    assert (told.address, told.payloads) == (here, (b"1", b"2"))
    wills.keep((here, [b"4"]), "x")
    assert wills.drop("y")
    assert not wills.drop("y")
    wills.tell(guard)
    assert told.payloads == (b"4",)
    assert wills.drop("x")
    wills.tell(guard)
    assert (told.address, told.payloads) == (there, (b"3",))
    assert wills.drop("z")
    wills.tell(guard)
    assert told.address is None


def test_all_are_told_of_a_server_that_cannot_be_had_and_so_is_who_asks_later() -> None:
    heard: list[tuple[str, str]] = []

    async def use() -> None:
        served = Served(None)
        served.join("x", lambda why: heard.append(("x", why)))
        served.join("y", lambda why: heard.append(("y", why)))
        served.part("y")
        served.hear(SpawnFailed(handle=SERVER_HANDLE, step="exec", errno=errno.ENOENT))
        served.join("z", lambda why: heard.append(("z", why)))
        await asyncio.sleep(0)
        served.hear(ServerStarted(handle=SERVER_HANDLE, pid=1))
        served.join("later", lambda why: heard.append(("later", why)))
        await asyncio.sleep(0)

    asyncio.run(use())
    why = "it cannot be started: No such file or directory (at exec)"
    assert heard == [("x", why), ("z", why)]
