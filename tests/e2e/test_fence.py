"""The fence: workers of an agent that cannot keep its lease are gone before others may start in their place."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import Launch, alive, in_round, patched, python, until
from tests.edge.proxy import Proxy
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e

LEASE_S = 2.0
ELASTIC = ("nodes=1:2", f"rendezvous.lease_s={LEASE_S}", "rendezvous.scale_up_s=0.1", "stop.grace_s=600")
# A worker that says all the time that it runs, and since when; that of a deaf node obeys nothing but SIGKILL.
PULSE = python(
    "import os, signal, sys, time",
    "if 'DEAF' in os.environ: signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "began = time.clock_gettime(time.CLOCK_BOOTTIME)",
    "name = os.path.join(sys.argv[1], os.environ['ORCHESTRATOR_TOKEN'] + '.' + os.environ['RANK'])",
    "file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)",
    "while True:",
    "    os.pwrite(file, f'{os.getpid()} {began!r} {time.clock_gettime(time.CLOCK_BOOTTIME)!r}'.ljust(80).encode(), 0)",
    "    time.sleep(0.005)",
)


class Life(NamedTuple):
    """What a worker has told of itself; instants of CLOCK_BOOTTIME."""

    token: int
    rank: int
    pid: int
    began: float
    last: float


class World:
    """Two agents whose workers have a pulse; a's way to the server is a cable that can be cut."""

    def __init__(self, launch: Launcher, server: Server, home: Path, proxy: Proxy) -> None:
        self.proxy = proxy
        self.home = home
        self._a = Nodes(launch, proxy.url)
        self._b = Nodes(launch, server.url)

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> tuple[Launch, Launch, int]:
        """Both agents, and the round in which they are together; ``env`` is of a only, whose workers are deaf."""
        a, b = self.start_each(*arguments, env={"DEAF": "1", **(env or {})})
        first = in_round(b, 2)
        in_round(a, 2)
        until(lambda: len(self.lives()) >= 2 or None, "both workers have a pulse")
        return a, b, first

    def start_alone(self, *arguments: str) -> Launch:
        return self._a.start("a", f"rendezvous.lease_s={LEASE_S}", *arguments, *PULSE, str(self.home))

    def start_each(self, *arguments: str, env: dict[str, str] | None = None) -> tuple[Launch, Launch]:
        """Both agents, without waiting for anything; ``env`` is of a only."""
        words = (*ELASTIC, *arguments, *PULSE, str(self.home))
        return self._a.start("a", *words, env=env), self._b.start("b", *words)

    def lives(self) -> list[Life]:
        """All workers that ever ran, in the order in which they began."""
        found = []
        for path in self.home.iterdir():
            words = path.read_text().split()
            if len(words) == 3:
                token, rank = path.name.split(".")
                found.append(Life(int(token), int(rank), int(words[0]), float(words[1]), float(words[2])))
        return sorted(found, key=lambda life: life.began)

    def of(self, run: Launch, round_number: int) -> Life:
        """The worker of ``run`` in a round."""
        (pid,) = run.workers(round_number).values()
        return until(
            lambda: next((life for life in self.lives() if life.pid == pid), None), f"worker {pid} has a pulse"
        )

    def await_pulse(self, seconds: float, *pids: int) -> None:
        """Wait until workers have lived so long from now on."""
        since = time.clock_gettime(time.CLOCK_BOOTTIME)

        def lived() -> bool:
            assert all(alive(pid) for pid in pids), "a worker has been ended"
            return {life.pid for life in self.lives() if life.last >= since + seconds} >= set(pids)

        until(lambda: lived() or None, f"workers {pids} live on for {seconds:g} s")


@pytest.fixture
def world(launch: Launcher, server: Server, tmp_path: Path) -> Iterator[World]:
    host, _, port = server.url.removeprefix("redis://").partition("/")[0].partition(":")
    home = tmp_path / "lives"
    home.mkdir()
    with Proxy((host, int(port))) as proxy:
        yield World(launch, server, home, proxy)


def nothing_was_charged(*runs: Launch) -> bool:
    return not any(run.events("restart_decided") or run.events("failure_reported") for run in runs)


def end(*runs: Launch) -> None:
    """Stop all of them, twice, because of the deaf: the second kills."""
    for run in runs:
        run.signal(signal.SIGTERM)
        until(partial(_has_heard, run), f"{run.directory.name} has heard of the stop")
        run.signal(signal.SIGTERM)
    assert {run.wait() for run in runs} == {143}


def _has_heard(run: Launch) -> bool:
    return bool(run.events("stop_requested")) or run.process.poll() is not None


def test_a_paused_agents_workers_are_gone_before_the_next_round_starts_and_no_token_comes_twice(world: World) -> None:
    a, b, first = world.start()
    stale = world.of(a, first)
    a.signal(signal.SIGSTOP)
    alone = in_round(b, 1, after=first)
    assert not alive(stale.pid)
    assert world.of(a, first).last < world.of(b, alone).began
    a.signal(signal.SIGCONT)
    both = in_round(a, 2, after=alone)
    assert in_round(b, 2, after=alone) == both
    (fenced,) = a.events("fenced")
    (lost,) = a.events("lease_lost")
    assert fenced["reason"] == lost["reason"]
    assert "this agent was paused for" in fenced["reason"]
    assert fenced["lag_s"] > LEASE_S / 3
    (exited,) = a.events("worker_exited", round=first)
    assert (exited["signal"], exited["sent_by_us"]) == (signal.SIGKILL, True)
    assert nothing_was_charged(a, b)
    lives = [world.of(run, number) for number, runs in ((first, (a, b)), (alone, (b,)), (both, (a, b))) for run in runs]
    tokens = {life.token for life in lives}
    assert len(tokens) == 3, "one token a round"
    assert sorted(tokens) == [lives[0].token, lives[2].token, lives[3].token], "and it only grows"
    end(a, b)


def test_an_agent_that_is_cut_off_loses_its_workers_before_its_lease_and_comes_back(world: World) -> None:
    a, b, first = world.start()
    world.proxy.part()
    alone = in_round(b, 1, after=first)
    assert world.of(a, first).last < world.of(b, alone).began
    fenced = a.await_event("fenced")
    assert "no answer from the server for" in fenced["reason"]
    a.await_event("transition", to="RENDEZVOUS", on="workers_stopped")
    world.proxy.flow()
    both = in_round(a, 2, after=alone)
    assert in_round(b, 2, after=alone) == both
    assert nothing_was_charged(a, b)
    end(a, b)


def test_an_agent_that_stays_cut_off_ends_with_3(world: World) -> None:
    a, b, first = world.start("rendezvous.join_timeout_s=3")
    world.proxy.part()
    assert a.wait() == 3
    assert a.result["state"] == "FAILED"
    in_round(b, 1, after=first)
    assert nothing_was_charged(a, b)
    end(b)


def test_with_on_isolation_run_workers_run_on_until_their_agent_hears_that_its_lease_has_lapsed(world: World) -> None:
    a, b, first = world.start("rendezvous.on_isolation=run")
    pid = world.of(a, first).pid
    world.proxy.part()
    alone = in_round(b, 1, after=first)
    world.await_pulse(LEASE_S, pid)
    assert a.events("fenced") == []
    world.proxy.flow()
    a.await_event("transition", to="DRAINING")
    in_round(a, 2, after=alone)  # its workers obey nobody: the fence, not extended any more, has made an end of it
    assert not alive(pid)
    end(a, b)


def test_an_only_node_is_fenced_by_nothing(world: World) -> None:
    a = world.start_alone("nodes=1")
    pid = world.of(a, in_round(a, 1)).pid
    world.proxy.part()
    a.await_event("server_lost")
    a.signal(signal.SIGSTOP)
    world.await_pulse(2 * LEASE_S, pid)
    a.signal(signal.SIGCONT)
    world.proxy.flow()
    a.await_event("server_back")
    world.await_pulse(LEASE_S, pid)
    assert (a.events("fenced"), a.events("lease_lost")) == ([], [])
    end(a)


@pytest.mark.parametrize("setting", ["stop", "run"])
def test_a_server_that_is_gone_costs_no_worker(world: World, server: Server, setting: str) -> None:
    a, b, first = world.start(f"rendezvous.on_isolation={setting}")
    pids = [world.of(run, first).pid for run in (a, b)]
    server.kill()
    world.await_pulse(2 * LEASE_S, *pids)
    assert a.events("fenced") + b.events("fenced") == []
    assert a.events("server_lost")
    assert b.events("server_lost")
    end(a, b)


def test_a_server_that_hangs_costs_no_worker(world: World, server: Server) -> None:
    a, b, first = world.start()
    pids = [world.of(run, first).pid for run in (a, b)]
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    world.await_pulse(2 * LEASE_S, *pids)
    server.process.send_signal(signal.SIGCONT)
    for run in (a, b):
        run.await_event("server_back")
    world.await_pulse(LEASE_S, *pids)
    for run in (a, b):
        assert (run.events("fenced"), run.events("lease_lost")) == ([], [])
    end(a, b)


def test_a_busy_agent_is_told_as_its_own_fault(world: World, tmp_path: Path) -> None:
    busy = (
        f"(lambda until: any(0 for _ in iter(lambda: t.monotonic() < until, False)))(t.monotonic() + {1.5 * LEASE_S})"
    )
    fault = patched(tmp_path, "agent", "Agent.forward", f"lambda *_, t=__import__('time'): {busy}")
    a, b, first = world.start(env=fault)
    a.signal(signal.SIGUSR1)
    in_round(b, 1, after=first)
    lost = a.await_event("lease_lost")
    assert "this agent was busy for" in lost["reason"]
    assert "this agent was busy for" in a.await_event("lease_late")["reason"]
    in_round(a, 2, after=first)
    assert nothing_was_charged(a, b)
    end(a, b)


def test_what_an_agent_orders_when_its_lease_has_lapsed_never_runs(world: World, tmp_path: Path) -> None:
    stop = "__import__('os').kill(__import__('os').getpid(), 19)"
    wrap = f"(lambda real, calls=[]: lambda *a: (calls or calls.append({stop}), real(*a))[1])(starter.fill_in)"
    a, b = world.start_each("nodes=2", env=patched(tmp_path, "starter", "fill_in", wrap))
    first = in_round(b, 2)
    b.await_event("transition", on="round_superseded")
    a.signal(signal.SIGCONT)
    second = in_round(a, 2, after=first)
    assert in_round(b, 2, after=first) == second
    assert a.workers(first) == {}
    assert len(a.events("fenced")) == 1
    assert nothing_was_charged(a, b)
    end(a, b)


def test_a_guard_that_hangs_when_the_fence_falls_is_killed_and_its_workers_with_it(world: World) -> None:
    a, b, first = world.start()
    pid = world.of(a, first).pid
    guard = a.guard_pid()
    os.kill(guard, signal.SIGSTOP)
    world.proxy.part()
    alone = in_round(b, 1, after=first)
    until(lambda: not alive(pid) or None, "the worker is dead")
    a.await_event("transition", on="guard_lost")
    world.proxy.flow()
    in_round(a, 2, after=alone)
    assert len(a.events("fenced")) == 1
    assert nothing_was_charged(a, b)
    end(a, b)


def test_a_disk_that_hangs_costs_no_lease_and_no_worker(world: World, tmp_path: Path) -> None:
    journal = tmp_path / "a" / "run" / "events.jsonl"
    journal.parent.mkdir(parents=True)
    os.mkfifo(journal)  # whoever opens it waits until somebody reads
    a, b = world.start_each()
    first = in_round(b, 2)
    lives = until(lambda: world.lives() if len(world.lives()) == 2 else None, "both workers have a pulse")
    world.await_pulse(2 * LEASE_S, *(life.pid for life in lives))
    assert len(world.lives()) == 2
    assert [record["round"] for record in b.events("round_settled")] == [first]
    a.signal(signal.SIGTERM)
    records = _read(journal)
    assert not any(record["event"] in ("fenced", "lease_lost") or record.get("lag_s", 0) > 1 for record in records)
    moves = [record["to"] for record in records if record["event"] == "transition"]
    assert moves[:3] == ["RENDEZVOUS", "STARTING", "HEALTHY"]
    assert (a.wait(), b.wait()) == (143, 143)
    journal.unlink()


def test_a_stop_keeps_its_grace_beyond_the_lease_while_the_lease_is_kept(nodes: Nodes, tmp_path: Path) -> None:
    save = f"lambda *_: (time.sleep({1.2 * LEASE_S}), open(name, 'w').close(), os._exit(0))"
    script = python(
        "import os, signal, sys, time",
        "name = '.'.join((sys.argv[1], os.environ['ORCHESTRATOR_ROUND'], os.environ['RANK']))",
        f"signal.signal(signal.SIGTERM, {save})",
        "open(f'ready.{os.environ[\"ORCHESTRATOR_ROUND\"]}', 'w').close()",
        "while True: signal.pause()",
    )
    words = (*ELASTIC, *script, str(tmp_path / "saved"))
    a = nodes.start("a", *words)
    alone = in_round(a, 1)
    until((a.directory / f"ready.{alone}").exists, "the worker is ready")
    b = nodes.start("b", *words)
    both = in_round(a, 2, after=alone)  # its workers were stopped for it, and took longer than a lease
    assert (tmp_path / f"saved.{alone}.0").exists()
    in_round(b, 2)
    for run in (a, b):
        until((run.directory / f"ready.{both}").exists, "the worker is ready")
    a.signal(signal.SIGTERM)  # which ends the run for b, too
    assert (a.wait(), b.wait()) == (143, 143)
    assert {path.name for path in tmp_path.glob(f"saved.{both}.*")} == {f"saved.{both}.{rank}" for rank in (0, 1)}
    assert a.events("fenced") + b.events("fenced") == []


def test_a_disk_that_hangs_when_a_worker_has_died_holds_up_the_restart_for_a_moment_only(
    nodes: Nodes, tmp_path: Path
) -> None:
    hang = patched(tmp_path, "worker_files", "last_lines", "lambda *_: __import__('time').sleep(600)")
    script = python("import os, sys, time", "os.path.exists(sys.argv[1]) or sys.exit(5)", "time.sleep(600)")
    words = ("nodes=2", f"rendezvous.lease_s={LEASE_S}", *script, str(tmp_path / "go"))
    a, b = nodes.start("a", *words, env=hang), nodes.start("b", *words, env=hang)
    decided = a.await_event("restart_decided")
    (tmp_path / "go").touch()
    assert (decided["cause"]["exit_code"], decided["cause"]["last_lines"]) == (5, [])
    in_round(a, 2, after=1)
    for run in (a, b):
        assert (run.events("lease_lost"), run.events("fenced")) == ([], [])
        assert not any(record["lag_s"] > 1 for record in run.events("lease_late"))
        run.signal(signal.SIGTERM)
    assert [run.wait() for run in (a, b)] == [143, 143]


def _read(fifo: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fifo.read_text().splitlines()]
