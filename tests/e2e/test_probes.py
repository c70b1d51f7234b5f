"""Workers that are asked how they are, by real servers, files and commands, and what becomes of the unwell."""

from __future__ import annotations

import http.server
import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher
from tests.e2e.harness import FAST, SLEEP, until
from tests.e2e.test_health import ask

QUICK = "period_s: 0.1, failure_threshold: 2, timeout_s: 5"


def probed(kind: str, way: str, *more: str) -> str:
    return f"health.{kind}={{{', '.join([way, QUICK, *more])}}}"


def test_a_worker_that_is_no_longer_alive_is_a_failure_of_its_own_kind_and_restarted(
    launch: Launcher, tmp_path: Path
) -> None:
    alive = tmp_path / "alive.1"
    (tmp_path / "alive.0").touch()
    alive.touch()
    run = launch("worker.nproc=2", probed("liveness", f"file: {{path: {tmp_path}/alive.__rank__}}"), *FAST, *SLEEP)
    first = run.await_healthy()
    alive.unlink()
    failed = run.await_event("probe_failed")
    assert (failed["rank"], failed["probe"], failed["round"]) == (1, "liveness", first)
    alive.touch()
    run.await_healthy(2)
    cause = run.events("restart_decided")[0]["cause"]
    assert (cause["kind"], cause["rank"], cause["pid"]) == ("probe", 1, run.workers(first)[1])
    assert "No such file or directory" in cause["message"]
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_a_worker_that_does_not_come_up_is_a_start_timeout_which_rules_know(launch: Launcher) -> None:
    rule = "restart.rules=[{kinds: [start_timeout], action: fatal}]"
    run = launch(probed("startup", "file: {path: /not/there}"), rule, *SLEEP)
    assert run.wait() == 1
    assert run.result["root_cause"]["kind"] == "start_timeout"
    assert "did not come up in time" in run.stderr + run.stdout


def test_liveness_is_not_asked_before_a_worker_has_come_up(launch: Launcher, tmp_path: Path) -> None:
    up = tmp_path / "up"
    startup = f"health.startup={{file: {{path: {up}}}, period_s: 0.1, failure_threshold: 100000}}"
    run = launch(startup, probed("liveness", "file: {path: /not/there}"), "restart=never", *SLEEP)
    run.await_healthy()
    assert ask(run, "/readyz") == (503, "not ready: rank 0 is not ready\n")
    assert run.events("probe_failed") == []
    up.touch()
    assert run.wait() == 1
    assert run.result["root_cause"]["kind"] == "probe"
    assert [record["ready"] for record in run.events("readiness")] == [True, False]


def test_readiness_is_only_shown(launch: Launcher, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    run = launch(probed("readiness", f"file: {{path: {ready}}}"), *SLEEP)
    round_number = run.await_healthy()
    assert ask(run, "/readyz")[0] == 503
    ready.touch()
    until(lambda: ask(run, "/readyz")[0] == 200, "it is ready")
    ready.unlink()
    until(lambda: ask(run, "/readyz") == (503, "not ready: rank 0 is not ready\n"), "it is not any more")
    assert 'orchestrator_worker_ready{group="default",rank="0"} 0' in ask(run, "/metrics")[1]
    assert run.events("round_settled")[-1]["round"] == round_number
    assert run.events("probe_failed") == []
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends whoever asks for /ok elsewhere, which is well, and others away."""

    def do_GET(self) -> None:
        self.send_response(302 if self.path == "/ok" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("way", ["http: {port: PORT, path: /ok}", "tcp: {port: PORT}"])
def test_a_server_that_answers_is_ready(launch: Launcher, port: int, way: str) -> None:
    run = launch(probed("readiness", way.replace("PORT", str(port))), *SLEEP)
    run.await_healthy()
    until(lambda: ask(run, "/readyz")[0] == 200, "it is ready")
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("http: {port: PORT, path: /no}", "HTTP status 503"),
        ("http: {port: 1}", "Connect call failed"),
        ("tcp: {port: 1}", "Connect call failed"),
        ("tcp: {port: 9999__local_rank__}", "port 99990 is none"),
    ],
)
def test_a_server_that_does_not_is_not_alive(launch: Launcher, port: int, way: str, says: str) -> None:
    run = launch(probed("liveness", way.replace("PORT", str(port))), "restart=never", *SLEEP)
    assert run.wait() == 1
    assert says in run.result["root_cause"]["message"]


def test_a_command_is_asked_with_the_workers_ranks_and_killed_when_it_is_too_slow(launch: Launcher) -> None:
    text = "import os, sys, time; rank = os.environ['RANK']; time.sleep(600 * int(rank)); assert sys.argv[1] == rank"
    way = f"exec: [{sys.executable}, -c, {json.dumps(text)}, __rank__]"
    probe = f"health.liveness={{{way}, period_s: 0.1, failure_threshold: 1, timeout_s: 3}}"
    run = launch("worker.nproc=2", probe, "restart=never", *SLEEP)
    assert run.wait() == 1
    cause = run.result["root_cause"]
    assert (cause["kind"], cause["rank"], cause["message"]) == ("probe", 1, "no answer within 3 s")


@pytest.mark.parametrize("ends", ["exit 3", "exec sleep 600"], ids=["fails", "is too slow"])
def test_the_last_lines_of_a_command_that_gives_a_worker_up_are_told(launch: Launcher, ends: str) -> None:
    chatty = f"head -c 1000000 /dev/zero | tr '\\\\0' x; echo; echo GPU 3 >&2; echo is lost; (sleep 600 &) ; {ends}"
    way = f"exec: [sh, -c, {json.dumps(chatty)}]"
    probe = f"health.liveness={{{way}, period_s: 0.1, failure_threshold: 1, timeout_s: 3}}"
    run = launch(probe, "restart=never", *SLEEP)
    assert run.wait() == 1
    (failed,) = run.events("probe_failed")
    assert failed["last_lines"] == run.result["root_cause"]["last_lines"] == ["GPU 3", "is lost"]
    report = run.stderr[run.stderr.index("failed after") :]
    assert report.index("the probe's last lines:") < report.index("| GPU 3") < report.index("| is lost")
