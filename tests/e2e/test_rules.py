"""Rules with real processes: who is restarted for a failure, who runs on, and at whose cost."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.conftest import Launcher, Nodes
from tests.e2e.harness import FAST, Launch, alive, in_round, python, until
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e

WHO = "import os, sys, time; rank, inc = os.environ['RANK'], int(os.environ['ORCHESTRATOR_INCARNATION'])"
ATTEMPT = "attempt = int(os.environ['TORCHELASTIC_RESTART_COUNT'])"
FOR_EVER = "time.sleep(600)"


def pids(run: Launch, incarnation: int) -> dict[int, int]:
    """The pids of an incarnation's workers, by rank."""
    return {record["rank"]: record["pid"] for record in run.events("worker_started", incarnation=incarnation)}


def replaced(run: Launch, incarnation: int, ranks: set[int]) -> dict[int, int]:
    """Wait until these ranks run as this incarnation, and the group is HEALTHY again."""
    until(lambda: pids(run, incarnation).keys() == ranks, f"{ranks} run again as {incarnation}")
    until(lambda: run.state_is("HEALTHY"), "HEALTHY again")
    return pids(run, incarnation)


def test_scope_worker_restarts_one_and_the_others_keep_their_processes(launch: Launcher) -> None:
    run = launch("worker.nproc=3", "restart.scope=worker", *FAST, *python(WHO, FOR_EVER))
    number = run.await_healthy()
    before = run.workers(number)
    os.kill(before[1], signal.SIGKILL)
    again = replaced(run, 1, {1})
    os.kill(again[1], signal.SIGKILL)
    replaced(run, 2, {1})
    assert alive(before[0])
    assert alive(before[2])
    assert len(run.events("round_settled")) == 1, "the round stands"
    assert [one["remaining"] for one in run.events("restart_decided", scope="worker", ranks=[1])] == [2, 1]
    logs = run.run_dir / "logs" / "default" / str(number)
    assert {path.name for path in logs.iterdir()} == {"0", "1", "1.1", "1.2", "2"}
    assert "restarting rank 1 in" in run.stderr
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_what_a_replaced_worker_left_behind_is_gone_before_its_successor_starts(launch: Launcher) -> None:
    script = (
        "import os, subprocess, sys",
        "if os.environ['ORCHESTRATOR_INCARNATION'] == '0':",
        "    waits = [sys.executable, '-c', 'input()']",
        "    child = subprocess.Popen(waits, stdin=subprocess.PIPE, start_new_session=True)",
        "    open('child', 'w').write(str(child.pid))",
        "    os._exit(3)",
        "sys.exit(7 * os.path.exists('/proc/' + open('child').read()))",
    )
    run = launch("restart.scope=worker", "restart.rules=[{exit_codes:[7],action:fatal}]", *FAST, *python(*script))
    assert run.wait() == 0, run.stderr
    assert run.result["restarts"] == 1


def test_scope_node_restarts_this_nodes_workers_and_no_others(nodes: Nodes) -> None:
    common = ("nodes=2", "worker.nproc=2", "restart.scope=node")
    a, b = (nodes.start(name, *common, *python(WHO, FOR_EVER)) for name in "ab")
    number = in_round(a, 2)
    in_round(b, 2)
    ours, theirs = a.workers(number), b.workers(number)
    os.kill(next(iter(ours.values())), signal.SIGKILL)
    replaced(a, 1, set(ours))
    assert not any(alive(pid) for pid in ours.values())
    assert all(alive(pid) for pid in theirs.values())
    (decided,) = a.events("restart_decided")
    assert (decided["scope"], sorted(decided["ranks"]), decided["charged"]) == ("node", sorted(ours), True)
    assert b.events("restart_decided") == []
    os.kill(next(iter(theirs.values())), signal.SIGKILL)
    replaced(b, 1, set(theirs))
    assert b.events("restart_decided")[0]["remaining"] == 1, "one budget for all"
    a.signal(signal.SIGTERM)
    assert (a.wait(), b.wait()) == (143, 143)


def test_a_server_that_loses_its_memory_forgets_no_charge_of_a_narrow_restart(nodes: Nodes, server: Server) -> None:
    common = ("nodes=2", "worker.nproc=2", "restart.scope=worker", "restart.budget.max=2")
    a, b = (nodes.start(name, *common, *python(WHO, FOR_EVER)) for name in "ab")
    number = in_round(a, 2)
    in_round(b, 2)
    ours, theirs = a.workers(number), b.workers(number)
    first, second = sorted(ours)
    os.kill(ours[first], signal.SIGKILL)
    replaced(a, 1, {first})
    for run in (a, b):
        run.await_event("transition", to="HEALTHY", round=number)
    server.kill()
    server.start()
    for run in (a, b):
        run.await_event("server_back")
    os.kill(ours[second], signal.SIGKILL)
    replaced(a, 1, {first, second})
    assert all(alive(pid) for pid in theirs.values())
    assert len(a.events("round_settled")) == 1, "the round was given back"
    assert [one["remaining"] for one in a.events("restart_decided")] == [1, 0], "what was charged before counts"
    os.kill(next(iter(theirs.values())), signal.SIGKILL)
    assert (a.wait(), b.wait()) == (1, 1)
    assert b.result["reason"].startswith("restart.budget is spent (2 restarts)")


def test_a_spent_budget_ends_the_run_whatever_the_scope(launch: Launcher) -> None:
    script = (WHO, f"if rank == '0': {FOR_EVER}", "sys.exit(3)")
    run = launch("worker.nproc=2", "restart.scope=worker", "restart.budget.max=2", *FAST, *python(*script))
    assert run.wait() == 1
    assert run.result["restarts"] == 2
    assert (run.result["root_cause"]["rank"], run.result["root_cause"]["incarnation"]) == (1, 2)
    assert run.result["reason"].startswith("restart.budget is spent (2 restarts)")


def test_a_failure_that_ends_the_run_does_so_although_its_worker_is_being_replaced(launch: Launcher) -> None:
    rules = "restart.rules=[{exit_codes:[9],action:fatal},{exit_codes:[3],action:retry,scope:node}]"
    script = (
        WHO,
        "open('both', 'a').write('x')",
        "while os.path.getsize('both') < 2: pass",
        "os._exit(3 + 6 * int(rank))",
    )
    run = launch("worker.nproc=2", rules, *FAST, *python(*script))
    assert run.wait() == 1
    assert (run.result["root_cause"]["exit_code"], run.result["rounds"]) == (9, 1)


def test_a_guards_death_restarts_the_whole_group_whatever_the_scope(launch: Launcher) -> None:
    run = launch("worker.nproc=2", "restart.scope=worker", *FAST, *python(WHO, FOR_EVER))
    first = run.await_healthy()
    os.kill(run.guard_pid(), signal.SIGKILL)
    second = run.await_healthy(2)
    assert second > first
    (decided,) = run.events("restart_decided")
    assert (decided["charged"], decided["cause"]["kind"], "scope" in decided) == (True, "guard", False)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_a_failure_of_the_group_ends_a_replacement_that_waits(launch: Launcher) -> None:
    slow = (
        "restart.rules=[{exit_codes:[3],action:retry,scope:worker,backoff:{initial_s:300,max_s:300,reset_after_s:300}}]"
    )
    script = (WHO, ATTEMPT, "if rank == '1' and not attempt: sys.exit(3)", FOR_EVER)
    run = launch("worker.nproc=2", slow, *FAST, *python(*script))
    run.await_event("restart_decided", scope="worker")
    os.kill(run.workers(1)[0], signal.SIGKILL)
    assert in_round(run, 1, after=1) == 2
    assert set(run.workers(2)) == {0, 1}
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_a_rule_has_a_budget_of_its_own(launch: Launcher) -> None:
    own = "restart.rules=[{exit_codes:[3],action:retry,budget:{max:2}}]"
    run = launch(own, "restart.budget.max=0", *FAST, *python("raise SystemExit(3)"))
    assert run.wait() == 1
    assert run.result["restarts"] == 2
    assert run.result["reason"].startswith("restart.rules[0].budget is spent (2 restarts)")
    assert "restart.rules[0] restarts the group: exit code 3" in run.stderr
    assert "1 of 2 restarts left" in run.stderr


def test_an_ignored_failure_leaves_its_worker_down_and_the_others_decide(launch: Launcher) -> None:
    script = (WHO, "if rank == '1': sys.exit(5)", "until = os.path.exists", "while not until('go'): time.sleep(0.01)")
    run = launch("worker.nproc=2", "restart.rules=[{exit_codes:[5],action:ignore}]", *FAST, *python(*script))
    record = run.await_event("failure_judged", rank=1)
    assert record["action"] == "ignore"
    (run.directory / "go").touch()
    assert run.wait() == 0
    assert (run.result["state"], run.result["restarts"]) == ("SUCCEEDED", 0)
    assert [failure["exit_code"] for failure in run.result["failures"]] == [5]
    assert run.result["reason"] == "all workers succeeded but 1, whose failures restart.rules ignore"


def test_a_run_in_which_all_failures_are_ignored_has_succeeded_and_says_so(launch: Launcher) -> None:
    run = launch("worker.nproc=2", "restart.rules=[{action:ignore}]", *FAST, *python("raise SystemExit(5)"))
    assert run.wait() == 0
    assert run.result["reason"] == "all workers failed, which restart.rules ignore"
    assert len(run.result["failures"]) == 2


def test_an_exit_that_a_rule_calls_a_success_is_none_of_the_failures(launch: Launcher) -> None:
    run = launch(
        "worker.nproc=2", "restart.rules=[{exit_codes:[5],action:success}]", *FAST, *python("raise SystemExit(5)")
    )
    assert run.wait() == 0
    assert (run.result["failures"], run.result["reason"]) == ([], "all workers succeeded")


def test_a_hang_that_is_ignored_is_put_down_and_the_others_go_on(launch: Launcher) -> None:
    watchdog = ("watchdog=heartbeat", "watchdog.timeout_s=0.5", "watchdog.warmup_s=0.5")
    beat = (WHO, "from orchestrator.worker import heartbeat", f"if rank == '1': {FOR_EVER}")
    script = (*beat, "while not os.path.exists('go'): heartbeat(); time.sleep(0.05)")
    run = launch("worker.nproc=2", *watchdog, "restart.rules=[{kinds:[hang],action:ignore}]", *FAST, *python(*script))
    run.await_event("worker_exited", rank=1, sent_by_us=True)
    (run.directory / "go").touch()
    assert run.wait() == 0
    assert [failure["kind"] for failure in run.result["failures"]] == ["hang"]


def test_an_excluded_node_ends_with_4_and_a_spare_takes_its_place(nodes: Nodes) -> None:
    rule = "restart.rules=[{exit_codes:[7],action:exclude_node}]"
    common = ("nodes=2", "rendezvous.spares=1", rule)
    bad = python(WHO, "if os.environ.get('BAD'): sys.exit(7)", FOR_EVER)
    a = nodes.start("a", *common, *bad)
    c = nodes.start("c", *common, *bad, env={"BAD": "1"})
    first = in_round(a, 2)
    assert c.wait() == 4
    assert "restart.rules exclude this node" in c.result["reason"]
    b = nodes.start("b", *common, *bad)
    second = in_round(a, 2, after=first)
    assert in_round(b, 2) == second
    again = nodes.start("c", *common, *bad, directory="c-again")
    assert again.wait() == 4
    assert "this node may take part no more" in again.stderr
    a.signal(signal.SIGTERM)
    assert (a.wait(), b.wait()) == (143, 143)


def test_an_only_node_that_is_excluded_ends_with_4_and_leaves_the_run_open(launch: Launcher) -> None:
    run = launch("restart.rules=[{action:exclude_node}]", *FAST, *python("raise SystemExit(7)"))
    assert run.wait() == 4
    assert run.result["root_cause"]["exit_code"] == 7


def test_age_phase_and_last_words_are_conditions(launch: Launcher) -> None:
    startup = "health.startup={file: {path: ready.__rank__}, period_s: 0.1, failure_threshold: 1000}"
    young = "{phase: starting, max_age_s: 60, message: 'no such device', action: fatal}"
    script = ("import sys", "print('no such device', file=sys.stderr)", "sys.exit(3)")
    run = launch("health=http", startup, f"restart.rules=[{young}]", *FAST, *python(*script))
    assert run.wait() == 1
    assert run.result["rounds"] == 1
    assert run.result["root_cause"]["phases"] == ["starting"]
    said = (
        "no restart: restart.rules[0] ends the run: words that match 'no such device', before it was ready, within 60 s"
    )
    assert said in run.stderr


def test_a_section_is_a_phase(launch: Launcher) -> None:
    sections = ("watchdog=sections", "watchdog.sections={save: {timeout_s: 60}}")
    script = ("from orchestrator.worker import section", "with section('save'): import os; os._exit(3)")
    run = launch(*sections, "restart.rules=[{phase: save, action: fatal}]", *FAST, *python(*script))
    assert run.wait() == 1
    assert run.result["rounds"] == 1
    assert run.result["root_cause"]["phases"][1:] == ["save"]


def test_progress_lets_the_budget_begin_anew_and_its_lack_ends_the_run(launch: Launcher) -> None:
    script = (ATTEMPT, "from orchestrator.worker import progress", "progress(min(attempt, 3))", "sys.exit(3)")
    progress = ("restart.progress.refill=true", "restart.progress.max_stalled=1", "restart.budget.max=1")
    run = launch(*progress, *FAST, *python("import os, sys", *script))
    assert run.wait() == 1
    assert run.result["restarts"] == 4, "one more than got further"
    assert run.result["reason"].startswith("1 restarts in a row without progress beyond step 3")


def test_a_worker_that_somebody_kills_is_not_out_of_memory(launch: Launcher) -> None:
    run = launch(
        "restart.rules=[{oom: true, action: retry}]", "restart=never", *python("import os; os.kill(os.getpid(), 9)")
    )
    assert run.wait() == 1
    assert run.result["root_cause"]["oom"] is False
