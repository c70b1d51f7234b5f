"""A sweep that meets all that may befall one: failures, a hang, and its own sudden death; and what it comes to then."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path

import pytest
import redis

from orchestrator.core.sweep import JobState
from tests.e2e.harness import external_server, marked, until
from tests.e2e.sweeps import SweepLaunch, script

pytestmark = pytest.mark.e2e

JOBS = range(24)
FAILS_FIRST, HANGS_FIRST, FAILS_SECOND, WAITS_FIRST = {3, 9, 15}, 12, 21, 16
DONE, FAILED, RUNNING = JobState.SUCCEEDED, JobState.FAILED, JobState.RUNNING

WORKER = (
    "import os, time",
    "from orchestrator.worker import heartbeat, report",
    "x = int(os.environ['X'])",
    "runs = sum(map(os.path.exists, ('first', 'second', 'third')))",
    "with open('ran', 'a') as file: file.write(f'{runs}:{x}:{os.environ[\"MASTER_PORT\"]}\\n')",
    "heartbeat()",
    f"if runs == 1 and x == {HANGS_FIRST}: time.sleep(600)",
    f"while runs == 1 and x >= {WAITS_FIRST}: heartbeat(); time.sleep(0.01)",
    f"if (runs == 1 and x in {FAILS_FIRST}) or (runs == 2 and x == {FAILS_SECOND}): raise SystemExit(5)",
    "report(loss=(x - 17) ** 2)",
)


def ran(directory: Path, run: int) -> Counter[int]:
    """How often each job was started in a run of the sweep."""
    lines = [line.split(":") for line in (directory / "ran").read_text().splitlines()]
    return Counter(int(job) for number, job, _ in lines if int(number) == run)


def test_after_failures_a_hang_and_a_sudden_death_exactly_what_is_missing_is_done(tmp_path: Path) -> None:
    with external_server() as server, redis.Redis.from_url(server.url) as client:
        words = [
            "sweep.jobs=2",
            "sweep.objective=loss",
            f"worker.env.X=range({len(JOBS)})",
            f"rendezvous.url={server.url}",
            "watchdog=heartbeat",
            "watchdog.timeout_s=0.5",
            *script(tmp_path, *WORKER),
        ]
        (tmp_path / "first").touch()
        first = SweepLaunch(tmp_path, words)
        try:
            waiting = [first.await_state(x, RUNNING) for x in (WAITS_FIRST, WAITS_FIRST + 1)]
            until(lambda: ran(tmp_path, 1)[WAITS_FIRST + 1] == 1, "both run")
            hung = first.job(HANGS_FIRST)
        finally:
            first.end()  # SIGKILL
        assert "silent" in hung.message or "heartbeat" in hung.message, hung.message
        until(lambda: not [pid for job in waiting for pid in marked(job.run_id)], "its guard cleans up")
        assert ran(tmp_path, 1) == Counter(range(WAITS_FIRST + 2))

        (tmp_path / "second").touch()
        second = SweepLaunch(tmp_path, words)
        assert second.finish() == 1
        missing = {*FAILS_FIRST, HANGS_FIRST, *range(WAITS_FIRST, len(JOBS))}
        assert ran(tmp_path, 2) == Counter(missing)
        assert {job.params["worker.env.X"] for job in second.sweep.jobs if job.state is not DONE} == {FAILS_SECOND}

        (tmp_path / "third").touch()
        third = SweepLaunch(tmp_path, words)
        assert third.finish() == 0
        assert ran(tmp_path, 3) == Counter([FAILS_SECOND])

        sweep = third.sweep
        assert [job.value for job in sweep.jobs] == [(x - 17) ** 2 for x in JOBS]
        assert sweep.best is not None
        assert sweep.best.params == {"worker.env.X": 17}
        again = {*FAILS_FIRST, HANGS_FIRST, WAITS_FIRST, WAITS_FIRST + 1, FAILS_SECOND}
        assert {job.n for job in sweep.jobs if job.attempts == 2} == again
        assert all(job.attempts in (1, 2) for job in sweep.jobs)

        assert not [pid for job in sweep.jobs for pid in marked(job.key)]
        for line in (tmp_path / "ran").read_text().splitlines():
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", int(line.split(":")[2])))
        assert [key for key in client.scan_iter() if client.ttl(key) < 0] == []
