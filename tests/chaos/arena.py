"""Real agents on hosts of their own, around one server: what tests of faults start, break, and have judged at the end.

Faults and waiting live here, verdicts in `oracle.py`. Invariant: whatever was broken is repaired, and whatever was
started has ended, before the oracle is asked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.core.table import build
from orchestrator.edge.redis.scripts import group_keys
from tests.chaos import oracle
from tests.chaos.hosts import HostedServer, Hosts
from tests.core.specs import group
from tests.e2e.harness import FAST, Launch, marked, until

RUN_ID = "chaos"
WITNESS = (sys.executable, "-I", "-S", str(Path(__file__).with_name("witness.py")))
LEASE_S = 1.0
PATIENCE_S = 60.0  # the most that a group may take to come to rest
# Survivors are waited for during ten last calls: longer than a lease, so that nobody alive is left behind.
TIMES = (f"rendezvous.lease_s={LEASE_S:g}", "rendezvous.last_call_s=0.2", "rendezvous.scale_up_s=0.3")


class Arena:
    """One run on one server; every agent has a directory of its own, named NODE.N."""

    def __init__(
        self, directory: Path, hosts: Hosts, server: HostedServer, nodes: tuple[int, int], budget: int
    ) -> None:
        self.directory, self.hosts, self.server = directory, hosts, server
        self.nodes, self.budget = nodes, budget
        self.witnesses = directory / "witnesses"
        self.witnesses.mkdir()
        self.launches: list[Launch] = []
        self.killed: list[Launch] = []
        self.began = time.monotonic()
        self.history: list[str] = []
        self._mark = f"ORCHESTRATOR_CHAOS={os.getpid()}.{directory}"

    def note(self, what: str) -> None:
        """Remember what was done, to be shown when something fails."""
        self.history.append(f"{time.monotonic() - self.began:7.3f} {what}")

    # -- agents

    def start(self, node: str, *arguments: str, host: str = "") -> Launch:
        """Start an agent for a node, on the host of that name."""
        number = 1 + sum(launch.directory.name.startswith(f"{node}.") for launch in self.launches)
        key, _, value = self._mark.partition("=")
        low, high = self.nodes
        launch = Launch(
            self.directory / f"{node}.{number}",
            (
                f"run_id={RUN_ID}",
                f"nodes={low}:{high}",
                f"node.name={node}",
                f"rendezvous.url={self.server.url}",
                f"restart.budget.max={self.budget}",
                "restart.free.max=null",
                *TIMES,
                *FAST,
                *arguments,
                "--",
                *WITNESS,
                str(self.witnesses),
            ),
            {key: value, "WITNESS_NODE": node},
            self.hosts[host or node].wrap,
        )
        self.launches.append(launch)
        self.note(f"start {launch.directory.name}")
        return launch

    @property
    def up(self) -> list[Launch]:
        """The agents that run."""
        return [launch for launch in self.launches if launch.process.poll() is None]

    def settled(self, *agents: Launch, after: int = 0, patience_s: float = PATIENCE_S) -> int:
        """Wait until these, or all that run, are HEALTHY in one round of theirs alone, later than ``after``, and the
        server knows of no other."""

        def found() -> int | None:
            those = agents or tuple(self.up)
            rounds = {_healthy_in(launch) for launch in those}
            if len(rounds) != 1 or (number := rounds.pop()) is None or number <= after:
                return None
            nodes = {r["nodes"] for launch in those for r in launch.events("round_settled", round=number)}
            return number if nodes == {len(those)} and self.known_round("settled") == number else None

        return until(found, "a round of all that run", patience_s, pause_s=0.02)

    def known_round(self, state: str = "") -> int:
        """The newest round that the server knows of, in this state if one is given; else 0."""
        said = self.server.say("HMGET", group_keys(RUN_ID, "default")[0], "state", "round").split()
        states, rounds = said[2:3], said[4:5]
        return int(rounds[0]) if rounds and state.encode() in (b"", *states) else 0

    def beats(self, number: int, for_s: float) -> bool:
        """Whether workers of this round, or of a later one, have run for so long."""
        workers = oracle.witnesses(self.witnesses)
        return any(worker.round >= number and worker.last_s - worker.began_s >= for_s for worker in workers)

    def kill(self, launch: Launch) -> None:
        """SIGKILL an agent."""
        self.killed.append(launch)
        launch.signal(signal.SIGKILL)
        launch.process.wait()

    def kill_with_guard(self, launch: Launch) -> None:
        """SIGKILL an agent and its guard, so that neither sees the other's end."""
        self.killed.append(launch)
        launch.kill_with_guard()

    # -- the end

    def stop(self) -> list[int]:
        """End the run by an operator's wish; returns the agents' exit codes."""
        up = self.up
        done = self.ctl("stop")
        assert done.returncode == 0, done.stderr
        return [launch.wait() for launch in up]

    def ctl(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        """What an operator says to the run."""
        command = [sys.executable, "-m", "orchestrator.cli.ctl", verb, *words, self.server.local_url, RUN_ID]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def verify(self) -> None:
        """Have everything judged, once all has ended."""
        until(lambda: not marked(self._mark), "nothing is left running", 5)
        table = build(group(nodes=self.nodes, budget=self.budget))
        evidence = oracle.Evidence(self.launches, self.witnesses, table, self.nodes, self.budget, self.killed)
        oracle.verify(evidence, *oracle.keys(self.server.local_url, RUN_ID))

    def shown(self) -> str:
        """The history, and where every agent is."""
        where = []
        for launch in self.launches:
            moves = [f"{r['round']}:{r['on']}→{r['to']}" for r in launch.events("transition")][-8:]
            where.append(f"{launch.directory.name} ({launch.process.poll()}): {' '.join(moves)}")
        return "\n".join(("what was done:", *self.history, "where they are:", *where))

    def clear(self) -> None:
        """End all that is left of a test that failed."""
        for launch in self.launches:
            launch.end()
        until(lambda: not marked(self._mark), "nothing is left running", 5)


def guard_of(launch: Launch) -> int | None:
    """The pid of an agent's guard; None before it has one, and between two."""
    try:
        return launch.guard_pid()
    except (OSError, StopIteration):
        return None


def _healthy_in(launch: Launch) -> int | None:
    """The round in which an agent's workers run."""
    moves = launch.events("transition")
    return moves[-1]["round"] if moves and moves[-1]["to"] == "HEALTHY" else None


@contextmanager
def arena(
    directory: Path, names: Sequence[str], *, nodes: tuple[int, int], budget: int = 3, options: Sequence[str] = ()
) -> Iterator[Arena]:
    """A network with a host for every name and one for the server, which runs."""
    with Hosts(*names, "server") as hosts:
        server = HostedServer(hosts["server"], *options)
        made = Arena(directory, hosts, server, nodes, budget)
        try:
            server.start()
            yield made
        except AssertionError as error:
            raise AssertionError(f"{error}\n{made.shown()}") from error
        finally:
            made.clear()
            server.stop()
