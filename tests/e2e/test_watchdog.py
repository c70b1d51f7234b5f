"""Workers that hang, under real agents: who is noticed, what is told, and who is left alone."""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, SLEEP, Launch, python, until
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e

HEARTBEAT = ("watchdog=heartbeat", "watchdog.timeout_s=1", "watchdog.warmup_s=30")
FIRST = "first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'"


def left_in(run: Launch) -> list[Path]:
    return [path for path in run.run_dir.iterdir() if path.name.startswith("watchdog.")]


def test_a_silent_worker_is_a_failure_of_kind_hang_and_the_group_restarts(launch: Launcher) -> None:
    script = (
        "import os, time",
        "from orchestrator.worker import progress",
        FIRST,
        "for step in range(8):",
        "    progress(step)",
        "    time.sleep(600 if first and step == 5 and os.environ['RANK'] == '1' else 0.15)",
    )
    run = launch(*HEARTBEAT, "worker.nproc=2", *FAST, *python(*script))
    assert run.wait() == 0
    (decided,) = run.events("restart_decided")
    assert (decided["charged"], decided["cause"]["kind"], decided["cause"]["rank"]) == (True, "hang", 1)
    (hung,) = run.events("worker_hung")
    assert hung["reason"].startswith("no heartbeat for 1.")
    assert "since step 5" in hung["reason"]
    assert "most recent call first" in hung["stacks"]
    stopped = run.events("worker_exited", round=1, rank=1)
    assert {record["sent_by_us"] for record in stopped} == {True}
    assert left_in(run) == []


def test_the_report_of_a_hang_says_where_it_was(launch: Launcher) -> None:
    script = (
        "import time",
        "from orchestrator.worker import section",
        "def save(): time.sleep(600)",
        "with section('checkpoint'): save()",
    )
    limits = ("watchdog=sections", "watchdog.timeout_s=30", "watchdog.sections.checkpoint.timeout_s=0.5")
    run = launch(*limits, "restart=never", *python(*script))
    assert run.wait() == 1
    cause = run.result["root_cause"]
    assert (cause["kind"], cause["exit_code"], cause["signal"]) == ("hang", None, None)
    assert "in section checkpoint for " in cause["message"]
    report = run.stderr[run.stderr.index("failed after") :]
    assert "rank 0 on node" in report
    assert "hung" in report
    assert report.index("in section checkpoint") < report.index("its stacks:") < report.index("in save")


def test_a_rule_may_forbid_a_restart_after_a_hang(launch: Launcher) -> None:
    rule = "restart.rules=[{kinds: [hang], action: fatal}]"
    run = launch("watchdog=heartbeat", "watchdog.timeout_s=0.5", "watchdog.warmup_s=0.5", rule, *FAST, *SLEEP)
    assert run.wait() == 1
    assert "within 0.5 s of its start" in run.result["root_cause"]["message"]
    assert run.result["restarts"] == 0


def test_a_hang_on_one_node_restarts_all_nodes_and_is_their_cause(nodes: Nodes) -> None:
    script = (
        "import os, time",
        "from orchestrator.worker import heartbeat",
        FIRST,
        "for n in range(20):",
        "    heartbeat()",
        "    time.sleep(600 if first and n == 5 and os.environ['RANK'] == '1' else 0.1)",
    )
    limits = ("watchdog=heartbeat", "watchdog.timeout_s=1.5", "watchdog.warmup_s=30", "nodes=2")
    both = [nodes.start(name, *limits, *python(*script)) for name in "ab"]
    assert [run.wait() for run in both] == [0, 0]
    for run in both:
        (decided,) = run.events("restart_decided")
        assert (decided["cause"]["kind"], decided["cause"]["rank"]) == ("hang", 1)
        assert "most recent call first" in decided["cause"]["stacks"]
    assert sorted(len(run.events("worker_hung")) for run in both) == [0, 1]


def test_a_shell_script_beats_with_echo_and_is_noticed_when_it_stops(launch: Launcher) -> None:
    beat = 'for n in 1 2 3 4 5 6 7 8; do echo "beat $$" > "$ORCHESTRATOR_WATCHDOG_FILE"; sleep 0.3; done; sleep 600'
    run = launch(*HEARTBEAT, "restart=never", "--", "sh", "-c", beat)
    assert run.wait() == 1
    (hung,) = run.events("worker_hung")
    assert "no heartbeat for 1." in hung["reason"]
    started = run.events("worker_started")[0]
    assert hung["mono"] - started["mono"] > 2, "its beats kept it, longer than the limit"
    assert "sh" in hung["stacks"]


def test_a_child_speaks_for_its_worker(launch: Launcher) -> None:
    beats = "from orchestrator.worker import heartbeat; import time\nfor n in range(15): heartbeat(); time.sleep(0.2)"
    limits = ("watchdog=heartbeat", "watchdog.timeout_s=2", "watchdog.warmup_s=30")
    run = launch(*limits, "restart=never", "--", "sh", "-c", f"{sys.executable} -c '{beats}'; sleep 600")
    assert run.wait() == 1
    hung, started = run.await_event("worker_hung"), run.await_event("worker_started")
    assert hung["reason"].startswith("no heartbeat for 2."), "not within its warm-up: it was heard"
    assert hung["mono"] - started["mono"] > 4
    assert run.events("watchdog_refused") == []


def test_by_default_a_worker_that_does_nothing_is_only_told_of(launch: Launcher) -> None:
    run = launch("watchdog.after_s=1", "--", "sh", "-c", "sleep 3; echo hi; sleep 0.1")
    assert run.wait() == 0
    (hung,) = run.events("worker_hung")
    assert hung["fails"] is False
    assert hung["reason"].startswith("no CPU time and no output for 1.")
    assert "seems to hang" in run.stderr
    assert run.result["failures"] == []
    assert run.result["restarts"] == 0


def test_who_computes_or_writes_does_not_seem_to_hang(launch: Launcher) -> None:
    writes = "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.4; done"
    run = launch("watchdog.after_s=1", "--", "sh", "-c", writes)
    assert run.wait() == 0
    assert run.events("worker_hung") == []


def test_nonsense_in_the_pipe_costs_its_own_line_and_is_told_once(launch: Launcher) -> None:
    noise = (
        "import os, time",
        "from orchestrator.worker import heartbeat",
        "with open(os.environ['ORCHESTRATOR_WATCHDOG_FILE'], 'wb', buffering=0) as pipe:",
        "    for n in range(30):",
        "        pipe.write(b'hello\\n' + bytes(3000) + b'\\nbeat 1\\n')",
        "        heartbeat()",
        "        time.sleep(0.1)",
    )
    run = launch(*HEARTBEAT, "restart=never", *python(*noise))
    assert run.wait() == 0
    assert len(run.events("watchdog_refused")) == 1
    assert "cannot use what it was told: 'hello'" in run.stderr


def test_without_a_watchdog_there_is_no_pipe(launch: Launcher) -> None:
    script = ("import os", "from orchestrator.worker import heartbeat", "heartbeat()", "print(sorted(os.environ))")
    run = launch("watchdog=disabled", *python(*script))
    assert run.wait() == 0
    assert "WATCHDOG_FILE" not in run.stdout
    assert left_in(run) == []


def test_the_pipe_is_private_and_that_of_a_killed_agent_is_removed_by_the_next(launch: Launcher) -> None:
    run = launch("run_id=j", "node.name=a", *SLEEP, name="here")
    run.await_healthy()
    (pipe,) = left_in(run)
    assert pipe.stat().st_mode & 0o777 == 0o600
    run.signal(signal.SIGKILL)
    run.process.wait()
    again = launch("run_id=j", "node.name=a", "--", "true", name="here")
    assert again.wait() == 0
    assert left_in(again) == []


TIMER = """
import os, time
from datetime import timedelta
import torch.distributed.elastic.timer as timer

timer.configure(timer.FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"]))
with timer.expires(after=30):
    pass
with timer.expires(after=1, scope="step"):
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        time.sleep(600)
time.sleep(1.5)
"""


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra [torch]")
def test_a_timer_of_torchs_that_expires_restarts_the_group_and_kills_no_agent(launch: Launcher, tmp_path: Path) -> None:
    script = tmp_path / "timed.py"
    script.write_text(TIMER)
    pipe = tmp_path / "pipe"
    env = {"TORCHELASTIC_ENABLE_FILE_TIMER": "1", "TORCHELASTIC_TIMER_FILE": str(pipe)}
    run = launch("worker.nproc=2", *FAST, "--", sys.executable, str(script), env=env)
    assert run.wait(110) == 0
    (decided,) = run.events("restart_decided")
    assert (decided["cause"]["kind"], decided["cause"]["rank"]) == ("hang", 1)
    assert decided["cause"]["message"].startswith("its timer step has expired after ")
    assert run.result["restarts"] == 1
    assert not pipe.exists()


LEARNS = ("watchdog=heartbeat", "watchdog.timeout_s=60", "watchdog.learn={after: 5, floor_s: 1}")
BEATS = "for n in range(12): heartbeat(); time.sleep(0.2)"


def test_limits_are_learnt_from_the_run_and_hold_for_who_comes_later(nodes: Nodes, server: Server) -> None:
    script = ("import os, time", "from orchestrator.worker import heartbeat", BEATS)
    waits = "while not os.path.exists('go'): heartbeat(); time.sleep(0.2)"
    first = nodes.start("a", *LEARNS, "nodes=2", *python(*script, waits))
    peer = nodes.start("b", *LEARNS, "nodes=2", *python(*script, waits))
    learned = first.await_event("limits_learned")
    assert learned["limits"]["timeout_s"] < 5
    assert "the watchdog has learnt from this run: watchdog.timeout_s is 1" in first.stderr
    peer.await_event("limits_learned")

    def shared() -> bool:
        found = server.say("HGET", "orchestrator:{j1}:default:gaps", "timeout_s").split()
        return len(found) == 4 and int(found[-1]) >= 5

    until(shared, "the run knows enough")
    peer.signal(signal.SIGKILL)
    again = nodes.start("b", *LEARNS, "nodes=2", *python(*script, waits), directory="again")
    started = again.await_event("worker_started")
    told = again.await_event("limits_learned")
    assert told["mono"] - started["mono"] < 1, "it was told, for it has not yet seen enough itself"


def test_a_hang_is_noticed_by_the_learnt_limit(launch: Launcher) -> None:
    script = ("import time", "from orchestrator.worker import heartbeat", BEATS, "time.sleep(600)")
    run = launch(*LEARNS, "restart=never", *python(*script))
    assert run.wait() == 1
    assert "watchdog.timeout_s is 60, of which watchdog.learn has made 1." in run.result["root_cause"]["message"]
