from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.cli.terminal import level_of
from orchestrator.core.policies import RestartKind, StopPolicy
from orchestrator.core.specs import GroupSpec, LogsKind
from tests.cli.test_report import CAUSE, FAILED
from tests.cli.told import Told, settled, transition
from tests.core.specs import group


def test_a_run_begins_with_its_name_and_where_others_join() -> None:
    alone, several = Told(), Told(group(nodes=(2, 4)))
    alone.terminal.begin("unix:///tmp/x")
    several.terminal.begin("redis://h:6379/0")
    assert alone.text == ["run j1, node a"]
    assert several.text == [
        "run j1, node a",
        "meeting 2 to 4 nodes; the others need run_id=j1 rendezvous.url=redis://h:6379/0",
        "this node hosts the server: the run ends with it",
    ]


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (settled(nodes=1, world_size=2), "round 1: 1 node, 2 workers · attempt 1 of 4"),
        (settled(base_rank=4, charged=1), "round 1: 2 nodes, 8 workers, this node has ranks 4-5 · attempt 2 of 4"),
        ({"world_size": 8, "nodes": 2, "group_rank": 3}, "round 1: 2 nodes, 8 workers, this node has ranks 6-7"),
    ],
)
def test_a_settled_round_takes_one_line(record: dict[str, Any], line: str) -> None:
    assert Told().hear("round_settled", **record) == [line]


@pytest.mark.parametrize(
    ("spec", "attempt"),
    [(group(RestartKind.NEVER), ""), (group(budget=None), " · attempt 3"), (group(budget=5), " · attempt 3 of 6")],
)
def test_attempts_are_counted_against_the_budget(spec: GroupSpec, attempt: str) -> None:
    line = Told(spec).hear("round_settled", **settled(nodes=1, charged=2))
    assert line == [f"round 1: 1 node, 8 workers{attempt}"]


EXITED: dict[str, Any] = {"rank": 1, "local_rank": 1, "pid": 42, "exit_code": 1, "signal": None, "sent_by_us": False}
DECIDED: dict[str, Any] = {"charged": True, "delay_s": 1.0, "remaining": 2}
RESTARTING = "restarting the whole group in 1.0 s; 2 of 3 restarts left"


@pytest.mark.parametrize("logs", [LogsKind.TEE, LogsKind.INHERIT])
def test_what_stands_on_the_screen_is_not_repeated_before_a_restart(logs: LogsKind) -> None:
    told = Told(logs=logs)
    told.hear("worker_exited", **EXITED)
    assert told.hear("restart_decided", cause=CAUSE, **DECIDED) == [
        "root cause: rank 1 on node a, pid 42: exit code 1, ValueError: boom",
        RESTARTING,
    ]
    silent = {**CAUSE, "error_type": "", "message": ""}
    assert told.hear("restart_decided", cause=silent, **DECIDED) == [RESTARTING]
    other = {**silent, "pid": 43}
    line = "root cause: rank 1 on node a, pid 43: exit code 1"
    assert told.hear("restart_decided", cause=other, **DECIDED) == [line, RESTARTING]


@pytest.mark.parametrize(
    ("told", "cause"),
    [
        (lambda: Told(logs=LogsKind.FILES), CAUSE),
        (lambda: Told(console=frozenset({0})), CAUSE),
        (Told, {**CAUSE, "node": "b"}),
    ],
)
def test_what_was_seen_nowhere_is_told_in_full(told: Callable[[], Told], cause: dict[str, Any]) -> None:
    lines = told().hear("restart_decided", cause=cause, **DECIDED)
    assert "    | ValueError: boom" in lines
    assert lines[-1] == RESTARTING


def test_a_failure_is_told_once_at_once_and_in_full_with_what_follows() -> None:
    told = Told(logs=LogsKind.FILES)
    exited = EXITED
    assert told.hear("worker_exited", **exited) == ["rank 1 on node a, pid 42 failed: exit code 1; stopping its round"]
    assert told.hear("worker_exited", **{**exited, "rank": 2}) == []
    assert told.hear("restart_decided", cause=CAUSE, charged=True, delay_s=1.0, remaining=2) == [
        "root cause: rank 1 on node a, pid 42, round 3: exit code 1",
        "    ValueError: boom",
        "    and more",
        "    its last lines:",
        "    | Traceback (most recent call last):",
        "    | ValueError: boom",
        "    its log: runs/j/a/logs/default/3/1/stderr.log",
        RESTARTING,
    ]


def test_a_failure_that_is_not_retried_says_which_rule_forbids_it() -> None:
    told = Told()
    assert told.hear("failure_reported", action="retry", why="restart=on_failure", reply="restart") == []
    fatal: dict[str, Any] = {"action": "fatal", "why": "restart.rules[0]", "reply": "closed"}
    assert told.hear("failure_reported", **fatal) == ["no restart: restart.rules[0]"]
    assert told.hear("failure_reported", **fatal) == []


@pytest.mark.parametrize(
    "exited",
    [
        {"exit_code": 0, "signal": None, "sent_by_us": False},
        {"exit_code": None, "signal": 15, "sent_by_us": True},
    ],
)
def test_a_worker_that_succeeds_or_is_stopped_by_us_is_no_news(exited: dict[str, Any]) -> None:
    assert Told().hear("worker_exited", rank=1, pid=42, **exited) == []


@pytest.mark.parametrize(
    ("decided", "line"),
    [
        ({"charged": False, "delay_s": 0}, "restarting the whole group now; not charged to the budget"),
        (
            {"charged": True, "delay_s": 0.1, "remaining": None},
            "restarting the whole group in 0.10 s; no limit to restarts",
        ),
    ],
)
def test_a_restart_names_its_price(decided: dict[str, Any], line: str) -> None:
    assert Told().hear("restart_decided", cause=None, **decided) == [line]


@pytest.mark.parametrize(
    ("on", "line"),
    [
        ("round_superseded", "the membership changes: lost node b"),
        ("lease_lost", "this node's lease has lapsed: lost node b"),
        ("guard_lost", "the guard is gone: lost node b"),
    ],
)
def test_a_round_that_ends_without_a_failure_says_why_once(on: str, line: str) -> None:
    told = Told()
    change = transition("HEALTHY", "DRAINING", on, "lost node b")
    assert told.hear("transition", **change) == [line]
    assert told.hear("transition", **change) == []
    assert told.hear("transition", number=2, **change) == [line]


def test_a_lost_member_that_was_named_is_not_named_again() -> None:
    told = Told()
    assert told.hear("member_lost", members=["b"], reason="lost node b") == ["lost node b"]
    change = transition("HEALTHY", "DRAINING", "round_superseded", "lost node b")
    assert told.hear("transition", **change) == []


def test_what_an_earlier_agent_had_left_is_told_when_it_is_killed() -> None:
    line = "what an earlier agent of this run had left here was killed: pids 7, 8"
    assert Told().hear("ghosts_killed", pids=[7, 8]) == [line]
    assert Told().hear("guard_started", pid=7, containment="cgroup2") == []


def test_why_there_is_no_zygote_is_told() -> None:
    line = "no zygote, so workers are started by exec: importing x: ImportError: y"
    assert Told().hear("zygote_failed", reason="importing x: ImportError: y") == [line]


def test_the_first_signal_stops_and_the_second_kills() -> None:
    told = Told()
    assert told.hear("stop_requested", signal=2) == ["SIGINT: stopping, grace 30 s; again to kill now"]
    assert told.hear("stop_requested", signal=15) == ["SIGTERM again: killing now"]


def test_the_platform_s_time_is_the_grace_where_it_is_shorter() -> None:
    told = Told(stop=StopPolicy(signal=15, grace_s=60, kill_wait_s=10, platform_grace_s=30, preempt=frozenset({10})))
    cut = "stopping, grace 28 s (stop.platform_grace_s)"
    assert told.hear("stop_requested", signal=10) == [f"SIGUSR1: {cut}"]
    assert told.hear("stop_requested", signal=10) == ["SIGUSR1 again: workers have been told"]
    told = Told(stop=StopPolicy(signal=15, grace_s=60, kill_wait_s=10, platform_grace_s=30))
    assert told.hear("stop_requested", signal=15) == [f"SIGTERM: {cut}; again to kill now"]
    stuck = "rank 1 does not stop; its stacks are in the journal: it ignores SIGTERM"
    assert told.hear("worker_stuck", rank=1, pid=7, reason="it ignores SIGTERM") == [stuck]


def test_logs_that_are_cut_or_lost_are_told() -> None:
    told = Told()
    cut = "/logs/0/stdout.log is over logs.max_bytes: its oldest output is removed, and so will that of others"
    assert told.hear("log_trimmed", path="/logs/0/stdout.log", max_bytes=70000) == [cut]
    assert told.hear("log_degraded", path="/logs", reason="no space left") == ["/logs: no space left"]
    lacks = "the journal can be written again; it lacks 3 records"
    assert told.hear("log_degraded", dropped=3) == [lacks]


def test_without_workers_there_is_nobody_to_give_a_grace_period() -> None:
    told = Told()
    told.hear("transition", number=0, **transition("INIT", "RENDEZVOUS", "agent_started", ""))
    assert told.hear("stop_requested", signal=2) == ["SIGINT: leaving the run"]


def test_a_server_that_does_not_answer_at_first_is_told_of_with_where_it_should_be() -> None:
    redis, embedded = Told(url="redis://h:1"), Told()
    tail = "trying for 10 min (rendezvous.join_timeout_s)"
    assert redis.hear("server_lost", number=0, reason="connection refused") == [
        f"the rendezvous server at redis://h:1 does not answer yet: connection refused; {tail}"
    ]
    assert redis.hear("server_back", number=0) == ["the rendezvous server answers"]
    assert embedded.hear("server_lost", number=0, reason="no answer") == [
        f"the embedded server does not answer yet: no answer (its log: runs/j1/a/server.log); {tail}"
    ]


def test_a_server_that_was_never_met_is_not_missed_at_the_end() -> None:
    assert Told().hear("leave_failed", number=0, reason="no answer") == []


def test_the_address_with_its_password_is_told_to_whoever_only_wants_problems() -> None:
    told = Told(group(nodes=(2, 2)), level="ERROR")
    told.terminal.begin("redis://:pw@h:1/0")
    assert told.text == ["meeting 2 nodes; the others need run_id=j1 rendezvous.url=redis://:pw@h:1/0"]


def test_the_server_is_missed_and_greeted() -> None:
    told = Told()
    told.hear("round_settled", **settled())
    assert told.hear("server_lost", reason="refused") == [
        "the rendezvous server does not answer: refused; workers run on, for 10 min at most"
    ]
    assert told.hear("server_back") == ["the rendezvous server is back"]
    several = Told(group(nodes=(2, 2)))
    several.hear("round_settled", **settled())
    (line,) = several.hear("server_lost", reason="refused")
    assert line.endswith("for 10 min at most, unless this node is cut off (rendezvous.on_isolation)")


def test_a_lease_that_was_lost_is_told_once_with_what_it_cost_and_whose_fault_it_was() -> None:
    told = Told()
    why = "this agent was paused for 7.2 s"
    assert told.hear("lease_late", lag_s=7.2, reason=why) == [
        "the lease is renewed late: this agent was paused for 7.2 s"
    ]
    assert told.hear("fenced", lag_s=7.2, reason=why) == [
        "this node's workers were killed, for others may soon start in their place: this agent was paused for 7.2 s"
    ]
    assert told.hear("lease_lost", reason=why) == []
    assert told.hear("transition", **transition("HEALTHY", "DRAINING", "lease_lost", why)) == []
    assert told.hear("lease_lost", number=2, reason="evicted") == ["this node's lease has lapsed: evicted"]
    assert told.hear("transition", number=2, **transition("HEALTHY", "DRAINING", "lease_lost", "evicted")) == []


def test_a_healthy_run_takes_three_lines() -> None:
    told = Told()
    told.terminal.begin(None)
    told.hear("transition", number=0, **transition("INIT", "RENDEZVOUS", "agent_started", ""))
    told.hear("round_settled", **settled(nodes=1))
    told.hear("transition", **transition("RENDEZVOUS", "STARTING", "round_settled", ""))
    told.hear("worker_started", rank=0, local_rank=0, pid=3)
    told.hear("worker_exited", rank=0, pid=3, exit_code=0, signal=None, sent_by_us=False)
    told.hear("an_event_of_tomorrow", what=1)
    told.terminal.end({"state": "SUCCEEDED", "exit_code": 0, "timings": {"total_s": 12.3}})
    assert len(told.text) == 3
    assert told.text[-1] == "succeeded in 12.3 s"


def test_warning_tells_only_problems_and_debug_tells_all() -> None:
    quiet, loud = Told(level="warning"), Told(level="DEBUG")
    for told in (quiet, loud):
        told.terminal.begin(None)
        told.hear("round_settled", **settled())
        told.hear("worker_started", rank=0, local_rank=0, pid=3)
        told.hear("stop_requested", signal=2)
        told.terminal.end(FAILED)
    assert quiet.text[0].startswith("SIGINT: stopping")
    assert quiet.text[1].startswith("failed after 12.3 s")
    assert "[1] worker_started rank=0 local_rank=0 pid=3" in loud.text


def test_the_report_is_the_last_word_and_the_status_line_is_gone() -> None:
    told = Told()
    told.terminal.end(FAILED)
    assert told.text[0] == "failed after 12.3 s (3 rounds, 2 restarts): restart.budget is spent [exit code 1]"
    assert told.statuses == [None]


def test_the_status_line_follows_the_state() -> None:
    told = Told()
    told.hear("round_settled", **settled())
    told.hear("transition", **transition("STARTING", "HEALTHY", "workers_started", ""))
    assert told.statuses == ["j1 · round 1 · 8 workers · healthy"]


def test_styles_are_for_those_who_want_them() -> None:
    plain, coloured = Told(), Told(colour=True)
    for told in (plain, coloured):
        told.hear("stop_requested", signal=2)
    assert plain.styled[0][1] is None
    assert coloured.styled[0][1] == "warn"


@pytest.mark.parametrize(
    "record",
    [{"event": "round_settled"}, {"event": "restart_decided"}, {"event": "worker_exited"}, {"event": "transition"},
     {"event": "stop_requested"}, {"event": "member_lost"}, {"event": None}, {}],
)  # fmt: skip
def test_a_record_that_lacks_its_fields_is_survived(record: dict[str, Any]) -> None:
    told = Told(level="DEBUG")
    told.terminal(record)


@pytest.mark.parametrize(
    ("text", "level"), [("warning", 30), ("WARN", 30), ("10", 10), (20, 20), ("loud", 20), ("", 20)]
)
def test_loglevel_is_a_name_or_a_number(text: str | int, level: int) -> None:
    assert level_of(text) == level


def test_a_role_has_its_own_budget() -> None:
    spec = replace(group(budget=1), role="trainer")
    told = Told(spec)
    told.terminal({"event": "round_settled", "group": "trainer", "round": 1, **settled(nodes=1)})
    assert told.text == ["round 1: 1 node, 8 workers · attempt 1 of 2"]
