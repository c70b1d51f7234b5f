"""Over TLS, with a client's certificate, as a user who may do no more than README says."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import orchestrator
from orchestrator.core.policies import RuleAction
from orchestrator.core.rendezvous import Closed, Restart, Settled, Superseded
from orchestrator.edge.guard.will import deliver
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.stores import last_will
from orchestrator.edge.redis.worker_store import Store
from orchestrator.errors import RendezvousError
from tests.edge.fleets import Certificates
from tests.edge.servers import PATIENCE_S, REDIS, Server, failure, world
from tests.edge.test_rendezvous_connection import free_port, refusal

README = Path(__file__).parents[2] / "README.md"
LUA = Path(orchestrator.__file__).parent / "edge" / "redis" / "lua"
PASSWORD = "p%40ss"  # p@ss


def rights() -> list[str]:
    """The least rights of a user, as README has them."""
    found = re.search(r"ACL SETUSER agent on '>[^']+' (~orchestrator:\*[^\n]*(?:(?<=\\)\n[^\n]*)*)", README.read_text())
    assert found is not None
    return found[1].replace("\\\n", " ").split()


def test_the_rights_in_readme_are_what_our_commands_need_and_no_more() -> None:
    ours = {"ping", "eval", "evalsha", "xread", "time"}
    for path in LUA.rglob("*.lua"):
        ours |= {name.lower() for name in re.findall(r"\b(?:p?call|write)\('([A-Z]+)'", path.read_text())}
    assert rights() == ["~orchestrator:*", "-@all", *(f"+{name}" for name in sorted(ours))]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH")
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secured(certificates: Certificates) -> Iterator[tuple[Server, int]]:
    """A server and its TLS port. The bundled one has no TLS, so it is the machine's."""
    if REDIS is None:
        pytest.skip("no redis-server on PATH")
    certificate, key = certificates.server
    tls = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificates.ca)
    port = free_port()
    running = Server(REDIS, "--tls-port", str(port), "--bind", "127.0.0.1", "--tls-auth-clients", "yes", *tls)
    running.start()
    said = running.say("ACL", "SETUSER", "agent", "on", ">p@ss", *rights())
    assert said.startswith(b"+OK"), said
    assert running.say("CONFIG", "SET", "requirepass", "other").startswith(b"+OK")  # nobody else is let in
    yield running, port
    running.stop()


@pytest.fixture
def url(secured: tuple[Server, int], certificates: Certificates) -> str:
    certificate, key = certificates.client
    files = f"ssl_ca_certs={certificates.ca}&ssl_certfile={certificate}&ssl_keyfile={key}"
    return f"rediss://agent:{PASSWORD}@127.0.0.1:{secured[1]}?{files}"


def test_a_run_with_its_workers_and_its_last_will(secured: tuple[Server, int], url: str) -> None:
    async def scenario() -> None:
        async with world(secured[0]) as run:
            connections = [run.connection(url) for _ in "ab"]
            for connection in connections:
                await connection.open(PATIENCE_S)
            a, b = [
                await run.member(node, (1, 2), connection=connection)
                for node, connection in zip("ab", connections, strict=True)
            ]
            await asyncio.gather(a.sit(), b.sit())
            notices = a.store.notices()
            assert await anext(notices) == Settled(1)
            assert isinstance(await a.store.fail(a.claim, RuleAction.RETRY, 0.05, 1, failure()), Restart)
            assert isinstance(await anext(notices), Restart)
            await asyncio.gather(a.sit(), b.sit())
            assert await anext(notices) == Settled(2)
            share(url, run.run_id, a.claim.round, a.claim.token)
            await a.store.renew(a.claim)
            address, payloads = last_will([b.store], "its agent died")
            assert deliver(address, payloads)
            assert isinstance(await asyncio.wait_for(anext(notices), PATIENCE_S), Superseded)
            await a.sit()
            assert isinstance(await a.store.done(a.claim), Closed)
            await notices.aclose()  # type: ignore[attr-defined]

    asyncio.run(scenario())


def share(url: str, run_id: str, round_number: int, token: int) -> None:
    place = {"run_id": run_id, "group": "r", "round": round_number, "token": token}
    with Store(url, **place, rank=0, world_size=1) as store:  # type: ignore[arg-type]  # as they are
        store.set("k", b"v" * 100_000)
        assert store.get("k", timeout_s=PATIENCE_S) == b"v" * 100_000
        assert store.add("n", 2) == 2
        store.wait(["k"], timeout_s=PATIENCE_S)
        store.barrier("all", timeout_s=PATIENCE_S)


def test_what_is_wrong_with_certificates_is_said_at_once(
    secured: tuple[Server, int], url: str, certificates: Certificates, tmp_path: Path
) -> None:
    other = Certificates(tmp_path)
    assert "its certificate does not hold" in asyncio.run(refusal(url.replace(certificates.ca, other.ca)))
    text = asyncio.run(refusal(url.replace(certificates.client[1], "/no/such.key")))
    assert "ssl_keyfile=/no/such.key: No such file or directory" in text
    assert "p%40ss" not in text
    nameless = re.sub(r"&ssl_certfile.*", "", url)
    assert re.search(r"TLS with it fails: \w*CERTIFICATE_REQUIRED", asyncio.run(refusal(nameless)))


def test_a_name_that_is_not_in_the_certificate_is_refused_unless_told_otherwise(url: str) -> None:
    async def scenario(url: str) -> None:
        connection = Connection.from_url(url)
        await connection.open(PATIENCE_S)
        await connection.close()

    by_name = url.replace("127.0.0.1", "localhost")
    asyncio.run(scenario(by_name))
    for unchecked in ("ssl_check_hostname=false", "ssl_cert_reqs=none"):
        asyncio.run(scenario(f"{by_name}&{unchecked}"))


def test_a_user_who_may_not_do_what_is_needed_is_told_so_at_once(secured: tuple[Server, int], url: str) -> None:
    async def scenario() -> str:
        async with world(secured[0]) as run:
            connection = run.connection(url)
            await connection.open(PATIENCE_S)
            a = await run.member("a", connection=connection)
            a.store._keys = tuple(f"foreign:{key}" for key in a.store._keys)
            with pytest.raises(RendezvousError) as caught:
                await asyncio.wait_for(a.join(), PATIENCE_S)
            return str(caught.value)

    assert "does not let this user do that" in asyncio.run(scenario())
