from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.report import duration, report_lines, report_text

CAUSE: dict[str, Any] = {
    "kind": "exited", "group": "default", "node": "a", "rank": 1, "local_rank": 1, "round": 3, "pid": 42,
    "exit_code": 1, "signal": None, "error_type": "ValueError", "message": "boom\nand more",
    "traceback": "", "last_lines": ["Traceback (most recent call last):", "ValueError: boom"],
    "log": "runs/j/a/logs/default/3/1/stderr.log", "at": 5.0,
}  # fmt: skip
FAILED: dict[str, Any] = {
    "state": "FAILED", "exit_code": 1, "reason": "restart.budget is spent", "rounds": 3, "restarts": 2,
    "root_cause": CAUSE, "results": {}, "timings": {"total_s": 12.34},
    "failures": [
        {**CAUSE, "round": 2, "pid": 40, "rank": 0, "exit_code": None, "signal": 9, "message": "", "error_type": ""},
        CAUSE,
    ],
}  # fmt: skip


def test_a_failure_begins_with_its_root_cause() -> None:
    assert report_text(FAILED) == (
        "failed after 12.3 s (3 rounds, 2 restarts): restart.budget is spent [exit code 1]\n"
        "root cause: rank 1 on node a, pid 42, round 3: exit code 1\n"
        "    ValueError: boom\n"
        "    and more\n"
        "    its last lines:\n"
        "    | Traceback (most recent call last):\n"
        "    | ValueError: boom\n"
        "    its log: runs/j/a/logs/default/3/1/stderr.log\n"
        "other failures:\n"
        "    round 2, rank 0 on node a, pid 40: killed by SIGKILL"
    )


@pytest.mark.parametrize(
    ("reason", "headline"),
    [
        ("rank 1 on node a: exit code 1", "failed after 12.3 s (3 rounds, 2 restarts) [exit code 1]"),
        (
            "restart.budget is spent (2 restarts); rank 1 on node a: exit code 1",
            "failed after 12.3 s (3 rounds, 2 restarts): restart.budget is spent (2 restarts) [exit code 1]",
        ),
    ],
)
def test_the_cause_is_not_said_twice(reason: str, headline: str) -> None:
    assert report_text({**FAILED, "reason": reason}).splitlines()[0] == headline


def test_a_log_is_named_as_a_person_here_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, there = f"{tmp_path}/runs/stderr.log", "/elsewhere/stderr.log"
    for log, named in ((here, "runs/stderr.log"), (there, there)):
        assert f"    its log: {named}\n" in report_text({**FAILED, "root_cause": {**CAUSE, "log": log}})


def test_a_traceback_is_better_than_last_lines() -> None:
    text = report_text({**FAILED, "root_cause": {**CAUSE, "traceback": "Traceback:\n  there"}, "failures": []})
    assert "    its traceback:\n    | Traceback:\n    |   there\n" in text
    assert "its last lines" not in text


def test_a_hang_is_told_with_its_limit_and_the_top_of_its_stacks() -> None:
    stacks = "\n".join(["Thread 1 (most recent call first):", *(f"  File {n}" for n in range(99))])
    hung = {**CAUSE, "kind": "hang", "exit_code": None, "error_type": "", "message": "no heartbeat", "stacks": stacks}
    lines = report_text({**FAILED, "root_cause": hung, "failures": []}).splitlines()
    assert lines[1:5] == [
        "root cause: rank 1 on node a, pid 42, round 3: hung",
        "    no heartbeat",
        "    its stacks:",
        "    | Thread 1 (most recent call first):",
    ]
    assert lines[-2] == "    |   File 38"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"state": "SUCCEEDED", "exit_code": 0, "rounds": 1, "restarts": 0, "timings": {"total_s": 0.412}},
         "succeeded in 0.41 s"),
        ({"state": "SUCCEEDED", "exit_code": 0, "rounds": 3, "restarts": 1, "timings": {"total_s": 61}},
         "succeeded in 1 min 1 s (3 rounds, 1 restart)"),
        ({"state": "STOPPED", "exit_code": 130, "reason": "stopped by SIGINT", "rounds": 1, "restarts": 0,
          "timings": {"total_s": 3}}, "stopped by SIGINT after 3.0 s [exit code 130]"),
        ({"state": "FAILED", "exit_code": 3, "reason": "no server", "root_cause": None},
         "failed: no server [exit code 3]"),
        ({"state": "SUCCEEDED", "exit_code": 0, "rounds": 0, "restarts": 0, "timings": {"total_s": 0.01}},
         "succeeded in 0.01 s; the run had ended before, nothing was started"),
    ],
)  # fmt: skip
def test_other_ends_take_one_line(result: dict[str, Any], text: str) -> None:
    assert report_text(result) == text


def test_many_other_failures_are_counted_and_not_listed() -> None:
    many = [{**CAUSE, "round": number, "pid": number} for number in range(10, 110)]
    lines = report_text({**FAILED, "failures": many}).splitlines()
    assert len([line for line in lines if line.startswith("    round ")]) == 20
    assert lines[-1] == "    and 80 earlier ones"


def test_the_role_is_named_where_it_has_a_name() -> None:
    assert "root cause: trainer rank 1 on node a" in report_text(
        {**FAILED, "root_cause": {**CAUSE, "group": "trainer"}}
    )


def test_control_characters_and_endless_lines_of_workers_do_not_reach_the_terminal() -> None:
    cause = {**CAUSE, "message": "\x1b[2J", "last_lines": ["\x07" + "x" * 10_000]}
    text = report_text({**FAILED, "root_cause": cause})
    assert "\x1b" not in text
    assert "\\x1b[2J" in text
    assert max(map(len, text.splitlines())) < 500


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"state": None, "root_cause": 3, "failures": 3, "timings": [], "rounds": "x"},
        {"state": "FAILED", "root_cause": {}, "failures": [{}, None, 3]},
        {"state": "FAILED", "root_cause": {"message": 3, "last_lines": "x", "signal": "y", "traceback": []}},
    ],
)
def test_any_object_renders(result: dict[str, Any]) -> None:
    assert report_text(result)


def test_all_but_a_success_counts_as_a_warning() -> None:
    assert {line.level for line in report_lines(FAILED)} == {30}
    assert {line.level for line in report_lines({"state": "SUCCEEDED"})} == {20}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (0.999, "1.00 s"),
        (12.34, "12.3 s"),
        (59.99, "60.0 s"),
        (125.4, "2 min 5 s"),
        (600, "10 min"),
        (11_220, "3 h 7 min"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
