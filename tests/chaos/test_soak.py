"""Churn: faults of all kinds on four nodes and their server, one after the other and into each other, from a seed.

ORCHESTRATOR_SOAK_S and ORCHESTRATOR_SOAK_SEED say how long and which; without them it is the same minute every time.
Times differ from run to run, so a seed gives the same faults, and nearly the same run.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.arena import LEASE_S, Arena, arena, guard_of
from tests.chaos.hosts import Host, needs_hosts
from tests.e2e.harness import Launch, alive, until

SOAK_S = float(os.environ.get("ORCHESTRATOR_SOAK_S", "60"))
SEED = int(os.environ.get("ORCHESTRATOR_SOAK_SEED", "1"))
NODES = "abcd"
MIN, MAX = 2, 4
BUDGET = 1000  # what is charged is compared with what was done
TOLERATED = (
    "belongs to a live agent",
    f"has all {MAX} nodes",
)  # refusals of who comes back before the group has noticed

pytestmark = [pytest.mark.e2e, pytest.mark.slow, needs_hosts()]


class Churn:
    """The faults. Each is a method that breaks something, and repairs it unless that is the group's business."""

    def __init__(self, run: Arena, draw: random.Random) -> None:
        self.run, self.draw = run, draw
        self.charged = 0  # faults that may cost a charged restart each
        self.ours: set[Launch] = set()  # agents that we have ended, or told to end
        self.faults: dict[Callable[[], None], int] = {
            self.kill_worker: 3,
            self.kill_agent: 2,
            self.kill_guard: 2,
            self.kill_agent_and_guard: 2,
            self.pause_agent: 3,
            self.cut_cable: 3,
            self.freeze_server: 1,
            self.restart_server: 2,
            self.drain: 1,
            self.wish_restart: 1,
        }

    # -- who is there

    @property
    def members(self) -> list[Launch]:
        """Agents that run, and that nobody has told to end."""
        return [launch for launch in self.run.up if launch not in self.ours]

    def someone(self) -> Launch:
        return self.draw.choice(self.members)

    def some_time(self, low_s: float, high_s: float) -> None:
        time.sleep(self.draw.uniform(low_s, high_s))

    def spare(self) -> bool:
        """Whether one may go and MIN remain."""
        return len(self.members) > MIN

    def refill(self) -> None:
        """Start agents where there are none, most of the time."""
        for launch in self.run.launches:
            if launch.process.poll() is not None and launch not in self.ours:
                self.ours.add(launch)
                assert any(text in launch.stderr for text in TOLERATED), f"{launch.directory.name}: {launch.stderr}"
        busy = {node_of(launch) for launch in self.run.up}
        for node in NODES:
            if node not in busy and (len(self.members) < MIN or self.draw.random() < 0.6):
                self.run.start(node)

    # -- faults

    def kill_worker(self) -> None:
        launch = self.someone()
        for pid in (record["pid"] for record in launch.events("worker_started")[-1:] if alive(record["pid"])):
            self.charged += 1
            self.run.note(f"kill worker {pid} of {launch.directory.name}")
            os.kill(pid, signal.SIGKILL)

    def kill_agent(self) -> None:
        if self.spare():
            launch = self.someone()
            self.ours.add(launch)
            self.run.note(f"kill agent {launch.directory.name}")
            self.run.kill(launch)

    def kill_guard(self) -> None:
        launch = self.someone()
        if (pid := guard_of(launch)) is not None:
            self.charged += 1
            self.run.note(f"kill guard {pid} of {launch.directory.name}")
            launch.kill_guard()

    def kill_agent_and_guard(self) -> None:
        if self.spare():
            launch = self.someone()
            self.ours.add(launch)
            self.run.note(f"kill agent and guard {launch.directory.name}")
            self.run.kill_with_guard(launch)

    def pause_agent(self) -> None:
        launch = self.someone()
        low, high = self.draw.choice([(0.1, 0.6), (1.5, 2.5)])
        self.run.note(f"pause {launch.directory.name}, {'less' if high < 1 else 'more'} than a lease")
        launch.signal(signal.SIGSTOP)
        self.some_time(low * LEASE_S, high * LEASE_S)
        launch.signal(signal.SIGCONT)

    def cut_cable(self) -> None:
        host = self.run.hosts[self.draw.choice([*NODES, "server"])]
        fault = self.draw.choice([Host.cut, Host.mute, Host.deafen])
        self.run.note(f"{fault.__name__} {host.name}")
        fault(host)
        self.some_time(0.2 * LEASE_S, 2.5 * LEASE_S)
        host.heal()

    def freeze_server(self) -> None:
        self.run.note("freeze the server")
        assert self.run.server.process is not None
        os.kill(self.run.server.process.pid, signal.SIGSTOP)
        self.some_time(0.2 * LEASE_S, 2 * LEASE_S)
        os.kill(self.run.server.process.pid, signal.SIGCONT)

    def restart_server(self) -> None:
        keeps = self.draw.random() < 0.5
        number = 0 if keeps else self.rest()  # who has never had a seat knows nothing that a server could learn
        self.run.note(f"restart the server {'with' if keeps else 'without'} its data")
        self.run.server.kill()
        self.some_time(0.0, 1.5 * LEASE_S)
        if not keeps:
            self.run.server.forget()
        self.run.server.start()
        until(lambda: keeps or self.run.known_round() >= number, "the server has learnt of the round")

    def drain(self) -> None:
        """Of members only: the wish is for the agent that holds the name, which may be the one that has just died."""
        self.rest()
        if self.spare():
            launch = self.someone()
            done = self.run.ctl("drain", node_of(launch))
            self.run.note(f"drain {launch.directory.name}: {done.stdout.strip() or done.stderr.strip()}")
            if done.returncode == 0:
                self.ours.add(launch)
                assert launch.wait() == 0, f"{launch.directory.name}, drained"

    def wish_restart(self) -> None:
        done = self.run.ctl("restart")
        self.run.note(f"wish a restart: {done.stdout.strip() or done.stderr.strip()}")

    # -- the whole

    def rest(self) -> int:
        """Wait until all that run are HEALTHY in one round."""
        self.refill()
        number = self.run.settled()
        self.run.note(f"at rest in round {number}")
        return number

    def go_on(self, for_s: float) -> None:
        """Break things for so long, now and then letting the group come to rest."""
        ends = time.monotonic() + for_s
        faults, weights = list(self.faults), list(self.faults.values())
        while time.monotonic() < ends:
            self.refill()
            self.draw.choices(faults, weights)[0]()
            if self.draw.random() < 0.4:
                self.rest()
            else:
                self.some_time(0.0, 0.5)


def node_of(launch: Launch) -> str:
    return launch.directory.name.partition(".")[0]


@pytest.mark.timeout(3 * SOAK_S + 180)
def test_churn_soak(tmp_path: Path) -> None:
    print(f"ORCHESTRATOR_SOAK_SEED={SEED} ORCHESTRATOR_SOAK_S={SOAK_S:g}")
    with arena(tmp_path, NODES, nodes=(MIN, MAX), budget=BUDGET) as run:
        churn = Churn(run, random.Random(SEED))
        churn.refill()
        churn.rest()
        churn.go_on(SOAK_S)
        run.hosts.heal()
        churn.rest()
        assert set(run.stop()) == {143}
        charged = max(launch.result["restarts"] for launch in churn.ours.symmetric_difference(run.launches))
        assert charged <= churn.charged, "a fault that costs a restart is charged once, and nothing else is"
        run.verify()
