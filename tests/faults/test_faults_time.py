"""Faults 27 to 30: time stands still, jumps or starves an agent, and an agent is the first of all processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import BEATS, SLEEP, alive, in_round, injected, python, until
from tests.e2e.test_health import ask
from tests.edge.procs import children, descendants, state_of

pytestmark = pytest.mark.e2e

HEARTBEAT = ("watchdog=heartbeat", "watchdog.timeout_s=1", "watchdog.warmup_s=30")
# Within a second a day before and a day after, and today.
JUMPS = (
    "import time",
    "real = time.time",
    "time.time = lambda: real() + 86400 * (int(time.monotonic() * 5) % 3 - 1)",
)
ORPHANS = python(
    "import os, signal, time",
    "signal.signal(signal.SIGTERM, signal.SIG_DFL)",
    "for n in range(400):",
    "    if os.fork() == 0:",
    "        if os.fork() == 0: time.sleep(0.01)",
    "        os._exit(0)",
    "    os.wait()",
    "open('many', 'w').close()",
    "time.sleep(600)",
)


def test_fault_27_a_paused_agent_blames_nobody(launch: Launcher) -> None:
    run = launch(*HEARTBEAT, "restart=never", "rendezvous.lease_s=1", *BEATS)
    pid = run.workers(run.await_healthy())[0]
    until((run.directory / "spoken").exists, "it has spoken")
    run.signal(signal.SIGSTOP)
    with pytest.raises(AssertionError, match="in vain"):
        until(lambda: not alive(pid), "nothing happens meanwhile", 3)
    run.signal(signal.SIGCONT)
    with pytest.raises(AssertionError, match="in vain"):
        until(lambda: run.events("worker_hung"), "nobody hangs", 2)
    os.kill(pid, signal.SIGSTOP)
    assert run.await_event("worker_hung")["fails"]


def test_fault_27_an_agent_sleeps_past_its_lease(nodes: Nodes) -> None:
    elastic = ("nodes=1:2", "rendezvous.lease_s=1", "rendezvous.scale_up_s=0.1", "worker.nproc=2")
    a, b = (nodes.start(name, *elastic, *SLEEP) for name in "ab")
    first = in_round(a, 2)
    stale = a.workers(in_round(a, 2)).values()
    in_round(b, 2)
    a.signal(signal.SIGSTOP)
    alone = in_round(b, 1, after=first)
    a.signal(signal.SIGCONT)
    both = in_round(a, 2, after=alone)
    assert in_round(b, 2, after=alone) == both
    assert not any(alive(pid) for pid in stale)
    assert a.events("transition", to="DRAINING")
    a.signal(signal.SIGTERM)
    assert (a.wait(), b.wait()) == (143, 143)


# The boot-time clock cannot be moved while a process runs; one that is far off shows that no instant leaves its host.
def test_fault_27_an_agent_whose_boot_was_long_ago(nodes: Nodes) -> None:
    elastic = ("nodes=1:2", "rendezvous.lease_s=1", "rendezvous.scale_up_s=0.1")
    old = nodes.start("a", *elastic, *SLEEP, wrap=("unshare", "--time", "--boottime", "864000", "--"))
    b = nodes.start("b", *elastic, *SLEEP)
    first = in_round(old, 2)
    in_round(b, 2)
    stale = old.workers(first).values()
    old.signal(signal.SIGSTOP)
    in_round(b, 1, after=first)
    until(lambda: not any(alive(pid) for pid in stale), "its guard keeps the fence", 1)
    old.signal(signal.SIGCONT)
    in_round(b, 2, after=in_round(old, 2, after=first) - 1)
    b.signal(signal.SIGTERM)
    assert (old.wait(), b.wait()) == (143, 143)


# The guard does not know the wall clock; the server's is its own, and tests/edge/test_rendezvous_*.py moves that.
def test_fault_28_the_wall_clock_is_set(nodes: Nodes, tmp_path: Path) -> None:
    backoff = "restart.backoff={initial_s: 0.2, factor: 2, max_s: 1, jitter: 0, reset_after_s: 60}"
    policy = (*HEARTBEAT, backoff, "restart.budget={max: 2, per_s: 600}", "rendezvous.lease_s=1", "health=http")
    work = python(
        "import time",
        "from orchestrator.worker import heartbeat",
        "for n in range(25): heartbeat(); time.sleep(0.05)",
        "raise SystemExit(1)",
    )
    run = nodes.start("a", *policy, *work, env=injected(tmp_path, *JUMPS))
    answers: set[int] = set()
    run.await_healthy()

    def is_over() -> bool:
        answers.add(ask(run, "/livez")[0])
        return run.state_is("BACKOFF")

    until(is_over, "the first is over")
    assert run.wait() == 1
    assert answers == {200}
    stamps = [record["ts"] for record in run.journal]
    assert max(stamps) - min(stamps) > 86400, "it was set"
    for due_s, record in zip((0.2, 0.4), run.events("restart_decided"), strict=True):
        assert 0 < record["delay_s"] <= due_s
        again = run.events("worker_started", round=record["round"] + 1)[0]
        assert again["mono"] - record["mono"] >= record["delay_s"] - 0.05
    assert run.events("worker_hung") + run.events("lease_lost") + run.events("fenced") == []


# Plug-ins run beside the loop (health server, backend) or as commands; what can block the loop is our own fault alone.
def test_fault_29_the_loop_is_blocked_and_a_probe_never_answers(launch: Launcher, tmp_path: Path) -> None:
    block = ("from orchestrator.edge.agent import Agent", "import time", "Agent.forward = lambda *_: time.sleep(4)")
    probe = "health.readiness={exec: [sleep, 600], timeout_s: 1, period_s: 0.1}"
    run = launch(*HEARTBEAT, probe, "health.timeout_s=3", "restart=never", *BEATS, env=injected(tmp_path, *block))
    (pid,) = run.workers(run.await_healthy()).values()
    until((run.directory / "spoken").exists, "it has spoken")
    run.signal(signal.SIGUSR1)  # forwarded, over which the loop sleeps
    until(lambda: ask(run, "/livez")[0] == 503, "the blocked loop is noticed")
    began = time.monotonic()
    assert ask(run, "/status")[0] == 200
    assert time.monotonic() - began < 1
    until(lambda: ask(run, "/livez")[0] == 200, "it turns again")
    assert json.loads(ask(run, "/status")[1])["state"] == "HEALTHY"
    os.kill(pid, signal.SIGSTOP)
    assert run.wait() == 1, "who really falls silent is still noticed"
    assert len(run.events("worker_hung")) == 1


def test_fault_30_the_agent_is_the_first_process(launch: Launcher) -> None:
    run = launch("worker.nproc=2", *ORPHANS, wrap=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"))
    run.await_event("worker_started")
    (first,) = children(run.process.pid)
    until((run.directory / "many").exists, "many orphans were made")
    until(lambda: not any(state_of(pid) == "Z" for pid in descendants(first)), "all are reaped")
    os.kill(first, signal.SIGTERM)
    assert run.wait() == 143


def test_fault_30_the_first_process_reaps_what_others_have_left(launch: Launcher) -> None:
    run = launch(*SLEEP, wrap=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"))
    run.await_healthy()
    (first,) = children(run.process.pid)
    (guard,) = children(first)
    leave = "for n in 1 2 3 4 5; do sleep 0.01 & done"  # as somebody's shell in the container may
    subprocess.run(["nsenter", "-t", str(first), "--pid", "--mount", "setsid", "sh", "-c", leave], check=True)
    until(lambda: children(first) == [guard], "nobody is left, and no zombie")
    os.kill(first, signal.SIGTERM)
    assert run.wait() == 143
