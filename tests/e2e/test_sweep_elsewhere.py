"""Sweeps whose jobs another launcher runs: submitit's, as processes of this machine, and on a real Slurm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.sweep import JobState
from tests.e2e.harness import external_server, until
from tests.e2e.slurm import MISSING, NEEDS, slurm
from tests.e2e.sweeps import LOSS, SweepLaunch, script

pytest.importorskip("submitit", reason="needs the extra [slurm]")

DONE, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
SLURM = ("hydra/launcher=submitit_slurm", "sweep.objective=loss")
LOCAL = ("hydra/launcher=submitit_local", "sweep.objective=loss")
WHERE = (*LOSS, "report(where=os.environ['SUBMITIT_EXECUTOR'], run=os.environ['ORCHESTRATOR_RUN_ID'])")


Start = Callable[..., SweepLaunch]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts sweeps, of which none outlives its test."""
    begun: list[SweepLaunch] = []

    def run(directory: Path, words: Sequence[str], env: Mapping[str, str] | None = None) -> SweepLaunch:
        begun.append(SweepLaunch(directory, words, env))
        return begun[-1]

    yield run
    for one in begun:
        one.end()


def reported(run: SweepLaunch, value: object) -> dict[str, Any]:
    """What the only worker of a job has reported."""
    result = json.loads(Path(run.job(value).dir, "result.json").read_text())
    found: dict[str, Any] = result["results"]["0"]
    return found


def test_jobs_run_elsewhere_and_only_what_failed_is_run_again(start: Start, tmp_path: Path) -> None:
    worker = script(tmp_path, *WHERE, "if x == 2 and not os.path.exists('mended'): raise SystemExit(5)")
    words = [*LOCAL, "worker.env.X=1,2,3", *worker]
    first = start(tmp_path, words)
    assert first.finish() == 1
    assert first.states() == {1: DONE, 2: FAILED, 3: DONE}
    assert "exit code 5" in first.job(2).message
    assert reported(first, 1)["where"] == "local"
    assert len({reported(first, x)["run"] for x in (1, 2, 3)}) == 3
    assert Path(first.job(1).dir) == first.sweep_dir / first.job(1).key
    assert {"sweep.csv", "sweep.html", "sweep.json"} <= {path.name for path in first.sweep_dir.iterdir()}
    assert stat.S_IMODE((first.sweep_dir / ".submitit").stat().st_mode) == 0o700, "it holds whole jobs"
    (tmp_path / "mended").touch()
    again = start(tmp_path, words)
    assert again.finish() == 0
    assert [(job.attempts, job.value) for job in again.sweep.jobs] == [(1, 4.0), (2, 1.0), (1, 0.0)]
    assert "2 done before" in again.stderr


def test_what_failed_is_tried_as_often_as_it_may_be(start: Start, tmp_path: Path) -> None:
    worker = script(tmp_path, *LOSS, "if not os.path.exists(f'{x}'): open(f'{x}', 'w'); raise SystemExit(5)")
    run = start(tmp_path, [*LOCAL, "sweep.retries=1", "worker.env.X=range(1,2)", *worker])
    assert run.finish() == 0
    assert [job.attempts for job in run.sweep.jobs] == [2]


def test_wrong_configuration_is_said_here_and_nothing_is_handed_over(start: Start, tmp_path: Path) -> None:
    run = start(tmp_path, [*LOCAL, "worker.nproc=1,none", "--", "true"])
    assert run.finish() == 2
    assert run.stderr.startswith("error: worker.nproc: 'none' is not allowed")
    assert not (tmp_path / "sweeps").exists()


def test_an_interrupted_sweep_takes_up_what_was_done_meanwhile(start: Start, tmp_path: Path) -> None:
    worker = script(
        tmp_path, "import time", *LOSS, "open('up', 'w')", "while not os.path.exists('go'): time.sleep(0.01)"
    )
    words = [*LOCAL, "worker.env.X=range(1,2)", *worker]
    run = start(tmp_path, words)
    until((tmp_path / "up").exists, "the job runs")
    os.kill(run.process.pid, signal.SIGINT)
    assert run.finish() == 130
    assert run.states() == {1: CANCELLED}
    assert run.job(1).message == "stopped by SIGINT; where it was handed to, it may still run"
    (tmp_path / "go").touch()
    until(Path(run.job(1).dir, "result.json").exists, "the job has ended")
    again = start(tmp_path, words)
    assert again.finish() == 0
    assert [(job.state, job.attempts, job.value) for job in again.sweep.jobs] == [(DONE, 1, 4.0)]


def test_a_launcher_that_gives_up_ends_the_sweep(start: Start, tmp_path: Path) -> None:
    words = ["hydra.launcher.submitit_folder=/proc/nowhere", "worker.env.X=1,2"]
    run = start(tmp_path, [*LOCAL, *words, *script(tmp_path, *LOSS)])
    assert run.finish() == 1
    assert run.states() == {1: CANCELLED, 2: CANCELLED}, "nobody knows whether they run"
    assert run.job(1).message.startswith("the launcher has given up: ")
    assert "/proc/nowhere" in run.job(1).message


@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(MISSING) or os.geteuid() != 0, reason=NEEDS)
def test_jobs_run_on_slurm(start: Start, tmp_path: Path) -> None:
    worker = script(tmp_path, *WHERE, "if x == 2: raise SystemExit(5)")
    many = ["hydra.launcher.tasks_per_node=2", "hydra.launcher.cpus_per_task=1", "nodes=2", "worker.env.X=range(7,8)"]
    with slurm() as env, external_server() as server:
        run = start(tmp_path, [*SLURM, "worker.env.X=1,2,3", *worker], env)
        assert run.wait(120) == 1, run.stderr
        wide = start(tmp_path / "wide", [*SLURM, *many, f"rendezvous.url={server.url}", *worker], env)
        assert wide.wait(120) == 0, wide.stderr
    assert run.states() == {1: DONE, 2: FAILED, 3: DONE}
    assert [job.value for job in run.sweep.jobs if job.state is DONE] == [4.0, 0.0]
    assert reported(run, 1)["where"] == "slurm"
    assert all(reported(run, x)["run"].endswith(".0") for x in (1, 3)), "JOBID.STEPID"
    assert "exit code 5" in run.job(2).message
    assert wide.job(7).value == 16.0
    (other,) = Path(wide.job(7).dir).glob("1/result.json")
    assert len(json.loads(other.read_text())["results"]) == 1


def test_jobs_run_on_ray(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs hydra-ray-launcher")
    init = ("+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false")
    worker = script(tmp_path, *LOSS, "if x == 2: raise SystemExit(5)")
    words = ["hydra/launcher=ray", "sweep.objective=loss", *init, "worker.env.X=1,2,3", *worker]
    run = start(tmp_path, words, {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"})
    assert run.finish() == 1
    assert run.states() == {1: DONE, 2: FAILED, 3: DONE}
    assert "exit code 5" in run.job(2).message
    assert [run.job(x).value for x in (1, 3)] == [4.0, 0.0]
    shutil.rmtree(Path(tempfile.gettempdir(), "ray"))  # its own session, which it never clears
