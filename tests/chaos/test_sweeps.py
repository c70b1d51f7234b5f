"""A sweep that is killed again and again, at any moment, comes to the same as one that is left in peace."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.core.sweep import JobState
from tests.e2e.harness import marked, until
from tests.e2e.sweeps import LOSS, SweepLaunch, script

pytestmark = pytest.mark.e2e

KILLS = 6
JOBS = 8


def done(sweep_dir: Path) -> set[str]:
    """The keys of the jobs of which it is known that they have succeeded."""
    found = set()
    for path in sweep_dir.glob("*/result.json"):
        if json.loads(path.read_bytes())["state"] == "SUCCEEDED":
            found.add(path.parent.name)
    return found


def started(directory: Path) -> Counter[str]:
    """How often each job's worker was started."""
    return Counter((directory / "ran").read_text().split()) if (directory / "ran").exists() else Counter()


@pytest.mark.parametrize("seed", [1, 2])
def test_it_ends_with_every_job_done_and_none_of_those_that_were_done_done_again(tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    worker = script(
        tmp_path,
        *LOSS,
        "import pathlib, time",
        "key = pathlib.Path(os.environ['ORCHESTRATOR_RESULT_FILE']).parents[4].name",
        "open('ran', 'a').write(f'{key} ')",
        "time.sleep(0.1)",
    )
    words = ["sweep.jobs=2", "sweep.objective=loss", f"worker.env.X=range({JOBS})", *worker]
    known: dict[str, int] = {}  # of each job that was done, how often it had been started by then
    for _ in range(KILLS):
        run = SweepLaunch(tmp_path, words)
        try:
            until(lambda one=run: (one.sweep_dir / "sweep.json").exists() or one.process.poll() is not None, "it runs")  # type: ignore[misc]
            time.sleep(moments.uniform(0.5, 1.5))
        finally:
            run.end()
        until(lambda: not marked(str(tmp_path)), "nothing is left of it")
        for key in done(run.sweep_dir) - set(known):
            known[key] = started(tmp_path)[key]
    last = SweepLaunch(tmp_path, words)
    assert last.finish() == 0, last.stderr
    assert [(job.state, job.value) for job in last.sweep.jobs] == [
        (JobState.SUCCEEDED, float((x - 3) ** 2)) for x in range(JOBS)
    ]
    assert known, "some were done before the last one"
    assert {key: started(tmp_path)[key] for key in known} == known
    assert not marked(str(tmp_path))
