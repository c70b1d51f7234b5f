"""Faults 1 to 5, 14 and 15 of a supervisor's worker plane: how often they are charged, and how long a restart waits."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.conftest import Launcher
from tests.e2e.harness import FAST, SLEEP, python, until

pytestmark = pytest.mark.e2e


def test_fault_1_a_killed_rank_is_the_cause_and_its_peers_are_a_consequence_charged_once(launch: Launcher) -> None:
    run = launch("worker.nproc=4", *FAST, *SLEEP)
    number = run.await_healthy()
    os.kill(run.workers(number)[2], signal.SIGKILL)
    assert run.await_healthy(2) == number + 1
    (decided,) = run.events("restart_decided")
    assert (decided["cause"]["rank"], decided["remaining"]) == (2, 2)
    assert {record["rank"] for record in run.events("worker_exited", sent_by_us=True)} == {0, 1, 3}
    run.signal(signal.SIGTERM)
    run.wait()


def test_fault_2_ranks_that_exit_together_are_one_failure_with_one_delay(launch: Launcher) -> None:
    script = (
        "import os, sys",
        "attempt = os.environ['TORCHELASTIC_RESTART_COUNT']",
        "open('there' + attempt, 'a').write('x')",
        "while os.path.getsize('there' + attempt) < 4: pass",
        "sys.exit(attempt == '0')",
    )
    run = launch("worker.nproc=4", *FAST, *python(*script))
    assert run.wait() == 0
    assert (run.result["rounds"], run.result["restarts"]) == (2, 1)
    assert len(run.events("restart_decided")) == 1


def test_fault_3_a_rank_that_succeeds_early_restarts_nothing(launch: Launcher) -> None:
    script = ("import os, time", "while os.environ['RANK'] != '0' and not os.path.exists('go'): time.sleep(0.01)")
    run = launch("nodes=1:2", "run_id=j", "rendezvous.listen=127.0.0.1:0", "worker.nproc=3", *FAST, *python(*script))
    run.await_event("worker_exited", rank=0, exit_code=0)
    assert run.state_is("HEALTHY")
    (run.directory / "go").touch()
    assert run.wait() == 0
    assert (run.result["rounds"], run.result["restarts"]) == (1, 0)


def test_fault_4_delays_of_crashes_in_a_row_grow_and_the_one_too_many_is_denied(launch: Launcher) -> None:
    backoff = ("restart.backoff.initial_s=0.1", "restart.backoff.jitter=0", "restart.backoff.max_s=10")
    run = launch("restart.budget={max: 3, per_s: 600}", *backoff, *python("raise SystemExit(9)"))
    assert run.wait() == 1
    delays = [record["delay_s"] for record in run.events("restart_decided")]
    assert delays == pytest.approx([0.1, 0.2, 0.4], abs=0.09)
    assert run.result["reason"].startswith("restart.budget is spent (3 restarts within 600 s)")


def test_fault_5_who_ran_well_in_between_waits_as_after_a_first_crash_but_the_budget_trips(launch: Launcher) -> None:
    backoff = ("restart.backoff.initial_s=0.2", "restart.backoff.jitter=0", "restart.backoff.max_s=0.3")
    script = ("import time", "time.sleep(0.6)", "raise SystemExit(9)")
    run = launch("restart.budget.max=2", "restart.backoff.reset_after_s=0.3", *backoff, *python(*script))
    assert run.wait() == 1
    assert all(record["delay_s"] <= 0.2 for record in run.events("restart_decided"))
    assert run.result["restarts"] == 2


def test_fault_15_what_somebody_terminates_from_outside_is_free_within_its_own_bound(launch: Launcher) -> None:
    rule = "restart.rules=[{signals: [TERM], action: retry_free}]"
    run = launch("worker.nproc=2", rule, "restart.free.max=2", "restart.budget.max=1", *FAST, *SLEEP)
    for count in (1, 2, 3):
        number = run.await_healthy(count)
        os.kill(run.workers(number)[0], signal.SIGTERM)
        until(lambda number=number: run.events("failure_reported", round=number), "it is reported")  # type: ignore[misc]
    assert run.wait() == 1
    assert run.result["restarts"] == 0
    assert run.result["reason"].startswith("restart.free is spent (2 uncharged restarts); rank 0")
    assert {record["remaining"] for record in run.events("restart_decided")} == {1}
