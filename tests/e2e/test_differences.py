"""Where torchrun and ``orchestrate-torchrun`` part, side by side: what README's table says, shown on both."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import alive, until
from tests.e2e.nodes import OURS, THEIRS, script

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.torch,
    pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra [torch]"),
]
STAYS = "import os, time; open('pid.new', 'w').write(str(os.getpid())); os.rename('pid.new', 'pid'); time.sleep(600)"


def pid_in(path: Path) -> int:
    """The pid that a worker has written there, once it has."""
    until(path.exists, f"{path.name} to be written")
    return int(path.read_text())


@pytest.mark.parametrize(("module", "stays"), [(OURS, False), (THEIRS, True)])
def test_workers_end_with_a_killed_launcher(module: str, stays: bool, start: Start, tmp_path: Path) -> None:
    node = start(module, script(tmp_path, STAYS))
    worker = pid_in(tmp_path / "pid")
    node.process.send_signal(signal.SIGKILL)
    node.process.wait(10)
    if stays:
        assert alive(worker), "an orphan; the fixture ends it"
    else:
        until(lambda: not alive(worker), "the worker to be gone")


FORKS = """
import os, subprocess, sys
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
open("pid.new", "w").write(str(child.pid))
os.rename("pid.new", "pid")
sys.exit(3)
"""


@pytest.mark.parametrize(("module", "stays"), [(OURS, False), (THEIRS, True)])
def test_what_a_failed_worker_has_started_ends_too(module: str, stays: bool, start: Start, tmp_path: Path) -> None:
    node = start(module, script(tmp_path, FORKS))
    assert node.wait() == 1
    assert alive(pid_in(tmp_path / "pid")) is stays


TIMED = """
import os, time
import torch.distributed.elastic.timer as timer
timer.configure(timer.FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"]))
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    with timer.expires(after=0.2):
        time.sleep(60)
print("finished", flush=True)
"""


@pytest.mark.parametrize(("module", "code", "said"), [(OURS, 0, "finished\n"), (THEIRS, -signal.SIGKILL, "")])
def test_an_expired_timer_of_torchs_costs_a_restart_and_no_agent(
    module: str, code: int, said: str, start: Start, tmp_path: Path
) -> None:
    node = start(module, "--max-restarts=1", script(tmp_path, TIMED), env={"TORCHELASTIC_ENABLE_FILE_TIMER": "1"})
    assert (node.wait(), node.stdout) == (code, said), node.stderr
    for left in (tmp_path / "tmp").glob("watchdog_timer_*"):  # torchrun's pipe, when its agent has killed itself
        left.unlink()


@pytest.mark.parametrize("module", [OURS, THEIRS])
def test_a_failure_is_explained_without_record(module: str, start: Start, tmp_path: Path) -> None:
    node = start(module, "--nproc-per-node=1", script(tmp_path, "raise ValueError('boom')"))
    assert node.wait() == 1
    report = node.stderr.partition("oot cause" if module == OURS else "Root Cause")[2]
    assert ("ValueError: boom" in report) is (module == OURS)
    assert ("To enable traceback see" in report) is (module == THEIRS)


@pytest.mark.parametrize(("module", "code"), [(OURS, 0), (THEIRS, 1)])
def test_ranks_of_two_digits_have_streams_too(module: str, code: int, start: Start, tmp_path: Path) -> None:
    words = ("--no-python", "--nproc-per-node=11", "-r", "10:3", "--log-dir=logs", "sh", "-c", "echo I am $RANK")
    node = start(module, *words)
    assert node.wait() == code
    if module == OURS:
        assert sorted(node.stdout.splitlines()) == sorted(f"I am {rank}" for rank in range(10))
        kept = [path.read_text() for path in (tmp_path / "logs").rglob("10/stdout.log")]
        assert kept == ["I am 10\n"]
    else:
        assert "ValueError" in node.stderr


@pytest.mark.parametrize(("module", "stops"), [(OURS, False), (THEIRS, True)])
def test_a_hangup_that_is_ignored_stays_so(module: str, stops: bool, start: Start, tmp_path: Path) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        node = start(module, script(tmp_path, STAYS.replace("600", "2")))
    finally:
        signal.signal(signal.SIGHUP, before)
    pid_in(tmp_path / "pid")
    node.process.send_signal(signal.SIGHUP)
    assert node.wait() == (1 if stops else 0)
