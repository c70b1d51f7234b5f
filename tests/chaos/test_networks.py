"""Real agents on real networks that lose packets: who is cut off is noticed, the others go on, and it comes back."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.arena import LEASE_S, arena
from tests.chaos.hosts import Host, needs_hosts
from tests.chaos.lag import lag
from tests.e2e.harness import Launch, until

pytestmark = [pytest.mark.e2e, needs_hosts()]

SLACK_S = 0.2  # DESIGN 5: a lapsed lease is noticed within the lease and so much
BUSY_S = 0.5  # what a machine with two cores may take for a moment
LONG_S = 3.0  # a lease that no moment of a busy machine uses up, where nobody may lose its seat
STILL_S = 0.5  # a machine that itself stood still for so long may have kept agents from their leases
CABLES = {"cut": Host.cut, "mute": Host.mute, "deaf": Host.deafen}


def noticed_s(agent: Launch, lost: str, since: float) -> float:
    """How long after an instant of the wall clock an agent has heard that a member was lost."""
    agent.await_event("member_lost", members=[lost])
    return float(agent.events("member_lost", members=[lost])[-1]["ts"]) - since


@pytest.mark.parametrize("cable", CABLES)
def test_a_node_that_is_cut_off_is_noticed_and_comes_back_when_healed(tmp_path: Path, cable: str) -> None:
    with arena(tmp_path, "abc", nodes=(2, 3)) as run:
        a, b, c = (run.start(name) for name in "abc")
        first = run.settled()
        with lag() as machine:
            CABLES[cable](run.hosts["c"])
            since = time.time()
            without = run.settled(a, b, after=first)
        last_renewal_s = LEASE_S / 3 if cable == "deaf" else 0  # it is heard, and asks no more before it has a reply
        most_s = LEASE_S + last_renewal_s + SLACK_S + BUSY_S + 3 * machine.s
        assert max(noticed_s(agent, "c", since) for agent in (a, b)) <= most_s
        if cable == "cut":
            c.await_event("server_lost")  # long enough for it to have given up its connections
        run.hosts.heal()
        run.settled(a, b, c, after=without)
        assert run.stop() == [143] * 3
        run.verify()


@pytest.mark.parametrize("fault", ["paused", *CABLES])
def test_the_workers_of_who_is_away_are_gone_before_the_next_round_starts(tmp_path: Path, fault: str) -> None:
    with arena(tmp_path, "abc", nodes=(2, 3)) as run:
        a, b, c = (run.start(name) for name in "abc")
        first = run.settled()
        if fault == "paused":
            c.signal(signal.SIGSTOP)
        else:
            CABLES[fault](run.hosts["c"])
        without = run.settled(a, b, after=first)
        until(lambda: run.beats(without, 0.2), "the workers of the next round have run for a while")
        c.signal(signal.SIGCONT)
        run.hosts.heal()
        run.settled(a, b, c, after=without)
        assert run.stop() == [143] * 3
        run.verify()


@pytest.mark.parametrize("keeps", [True, False], ids=["with its data", "without its data"])
@pytest.mark.parametrize("isolated", ["run", "stop"])
def test_a_server_that_vanishes_and_is_another_one_when_it_is_back(tmp_path: Path, isolated: str, keeps: bool) -> None:
    """Its end is heard by nobody: connections stay half open, and each agent may be the one that is cut off."""
    with lag() as machine, arena(tmp_path, "ab", nodes=(2, 2)) as run:
        options = (f"rendezvous.on_isolation={isolated}", f"rendezvous.lease_s={LONG_S:g}")
        agents = [run.start(name, *options) for name in "ab"]
        first = run.settled()
        run.hosts["server"].cut()
        run.server.kill()
        for agent in agents:
            agent.await_event("server_lost" if isolated == "run" else "fenced")
        if not keeps:
            run.server.forget()
        run.server.start()
        run.hosts.heal()
        if isolated == "stop":
            run.settled(after=first)  # whose workers were stopped, lest others had started in their place
        else:
            for agent in agents:
                agent.await_event("server_back")
            assert run.settled() == first or machine.s > STILL_S
        assert run.stop() == [143] * 2
        assert [agent.result["restarts"] for agent in agents] == [0, 0]
        run.verify()


def test_a_server_that_hangs_for_longer_than_a_lease_costs_nobody_its_seat(tmp_path: Path) -> None:
    with lag() as machine, arena(tmp_path, "abc", nodes=(2, 3)) as run:
        for name in "abc":
            run.start(name, f"rendezvous.lease_s={LONG_S:g}")
        first = run.settled()
        assert run.server.process is not None
        os.kill(run.server.process.pid, signal.SIGSTOP)
        time.sleep(1.5 * LONG_S)
        os.kill(run.server.process.pid, signal.SIGCONT)
        assert run.settled() == first or machine.s > STILL_S
        assert run.stop() == [143] * 3
        run.verify()
