"""`orchestrator.launch` and `worker.entrypoint`: functions as workers, their results, and what their failures raise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from importlib.util import find_spec
from pathlib import Path

import pytest

import orchestrator
from orchestrator.errors import ConfigError, WorkersFailed
from tests.e2e.conftest import Launcher
from tests.e2e.harness import alive, marked, until
from tests.e2e.nodes import free_port

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            import os

            def add(a, b=0, where=None):
                return {"rank": int(os.environ["RANK"]), "sum": a + b, "where": where, "kept": {1, 2}}

            def fail(text):
                raise ValueError(text + os.environ["RANK"])
            """
        )
    )


def test_a_function_returns_by_rank_what_its_workers_returned(tmp_path: Path) -> None:
    results = orchestrator.launch({"nproc_per_node": 2, "max_restarts": 0}, "mine:add", 3)
    assert results == {rank: {"rank": rank, "sum": 3, "where": None, "kept": {1, 2}} for rank in (0, 1)}
    assert list((tmp_path / "tmp").iterdir()) == [], "nothing is left of what went well"


def test_what_cannot_be_named_is_pickled_with_the_callers_main_module(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        textwrap.dedent(
            """
            import os, orchestrator

            class Point:
                def __init__(self, x): self.x = x

            def double(point, times):
                return Point(point.x * times + int(os.environ["RANK"]))

            if __name__ == "__main__":
                config = orchestrator.LaunchConfig(nproc_per_node=2, run_id="r", role="trainer")
                print({rank: point.x for rank, point in orchestrator.launch(config, double, Point(5), 2).items()})
            """
        )
    )
    done = subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{0: 10, 1: 11}\n", "")


def test_a_command_gets_its_words_and_returns_nothing(tmp_path: Path) -> None:
    code = "import os, sys; open(os.environ['RANK'], 'w').write(repr(sys.argv[1:]))"
    config = orchestrator.LaunchConfig(nproc_per_node=2, overrides={"worker.env": {"X": "1"}, "watchdog": "disabled"})
    assert orchestrator.launch(config, sys.executable, "-c", code, "a b", 3) == {0: None, 1: None}
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["['a b', '3']"] * 2


def test_failures_are_raised_with_the_root_cause_first() -> None:
    with pytest.raises(WorkersFailed, match="exit code 1") as caught:
        orchestrator.launch({"nproc_per_node": 1, "max_restarts": 1}, "mine:fail", "boom")
    rank, failure = caught.value.get_first_failure()
    assert (rank, failure.exit_code, failure.error_type, failure.message) == (0, 1, "ValueError", "boom0")
    assert 'raise ValueError(text + os.environ["RANK"])' in failure.traceback
    assert Path(failure.log).is_file(), "what went wrong can be looked at"


def test_a_wrong_configuration_is_raised_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="unknown: nproc; known: min_nodes"):
        orchestrator.launch({"nproc": 2}, "mine:add", 1)
    with pytest.raises(ConfigError, match="--nproc-per-node: 'many' is not allowed"):
        orchestrator.launch({"nproc_per_node": "many"}, "mine:add", 1)
    with pytest.raises(ConfigError, match=r"watchdog: 'heartbeet' is not a choice; did you mean 'heartbeat'\?"):
        orchestrator.launch({"overrides": {"watchdog.kind": "heartbeet"}}, "mine:add", 1)


def test_what_has_no_effect_is_said_and_a_port_may_be_used_again(capfd: pytest.CaptureFixture[str]) -> None:
    config = orchestrator.LaunchConfig(
        max_nodes=2,
        monitor_interval=5,
        run_id="again",
        rdzv_endpoint=f"localhost:{free_port()}",
        rdzv_configs={"last_call_timeout": 0},
    )
    for _ in range(2):
        assert orchestrator.launch(config, "mine:add", 1)[0]["sum"] == 1
    assert capfd.readouterr().err == "note: monitor_interval=5 has no effect: nothing is polled here\n" * 2


@pytest.mark.torch
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra [torch]")
def test_torchs_own_config_will_do(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        textwrap.dedent(
            """
            import orchestrator
            from torch.distributed.launcher.api import LaunchConfig, elastic_launch
            config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="r", rdzv_backend="c10d",
                                  rdzv_endpoint="localhost:0", max_restarts=0)
            if __name__ == "__main__":
                from mine import add
                print(elastic_launch(config, add)(1) == orchestrator.launch(config, add, 1))
            """
        )
    )
    done = subprocess.run([sys.executable, "main.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_the_job_ends_with_its_caller(tmp_path: Path) -> None:
    mark = f"TEST_MARK={uuid.uuid4().hex}"
    code = "import orchestrator, sys; orchestrator.launch({}, sys.executable, '-c', 'import time; time.sleep(600)')"
    name, _, value = mark.partition("=")
    caller = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, name: value})
    until(
        lambda: any(b"sleep(600)'" not in cmd and b"sleep(600)" in cmd for cmd in map(_cmd, marked(mark))), "a worker"
    )
    caller.send_signal(signal.SIGKILL)
    caller.wait(10)
    until(lambda: not [pid for pid in marked(mark) if alive(pid)], "all to be gone")


def _cmd(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_recipe_names_a_function_and_its_result_is_in_the_result_file(launch: Launcher, tmp_path: Path) -> None:
    where = "{a: [1, x], rank: __rank__}"
    words = ("worker.entrypoint=mine:add", "worker.args=[3]", f"worker.kwargs={{b: 0.5, where: {where}}}")
    run = launch(*words, "worker.nproc=2", env={"PYTHONPATH": f"{ROOT}:{tmp_path}"})
    assert run.wait() == 0, run.stderr
    values = {rank: json.loads(json.dumps(value["return"])) for rank, value in run.result["results"].items()}
    assert values["1"].startswith("{'rank': 1, 'sum': 3.5, 'where': {'a': [1, 'x'], 'rank': '1'}"), "a set is no JSON"
