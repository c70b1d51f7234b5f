"""In a cluster: one node serves a run, whichever it is, and may hand it over to another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from orchestrator.core.lease import Attempt, Contact
from orchestrator.core.policies import RuleAction
from orchestrator.core.rendezvous import Closed, Restart, Settled, Standing
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.route import slot_of
from orchestrator.edge.redis.scripts import script
from orchestrator.edge.redis.worker_store import Store
from orchestrator.errors import RendezvousError
from tests.edge.fleets import Cluster, clustered
from tests.edge.servers import PATIENCE_S, Member, Server, binary_of, eventually, failure, kinds, world
from tests.edge.test_rendezvous_connection import free_port, refusal


@pytest.fixture(scope="module", params=kinds())
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with clustered(binary_of(request.param)) as together:
        yield together


def run_key(member: Member) -> str:
    return member.store._keys[0]


def test_a_run_goes_from_join_to_close_though_its_slot_moves_meanwhile(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with world(cluster.nodes[0]) as run:
            moved: list[object] = []
            lost: list[str] = []
            connection = run.connection(cluster.url(free_port()), on_lost=lost.append)  # the first of them is down
            await connection.open(PATIENCE_S)
            connection.on_moved = lambda: moved.append(connection.will_address()["port"])
            other = run.connection(cluster.url())
            await other.open(PATIENCE_S)
            a = await run.member("a", (2, 2), connection=connection)
            b = await run.member("b", (2, 2), connection=other)
            await asyncio.gather(a.sit(), b.sit())
            notices = a.store.notices()
            assert await anext(notices) == Settled(1)
            listening = asyncio.ensure_future(anext(notices))
            source = cluster.owner(run_key(a))
            assert connection.will_address()["port"] == cluster.nodes[source].port
            assert lost == [], "to be sent to another node is no outage"
            slot, target = slot_of(run_key(a)), (source + 1) % 3
            await asyncio.to_thread(cluster.begin_move, slot, source, target)
            attempts: list[Attempt] = []
            words = (script("renew"), a.store._keys, a.store._caller(a.claim))
            renewal = asyncio.create_task(connection.call(*words, within_s=0.5, on_attempt=attempts.append))
            await eventually(lambda: asyncio.sleep(0, attempts), bool)
            await asyncio.to_thread(cluster.end_move, slot, source, target)
            await asyncio.wait_for(renewal, PATIENCE_S)
            assert {attempt.contact for attempt in attempts} <= {Contact.AWAY, Contact.ANSWERED}
            assert isinstance(await a.store.renew(a.claim), Standing)
            assert isinstance(await b.store.renew(b.claim), Standing)
            assert moved[-1] == cluster.nodes[target].port
            verdict = await b.store.fail(b.claim, RuleAction.RETRY, 0, 1, failure("b"))
            assert isinstance(verdict, Restart)
            assert isinstance(await asyncio.wait_for(listening, PATIENCE_S), Restart)
            assert {seat.round for seat in await asyncio.gather(a.sit(), b.sit())} == {2}
            await a.store.done(a.claim)
            assert isinstance(await b.store.done(b.claim), Closed)
            await notices.aclose()  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_workers_share_and_do_not_notice_that_their_slot_moves(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with world(cluster.nodes[0]) as run:
            connection = run.connection(cluster.url())
            await connection.open(PATIENCE_S)
            a = await run.member("a", connection=connection)
            seat = await a.sit()
            place = {"run_id": run.run_id, "group": "r", "round": seat.round, "token": seat.token}
            with Store(cluster.url(free_port()), **place, rank=0, world_size=1) as store:  # type: ignore[arg-type]
                store.set("k", "kept")
                waiting = asyncio.create_task(asyncio.to_thread(store.get, "late", timeout_s=PATIENCE_S))
                slot, source = slot_of(run_key(a)), cluster.owner(run_key(a))
                for step in (cluster.begin_move, cluster.end_move):
                    await asyncio.to_thread(step, slot, source, (source + 1) % 3)
                assert await asyncio.to_thread(store.get, "k", timeout_s=PATIENCE_S) == b"kept"
                await asyncio.to_thread(store.set, "late", "here")
                assert await waiting == b"here"

    asyncio.run(scenario())


def test_a_node_that_dies_is_evidence_while_most_are_in_sight() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with world(cluster.nodes[0]) as run:
            connection = run.connection(cluster.url())
            await connection.open(PATIENCE_S)
            a = await run.member("a", connection=connection)
            await a.sit()
            cluster.nodes[cluster.owner(run_key(a))].kill()
            attempts: list[Attempt] = []
            words = (script("renew"), a.store._keys, a.store._caller(a.claim))
            renewal = asyncio.create_task(connection.call(*words, within_s=0.5, on_attempt=attempts.append))
            await eventually(lambda: asyncio.sleep(0, attempts), lambda heard: len(heard) >= 3)
            assert {attempt.contact for attempt in attempts} == {Contact.AWAY}
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    with clustered(binary_of("valkey")) as cluster:
        asyncio.run(scenario(cluster))


def test_the_wrong_kind_of_url_is_said(cluster: Cluster) -> None:
    alone = Server(binary_of("valkey"), "--port", str(port := free_port()))
    alone.start()
    try:
        assert "it is no cluster: write redis://" in asyncio.run(refusal(f"redis+cluster://127.0.0.1:{port}"))
    finally:
        alone.stop()

    async def scenario() -> None:
        async with world(cluster.nodes[0]) as run:
            connections = [Connection.from_url(node.url) for node in cluster.nodes]
            for connection in connections:
                await connection.open(PATIENCE_S)
            a = await run.member("a", connection=connections[0])
            wrong = (cluster.owner(run_key(a)) + 1) % 3
            b = await run.member("b", connection=connections[wrong])
            with pytest.raises(RendezvousError, match=r"it is a node of a Redis Cluster; write redis\+cluster://"):
                await b.join()
            for connection in connections:
                await connection.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("key", "slot"), [("123456789", 12739), ("{user1000}.following", 3443), ("a{}b", 13196)])
def test_a_keys_slot_is_that_of_its_tag(cluster: Cluster, key: str, slot: int) -> None:
    assert slot_of(key) == cluster.nodes[0].tell("CLUSTER", "KEYSLOT", key)
    assert slot_of("{run}:a") == slot_of("{run}:b")
