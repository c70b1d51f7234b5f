"""Whatever becomes of the server, running workers are not touched, and afterwards the run goes on as before."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from orchestrator.edge.redis.route import slot_of
from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import SLEEP, Launch, alive, in_round, python, until
from tests.edge import test_servers_tls as tls
from tests.edge.fleets import PASSWORD, SENTINEL_PASSWORD, clustered, watched
from tests.edge.servers import Server, binary_of, kinds
from tests.edge.test_rendezvous_connection import free_port
from tests.edge.test_servers_troubles import config, converse, kill_clients, ok

pytestmark = pytest.mark.e2e
certificates, secured, url = tls.certificates, tls.secured, tls.url

Do = Callable[[], object]
LEASE_S = 1.5


@pytest.fixture(params=kinds())
def durable(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server on TCP that keeps what it is told."""
    port = free_port()
    keeps = ("--appendonly", "yes", "--appendfsync", "always")
    running = Server(binary_of(request.param), "--port", str(port), *keeps)
    running.url = f"redis://127.0.0.1:{port}"
    running.start()
    yield running
    running.stop()


class Pair:
    """Two agents in one settled round, and the workers that shall not be touched."""

    def __init__(self, launch: Launcher, url: str) -> None:
        nodes = Nodes(launch, url)
        elastic = ("nodes=1:2", f"rendezvous.lease_s={LEASE_S:g}", "rendezvous.last_call_s=5")
        self.runs = [nodes.start(name, *elastic, *SLEEP) for name in "ab"]
        self.round = in_round(self.runs[0], 2)
        assert in_round(self.runs[1], 2) == self.round
        self.pids = [self.pid(run) for run in self.runs]
        self.outages = 0

    def pid(self, run: Launch) -> int:
        (pid,) = run.workers(self.round).values()
        return pid

    def untouched(self, what: str) -> None:
        for run, pid in zip(self.runs, self.pids, strict=True):
            assert run.state_is("HEALTHY"), f"{what}: {run.journal[-9:]}"
            assert len(run.events("transition", to="HEALTHY")) == 1, what
            assert alive(pid), what

    def bear(self, what: str, begin: Do, end: Do, *, noticed: bool = True) -> None:
        """Nothing happens to the workers while the server has a trouble, and after it."""
        lost = [len(run.events("server_lost")) for run in self.runs]
        begin()
        for run, before in zip(self.runs, lost, strict=True) if noticed else ():
            until(lambda run=run, before=before: len(run.events("server_lost")) > before, f"{what} is noticed")  # type: ignore[misc]
        pass_time()
        self.untouched(what)
        end()
        for run in self.runs:
            until(lambda run=run: back(run), f"the server is back after {what}")  # type: ignore[misc]
        pass_time()
        self.untouched(what)

    def go_on(self) -> None:
        """The group still decides as one."""
        os.kill(self.pids[0], signal.SIGKILL)
        second = in_round(self.runs[0], 2, after=self.round)
        assert in_round(self.runs[1], 2, after=self.round) == second
        assert [len(run.events("restart_decided")) for run in self.runs] == [1, 1]
        self.runs[0].signal(signal.SIGTERM)
        assert [run.wait() for run in self.runs] == [143, 143]


def pass_time() -> None:
    """Let a lease and a half pass: whatever is not renewed lapses."""
    ends = time.monotonic() + 1.5 * LEASE_S
    until(lambda: time.monotonic() > ends, "time passes")


def back(run: Launch) -> bool:
    return len(run.events("server_back")) == len(run.events("server_lost"))


@pytest.mark.slow
def test_workers_run_on_whatever_becomes_of_the_server(launch: Launcher, durable: Server) -> None:
    pair = Pair(launch, durable.url)
    pair.bear("killed and back with its data", durable.kill, durable.start)
    pair.bear(
        "read-only",
        lambda: ok(durable, "REPLICAOF", "127.0.0.1", str(free_port())),
        lambda: ok(durable, "REPLICAOF", "NO", "ONE"),
    )
    pair.bear("slow", lambda: ok(durable, "CLIENT", "PAUSE", "4000", "ALL"), lambda: None, noticed=False)
    pair.bear(
        "another password",
        lambda: converse(durable, b"CONFIG SET requirepass new", b"AUTH new", b"CLIENT KILL TYPE normal"),
        lambda: converse(durable, b"AUTH new", b"CONFIG SET requirepass ''"),
    )
    pair.bear("without connections", lambda: kill_clients(durable), lambda: None)
    ok(durable, "SCRIPT", "FLUSH")
    config(durable, "maxmemory", "1")
    pass_time()
    pair.untouched("without scripts, and out of memory")
    config(durable, "maxmemory", "0")
    pair.go_on()


def test_a_server_that_starts_after_its_agents_is_waited_for(launch: Launcher) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = Nodes(launch, f"redis://127.0.0.1:{port}")
    runs = [nodes.start(name, "nodes=2", *SLEEP) for name in "ab"]
    for run in runs:
        run.await_event("server_lost")
    late = Server(binary_of("valkey"), "--port", str(port), "--bind", "127.0.0.1")
    late.start()
    try:
        assert in_round(runs[0], 2) == in_round(runs[1], 2) == 1
        runs[0].signal(signal.SIGTERM)
        assert [run.wait() for run in runs] == [143, 143]
    finally:
        late.stop()


@pytest.mark.parametrize("kind", kinds())
def test_workers_run_on_when_the_master_fails_over(launch: Launcher, kind: str) -> None:
    with watched(binary_of(kind)) as fleet:
        pair = Pair(launch, fleet.url())
        pair.bear("a master that died", fleet.fail_over, lambda: None)
        guard = pair.runs[1].guard_pid()
        pair.runs[1].signal(signal.SIGKILL)  # whose guard tells the new master
        in_round(pair.runs[0], 1, after=pair.round)
        assert not alive(pair.pids[1])
        until(lambda: not alive(guard), "its guard is gone")
        pair.runs[0].signal(signal.SIGTERM)
        assert pair.runs[0].wait() == 143
        said = "".join(run.stdout + run.stderr + (run.run_dir / "events.jsonl").read_text() for run in pair.runs)
        for secret in (PASSWORD, SENTINEL_PASSWORD):
            assert secret not in said
            assert quote(secret, safe="") not in said


def test_agents_workers_and_guards_speak_tls(launch: Launcher, secured: tuple[Server, int], url: str) -> None:
    nodes = Nodes(launch, url)
    share = python(
        "import os, time",
        "from orchestrator.worker import store",
        "shared = store()",
        "shared.set(os.environ['RANK'], 'here')",
        "shared.wait([str(rank) for rank in range(int(os.environ['WORLD_SIZE']))], 20)",
        "open('shared', 'a').write('x')",
        "time.sleep(600)",
    )
    a, b = (nodes.start(name, "nodes=1:2", "rendezvous.lease_s=60", *share) for name in "ab")
    both = in_round(a, 2)
    assert in_round(b, 2) == both
    for run in (a, b):
        until((run.directory / "shared").exists, "the workers have shared")
    b.signal(signal.SIGKILL)
    in_round(a, 1, after=both)  # within the minute of the lease only if b's guard has told
    a.signal(signal.SIGTERM)
    assert a.wait() == 143
    assert "p%40ss" not in a.stdout + a.stderr + (a.run_dir / "job.yaml").read_text()


def test_a_run_in_a_cluster_goes_on_when_its_slot_moves(launch: Launcher) -> None:
    with clustered(binary_of("valkey")) as cluster:
        pair = Pair(launch, cluster.url(free_port()))
        slot, source = slot_of("{j1}"), cluster.owner("{j1}")
        target = (source + 1) % 3

        def move() -> None:
            cluster.begin_move(slot, source, target)
            cluster.end_move(slot, source, target)

        pair.bear("a slot that moved", move, lambda: None, noticed=False)
        pair.go_on()
