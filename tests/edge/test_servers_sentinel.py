"""Under Sentinels: a master's death costs a run nothing but time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from orchestrator.core.lease import Attempt, Contact
from orchestrator.core.rendezvous import Settled, Standing, Superseded
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.scripts import Script
from orchestrator.edge.redis.stores import last_will
from orchestrator.edge.redis.worker_store import Store
from orchestrator.errors import RendezvousError
from tests.edge.fleets import PASSWORD, SERVICE, Watched, watched
from tests.edge.proxy import deaf_port
from tests.edge.servers import PATIENCE_S, binary_of, eventually, kinds, world
from tests.edge.test_rendezvous_connection import free_port

FAILOVER_S = 60.0  # on a busy machine Sentinels may need a second election
READ = Script("read", "return redis.call('EXISTS', KEYS[1])", "f" * 40)


@pytest.fixture(params=kinds())
def fleet(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watched(binary_of(request.param)) as together:
        yield together


def test_a_run_goes_on_with_the_new_master(fleet: Watched) -> None:
    async def scenario() -> None:
        async with world(fleet.master) as run:
            moved: list[dict[str, object]] = []
            connection = run.connection(fleet.url(free_port()), grace_s=FAILOVER_S)  # the first that is asked is down
            await connection.open(PATIENCE_S)
            connection.on_moved = lambda: moved.append(connection.will_address())
            assert connection.will_address() == {"host": "127.0.0.1", "port": fleet.master.port, "tls": False}
            other = run.connection(fleet.url(), grace_s=FAILOVER_S)
            await other.open(PATIENCE_S)
            a = await run.member("a", (2, 2), connection=connection)
            b = await run.member("b", (2, 2), connection=other)
            await asyncio.gather(a.sit(), b.sit())
            notices = a.store.notices()
            assert await anext(notices) == Settled(a.claim.round)
            listening = asyncio.ensure_future(anext(notices))
            await asyncio.to_thread(fleet.fail_over)
            for member in (a, b):
                assert isinstance(await asyncio.wait_for(member.store.renew(member.claim), FAILOVER_S), Standing)
            assert moved == [{"host": "127.0.0.1", "port": fleet.replica.port, "tls": False}]
            address, _ = last_will([a.store], "died")
            assert address == moved[0]
            await b.store.leave(b.claim, "over")
            assert isinstance(await asyncio.wait_for(listening, PATIENCE_S), Superseded)
            await notices.aclose()  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_workers_go_on_sharing_with_the_new_master(fleet: Watched) -> None:
    async def scenario() -> None:
        async with world(fleet.master) as run:
            connection = run.connection(fleet.url(), grace_s=FAILOVER_S)
            await connection.open(PATIENCE_S)
            a = await run.member("a", connection=connection)
            seat = await a.sit()
            place = {"run_id": run.run_id, "group": "r", "round": seat.round, "token": seat.token}
            with Store(fleet.url(), **place, rank=0, world_size=1) as store:  # type: ignore[arg-type]  # as they are
                store.set("k", "kept")
                await asyncio.to_thread(fleet.fail_over)
                assert await asyncio.to_thread(store.get, "k", timeout_s=FAILOVER_S) == b"kept"
                assert await asyncio.to_thread(store.add, "n", 1) == 1

    asyncio.run(scenario())


def test_with_most_sentinels_in_sight_it_is_the_server_that_is_away(fleet: Watched) -> None:
    async def scenario() -> None:
        with deaf_port() as first, deaf_port() as second, deaf_port() as third:
            attempts: list[list[Attempt]] = [[], []]
            most, few = (
                Connection.from_url(url) for url in (fleet.url(first, second), fleet.url(first, second, third))
            )
            for connection in (most, few):
                await connection.open(PATIENCE_S)
                await connection.call(READ, ["k"], [])
            fleet.sentinels.pop().kill()  # refuses: it is in sight, and elects nobody
            fleet.master.kill()
            asking = [
                asyncio.create_task(connection.call(READ, ["k"], [], within_s=1, on_attempt=heard.append))
                for connection, heard in zip((most, few), attempts, strict=True)
            ]
            await eventually(lambda: asyncio.sleep(0, attempts), all)
            assert [heard[0].contact for heard in attempts] == [Contact.AWAY, Contact.SILENT]
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            for connection in (most, few):
                await connection.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (f"/{SERVICE}?", "/nonsense?", "know no service 'nonsense'"),
        ("sentinel_password=", "sentinel_password=x", "refuses the user name or password"),
        ("//:", "//:x", "refuses the user name or password"),
    ],
)
def test_what_is_wrong_with_the_url_is_said_at_once(old: str, new: str, says: str) -> None:
    async def scenario(url: str) -> str:
        connection = Connection.from_url(url.replace(old, new, 1))
        with pytest.raises(RendezvousError, match=says) as caught:
            await connection.open(PATIENCE_S)
        await connection.close()
        return str(caught.value)

    with watched(binary_of("valkey")) as fleet:
        assert PASSWORD not in asyncio.run(scenario(fleet.url()))
