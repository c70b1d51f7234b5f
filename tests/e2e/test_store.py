"""Real torch workers and the store that the agent of rank 0 hosts: a new one in each round, whoever dies."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, SLEEP, Launch, alive, in_round, python, until
from tests.edge.procs import read_pid
from tests.edge.stores import Client

pytestmark = pytest.mark.e2e
torch = [
    pytest.mark.torch,
    pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra [torch]"),
]

REDUCE = """
import os, sys, time
import torch, torch.distributed as dist
from orchestrator.worker import report
dist.init_process_group("gloo")
store = dist.distributed_c10d._get_default_store()
seen = store.add("seen", 1)  # those of this round alone
total = torch.tensor([dist.get_rank() + 1])
dist.all_reduce(total)
store.set(f"of {os.environ['ORCHESTRATOR_ROUND']}", "1")
dist.barrier()
of_others = [n for n in range(1, 9) if store.check([f"of {n}"])]
report(sum=total.item(), world=dist.get_world_size(), seen=seen, rounds=of_others)
open(f"met.{os.environ['ORCHESTRATOR_ROUND']}.{dist.get_rank()}", "w").close()
"""
LAST = (
    REDUCE
    + """
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
dist.destroy_process_group()
"""
)
LONG_S = 90.0  # four interpreters that import torch on two busy processors


def met(runs: list[Launch], round_number: int, world: int) -> None:
    """Wait until all workers of a round have reduced, and go on."""
    name = f"met.{round_number}."
    until(
        lambda: sum(path.name.startswith(name) for run in runs for path in run.directory.iterdir()) == world,
        f"{world} workers meet in round {round_number}: {[run.stderr for run in runs]}",
        LONG_S,
    )


def reported(runs: list[Launch]) -> list[dict[str, object]]:
    return [values for run in runs for values in run.result["results"].values()]


@pytest.mark.usefixtures("nodes")
class TestTorch:
    pytestmark = torch

    def test_after_a_restart_nothing_of_the_last_round_is_seen(self, nodes: Nodes, tmp_path: Path) -> None:
        done = tmp_path / "done"
        words = ("nodes=2", "worker.nproc=2", *python(LAST), str(done))
        runs = [nodes.start(name, *words) for name in "ab"]
        first = in_round(runs[0], 2)
        met(runs, first, 4)
        os.kill(runs[1].workers(first).popitem()[1], signal.SIGKILL)
        second = in_round(runs[0], 2, after=first)
        met(runs, second, 4)
        done.touch()
        assert [run.wait(LONG_S) for run in runs] == [0, 0], [run.stderr for run in runs]
        values = reported(runs)
        assert {(value["sum"], value["world"]) for value in values} == {(10, 4)}
        assert sorted(int(str(value["seen"])) for value in values) == [1, 2, 3, 4]
        assert [value["rounds"] for value in values] == [[second]] * 4
        opened = [event for run in runs for event in run.events("store_opened")]
        assert [event["round"] for event in opened] == [first, second], "one a round, of the agent of rank 0"
        assert not any(alive(event["pid"]) for event in opened)
        assert [run.events("store_trouble") for run in runs] == [[], []]

    def test_a_new_store_is_there_when_the_agent_of_the_old_one_was_killed(self, nodes: Nodes, tmp_path: Path) -> None:
        done = tmp_path / "done"
        words = ("nodes=1:2", "worker.nproc=2", "rendezvous.lease_s=60", *python(LAST), str(done))
        runs = [nodes.start(name, *words) for name in "ab"]
        first = in_round(runs[0], 2)
        met(runs, first, 4)
        (host,) = (run for run in runs if run.events("store_opened"))
        (left,) = (run for run in runs if run is not host)
        store = host.events("store_opened")[0]["pid"]
        host.signal(signal.SIGKILL)
        second = in_round(left, 1, after=first)
        until(lambda: not alive(store), "the store ends with its agent")
        met([left], second, 2)
        done.touch()
        assert left.wait(LONG_S) == 0, left.stderr
        assert {(value["sum"], value["world"]) for value in reported([left])} == {(3, 2)}
        assert [event["round"] for event in left.events("store_opened")] == [second]

    def test_sums_are_right_in_every_round_while_a_node_comes_goes_and_comes(
        self, nodes: Nodes, tmp_path: Path
    ) -> None:
        done = tmp_path / "done"
        words = ("nodes=1:2", "rendezvous.scale_up_s=0.1", "rendezvous.lease_s=60", *python(LAST), str(done))
        stays = nodes.start("a", *words)
        rounds = [in_round(stays, 1)]
        met([stays], rounds[-1], 1)
        for turn in (1, 2):
            comes = nodes.start("b", *words, directory=f"b{turn}")
            rounds.append(in_round(stays, 2, after=rounds[-1]))
            met([stays, comes], rounds[-1], 2)
            if turn == 1:
                comes.signal(signal.SIGKILL)
                rounds.append(in_round(stays, 1, after=rounds[-1]))
                met([stays], rounds[-1], 1)
        done.touch()
        assert [run.wait(LONG_S) for run in (stays, comes)] == [0, 0], [stays.stderr, comes.stderr]
        assert {(value["sum"], value["world"]) for value in reported([stays, comes])} == {(3, 2)}
        opened = stays.events("store_opened")
        assert [event["round"] for event in opened] == rounds, "ranks are sticky: the one that stays has rank 0"
        assert len({event["port"] for event in opened}) == len(rounds)

    def test_a_store_that_dies_takes_the_round_along_and_not_the_run(self, launch: Launcher, tmp_path: Path) -> None:
        code = LAST.replace("time.sleep(0.01)", "store.add('beat', 1); time.sleep(0.01)")
        run = launch("worker.nproc=2", *FAST, *python(code), str(tmp_path / "done"))
        first = run.await_healthy()
        met([run], first, 2)
        os.kill(run.events("store_opened")[0]["pid"], signal.SIGKILL)
        second = in_round(run, 1, after=first)
        met([run], second, 2)
        (tmp_path / "done").touch()
        assert run.wait(LONG_S) == 0, run.stderr
        assert "its process has ended unasked (signal 9)" in run.events("store_trouble")[0]["reason"]
        assert "the store of the workers: its process has ended" in run.stderr + run.stdout

    @pytest.mark.parametrize("kind", ["agent", "worker"])
    def test_a_script_of_torchruns_meets_either_way(self, launch: Launcher, tmp_path: Path, kind: str) -> None:
        (tmp_path / "done").touch()
        run = launch("worker.nproc=2", f"worker.store={kind}", *FAST, *python(LAST), str(tmp_path / "done"))
        assert run.wait(LONG_S) == 0, run.stderr
        assert {value["sum"] for value in reported([run])} == {3}
        assert len(run.events("store_opened")) == (kind == "agent")


def test_roles_have_a_store_each(launch: Launcher) -> None:
    knock = python(
        "import os, socket",
        "host, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])",
        "one = socket.create_connection((host, port), 20)",
        "one.sendall(bytes.fromhex('00cef7853c' + '05' + '0100000000000000' * 2 + '6b'))",
        "assert one.recv(1) == bytes([1])  # k is not there, whoever has set it elsewhere",
        "one.sendall(bytes.fromhex('01' + '0100000000000000' + '6b' + '0100000000000000' + '76' + '0d61626364'))",
        "assert one.recv(4) == b'abcd'",
    )
    roles = ("roles.x.worker.nproc=1", "roles.y.depends_on={x: succeeded}")
    run = launch(*FAST, *roles, *knock)
    assert run.wait() == 0, run.stderr
    opened = run.events("store_opened")
    assert [event["group"] for event in opened] == ["x", "y"]
    assert opened[0]["port"] != opened[1]["port"]


def test_a_job_that_asks_for_no_store_starts_none_and_may_have_no_address(launch: Launcher) -> None:
    say = python(
        "import os",
        "from orchestrator.worker import report",
        "told = ('MASTER_ADDR', 'MASTER_PORT', 'TORCHELASTIC_USE_AGENT_STORE')",
        "report(**{name: os.environ.get(name) for name in told})",
    )
    run = launch(*FAST, "worker.store=none", *say)
    assert run.wait() == 0, run.stderr
    assert reported([run]) == [{"MASTER_ADDR": None, "MASTER_PORT": None, "TORCHELASTIC_USE_AGENT_STORE": "False"}]
    idle = launch(*FAST, *SLEEP)
    idle.await_healthy()
    idle.signal(signal.SIGTERM)
    assert idle.wait() == 143
    assert idle.events("store_opened") == []


def test_a_paused_agent_does_not_pause_its_store(launch: Launcher, tmp_path: Path) -> None:
    told = tmp_path / "port"
    say = python(
        "import os, time", f"open({str(told)!r}, 'w').write(os.environ['MASTER_PORT'] + chr(10))", "time.sleep(600)"
    )
    run = launch(*FAST, *say)
    run.await_healthy()
    client = Client(read_pid(told))
    client.ping()
    run.await_event("store_opened")
    run.signal(signal.SIGSTOP)
    client.ping()
    later = Client(read_pid(told))
    later.ping()
    run.signal(signal.SIGCONT)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert client.gone()
