"""What the group's stream tells, the last will, and how long anything of a run stays on the server."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from orchestrator.core.learning import Gaps
from orchestrator.core.policies import RuleAction
from orchestrator.core.publication import Publication
from orchestrator.core.rendezvous import Closed, Restart, Settled, Standing, Superseded, Waiting
from orchestrator.core.words import Outcome
from orchestrator.edge.redis.scripts import group_keys
from orchestrator.edge.redis.stores import last_will
from tests.edge import servers
from tests.edge.servers import PATIENCE_S, Member, Server, World, failure, world

server, own_server = servers.server, servers.own_server
WEEK_MS = 7 * 86_400_000


async def next_notice(member: Member) -> object:
    async with asyncio.timeout(PATIENCE_S):
        async for notice in member.store.notices():
            return notice
    raise AssertionError("the stream ended")


def test_the_stream_tells_everything_since_the_join_and_ends_with_the_run(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2))
            heard: list[object] = []

            async def listen() -> None:
                heard.extend([notice async for notice in a.store.notices()])

            listening = asyncio.create_task(listen())
            await b.store.fail(b.claim, RuleAction.RETRY, 0.0, 1, failure("b"))
            await asyncio.gather(a.sit(), b.sit())
            await b.store.leave(b.claim, "gone")
            await a.sit()
            closed = await a.store.close(a.claim, Outcome.STOPPED, 143, "enough", None)
            await asyncio.wait_for(listening, PATIENCE_S)
            restart = heard[1]
            assert isinstance(restart, Restart)
            assert (restart.round, restart.reason) == (1, "rank 0 on node b: exit code 3")
            heard.pop(1)
            assert heard == [Settled(1), Settled(2), Superseded(2, "node b left: gone", ("b",)), Settled(3), closed]

    asyncio.run(scenario())


def test_a_latecomer_is_not_told_what_happened_before_its_join(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 3), scale_up_s=30)
            await b.store.leave(b.claim, "gone")
            await a.sit()
            late = await run.member("c", (1, 3), scale_up_s=30)
            listening = asyncio.create_task(next_notice(late))  # waits for the join
            assert isinstance(await late.join(), Waiting)
            await a.store.leave(a.claim, "gone")
            assert await listening == Superseded(2, "node a left: gone", ("a",))

    asyncio.run(scenario())


def test_listening_can_be_cancelled_and_taken_up_again(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2))
            assert await next_notice(a) == Settled(1)
            listening = asyncio.create_task(next_notice(a))
            await asyncio.sleep(0)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await b.store.leave(b.claim, "gone")
            assert await next_notice(a) == Superseded(1, "node b left: gone", ("b",))

    asyncio.run(scenario())


def test_a_delay_that_is_heard_late_is_shorter(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            assert await next_notice(a) == Settled(1)
            await a.store.fail(a.claim, RuleAction.RETRY, 5.0, 1, failure())
            await asyncio.sleep(0.2)  # being late is what is tested
            notice = await next_notice(a)
            assert isinstance(notice, Restart)
            assert 0 < notice.delay_ms <= 4800
            verdict = await a.store.verdict(a.claim)
            assert isinstance(verdict, Restart)
            assert 0 < verdict.delay_ms <= notice.delay_ms

    asyncio.run(scenario())


def ttls(run: World) -> dict[str, int]:
    """TTL in ms by key, of the keys that exist."""
    found = {key: int(run.server.say("PTTL", key).strip(b":\r\n")) for key in group_keys(run.run_id, "r")}
    return {key.rpartition(":")[2]: ttl for key, ttl in found.items() if ttl != -2}


def test_no_key_lives_for_ever(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = Publication({"nodes": "1:3"})
            seen: set[str] = set()

            def check(low_ms: int = 3_500_000, high_ms: int = 3_600_000) -> None:
                found = ttls(run)
                assert all(low_ms < ttl <= high_ms for ttl in found.values()), found
                seen.update(found)

            a, b = await run.seated("ab", (1, 3), scale_up_s=30)
            check()
            extra = await run.member("c", (1, 3), scale_up_s=30)
            await extra.join()
            check()
            await a.store.fail(a.claim, RuleAction.RETRY_FREE, 0, 1, failure())
            await a.store.fail(a.claim, RuleAction.RETRY, 0, 1, failure())
            check()
            await a.join()
            check()
            await asyncio.gather(b.sit(), a.seat(), extra.seat())
            await a.store.done(a.claim)
            await a.store.gaps(a.claim, {"timeout_s": Gaps(2, 1, 9)})
            check()
            await b.store.leave(b.claim, "gone")
            check()
            assert seen == {key.rpartition(":")[2] for key in group_keys("x", "r")}, "a key was never looked at"
            await a.store.close(a.claim, Outcome.STOPPED, 1, "end", None)
            assert set(ttls(run)) == {"group", "events", "gaps", "job"}, "it may be reopened"
            check(86_000_000, 86_400_000)

    asyncio.run(scenario())


def test_a_long_grace_keeps_keys_longer_and_renewals_refresh_them(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1), server_grace_s=7200)
            for key in group_keys(run.run_id, "r"):
                run.server.say("PEXPIRE", key, str(WEEK_MS))
            await a.store.renew(a.claim)
            assert max(ttls(run).values()) > 14_400_000, "not with every renewal"
            run.server.say("HSET", group_keys(run.run_id, "r")[0], "touched_ms", "0")  # a while ago
            await a.store.renew(a.claim)
            assert all(14_300_000 < ttl <= 14_400_000 for ttl in ttls(run).values())

    asyncio.run(scenario())


def test_commands_survive_a_flush_of_scripts(own_server: Server) -> None:
    async def scenario() -> None:
        async with world(own_server) as run:
            (a,) = await run.seated("a", (1, 1))
            assert b"OK" in own_server.say("SCRIPT", "FLUSH")
            assert isinstance(await a.store.renew(a.claim), Standing)

    asyncio.run(scenario())


@pytest.mark.parametrize("flushed", [False, True], ids=["known", "flushed"])
def test_the_last_will_can_be_sent_by_someone_who_knows_only_sockets(own_server: Server, flushed: bool) -> None:
    async def scenario() -> None:
        async with world(own_server) as run:
            a, b = await run.seated("ab", (1, 2))
            address, payloads = last_will([b.store], "its agent died")
            if flushed:
                own_server.say("SCRIPT", "FLUSH")
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(PATIENCE_S)
                link.connect(str(address["unix"]))
                link.sendall(b"".join(payloads))
                assert link.recv(100) == b"*1\r\n$4\r\nleft\r\n"
            assert await a.store.verdict(a.claim) == Superseded(1, "node b left: its agent died", ("b",))

    asyncio.run(scenario())


def test_a_will_does_not_touch_the_agent_that_took_over_the_name(own_server: Server) -> None:
    async def scenario() -> None:
        async with world(own_server) as run:
            (a,) = await run.seated("a", (1, 1))
            _, payloads = last_will([a.store], "died")
            await a.store.leave(a.claim, "left by itself")
            (successor,) = await run.seated("a", (1, 1))
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(PATIENCE_S)
                link.connect(own_server.path)
                link.sendall(b"".join(payloads))
                assert b"left" in link.recv(100)
            assert isinstance(await successor.store.verdict(successor.claim), Standing)

    asyncio.run(scenario())


def test_a_lapse_is_noticed_within_the_lease_and_a_fifth_of_a_second(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            a, b = await run.seated("ab", (1, 2), lease_s=0.6)
            await b.store.renew(b.claim)
            vanished = time.monotonic()
            reply = await a.store.renew(a.claim)
            while isinstance(reply, Standing):
                await asyncio.sleep(reply.due_ms / 1000)
                reply = await a.store.renew(a.claim)
            assert isinstance(reply, Superseded)
            assert time.monotonic() - vanished <= 0.6 + 0.2

    asyncio.run(scenario())


def test_closed_is_what_the_stream_ends_with_for_those_who_join_too_late(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            (a,) = await run.seated("a", (1, 1))
            await a.store.done(a.claim)
            notices = [notice async for notice in a.store.notices()]
            assert isinstance(notices[-1], Closed)

    asyncio.run(scenario())
