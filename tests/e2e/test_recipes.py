"""Every recipe that ships does what its first lines say."""

from __future__ import annotations

import os
import signal
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestrator.cli.sweep.show import read
from orchestrator.core.sweep import JobState
from tests.e2e.conftest import Launcher
from tests.e2e.harness import Launch, external_server, in_round, until

pytestmark = pytest.mark.e2e

RECIPES = Path(__file__).parents[2] / "recipes"


def test_every_recipe_has_a_test_here() -> None:
    tested = {
        "hello",
        "flaky",
        "crashloop",
        "hang",
        "preempt",
        "elastic",
        "ddp",
        "two_roles",
        "sweep_lr",
        "sweep_optuna",
        "slurm",  # in test_platform_recipes
        "kubernetes",
    }
    assert {path.stem for path in RECIPES.glob("*.yaml")} == tested


def test_hello_prints_who_its_workers_are(launch: Launcher) -> None:
    run = launch("recipe=hello")
    assert run.wait() == 0
    lines = run.stdout.splitlines()
    assert len(lines) == 4
    assert all(any(f"rank {rank} of 4" in line for line in lines) for rank in range(4)), lines


def test_flaky_succeeds_the_third_time(launch: Launcher) -> None:
    run = launch("recipe=flaky")
    assert run.wait() == 0
    assert (run.result["rounds"], run.result["restarts"]) == (3, 2)


def test_crashloop_ends_with_1_and_says_why(launch: Launcher) -> None:
    run = launch("recipe=crashloop")
    assert run.wait() == 1
    cause = run.result["root_cause"]
    assert cause["error_type"]
    assert cause["message"]
    assert f"root cause: rank {cause['rank']} on node {cause['node']}" in run.stderr
    assert f"{cause['error_type']}: {cause['message']}" in run.stderr
    assert "restart.budget is spent" in run.stderr


def test_hang_is_noticed_told_with_stacks_and_restarted(launch: Launcher) -> None:
    run = launch("recipe=hang")
    assert run.wait() == 0
    assert (run.result["rounds"], run.result["restarts"]) == (2, 1)
    (hung,) = run.events("worker_hung")
    assert (hung["rank"], hung["fails"]) == (1, True)
    assert "in section checkpoint for " in hung["reason"]
    assert "hang.py" in hung["stacks"]
    assert " in save" in hung["stacks"]


def test_two_roles_start_in_their_order_and_end_with_the_trainer(launch: Launcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    run = launch("recipe=two_roles", f"worker.env.DATA_PORT={port}")
    assert run.wait() == 0
    assert run.stdout.count("learned 120 from 10 batches") == 2
    assert run.stdout.index("loading") < run.stdout.index("learned")
    (ready,) = run.events("readiness", group="data", ready=True)
    assert [event["group"] for event in run.events("worker_started") if event["ts"] < ready["ts"]] == ["data"]
    assert [event["outcome"] for event in run.events("run_decided", role="trainer")] == ["succeeded"]


def test_preempt_saves_its_work_ends_with_75_and_goes_on_from_there(launch: Launcher, tmp_path: Path) -> None:
    saved = f"worker.env.CHECKPOINT={tmp_path / 'checkpoint'}"
    run = launch("recipe=preempt", saved)
    until(lambda: "step 3" in run.stdout, "it has come to the third step")
    run.signal(signal.SIGUSR1)
    assert run.wait() == 75
    assert "saved at step" in run.stdout
    assert (run.result["restarts"], run.result["failures"]) == (0, [])
    step = int(run.stdout.partition("saved at step ")[2].split()[0])
    assert step >= 3
    again = launch("recipe=preempt", saved, "worker.env.STEPS=20")
    assert again.wait() == 0
    assert f"going on from step {step}" in again.stdout
    assert again.result["results"]["0"] == {"steps": 20}


def test_elastic_takes_nodes_in_and_does_without_them(launch: Launcher) -> None:
    quick = ("rendezvous.scale_up_s=0.1", "rendezvous.last_call_s=0.2", "rendezvous.lease_s=60")
    with external_server() as server:
        join = ("recipe=elastic", "run_id=demo", f"rendezvous.url={server.url}", *quick)
        a = launch(*join, "node.name=a", name="a")
        alone = in_round(a, 1)
        b = launch(*join, "node.name=b", name="b")
        both = in_round(a, 2, after=alone)
        b.signal(signal.SIGKILL)
        in_round(a, 1, after=both)
        a.signal(signal.SIGTERM)
        assert a.wait() == 143


def epochs(run: Launch) -> list[str]:
    return [line for line in run.stdout.splitlines() if "epoch" in line]


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(find_spec("torch") is None or find_spec("sklearn") is None, reason="needs the extra [torch]")
def test_ddp_reaches_its_accuracy_although_a_rank_is_killed(launch: Launcher, tmp_path: Path) -> None:
    run = launch("recipe=ddp", f"worker.env.CHECKPOINT_DIR={tmp_path / 'checkpoints'}")
    first = run.await_healthy()
    until(lambda: len(epochs(run)) >= 3, "a few epochs are trained", 120)
    os.kill(run.workers(first)[1], signal.SIGKILL)
    assert run.wait(120) == 0
    assert run.result["restarts"] == 1
    assert run.result["results"]["0"]["accuracy"] >= 0.95
    resumed = [line for line in run.stdout.splitlines() if "resum" in line.lower()]
    assert resumed, "the second round goes on from the first one's checkpoint"


def test_sweep_lr_finds_the_best_and_stops_the_worst(launch: Launcher) -> None:
    run = launch("-m", "recipe=sweep_lr", "sweep.jobs=2")
    assert run.wait(120) == 0, run.stderr
    sweep = read(run.directory / "sweeps" / "sweep_lr")
    assert len(sweep.jobs) == 8
    assert sweep.best is not None
    assert sweep.best.params["worker.flags.lr"] in (0.2, 0.3, 0.5, 0.9)
    pruned = {job.params["worker.flags.lr"] for job in sweep.jobs if job.state is JobState.PRUNED}
    assert 1.2 in pruned, "it diverges, and is looked at when most others have been"


def test_sweep_optuna_finds_the_best_and_goes_on_where_it_was(launch: Launcher) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    run = launch("-m", "recipe=sweep_optuna")
    assert run.wait(120) == 0, run.stderr
    first = read(run.directory / "sweeps" / "sweep_optuna")
    assert len(first.jobs) == 20
    again = launch(
        "-m", "recipe=sweep_optuna", "hydra.sweeper.n_trials=24", f"hydra.sweep.dir={run.directory}/sweeps/sweep_optuna"
    )
    assert again.wait(120) == 0, again.stderr
    sweep = read(run.directory / "sweeps" / "sweep_optuna")
    assert sweep.jobs[:20] == first.jobs, "they were not run again"
    assert len(sweep.jobs) == 24
    assert sweep.best is not None
    assert sweep.best.value is not None
    assert sweep.best.value < 2
