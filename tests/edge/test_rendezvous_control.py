"""What an operator sees and wishes, and what is published of a run: on real servers, without agents."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from orchestrator.core.policies import Budget, RuleAction
from orchestrator.core.publication import Publication
from orchestrator.core.rendezvous import Closed, Drained, Restart, Settled, Standing, Superseded
from orchestrator.core.status import Denied, Granted, GroupState, GroupStatus, WishKind, status_dict
from orchestrator.core.words import Outcome
from orchestrator.edge.redis import control
from orchestrator.edge.redis.control import RunControl
from orchestrator.edge.redis.scripts import group_keys
from orchestrator.errors import RendezvousError
from tests.edge import servers
from tests.edge.servers import PATIENCE_S, RESTART, Member, Server, World, failure, world

server, own_server = servers.server, servers.own_server
JOB = Publication({"role": "r", "nodes": 2, "worker": {"cmd": ["python", "train.py"]}}, {"worker": {"nproc": 2}})


async def operator(run: World) -> RunControl:
    connection = run.connection()
    await connection.open(PATIENCE_S)
    return RunControl(connection, run.run_id)


async def only_group(run: RunControl) -> GroupStatus:
    (group,) = (await run.status()).groups
    return group


async def notices(member: Member, until: type[object]) -> list[object]:
    heard: list[object] = []
    async with asyncio.timeout(PATIENCE_S):
        async for notice in member.store.notices():
            heard.append(notice)
            if isinstance(notice, until):
                break
    return heard


def test_status_tells_of_members_those_who_wait_and_who_is_done(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            a, b = await run.seated("ab", (1, 2), scale_up_s=60)
            late = await run.member("c", (1, 2), nproc=3, scale_up_s=60)
            await late.join()
            await b.store.done(b.claim)
            seen = await only_group(await operator(run))
            assert (seen.role, seen.state, seen.round, seen.why) == ("r", GroupState.SETTLED, 1, "first")
            assert (seen.size, seen.world_size, seen.min_nodes, seen.max_nodes) == (2, 2, 1, 2)
            assert (seen.charged, seen.remaining, seen.free_remaining) == (0, 3, 100)
            assert [one.slot for one in seen.members] == [0, 1]
            assert {one.node: one.succeeded for one in seen.members} == {"a": False, "b": True}
            assert [(one.node, one.nproc, one.addr, one.slot) for one in seen.waiting] == [("c", 3, "addr-c", None)]
            assert all(0 < one.lease_s <= 5 for one in (*seen.members, *seen.waiting))
            assert seen.last_end is None
            assert isinstance(await a.store.verdict(a.claim), Standing)

    asyncio.run(scenario())


def test_status_tells_of_restarts_and_what_is_left(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            policy = replace(RESTART, budget=Budget(max=3, per_s=60))
            (a,) = await run.seated("a", (1, 1), restart=policy)
            await a.store.fail(a.claim, RuleAction.RETRY, 5, 1, failure())
            seen = await only_group(await operator(run))
            assert (seen.state, seen.charged, seen.remaining) == (GroupState.OPEN, 1, 2)
            assert isinstance(seen.last_end, Restart)
            assert 0 < seen.last_end.delay_ms <= 5000
            assert seen.last_end.cause is not None

    asyncio.run(scenario())


def test_looking_changes_nothing_and_shows_a_lease_that_ran_out(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            await run.seated("a", (1, 1), lease_s=0.05)
            eye = await operator(run)

            async def lapsed() -> bool:
                return (await only_group(eye)).members[0].lease_s <= 0

            await servers.eventually(lapsed, bool)
            seen = await only_group(eye)
            assert (seen.state, len(seen.members)) == (GroupState.SETTLED, 1), "nobody has noticed"

    asyncio.run(scenario())


def test_a_finished_run_still_tells_its_outcome_for_a_day(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            (a,) = await run.seated("a", (1, 1))
            await a.store.fail(a.claim, RuleAction.FATAL, 0, 1, failure(message="boom"))
            eye = await operator(run)
            status = await eye.status()
            assert status.closed is not None
            assert (status.closed.outcome, status.closed.exit_code) == (Outcome.FAILED, 1)
            shown = status_dict(status)
            assert (shown["outcome"], shown["exit_code"]) == ("failed", 1)
            assert shown["groups"][0]["cause"]["message"] == "boom"
            for left in (5, 3):  # the group, its stream, the run's job; and who has not left yet
                there = [key for key in group_keys(run.run_id, "r") if b":1" in server.say("EXISTS", key)]
                ttls = [int(server.say("TTL", key)[1:]) for key in there]
                assert len(ttls) == left
                assert all(86_000 < ttl <= 86_400 for ttl in ttls)
                await a.store.leave(a.claim, "done")
            for kind in (WishKind.RESTART, WishKind.DRAIN, WishKind.STOP):
                assert isinstance((await eye.wish(kind, "a"))["r"], Closed)

    asyncio.run(scenario())


def test_a_run_that_nobody_knows_is_said_to_be_none(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            eye = await operator(run)
            for ask in (eye.status, lambda: eye.wish(WishKind.STOP)):
                with pytest.raises(RendezvousError, match=f"there is no run '{run.run_id}'"):
                    await ask()

    asyncio.run(scenario())


def test_a_wished_restart_is_a_new_round_without_a_charge(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            a, b = await run.seated("ab", (2, 2))
            said = await (await operator(run)).wish(WishKind.RESTART)
            assert said == {"r": Granted(2, 2)}
            assert await notices(b, Superseded) == [Settled(1), Superseded(1, "restart wished")]
            again = await (await operator(run)).wish(WishKind.RESTART)
            assert isinstance(again["r"], Denied), "it is about to meet anyway"
            seats = await asyncio.gather(a.sit(), b.sit())
            assert {(seat.round, seat.charged, seat.why) for seat in seats} == {(2, 0, "restart wished")}
            assert (await only_group(await operator(run))).free_remaining == 99

    asyncio.run(scenario())


def test_wishes_are_bounded_by_the_free_restarts_and_never_end_a_run(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            policy = replace(RESTART, free=Budget(max=1))
            a, b = await run.seated("ab", (1, 2), restart=policy)
            assert isinstance((await (await operator(run)).wish(WishKind.RESTART))["r"], Granted)
            await asyncio.gather(a.sit(), b.sit())
            for kind in (WishKind.RESTART, WishKind.DRAIN):
                said = (await (await operator(run)).wish(kind, "b"))["r"]
                assert said == Denied("restart.free is spent (1 uncharged restarts)")
            assert isinstance(await a.store.verdict(a.claim), Standing)

    asyncio.run(scenario())


def test_a_wish_that_is_sent_twice_is_granted_once(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            a, b = await run.seated("ab", (2, 2))
            eye = await operator(run)
            rules = (await eye.published()).rules["r"]
            for _ in range(2):
                assert await eye._call("wish", "r", rules, "restart", "", "", nonce="once") == ["granted", 2, 2]
            await asyncio.gather(a.sit(), b.sit())
            assert await eye._call("wish", "r", rules, "restart", "", "", nonce="once") == ["granted", 2, 2]
            assert (await only_group(eye)).round == 2

    asyncio.run(scenario())


def test_a_drained_node_is_told_and_the_others_meet_without_it(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            a, b = await run.seated("ab", (1, 2))
            assert await (await operator(run)).wish(WishKind.DRAIN, "b") == {"r": Granted(1, 1)}
            nonce = b.store._who[1]
            assert (await notices(b, Drained))[-1] == Drained("b", nonce)
            assert await notices(a, Superseded) == [Settled(1), Superseded(1, "node b is drained")], "it is not for a"
            await a.join()
            await b.store.leave(b.claim, "drained")
            seat = await a.seat()
            assert (seat.round, seat.size) == (2, 1)
            assert (await only_group(await operator(run))).free_remaining == 99, "one end, taken once"

    asyncio.run(scenario())


def test_draining_who_is_done_or_only_waits_disturbs_nobody(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            a, b = await run.seated("ab", (1, 2), scale_up_s=60)
            late = await run.member("c", (1, 2), scale_up_s=60)
            await late.join()
            await b.store.done(b.claim)
            for node, member in (("b", b), ("c", late)):
                assert isinstance((await (await operator(run)).wish(WishKind.DRAIN, node))["r"], Granted)
                assert isinstance((await notices(member, Drained))[-1], Drained)
                await member.store.leave(member.claim, "drained")
            assert isinstance(await a.store.verdict(a.claim), Standing)
            assert (await (await operator(run)).wish(WishKind.DRAIN, "z"))["r"] == Denied("no agent named z takes part")

    asyncio.run(scenario())


def test_draining_below_the_minimum_says_how_many_are_left(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            await run.seated("ab", (2, 2))
            assert (await (await operator(run)).wish(WishKind.DRAIN, "b"))["r"] == Granted(1, 2)

    asyncio.run(scenario())


def test_a_wished_stop_closes_the_run_for_everyone(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            a, _ = await run.seated("ab", (2, 2))
            for _ in range(2):
                said = (await (await operator(run)).wish(WishKind.STOP))["r"]
                assert isinstance(said, Closed)
                assert (said.outcome, said.exit_code, said.reason) == (Outcome.STOPPED, 143, "stop wished")
            assert (await notices(a, Closed))[-1] == said

    asyncio.run(scenario())


def test_the_first_job_holds_and_another_one_is_refused_with_what_differs(server: Server) -> None:
    async def scenario() -> None:
        async with world(server) as run:
            run.publication = JOB
            a = await run.member("a", (2, 2))
            await a.join()
            run.publication = Publication({**JOB.job, "nodes": 3, "worker": {"cmd": ["python", "other.py"]}})
            b = await run.member("b", (2, 2))
            with pytest.raises(RendezvousError) as caught:
                await b.join()
            said = str(caught.value)
            assert "has another job than this agent: nodes: 3 here, 2 there; " in said
            assert 'worker.cmd: ["python", "other.py"] here, ["python", "train.py"] there' in said
            assert (await (await operator(run)).published()).publication() == JOB
            assert [one.node for one in (await only_group(await operator(run))).waiting] == ["a"]

    asyncio.run(scenario())


def test_a_server_that_lost_its_memory_is_told_the_job_again(own_server: Server) -> None:
    async def scenario() -> None:
        async with world(own_server) as run:
            run.publication = JOB
            (a,) = await run.seated("a", (1, 1))
            assert own_server.say("FLUSHALL").startswith(b"+OK")
            with pytest.raises(RendezvousError, match="there is no run"):
                await (await operator(run)).published()
            assert isinstance(await a.store.renew(a.claim), Standing)
            await a.store.publish(a.claim)  # as who keeps the lease does then
            assert (await (await operator(run)).published()).publication() == JOB
            own_server.kill()
            own_server.start()
            assert isinstance(await a.store.renew(a.claim), Standing)
            await a.store.publish(a.claim)  # as who keeps the lease does then
            assert (await (await operator(run)).published()).publication() == JOB

    asyncio.run(scenario())


def test_a_job_is_published_once_and_renewals_cost_nothing_more(own_server: Server) -> None:
    async def scenario() -> None:
        async with world(own_server) as run:
            run.publication = JOB
            (a,) = await run.seated("a", (1, 1))
            own_server.say("CONFIG", "RESETSTAT")
            for _ in range(3):
                await a.store.renew(a.claim)
            stats = own_server.say("INFO", "commandstats").decode()
            assert "cmdstat_evalsha:calls=3," in stats

    asyncio.run(scenario())


@pytest.mark.parametrize("parser", [control._published, control._wish_reply, control._group])
@pytest.mark.parametrize(
    "raw", [None, [], ["job", "d", "{}", ["r", "{"]], ["granted", "x"], ["status", 1], ["standing", 1], [[]]]
)
def test_a_strange_reply_is_a_rendezvous_error(parser: object, raw: object) -> None:
    whole = (lambda row: control._group("r", {}, row)) if parser is control._group else parser
    with pytest.raises(RendezvousError, match="not one that this version knows"):
        control.read(raw, whole)  # type: ignore[arg-type]  # several parsers, one question
