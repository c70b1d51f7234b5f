"""Workers' output in real runs: bounded files, full disks, and bytes that are no text."""

from __future__ import annotations

import signal
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
