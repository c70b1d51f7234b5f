"""What comes from outside is judged before it is used: URLs, arguments, replies."""

from __future__ import annotations

import asyncio
import json

import pytest

from orchestrator.core.address import Address
from orchestrator.core.rendezvous import Closed, Standing
from orchestrator.edge.redis import replies
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.scripts import script
from orchestrator.errors import InternalError, RendezvousError
from tests.edge import servers
from tests.edge.servers import Server, failure, world

server = servers.server


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://host", "allowed: redis://HOST:PORT/DB, rediss"),
        ("unix://", "names no socket"),
        ("redis://host/0?colour=blue", "colour"),
        ("redis://host:port", "allowed: redis://"),
    ],
)
def test_a_url_that_cannot_be_used_is_said_before_anything_is_tried(url: str, says: str) -> None:
    with pytest.raises(RendezvousError, match=says):
        Connection.from_url(url)


def test_tls_options_reach_the_will() -> None:
    address = Address.from_url("rediss://h:7000?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k&ssl_cert_reqs=none")
    tls = {"ssl_ca_certs": "/ca", "ssl_certfile": "/c", "ssl_keyfile": "/k", "ssl_cert_reqs": "none"}
    assert address.will_address(address.seeds[0]) == {"host": "h", "port": 7000, "tls": tls}


def test_input_out_of_bounds_is_our_bug_and_changes_nothing(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            caller = [*a.store._caller(a.claim)]
            for index, bad in ((0, "x" * 256), (0, "a\nb"), (2, "1.5"), (2, "-1"), (6, "h" * 65), (8, "0"), (10, "9")):
                args = [*caller[:index], bad, *caller[index + 1 :]]
                with pytest.raises(InternalError, match="BADARG"):
                    await a.store.connection.call(script("renew"), a.store._keys, args)
            for more in (("nonsense", 0, 1, 3, 0, "", 0, 0, "", ""), ("retry", 0, 1, 3, 0, "", 0, 0, "", "c" * 65537)):
                with pytest.raises(InternalError, match="BADARG"):
                    await a.store.connection.call(script("fail"), a.store._keys, [*caller, *more])
            assert isinstance(await a.store.verdict(a.claim), Standing)

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb"])
def test_names_that_the_group_cannot_keep_are_refused_early(server: Server, name: str) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            with pytest.raises(RendezvousError, match=r"node\.name must have 1 to 255 bytes"):
                await run.member(name)

    asyncio.run(scenario())


def test_names_of_any_script_are_kept_apart(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.run_id = 'run {with} "odd" näme: *?[]'
            members = [await run.member(name, (2, 2), nonce=f"n-{run.run_id}") for name in ("nöde:1", 'no de"2')]
            seats = await asyncio.gather(*(member.sit() for member in members))
            assert {seat.slot for seat in seats} == {0, 1}
            await members[0].store.leave(members[0].claim, "tidies up")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"seat",
        [],
        ["novelty", 1],
        ["seat", 1, 2],
        ["standing", "soon"],
        ["standing", True],
        ["restart", 1, 1, 0, 0, "why", "[1]"],
        ["restart", 1, 1, 0, 0, "why", "{"],
        ["closed", "exploded", 1, "", "", 0],
        [["nested"]],
        ["closed", "failed", 1, "", "[" * 100_000, 0],
        [["12-x"], ["standing", 5]],
        ["x-1", ["waiting", 5, 1, 0]],
    ],
)
def test_a_reply_that_makes_no_sense_is_said_and_not_believed(raw: object) -> None:
    readers = (replies.join_reply, replies.seat_reply, replies.renew_reply, replies.verdict_reply, replies.closed_reply)
    for reader in readers:
        with pytest.raises(RendezvousError, match="not one that this version knows"):
            reader(raw)
    with pytest.raises(RendezvousError, match="not one that this version knows"):
        replies.notice({"reply": json.dumps(raw) if not isinstance(raw, bytes) else "{"})


@pytest.mark.parametrize(
    "wrong",
    [{"rank": "0"}, {"rank": None}, {"pid": [1]}, {"last_lines": [1]}, {"last_lines": 1}, {"node": 5}, {"at": "now"}],
)
def test_a_cause_that_is_no_failure_is_not_believed(wrong: dict[str, object]) -> None:
    told = failure().to_dict()
    closed = replies.closed_reply(["closed", "failed", 1, "why", json.dumps(told), 0])
    assert isinstance(closed, Closed)
    assert closed.cause == told
    for cause in ({**told, **wrong}, {key: value for key, value in told.items() if key != "rank"}):
        with pytest.raises(RendezvousError, match="not one that this version knows"):
            replies.closed_reply(["closed", "failed", 1, "why", json.dumps(cause), 0])


def test_a_reply_to_another_question_is_not_believed() -> None:
    with pytest.raises(RendezvousError):
        replies.verdict_reply(["held", "someone", 5])
    with pytest.raises(RendezvousError):
        replies.closed_reply(["standing", 5])
    with pytest.raises(RendezvousError):
        replies.notice({"reply": '["standing", 5]'})
