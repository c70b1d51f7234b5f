"""Sweeps: many jobs in slots of one process, whatever becomes of each, and only what is missing the next time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from orchestrator.core.sweep import JobState
from tests.e2e.harness import FAST, alive, marked, until
from tests.e2e.sweeps import LOSS, SweepLaunch, script

pytestmark = pytest.mark.e2e

Launcher = Callable[..., SweepLaunch]
DONE, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED


@pytest.fixture
def sweep() -> Iterator[Launcher]:
    """Starts sweeps, of which none outlives its test."""
    begun: list[SweepLaunch] = []

    def start(
        directory: Path, words: Sequence[str], env: Mapping[str, str] | None = None, name: str = "s"
    ) -> SweepLaunch:
        begun.append(SweepLaunch(directory, words, env, name))
        return begun[-1]

    yield start
    for run in begun:
        run.end()


def test_a_failed_job_ends_nothing_else_and_is_the_only_one_to_be_run_again(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(tmp_path, *LOSS, "if x == 2 and not os.path.exists('mended'): raise SystemExit(5)")
    words = ["sweep.objective=loss", "worker.env.X=1,2,3", *worker]
    first = sweep(tmp_path, words)
    assert first.finish() == 1
    assert first.states() == {1: DONE, 2: FAILED, 3: DONE}
    assert "exit code 5" in first.job(2).message
    (tmp_path / "mended").touch()
    again = sweep(tmp_path, words)
    assert again.finish() == 0
    assert again.states() == {1: DONE, 2: DONE, 3: DONE}
    assert [(job.attempts, job.value) for job in again.sweep.jobs] == [(1, 4.0), (2, 1.0), (1, 0.0)]
    best = again.sweep.best
    assert best is not None
    assert best.params == {"worker.env.X": 3}
    assert "2 done before" in again.stderr


def test_a_changed_configuration_is_a_new_job_and_equal_ones_are_one(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(tmp_path, *LOSS)
    assert sweep(tmp_path, ["worker.env.X=1,1.0,2", "sweep.name=s", *worker]).finish() == 0
    more = sweep(tmp_path, ["worker.env.X=2,4,2", "sweep.objective=loss", *worker])
    assert more.finish() == 0
    assert more.states() == {2: DONE, 4: DONE}
    assert [job.attempts for job in more.sweep.jobs] == [1, 1]
    assert [job.value for job in more.sweep.jobs] == [1.0, 1.0], "an objective that is asked for later is found"
    other = sweep(tmp_path, ["worker.env.X=2", "worker.env.MORE=1,2", *worker])
    assert other.finish() == 0
    assert [job.attempts for job in other.sweep.jobs] == [1, 1]


def test_what_is_wrong_with_any_job_is_said_before_any_runs(sweep: Launcher, tmp_path: Path) -> None:
    words = ["worker.nproc=1,none,2", "stop.grace_s=1,-1", "sweep.jobs=0", "--", "true"]
    run = sweep(tmp_path, words)
    assert run.finish() == 2
    assert run.stderr.splitlines() == [
        "error: sweep.jobs: 0 is too small; allowed: a whole number from 1, auto [override sweep.jobs=0]"
    ]
    run = sweep(tmp_path, [word for word in words if word != "sweep.jobs=0"])
    assert run.finish() == 2
    assert sorted(line.partition(";")[0] for line in run.stderr.splitlines()) == [
        "error: stop.grace_s: -1 is negative",
        "error: worker.nproc: 'none' is not allowed",
    ]
    assert not (tmp_path / "sweeps").exists()


def test_jobs_run_side_by_side_on_one_guard_and_one_server(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        "import os, time",
        "open(os.environ['X'], 'w').write(os.environ['MASTER_PORT'])",
        "while not all(map(os.path.exists, '12')): time.sleep(0.01)",
        "while not os.path.exists('go'): time.sleep(0.01)",
    )
    run = sweep(tmp_path, ["sweep.jobs=2", "worker.env.X=1,2,3", *worker])
    jobs = [run.await_state(x, JobState.RUNNING) for x in (1, 2)]
    until(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists(), "both run")
    assert run.sweep.count(JobState.RUNNING) == 2
    assert len(Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()) == 1
    assert len({job.run_id for job in jobs}) == len({job.dir for job in jobs}) == 2
    (tmp_path / "go").touch()
    assert run.finish() == 0
    assert len(run.sweep.jobs) == 3
    assert len(list(run.sweep_dir.glob("*/events.jsonl"))) == 3


def test_interrupted_it_stops_all_and_goes_on_later(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(tmp_path, *LOSS, "import time", "while x > 1 and not os.path.exists('go'): time.sleep(0.01)")
    run = sweep(tmp_path, ["sweep.jobs=2", "sweep.objective=loss", "worker.env.X=1,2,3,4", *worker])
    run.await_state(1, DONE)
    running = [run.await_state(x, JobState.RUNNING) for x in (2, 3)]
    until(lambda: len({pid for job in running for pid in marked(job.run_id)}) == 2, "their workers run")
    run.signal(signal.SIGINT)
    assert run.finish() == 130
    assert not [pid for job in running for pid in marked(job.run_id)]
    assert run.states() == {1: DONE, 2: CANCELLED, 3: CANCELLED, 4: CANCELLED}
    (tmp_path / "go").touch()
    again = sweep(tmp_path, ["sweep.objective=loss", "worker.env.X=1,2,3,4", *worker])
    assert again.finish() == 0
    assert [job.attempts for job in again.sweep.jobs] == [1, 2, 2, 1]


THINKER = """
import time
from pathlib import Path
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class Thinker(Sweeper):
    def setup(self, **what):
        self.launcher = Plugins.instance().instantiate_launcher(**what)

    def sweep(self, arguments):
        self.launcher.launch([[*arguments, "++worker.env.X=1"]], 0)
        Path("thinks").touch()
        while True:
            time.sleep(0.01)


ConfigStore.instance().store(group="hydra/sweeper", name="thinker", node={"_target_": f"{__name__}.Thinker"})
"""


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143), (signal.SIGWINCH, 75)]
)
def test_a_signal_while_the_sweeper_thinks_ends_the_sweep_in_order(
    sweep: Launcher, tmp_path: Path, signum: int, code: int
) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins/thinker.py").write_text(THINKER)
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    words = ["hydra/sweeper=thinker", "stop.preempt_signals=[WINCH]", "sweep.objective=loss"]
    run = sweep(tmp_path, [*words, *script(tmp_path, *LOSS)], {"PYTHONPATH": path})
    until((tmp_path / "thinks").exists, "it thinks")
    run.signal(signal.SIGUSR1)  # which is for workers
    run.signal(signum)
    assert run.wait(60) == code, run.stderr
    assert [job.state for job in run.sweep.jobs] == [DONE]
    assert (run.sweep_dir / "sweep.csv").exists()
    assert "Traceback" not in run.stderr


def test_interrupted_twice_it_kills(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        "import signal, time, os",
        "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "open('deaf' + os.environ['X'], 'w').close()",
        "time.sleep(600)",
    )
    run = sweep(tmp_path, ["sweep.jobs=2", "stop.grace_s=300", "worker.env.X=1,2", *worker])
    until(lambda: all((tmp_path / f"deaf{x}").exists() for x in (1, 2)), "both are deaf")
    jobs = [run.await_state(x, JobState.RUNNING) for x in (1, 2)]
    run.signal(signal.SIGINT)
    journals = [Path(job.dir, "events.jsonl") for job in jobs]
    until(lambda: all('"stop_requested"' in path.read_text() for path in journals), "both are being stopped")
    run.signal(signal.SIGINT)
    assert run.finish() == 130
    assert not [pid for job in jobs for pid in marked(job.run_id)]


def test_killed_it_leaves_nothing_and_a_second_one_does_what_is_missing(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        *LOSS,
        "import time",
        "open('ran', 'a').write(f'{x:g} ')",
        "while x > 2 and not os.path.exists('go'): time.sleep(0.01)",
    )
    words = ["sweep.jobs=2", "sweep.objective=loss", "worker.env.X=1,2,3,4", *worker]
    run = sweep(tmp_path, words)
    running = [run.await_state(x, JobState.RUNNING) for x in (3, 4)]
    until(lambda: len((tmp_path / "ran").read_text().split()) == 4, "their workers run")
    run.process.kill()
    run.process.wait(10)
    until(lambda: not [pid for job in running for pid in marked(job.run_id)], "the guard cleans up")
    (tmp_path / "go").touch()
    again = sweep(tmp_path, words)
    assert again.finish() == 0
    assert [job.value for job in again.sweep.jobs] == [4.0, 1.0, 0.0, 1.0]
    assert sorted((tmp_path / "ran").read_text().split()) == ["1", "2", "3", "3", "4", "4"]


def test_the_guard_killed_with_it_leaves_ghosts_that_the_second_one_lays(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        "import os, subprocess, sys, time",
        "if os.path.exists('go'): sys.exit()",
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)",
        "open('child.tmp', 'w').write(str(child.pid)); os.rename('child.tmp', 'child')",
        "time.sleep(600)",
    )
    run = sweep(tmp_path, ["worker.env.X=1,2", "sweep.jobs=1", *worker])
    until((tmp_path / "child").exists, "it has a child")
    child = int((tmp_path / "child").read_text())
    run.kill_with_guard()
    assert alive(child)
    (tmp_path / "go").touch()
    again = sweep(tmp_path, ["worker.env.X=1,2", "sweep.jobs=1", *worker])
    assert again.finish() == 0, again.stderr
    assert not alive(child)


def test_a_directory_belongs_to_one_sweep_at_a_time(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(tmp_path, "import os, time", "while not os.path.exists('go'): time.sleep(0.01)")
    run = sweep(tmp_path, ["worker.env.X=1,2", *worker])
    run.await_state(1, JobState.RUNNING)
    other = sweep(tmp_path / ".", ["worker.env.X=1,3", *worker])
    assert other.wait() == 2
    assert f"process {run.process.pid};" in other.stderr
    (tmp_path / "go").touch()
    assert run.finish() == 0


def test_a_job_is_tried_again_as_often_as_it_may(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        *LOSS,
        "open(f'tries{x:g}', 'a').write('.')",
        "raise SystemExit(x == 2 or (x == 1 and os.path.getsize('tries1') < 3))",
    )
    run = sweep(tmp_path, ["sweep.retries=2", "worker.env.X=1,2,3", *worker])
    assert run.finish() == 1
    assert run.states() == {1: DONE, 2: FAILED, 3: DONE}
    assert [job.attempts for job in run.sweep.jobs] == [3, 3, 1]
    assert "job 1 is tried again, attempt 3: X=2: rank 0 on node " in run.stderr
    assert run.stderr.count("job 1 failed") == 1, "it has failed when there are no attempts left"


def test_on_failure_stop_begins_no_other_and_stops_those_that_run(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        "import os, time",
        "open(os.environ['X'], 'w').close()",
        "while not (os.path.exists('1') and os.path.exists('2')): time.sleep(0.01)",
        "if os.environ['X'] == '1': raise SystemExit(7)",
        "time.sleep(600)",
    )
    run = sweep(tmp_path, ["sweep.jobs=2", "sweep.on_failure=stop", "worker.env.X=1,2,3", *worker])
    assert run.finish() == 1
    assert run.states() == {1: FAILED, 2: CANCELLED, 3: CANCELLED}
    assert run.job(3).attempts == 0


def test_each_running_job_has_gpus_of_its_own(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        "import os, time",
        "mine, other = os.environ['X'], {'1': '2', '2': '1'}[os.environ['X']]",
        "open('tmp' + mine, 'w').write(os.environ['CUDA_VISIBLE_DEVICES']); os.rename('tmp' + mine, 'gpus' + mine)",
        "while not os.path.exists('gpus' + other): time.sleep(0.01)",
    )
    words = ["sweep.gpus=2", "sweep.cpus=0", "worker.env.X=1,2", *worker]
    run = sweep(tmp_path, words, {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c,GPU-d,GPU-e"})
    assert run.finish() == 0
    seen = [(tmp_path / f"gpus{x}").read_text() for x in (1, 2)]
    assert sorted(seen) == ["GPU-a,GPU-b", "GPU-c,GPU-d"]
    scarce = sweep(tmp_path, words, {"CUDA_VISIBLE_DEVICES": "0"}, name="other")
    assert scarce.finish() == 2
    assert scarce.stderr.startswith("error: sweep.gpus: 2 is more than this machine has; ask for less")


def test_a_recipe_says_what_is_swept_unless_the_command_line_does(sweep: Launcher, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text("\n".join(LOSS))
    (tmp_path / "r.yaml").write_text(
        "worker: {cmd: [__python__, worker.py], env: {X: 0}}\n"
        "sweep: {name: null, objective: loss, params: {worker.env.X: [1, 2.5, '3'], stop.grace_s: 'range(1, 3)'}}\n"
    )
    run = sweep(tmp_path, ["r.yaml", "sweep.name=null"], name="r")
    assert run.finish() == 0, run.stderr
    found = [(job.params["worker.env.X"], job.params["stop.grace_s"], job.value) for job in run.sweep.jobs]
    assert found == [(1, 1, 4), (1, 2, 4), (2.5, 1, 0.25), (2.5, 2, 0.25), ("3", 1, 0), ("3", 2, 0)]
    typed = sweep(tmp_path, ["r.yaml", "sweep.name=null", "worker.env.X=7,8"], name="r")
    assert typed.finish() == 0
    assert [job.value for job in typed.sweep.jobs] == [16, 25]


def test_secrets_are_in_no_file_of_a_sweep(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(tmp_path, "import os", "raise ValueError('no ' + os.environ['API_TOKEN'])")
    run = sweep(tmp_path, ["worker.env.API_TOKEN=hunter2-one,hunter2-two", "worker.env.B=xx-$HOME", *worker])
    assert run.finish() == 1, run.stderr
    assert all(job.message.endswith("ValueError: no ***") for job in run.sweep.jobs)
    files = [path for path in run.sweep_dir.rglob("*") if path.is_file() and "logs" not in path.parts]
    assert {"job.json", "result.json", "events.jsonl", "sweep.json", "sweep.csv"} <= {path.name for path in files}
    assert b"hunter2" not in b"".join(path.read_bytes() for path in files)
    assert "hunter2" not in run.stderr


def test_a_job_that_reports_no_value_has_failed_where_one_is_looked_for(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(tmp_path, "from orchestrator.worker import report", "report(acc=1)")
    run = sweep(tmp_path, ["sweep.objective=loss", "worker.env.X=1,2", *worker])
    assert run.finish() == 1
    assert run.states() == {1: FAILED, 2: FAILED}
    assert run.job(1).message == "it reported no number as 'loss'"


def test_a_job_that_others_do_better_than_is_stopped_early_and_counts_as_done(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        "import os, time",
        "from orchestrator.worker import report",
        "x = float(os.environ['X'])",
        "report(step=1, loss=x)",
        "if x > 3: time.sleep(600)",
    )
    words = ["sweep.jobs=1", "sweep.objective=loss", "sweep.prune=halving", "worker.env.X=1,2,3,4,5,0.5", *worker]
    run = sweep(tmp_path, words)
    assert run.finish() == 0, run.stderr
    pruned = JobState.PRUNED
    assert run.states() == {1: DONE, 2: DONE, 3: DONE, 4: pruned, 5: pruned, 0.5: DONE}
    assert [job.value for job in run.sweep.jobs] == [1, 2, 3, 4, 5, 0.5]
    assert run.job(4).curve == ((1, 4.0),)
    assert "at step 1" in run.job(4).message
    journal = Path(run.job(4).dir, "events.jsonl").read_text()
    assert '"job_pruned"' in journal
    again = sweep(tmp_path, [*words[:3], "worker.env.X=1,2,3,4,5,0.5,6", *worker])
    assert again.finish() == 0, again.stderr
    assert [job.attempts for job in again.sweep.jobs] == [1] * 7
    assert again.job(6).state is pruned, "what others did in an earlier sweep counts"
    worker = script(tmp_path, "import os", "from orchestrator.worker import report", "report(loss=1)")
    whole = sweep(tmp_path, ["sweep.jobs=1", "sweep.objective=loss", "worker.env.X=1,4", *worker])
    assert whole.finish() == 0, whole.stderr
    assert whole.states() == {1: DONE, 4: DONE}, "without pruning every job is run to its end"
    assert [job.attempts for job in whole.sweep.jobs] == [1, 2]


def test_what_is_reported_is_seen_while_a_job_runs(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        "import os, time",
        "from orchestrator.worker import report",
        "for step in range(1000):",
        "    report(step=step, loss=1 / (step + 1))",
        "    if os.path.exists('go'): break",
        "    time.sleep(0.01)",
    )
    run = sweep(tmp_path, ["sweep.objective=loss", "worker.env.X=1,2", *worker])
    run.await_state(1, JobState.RUNNING)
    until(lambda: len(run.job(1).curve) > 3, "its curve grows")
    (tmp_path / "go").touch()
    assert run.finish() == 0
    job = run.job(1)
    assert job.value == job.curve[-1][1] == min(value for _, value in job.curve)


def test_hydras_own_launcher_runs_our_jobs_one_by_one(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(tmp_path, *LOSS, "raise SystemExit(x == 2)")
    run = sweep(tmp_path, ["hydra/launcher=basic", "worker.env.X=1,2,3", *worker])
    assert run.finish() == 1
    assert run.states() == {1: DONE, 2: FAILED, 3: DONE}


def test_optuna_looks_for_the_best_and_repeats_itself_when_it_goes_on(sweep: Launcher, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    worker = script(tmp_path, *LOSS, "open('ran', 'a').write('.')", "raise SystemExit(x > 9)")
    words = ["hydra/sweeper=optuna", "sweep.objective=loss", "sweep.jobs=2", "worker.env.X=interval(0, 10)", *worker]
    first = sweep(tmp_path, ["hydra.sweeper.n_trials=6", *words])
    assert first.finish() in (0, 1)
    assert len((tmp_path / "ran").read_text()) == 6
    failed, keys = first.sweep.count(FAILED), [job.key for job in first.sweep.jobs]
    whole = sweep(tmp_path, ["hydra.sweeper.n_trials=24", *words])
    assert whole.finish() in (0, 1), whole.stderr
    assert [job.key for job in whole.sweep.jobs][:6] == keys
    assert len((tmp_path / "ran").read_text()) == 24 + failed, "what was done answers at once"
    best = whole.sweep.best
    assert best is not None
    assert best.value is not None
    assert best.value < 0.5
    assert f"best_value: {best.value}" in (whole.sweep_dir / "optimization_results.yaml").read_text()
    worst = sweep(tmp_path, ["hydra.sweeper.n_trials=4", "sweep.direction=maximize", *words])
    assert worst.finish() in (0, 1)
    assert worst.sweep.best is not None
    assert worst.sweep.best.value == max(job.value or 0 for job in worst.sweep.jobs if job.state is DONE)


def test_a_sweeper_that_looks_for_something_must_know_for_what(sweep: Launcher, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    run = sweep(tmp_path, ["hydra/sweeper=optuna", "worker.env.X=interval(0, 10)", "--", "true"])
    assert run.finish() == 2
    assert run.stderr.startswith("error: sweep.objective: is needed to look for the best; name what workers report")
    run = sweep(tmp_path, ["sweep.prune=halving", "worker.env.X=1,2", "--", "true"])
    assert run.finish() == 2
    assert run.stderr.startswith("error: sweep.objective: is needed to stop the worst; name what workers report")


def test_the_guard_may_die_and_the_jobs_go_on(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        *LOSS,
        "import time",
        "open(f'{x:g}', 'a').write('.')",
        "while not os.path.exists('go'): time.sleep(0.01)",
    )
    words = ["restart=on_failure", *FAST, "sweep.jobs=2", "sweep.objective=loss", "worker.env.X=1,2,3", *worker]
    run = sweep(tmp_path, words)
    begun = [tmp_path / x for x in "12"]
    until(lambda: all(path.exists() for path in begun), "both run")
    os.kill(run.guard_pid(), signal.SIGKILL)
    until(lambda: all(path.read_text() == ".." for path in begun), "both run again")
    (tmp_path / "go").touch()
    assert run.finish() == 0, run.stderr
    assert [(job.attempts, job.value) for job in run.sweep.jobs] == [(1, 4.0), (1, 1.0), (1, 0.0)]


def test_recipes_can_be_swept_and_logs_of_one_place_are_kept_apart(sweep: Launcher, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("worker: {cmd: [echo, one]}\n")
    (tmp_path / "b.yaml").write_text("worker: {cmd: [echo, two]}\nrestart: never\n")
    run = sweep(tmp_path, ["recipe=./a,./b", "logs.dir=out", "worker.nproc=1,2"])
    assert run.finish() == 0, run.stderr
    assert len(run.sweep.jobs) == 4
    said = {job.key: (tmp_path / "out" / job.key / "default/1/0/stdout.log").read_text() for job in run.sweep.jobs}
    assert sorted(said.values()) == ["one\n", "one\n", "two\n", "two\n"]


def test_a_job_that_cannot_be_made_ready_again_has_failed_and_the_others_go_on(sweep: Launcher, tmp_path: Path) -> None:
    worker = script(tmp_path, *LOSS, "if x == 1: os.rmdir(os.getcwd())", "raise SystemExit(x == 1)")
    for x in (1, 2, 3):
        (tmp_path / f"place{x}").mkdir()
    words = ["sweep.retries=3", "worker.env.X=1,2,3", "worker.cwd=place${worker.env.X}", *worker]
    run = sweep(tmp_path, words)
    assert run.finish() == 1
    assert run.states() == {1: FAILED, 2: DONE, 3: DONE}
    assert run.job(1).attempts == 1
    assert "job 0 is not tried again: worker.cwd: " in run.stderr
