"""One node, embedded server: what happens when something dies."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from orchestrator.core.policies import RestartKind
from orchestrator.core.table import build
from tests.core.specs import group
from tests.e2e.conftest import Launcher
from tests.e2e.harness import FAST, SLEEP, Launch, python, until

pytestmark = pytest.mark.e2e

STUBBORN = ("--", sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)")


def ignores_sigterm(pid: int) -> bool:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return bool(int(status["SigIgn"], 16) & 1 << signal.SIGTERM - 1)


def test_workers_that_succeed_end_the_run_with_0(launch: Launcher) -> None:
    run = launch("worker.nproc=2", *python("print('hi')"))
    assert run.wait() == 0
    result = run.result
    assert (result["state"], result["exit_code"], result["rounds"], result["restarts"]) == ("SUCCEEDED", 0, 1, 0)
    assert sorted(run.stdout.splitlines()) == ["[default0] hi", "[default1] hi"]


def test_a_spent_budget_ends_with_1_and_the_root_cause_first(launch: Launcher) -> None:
    script = ("import os, time", "if os.environ['RANK'] == '1': raise ValueError('no such luck')", "time.sleep(600)")
    run = launch("worker.nproc=2", "restart.budget.max=1", *FAST, *python(*script))
    assert run.wait() == 1
    cause = run.result["root_cause"]
    assert (cause["rank"], cause["exit_code"], cause["error_type"], cause["message"]) == (
        1,
        1,
        "ValueError",
        "no such luck",
    )
    assert cause["last_lines"][-1] == "ValueError: no such luck"
    assert run.result["restarts"] == 1
    report = run.stderr[run.stderr.index("failed after") :]
    assert report.index("root cause") < report.index("ValueError: no such luck")
    assert "restart.budget is spent" in report


def test_an_error_file_gives_the_traceback(launch: Launcher) -> None:
    script = (
        "import json, os, sys",
        "extra = {'py_callstack': 'Traceback: here', 'timestamp': '1'}",
        "told = {'message': 'RuntimeError: foobar', 'extraInfo': extra}",
        "json.dump({'message': told}, open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w'))",
        "sys.exit(3)",
    )
    run = launch("restart=never", *python(*script))
    assert run.wait() == 1
    cause = run.result["root_cause"]
    assert (cause["exit_code"], cause["traceback"]) == (3, "Traceback: here")
    assert "foobar" in cause["message"]


def test_restart_never_fails_at_once(launch: Launcher) -> None:
    run = launch("restart=never", *python("raise SystemExit(7)"))
    assert run.wait() == 1
    assert (run.result["rounds"], run.result["root_cause"]["exit_code"]) == (1, 7)


def test_restart_always_repeats_success_until_its_budget_is_spent(launch: Launcher) -> None:
    run = launch("restart=always", "restart.budget.max=2", *FAST, *python("pass"))
    assert run.wait() == 0
    assert run.result["rounds"] == 3


def test_a_rule_can_end_what_a_retry_would_not_mend(launch: Launcher) -> None:
    run = launch("restart.rules=[{exit_codes:[64],action:fatal}]", *FAST, *python("raise SystemExit(64)"))
    assert run.wait() == 1
    assert run.result["rounds"] == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_stops_the_run_and_gives_the_exit_code(launch: Launcher, number: int, code: int) -> None:
    run = launch(*SLEEP)
    run.await_healthy()
    run.signal(number)
    assert run.wait() == code
    assert run.result["state"] == "STOPPED"


def test_preemption_ends_with_75(launch: Launcher) -> None:
    run = launch("stop.preempt_signals=[USR1]", "stop.forward=[USR2]", *SLEEP)
    run.await_healthy()
    run.signal(signal.SIGUSR1)
    assert run.wait() == 75


def test_signals_are_forwarded_as_configured(launch: Launcher) -> None:
    react = "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(0))"
    run = launch(*python("import signal, sys, time", react, "print('ready')", "time.sleep(600)"))
    until(lambda: "ready" in run.stdout, "the worker is ready")
    run.signal(signal.SIGUSR2)
    assert run.wait() == 0


def test_a_killed_guard_is_charged_to_a_budget_that_may_be_spent(launch: Launcher) -> None:
    run = launch("restart.budget.max=0", *SLEEP)
    run.await_healthy()
    os.kill(run.guard_pid(), signal.SIGKILL)
    assert run.wait() == 1
    assert run.result["root_cause"]["kind"] == "guard"


def test_a_worker_sees_its_place(launch: Launcher) -> None:
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "ORCHESTRATOR_ROUND", "LR"]
    say = python("import os", f"print(*(os.environ[name] for name in {names}))")
    run = launch("worker.nproc=2", "run_id=seen", "worker.env.LR=0.1", "logs.prefix=''", *say)
    assert run.wait() == 0
    assert sorted(run.stdout.splitlines()) == ["0 0 2 127.0.0.1 seen 1 0.1", "1 1 2 127.0.0.1 seen 1 0.1"]


def test_reported_values_end_in_the_result(launch: Launcher) -> None:
    script = ("import os", "from orchestrator.worker import report", "report(rank=int(os.environ['RANK']), loss=0.5)")
    run = launch("worker.nproc=2", *python(*script))
    assert run.wait() == 0
    assert run.result["results"] == {"0": {"rank": 0, "loss": 0.5}, "1": {"rank": 1, "loss": 0.5}}


def test_replaying_the_journal_gives_the_same_states(launch: Launcher) -> None:
    run = launch("restart.budget.max=2", *FAST, *python("raise SystemExit(1)"))
    assert run.wait() == 1
    assert_replays(run, RestartKind.ON_FAILURE)


def assert_replays(run: Launch, kind: RestartKind) -> None:
    rows = {(row.source, row.event, row.target) for row in build(group(kind))}
    state = "INIT"
    for record in run.events("transition"):
        assert record["from"] == state
        assert (record["from"], record["on"], record["to"]) in rows
        assert record["reason"]
        state = record["to"]
    assert state == run.result["state"]


def test_logs_are_kept_for_each_round_and_rank(launch: Launcher) -> None:
    script = ("import os", "print('out', os.environ['RANK'])", "raise SystemExit(1)")
    run = launch("worker.nproc=2", "restart.budget.max=1", "logs=files", *FAST, *python(*script))
    assert run.wait() == 1
    assert run.stdout == ""
    for round_number in (1, 2):
        for rank in (0, 1):
            log = run.run_dir / "logs" / "default" / str(round_number) / str(rank) / "stdout.log"
            assert log.exists()


def test_a_finished_run_can_be_run_again_from_its_job_file(launch: Launcher) -> None:
    first = launch("worker.nproc=2", "worker.env.GREETING=moin", *python("import os", "print(os.environ['GREETING'])"))
    assert first.wait() == 0
    again = launch(str(first.run_dir / "job.yaml"))
    assert again.wait() == 0
    assert sorted(again.stdout.splitlines()) == sorted(first.stdout.splitlines())


def test_a_second_run_of_the_same_run_id_starts_with_empty_logs_and_keeps_the_old_ones(launch: Launcher) -> None:
    told = "{'message': {'message': 'old error', 'extraInfo': {}}}"
    error = f"json.dump({told}, open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w'))"
    report = "print('{\"old\": 1}', file=open(os.environ['ORCHESTRATOR_RESULT_FILE'], 'w'))"
    first = launch(
        "restart=never",
        "run_id=again",
        *python("import json, os, sys", error, report, "print('old')", "sys.exit(3)"),
        name="same",
    )
    assert first.wait() == 1
    second = launch("restart=never", "run_id=again", *python("print('new'); raise SystemExit(4)"), name="same")
    assert second.wait() == 1
    assert second.stdout == "[default0] new\n"
    assert (second.result["root_cause"]["message"], second.result["results"]) == ("", {})
    assert (second.run_dir / "logs" / "default" / "1" / "0~1" / "stdout.log").read_text() == "old\n"
