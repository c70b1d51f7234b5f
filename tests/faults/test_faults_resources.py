"""Faults 14 to 20: the machine has no more memory, processes, descriptors or room, or somebody else takes from it."""

from __future__ import annotations

import os
import resource
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher
from tests.e2e.harness import FAST, SLEEP, Launch, python, until
from tests.edge.disks import mounted

pytestmark = pytest.mark.e2e

PIDS = Path("/sys/fs/cgroup/pids")
MEMORY = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup of version 1 in which little can be had."""
    place = MEMORY / f"orch-test-{uuid.uuid4().hex[:8]}"
    try:
        place.mkdir()
        (place / "memory.limit_in_bytes").write_text(str(400 << 20))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield place
    until(lambda: not (place / "cgroup.procs").read_text(), "it is empty")
    place.rmdir()


def test_fault_14_the_kernel_kills_a_worker_for_memory(launch: Launcher, cgroup: Path) -> None:
    enter = ("sh", "-c", f'echo 0 > {cgroup}/cgroup.procs && exec "$@"', "sh")
    rules = "restart.rules=[{oom: true, action: retry, budget: {max: 2, per_s: 3600}},{action: fatal}]"
    run = launch(rules, *FAST, *python("x = bytearray(1 << 30)", "import time; time.sleep(600)"), wrap=enter)
    assert run.wait() == 1
    cause = run.result["root_cause"]
    assert (cause["signal"], cause["oom"]) == (9, True)
    assert run.result["restarts"] == 2
    assert run.result["reason"].startswith("restart.rules[0].budget is spent (2 restarts within 3600 s)")
    assert "killed by SIGKILL, out of memory" in run.stderr


def test_fault_15_somebody_terminates_a_rank(launch: Launcher) -> None:
    rule = "restart.rules=[{signals: [TERM], action: retry_free}]"
    run = launch("worker.nproc=2", rule, "restart.free.max=2", "restart.budget.max=1", *FAST, *SLEEP)
    for count in (1, 2, 3):
        number = run.await_healthy(count)
        os.kill(run.workers(number)[0], signal.SIGTERM)
        until(lambda number=number: run.events("failure_reported", round=number), "it is reported")  # type: ignore[misc]
    assert run.wait() == 1
    assert run.result["restarts"] == 0
    assert run.result["reason"].startswith("restart.free is spent (2 uncharged restarts); rank 0")
    assert {record["remaining"] for record in run.events("restart_decided")} == {1}


@pytest.mark.skipif(not os.access(PIDS / "cgroup.procs", os.W_OK), reason="needs a writable pids cgroup")
def test_fault_16_no_more_processes_are_allowed(launch: Launcher, tmp_path: Path) -> None:
    group = PIDS / f"orchestrator-test-{os.getpid()}"
    group.mkdir()
    go = tmp_path / "go"
    os.mkfifo(go)
    try:
        script = (
            "import os, sys, time",
            "attempt = int(os.environ['TORCHELASTIC_RESTART_COUNT'])",
            f"open({str(go)!r}).read() if attempt == 0 else None",
            "sys.exit(1 if attempt == 0 else 0)",
        )
        run = launch("worker.nproc=4", "restart.budget.max=2", *FAST, *python(*script))
        run.await_healthy()
        (group / "cgroup.procs").write_text(str(run.guard_pid()))
        (group / "pids.max").write_text("3")  # the guard and two workers, of four
        go.write_text("")
        assert run.wait() == 1
        spawned = [failure for failure in run.result["failures"] if failure["kind"] == "spawn"]
        assert spawned
        assert all("no more processes are allowed, by ulimit -u or by pids.max" in one["message"] for one in spawned)
        assert len(run.events("restart_decided", charged=True)) == 2
    finally:
        go.unlink()
        until(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty")
        group.rmdir()


def descriptors(pid: int) -> set[str]:
    return {path.name for path in Path(f"/proc/{pid}/fd").iterdir()}


def log_of(run: Launch, rank: int) -> Path:
    return run.run_dir / f"logs/default/1/{rank}/stdout.log"


# A plan does not foretell it: the guard's limit is the launcher's own, and what is open is not known beforehand.
def test_fault_17_no_more_descriptors_are_allowed(launch: Launcher) -> None:
    run = launch("worker.nproc=2", "restart.budget.max=100", *FAST, *SLEEP)
    workers = run.workers(run.await_healthy())
    guard = run.guard_pid()
    before = descriptors(guard)
    limits = resource.prlimit(guard, resource.RLIMIT_NOFILE)
    resource.prlimit(guard, resource.RLIMIT_NOFILE, (max(int(fd) for fd in before) + 1, limits[1]))
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: len(run.events("restart_decided")) > 1, "the next start has failed")
    resource.prlimit(guard, resource.RLIMIT_NOFILE, limits)
    run.await_healthy(2)
    until(lambda: len(descriptors(guard)) == len(before), "no descriptor is left over")
    refused = run.events("restart_decided")[1]["cause"]
    assert refused["kind"] == "spawn"
    assert refused["message"].endswith("Too many open files (at pipe; no more open files are allowed, by ulimit -n)")
    run.signal(signal.SIGTERM)
    assert run.wait() == 143


def test_fault_18_garbage_without_end_of_line_and_closed_streams(launch: Launcher) -> None:
    write = (
        "import os, random, time",
        "rank = int(os.environ['RANK'])",
        "data = random.Random(1).randbytes(3_000_000) + bytes(1000) + b'x' * 10_000_000 + b'\\n'",
        "done = 0 if rank == 0 else len(data)",
        "while done < len(data): done += os.write(1, data[done:])",
        "os.close(1); os.close(2)",
        "open(f'closed{rank}', 'w').close()",
        "while not os.path.exists('enough'): time.sleep(0.01)",
    )
    run = launch("worker.nproc=2", "logs.prefix=''", *python(*write))
    until(lambda: run.out.stat().st_size == 13_001_001, "all is shown")
    until((run.directory / "closed1").exists, "the streams are closed")
    before, began = seconds(run.process.pid), time.monotonic()
    until(lambda: time.monotonic() - began > 1, "a second passes")
    assert seconds(run.process.pid) - before < 0.05 * (time.monotonic() - began), "nobody is busy with a closed stream"
    peak = next(line for line in Path(f"/proc/{run.process.pid}/status").read_text().splitlines() if "VmHWM" in line)
    assert int(peak.split()[1]) < 80_000, "kB: far below the length of the line and its copies"
    (run.directory / "enough").touch()
    assert run.wait() == 0
    written = log_of(run, 0).read_bytes()
    assert len(written) == 13_001_001
    assert run.out.read_bytes() == written


def seconds(pid: int) -> float:
    """The processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Nothing is dropped meanwhile: who reads again gets everything (test_tail.py). What nobody took is counted at the end.
def test_fault_19_nobody_reads_the_console(launch: Launcher, tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    os.mkfifo(tmp_path / "node" / "stdout")
    reader = os.open(tmp_path / "node" / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    try:
        run = launch(*python("import os", "for n in range(40): os.write(1, b'line of text\\n' * 10_000)"), name="node")
        assert run.wait() == 0
        assert (run.run_dir / "logs/default/1/0/stdout.log").read_bytes() == b"line of text\n" * 400_000
        assert "bytes of workers' output were not shown; the log files have them" in run.stderr
    finally:
        os.close(reader)
        (tmp_path / "node" / "stdout").unlink()


def test_fault_20_the_disk_of_the_logs_is_full_for_a_while(launch: Launcher, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted("tmpfs", disk, "-o", "size=256k"):
        (disk / "ballast").write_bytes(bytes(100_000))
        write = (
            "import os, time",
            "while not os.path.exists('enough'):",
            "    try: os.write(1, b'line\\n' * 1000)",
            "    except OSError: time.sleep(0.01)",
            "os.write(1, b'\\nthe end\\n')",
        )
        run = launch(f"logs.dir={disk}/logs", *python(*write))
        degraded = run.await_event("log_degraded")
        assert degraded["path"] == f"{disk}/logs/default"
        assert "no space left" in degraded["reason"]
        (disk / "ballast").unlink()
        (run.directory / "enough").touch()
        assert run.wait() == 0
        assert (disk / "logs/default/1/0/stdout.log").read_bytes().endswith(b"the end\n")
        assert run.stdout.endswith("[default0] the end\n")
        assert len(run.events("log_degraded")) == 1
        assert "no space left on the disk" in run.stderr
