"""Workers' output in real runs: bounded files, full disks, and bytes that are no text."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher
from tests.e2e.harness import Launch, python, until

pytestmark = pytest.mark.e2e

LIMIT = 1 << 16


def log_of(run: Launch, stream: str = "stdout") -> Path:
    return run.run_dir / "logs" / "default" / "1" / "0" / f"{stream}.log"


@pytest.mark.parametrize("kind", ["files", "tee"])
def test_a_worker_s_file_keeps_its_newest_bytes_while_it_writes(launch: Launcher, kind: str) -> None:
    write = ("import os, time", "for n in range(20000): os.write(1, b'%07d%s\\n' % (n, b'x' * 92))", "time.sleep(600)")
    run = launch(f"logs={kind}", f"logs.max_bytes={LIMIT}", *python(*write))
    until(lambda: log_of(run).exists() and log_of(run).stat().st_size == 2_000_000, "all is written")
    until(lambda: log_of(run).stat().st_blocks * 512 <= LIMIT + 8192, "the oldest part has given its blocks back")
    kept = log_of(run).read_bytes()
    assert not kept[: 2_000_000 - LIMIT - 4096].strip(b"\0")
    assert kept.endswith(b"".join(b"%07d%s\n" % (n, b"x" * 92) for n in range(19_500, 20_000)))
    trimmed = run.await_event("log_trimmed")
    assert (trimmed["path"], trimmed["max_bytes"]) == (str(log_of(run)), LIMIT)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert len(run.events("log_trimmed")) == 1
    assert "is over logs.max_bytes" in run.stderr
    if kind == "tee":
        assert f"[default0] 0019999{'x' * 92}\n" in run.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs root, to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_neither_blocks_nor_ends_workers_and_is_told_once(launch: Launcher, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(100_000))
    write = (
        "import os, time",
        "while not os.path.exists('enough'):",
        "    try: os.write(1, b'line\\n' * 1000)",
        "    except OSError: time.sleep(0.01)",
        "os.write(1, b'\\nthe end\\n')",
    )
    run = launch(f"logs.dir={small_disk}/logs", *python(*write))
    degraded = run.await_event("log_degraded")
    assert degraded["path"] == f"{small_disk}/logs/default"
    assert "no space left" in degraded["reason"]
    (small_disk / "ballast").unlink()
    (run.directory / "enough").touch()
    assert run.wait() == 0
    assert (small_disk / "logs/default/1/0/stdout.log").read_bytes().endswith(b"the end\n")
    assert run.stdout.endswith("[default0] the end\n")
    assert len(run.events("log_degraded")) == 1
    assert "no space left on the disk" in run.stderr


def test_binary_garbage_long_lines_and_closed_streams_disturb_nobody(launch: Launcher) -> None:
    write = (
        "import os, random",
        "rank = int(os.environ['RANK'])",
        "data = random.Random(1).randbytes(3_000_000) + bytes(1000) + b'x' * 10_000_000 + b'\\n'",
        "done = 0 if rank == 0 else len(data)",
        "while done < len(data): done += os.write(1, data[done:])",
        "if rank == 1: os.close(1); os.close(2)",
    )
    run = launch("worker.nproc=2", "logs.prefix=''", *python(*write))
    assert run.wait() == 0
    written = log_of(run).read_bytes()
    assert len(written) == 13_001_001
    assert run.out.read_bytes() == written
