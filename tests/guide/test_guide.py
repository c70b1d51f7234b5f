"""The product in a dozen tests, in reading order: read them from top to bottom, then use it.

Nothing here is internal: the two commands, the files that they read, and the files that a run leaves behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


def orchestrate(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **(env or {})}
    )


def orchestratectl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli.ctl", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def result_of(cwd: Path) -> dict[str, Any]:
    """A run leaves its files in ``runs/<run_id>/<node>``."""
    (path,) = cwd.glob("runs/*/*/result.json")
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_01_whatever_follows_two_dashes_is_run_as_it_is(tmp_path: Path) -> None:
    done = orchestrate("--", "echo", "hello, world", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == "[default0] hello, world\n"


def test_02_overrides_say_how_many_and_with_what(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import os\nprint(os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], os.environ['LR'])\n")
    done = orchestrate("worker.nproc=2", "worker.env.LR=0.1", "--", sys.executable, "train.py", cwd=tmp_path)
    assert sorted(done.stdout.splitlines()) == ["[default0] 0 of 2 0.1", "[default1] 1 of 2 0.1"]


def test_03_a_recipe_is_one_file_and_its_script_stands_beside_it(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "greet.py").write_text("import os\nprint('moin', os.environ['RANK'])\n")
    (shared / "greet.yaml").write_text("worker:\n  cmd: [__python__, greet.py]\n  nproc: 2\n")
    done = orchestrate("shared/greet.yaml", "worker.nproc=1", cwd=tmp_path)
    assert done.stdout == "[default0] moin 0\n"


def test_04_a_mistake_starts_nothing_and_every_mistake_is_shown(tmp_path: Path) -> None:
    done = orchestrate("worker.nproc=0", "restart.budgt.max=1", "--", "true", cwd=tmp_path)
    assert done.returncode == 2
    assert "worker.nproc: 0 is too small" in done.stderr
    assert "restart.budgt: unknown key; did you mean 'budget'?" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_05_plan_shows_what_would_run(tmp_path: Path) -> None:
    done = orchestratectl("plan", "--json", "worker.nproc=2", "--", "echo", "__rank__", cwd=tmp_path)
    assert done.returncode == 0
    assert "echo" in done.stdout
    assert json.loads(done.stdout)
    assert not (tmp_path / "runs").exists()


def test_06_graph_draws_the_machine_that_the_job_compiles_to(tmp_path: Path) -> None:
    never = orchestratectl("graph", "restart=never", "--", "true", cwd=tmp_path).stdout
    default = orchestratectl("graph", "--", "true", cwd=tmp_path).stdout
    assert "DECIDING --> BACKOFF" in default
    assert "BACKOFF" not in never


def test_07_a_failure_restarts_the_group_and_the_count_is_told(tmp_path: Path) -> None:
    script = "import os, sys; sys.exit(os.environ['TORCHELASTIC_RESTART_COUNT'] == '0')"
    done = orchestrate("restart.backoff.initial_s=0.01", "--", sys.executable, "-c", script, cwd=tmp_path)
    assert done.returncode == 0
    assert result_of(tmp_path)["restarts"] == 1


def test_08_restart_never_means_it(tmp_path: Path) -> None:
    assert orchestrate("restart=never", "--", "false", cwd=tmp_path).returncode == 1
    assert result_of(tmp_path)["rounds"] == 1


def test_09_the_root_cause_comes_first(tmp_path: Path) -> None:
    done = orchestrate("restart=never", "--", sys.executable, "-c", "raise ValueError('too hot')", cwd=tmp_path)
    assert done.returncode == 1
    assert "root cause: rank 0" in done.stderr
    assert result_of(tmp_path)["root_cause"]["message"] == "too hot"


def test_10_every_step_is_in_the_journal_with_its_reason(tmp_path: Path) -> None:
    orchestrate("--", "true", cwd=tmp_path)
    (path,) = tmp_path.glob("runs/*/*/events.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    moves = [record["to"] for record in records if record["event"] == "transition"]
    assert moves == ["RENDEZVOUS", "STARTING", "HEALTHY", "FINISHING", "CLOSING", "SUCCEEDED"]
    assert all(record["reason"] for record in records if record["event"] == "transition")


def test_11_a_worker_may_report_values(tmp_path: Path) -> None:
    script = "from orchestrator.worker import report; report(accuracy=0.97)"
    orchestrate("--", sys.executable, "-c", script, cwd=tmp_path)
    assert result_of(tmp_path)["results"] == {"0": {"accuracy": 0.97}}


def test_12_a_run_leaves_a_recipe_that_runs_it_again(tmp_path: Path) -> None:
    orchestrate("worker.nproc=2", "--", "echo", "again", cwd=tmp_path)
    (job,) = tmp_path.glob("runs/*/*/job.yaml")
    assert sorted(orchestrate(str(job), cwd=tmp_path).stdout.splitlines()) == ["[default0] again", "[default1] again"]
