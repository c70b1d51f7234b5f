from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from orchestrator.cli.secrets import Secrets
from orchestrator.cli.sweep.progress import Progress
from orchestrator.cli.sweep.view import SweepView
from orchestrator.core.sweep import JobState, Sweep, SweepJob
from orchestrator.edge.console import Console
from tests.cli.sweeps import job, sweep
from tests.edge.pipes import Reader
from tests.edge.screens import screen

RUNNING, PENDING = JobState.RUNNING, JobState.PENDING
NOW = 1000.0


def running(n: int, since: float = NOW - 12.3, **params: float) -> SweepJob:
    return replace(job(n, RUNNING, None, "", **params), started_at=since)


def planned(*jobs: SweepJob, slots: int = 2, expected: int | None = 4) -> Sweep:
    return replace(sweep(*jobs), slots=slots, expected=expected, started_at=NOW - 60)


def told(
    *changes: SweepJob, start: Sweep | None = None, secrets: Secrets | None = None, level: str = "INFO"
) -> list[str]:
    """What is written where there is no terminal."""
    reader = Reader()
    console = Console(reader.fd, reader.fd, environ={})
    view = SweepView(console, start or planned(), secrets or Secrets(), now=lambda: NOW, level=level)
    view.begin()
    for change in changes:
        view.changed(change)
    view.end(replace(start or planned(), jobs=tuple({one.n: one for one in changes}.values())))
    assert console.close(20)
    return reader.all().decode().splitlines()


def test_without_a_terminal_each_job_that_has_ended_gets_a_line() -> None:
    lines = told(
        job(0, PENDING, lr=0.1),
        running(0, lr=0.1),
        running(1, lr=0.2),
        job(1, JobState.SUCCEEDED, 0.25, lr=0.2),
        job(0, JobState.FAILED, None, "exit code 1,\nValueError", lr=0.1),
        job(2, JobState.PRUNED, 0.5, "number 4 of 4 at step 2", lr=0.3),
        job(3, JobState.CANCELLED, lr=0.4),
    )
    assert lines == [
        "sweep lr: 4 jobs, 2 at once",
        "[1/4] job 1 succeeded in 1.5 s, loss 0.25: lr=0.2",
        "[2/4] job 0 failed in 1.5 s: lr=0.1: exit code 1, ValueError; see /sweeps/lr/k0",
        "[3/4] job 2 pruned in 1.5 s, loss 0.5: lr=0.3: number 4 of 4 at step 2",
        "[4/4] job 3 cancelled in 1.5 s: lr=0.4",
        "sweep lr: 1 succeeded, 1 pruned, 1 failed, 1 cancelled in 1 min",
        "best loss 0.25: job 1 lr=0.2",
        "the same command again does what is missing",
    ]


def test_an_attempt_after_a_failed_one_is_told_with_its_reason() -> None:
    failed = job(0, JobState.PENDING, None, "exit code 1", lr=0.1)
    lines = told(running(0, lr=0.1), failed, replace(running(0, lr=0.1), attempts=2))
    assert lines[1] == "job 0 is tried again, attempt 2: lr=0.1: exit code 1"


def test_with_loglevel_warning_only_problems_are_told() -> None:
    lines = told(job(0, value=1.0), job(1, JobState.FAILED), level="WARNING")
    assert [line.partition(":")[0] for line in lines] == ["[2/4] job 1 failed in 1.5 s; see /sweeps/lr/k1", "sweep lr"]


def test_a_sweep_whose_length_nobody_knows_counts_up() -> None:
    assert told(job(0, value=1.0), start=planned(expected=None))[:2] == [
        "sweep lr: jobs, 2 at once",
        "[1] job 0 succeeded in 1.5 s, loss 1",
    ]


def test_what_was_done_before_is_counted_and_not_told_again() -> None:
    lines = told(job(1, value=2.0), start=planned(job(0, value=1.0)))
    assert lines[:2] == [
        "sweep lr: 4 jobs, 2 at once; 1 done before",
        "[2/4] job 1 succeeded in 1.5 s, loss 2",
    ]


def test_secrets_and_control_characters_are_not_shown() -> None:
    secret = replace(
        job(0, JobState.FAILED, message="said hush-hush"),
        params={"worker.env.API_KEY": "x1", "worker.cwd": "\x1b[2Jhush-hush"},
    )
    assert told(secret, secrets=Secrets({"TOKEN": "hush-hush"}))[1] == (
        "[1/4] job 0 failed in 1.5 s: API_KEY=*** cwd=\\x1b[2J***: said ***; see /sweeps/lr/k0"
    )


def test_on_a_terminal_each_running_job_has_a_line_and_failures_stay_above() -> None:
    with screen(columns=120) as seen:
        console = Console(seen.fd, seen.fd, environ={"TERM": "xterm"})
        view = SweepView(console, planned(), Secrets(), now=lambda: NOW, level="INFO")
        view.begin()
        view.changed(replace(running(0, lr=0.1), curve=((1, 0.9), (2, 0.8125))))
        view.changed(replace(running(10, NOW, lr=0.2), attempts=2))
        bar = "─" * 20
        seen.shows(
            "sweep lr: 4 jobs, 2 at once",
            " job 0             12.3 s  step 2  loss 0.8125  lr=0.1",
            "job 10  attempt 2     0 s                       lr=0.2",
            f"{bar} · 0/4 done · 2 running",
        )
        view.changed(job(0, JobState.FAILED, message="exit code 1", lr=0.1))
        view.changed(job(1, value=0.5, lr=0.4))
        seen.shows(
            "sweep lr: 4 jobs, 2 at once",
            "[1/4] job 0 failed in 1.5 s: lr=0.1: exit code 1; see /sweeps/lr/k0",
            "job 10  attempt 2  0 s  lr=0.2",
            f"{'━' * 10}{'─' * 10} · 2/4 done · 1 running · 1 failed · about 2.0 s left · best loss 0.5: job 1 lr=0.4",
        )
        view.end(planned(job(0, JobState.FAILED), job(1, value=0.5)))
        assert console.close(20)
        seen.shows(
            "sweep lr: 4 jobs, 2 at once",
            "[1/4] job 0 failed in 1.5 s: lr=0.1: exit code 1; see /sweeps/lr/k0",
            "sweep lr: 1 succeeded, 1 failed in 1 min",
            "best loss 0.5: job 1",
            "",
        )


def test_more_running_jobs_than_fit_are_counted() -> None:
    with screen(columns=30, rows=100) as seen:
        console = Console(seen.fd, seen.fd, environ={"TERM": "xterm"})
        view = SweepView(console, planned(slots=64), Secrets(), now=lambda: NOW, level="INFO")
        for n in range(50):
            view.changed(running(n))
        view.begin()
        seen.shows(
            "sweep lr: 50 jobs, 64 at once",
            *(f"job {n:2}  12.3 s" if n > 9 else f" job {n}  12.3 s" for n in range(40)),
            "… and 10 more",
            f"{'─' * 20} · 0/50 d",
        )
        view.end(planned())
        assert console.close(20)


@pytest.mark.parametrize(
    ("jobs", "left_s"),
    [
        ([], None),  # nothing has ended yet
        ([job(0), job(1)], 1.5),  # two of 1.5 s, in two slots
        ([job(0), running(1, NOW - 1)], 1.75),  # half a second of one, and two more
        ([job(0), job(1), job(2), running(3, NOW - 9)], 0.0),  # overdue
        ([job(0), job(1), job(2), running(3, NOW + 9)], 1.5),  # the clock was set back
        ([job(0), job(1), job(2), job(3)], 0.0),
    ],
)
def test_what_is_left_is_estimated_by_what_ended_in_this_run(jobs: list[SweepJob], left_s: float | None) -> None:
    progress = Progress(planned())
    for one in jobs:
        progress.put(one)
    assert progress.left_s(NOW) == left_s
    assert Progress(planned(*jobs)).left_s(NOW) is None, "all of it was before"


def test_the_best_so_far_is_what_the_sweep_calls_its_best() -> None:
    jobs = (job(0, value=2.0), job(1, value=1.0), job(2, value=1.0), job(3, JobState.PRUNED, 0.5), job(4, value=3.0))
    for direction in ("minimize", "maximize"):
        whole = replace(sweep(), direction=direction)
        progress = Progress(whole)
        for one in reversed(jobs):
            progress.put(one)
        assert progress.best == replace(whole, jobs=jobs).best


def test_a_pipe_is_no_terminal_and_loads_nothing_for_one() -> None:
    reader = Reader()
    console = Console(reader.fd, reader.fd, environ={"TERM": "xterm"})
    view = SweepView(console, planned(), Secrets(), level=logging.INFO)
    view.begin()
    view.changed(running(0))
    view.end(planned())
    assert console.close(20)
    assert b"\x1b" not in reader.all()
