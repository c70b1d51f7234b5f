"""What becomes of jobs that were handed to another launcher, whatever it says of them or leaves behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from orchestrator.cli import argv, resolvers
from orchestrator.cli.sweep.book import Book
from orchestrator.cli.sweep.elsewhere import ElsewhereRun
from orchestrator.cli.sweep.folder import Folder
from orchestrator.cli.sweep.jobs import Planned, Planner
from orchestrator.config.sweep import SweepConfig
from orchestrator.core.sweep import JobState, Sweep, SweepJob
from tests.cli.answers import handlers
from tests.cli.test_sweep_jobs import RUN, composer

__all__ = ["handlers"]

Leave = Callable[[Path, int], JobReturn]
DONE, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED


class World(Launcher):
    """A launcher on whose side ``leave`` happens to each job's directory, with how often it was launched."""

    def __init__(self, folder: Path, leave: Leave) -> None:
        self._folder = folder
        self._leave = leave
        self.launched: list[list[str]] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing to know."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        self.launched.append([words[-1].partition("=")[2] for words in job_overrides])
        return [self._leave(self._folder / key.strip("'"), len(self.launched)) for key in self.launched[-1]]


def succeeds(directory: Path, _launch: int, loss: object = 0.5) -> JobReturn:
    result = {"state": "SUCCEEDED", "results": {"0": {"loss": loss}}, "timings": {"total_s": 2.5}}
    (directory / "result.json").write_text(json.dumps(result))
    return JobReturn(status=JobStatus.COMPLETED, _return_value=0)


def fails(directory: Path, _launch: int) -> JobReturn:
    (directory / "result.json").write_text(json.dumps({"state": "FAILED", "reason": "rank 0: exit code 3\nmore"}))
    return JobReturn(status=JobStatus.COMPLETED, _return_value=1)


def raises(_directory: Path, _launch: int) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=KeyError("x"))


def vanishes(_directory: Path, _launch: int) -> JobReturn:
    return JobReturn(status=JobStatus.COMPLETED, _return_value=0)


def gives_up(directory: Path, launch: int) -> JobReturn:
    succeeds(directory, launch)
    raise RuntimeError("job 7 was lost")


def is_interrupted(_directory: Path, _launch: int) -> JobReturn:
    os.kill(os.getpid(), signal.SIGTERM)
    return JobReturn(status=JobStatus.COMPLETED, _return_value=0)


def fails_once(directory: Path, launch: int) -> JobReturn:
    return fails(directory, launch) if launch == 1 else succeeds(directory, launch)


def planned(folder: Path, count: int) -> list[Planned]:
    ours, _, _ = composer()
    planner = Planner(argv.parse([]), resolvers.register(), ours, folder=str(folder), name="s")
    return planner.plan([[RUN, f"++worker.env.A={n}"] for n in range(count)], 0)


def run(folder: Path, leave: Leave, count: int = 1, **config: Any) -> tuple[ElsewhereRun, list[SweepJob], World]:  # noqa: ANN401
    """Hand jobs over."""
    world = World(folder, leave)
    settings = SweepConfig(objective="loss", **config)
    home = Folder(folder, settings)
    said: list[str] = []
    book = Book(Sweep(name="s", objective="loss"), home, said.append)
    jobs = planned(folder, count)
    for one in jobs:
        book.add(one)
    elsewhere = ElsewhereRun(world, settings, book=book, folder=home)
    elsewhere.batch(jobs, 0)
    home.close()
    return elsewhere, list(book.sweep.jobs), world


@pytest.mark.parametrize(
    ("leave", "state", "message"),
    [
        (succeeds, DONE, ""),
        (fails, FAILED, "rank 0: exit code 3"),
        (raises, FAILED, "KeyError: 'x'"),
        (vanishes, FAILED, "it has left no result.json"),
        (lambda directory, launch: succeeds(directory, launch, "low"), FAILED, "it reported no number as 'loss'"),
        (gives_up, DONE, ""),
    ],
)
def test_what_the_agent_says_counts_and_then_what_the_launcher_says(
    tmp_path: Path, leave: Leave, state: JobState, message: str
) -> None:
    _, (job,), _ = run(tmp_path, leave)
    assert (job.state, job.message, job.attempts) == (state, message, 1)
    if state is DONE:
        assert (job.value, job.seconds) == (0.5, 2.5)


def test_what_failed_is_handed_over_again_and_alone(tmp_path: Path) -> None:
    done: set[str] = set()

    def leave(directory: Path, launch: int) -> JobReturn:
        first = not done or directory.name in done
        done.add(directory.name)
        return fails_once(directory, launch) if first else succeeds(directory, launch)

    _, jobs, world = run(tmp_path, leave, 3, retries=2)
    assert [job.state for job in jobs] == [DONE, DONE, DONE]
    assert [job.attempts for job in jobs] == [2, 1, 1]
    assert [len(batch) for batch in world.launched] == [3, 1]


def test_a_launcher_that_gives_up_is_asked_no_more(tmp_path: Path) -> None:
    elsewhere, jobs, world = run(tmp_path, gives_up, 2, retries=5)
    assert [job.state for job in jobs] == [DONE, CANCELLED], "it did not wait for the second, which may still run"
    assert jobs[1].message == "the launcher has given up: RuntimeError: job 7 was lost"
    assert (len(world.launched), elsewhere.halted) == (1, "the launcher has given up")


def test_a_signal_ends_the_waiting(tmp_path: Path) -> None:
    elsewhere, (job,), _ = run(tmp_path, is_interrupted, retries=1)
    assert (job.state, job.message) == (CANCELLED, "stopped by SIGTERM; where it was handed to, it may still run")
    assert (elsewhere.halted, elsewhere.exit_code) == ("stopped by SIGTERM", 143)


def test_after_a_failure_nothing_more_is_begun_if_so_wished(tmp_path: Path) -> None:
    assert run(tmp_path / "a", fails)[0].halted == ""
    assert run(tmp_path / "b", fails, on_failure="stop")[0].halted == "job 0 has failed"


def test_a_job_whose_directory_cannot_be_made_is_not_handed_over(tmp_path: Path) -> None:
    bad = planned(tmp_path, 2)[0].key
    (tmp_path / bad).write_text("in the way")
    _, jobs, world = run(tmp_path, succeeds, 2)
    assert [job.state for job in jobs] == [FAILED, DONE]
    assert jobs[0].message == f"{tmp_path / bad}: File exists"
    assert [len(batch) for batch in world.launched] == [1]
