"""Where a worker hangs: the stacks of its threads, as well as they are to be had within a few seconds.

Python's own, if the worker has offered them (`worker_beats`), else those of py-spy, if it is installed; and the
kernel's. Invariant: nothing here holds up the loop, or takes longer than `WITHIN_S`; what a worker writes is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

from orchestrator.edge.errorfile import last_lines
from orchestrator.edge.filework import FileThread
from orchestrator.edge.procfs import catches, described

WITHIN_S = 5.0
STACKS_MAX = 16384  # characters in a report
_ANSWER_S = 2.0  # so long a process may take to begin to write its stacks
_QUIET_S = 0.1  # after so long without more, they are complete
_LINES_MAX = 400


async def stacks_of(pid: int, offered: int | None, file: Path, *, within_s: float | None = None) -> str:
    """The stacks of process ``pid``, which writes them into ``file`` on the signal ``offered``; what is to be had."""
    within_s = WITHIN_S if within_s is None else within_s
    thread = FileThread(f"stacks of {pid}")
    kernel = python = ""
    try:
        async with asyncio.timeout(within_s):
            kernel = await thread.ask(partial(described, pid))
            python = "" if offered is None else await thread.ask(partial(_asked, pid, offered, file))
            python = python or await _py_spy(pid)
    except TimeoutError:
        python = f"no stacks of Python within {within_s:g} s"
    finally:
        thread.close(0.0)
    return _joined(python, kernel)


def _joined(python: str, kernel: str) -> str:
    """Python's first: a person looks there."""
    python = python[: STACKS_MAX * 3 // 4]
    return "\n".join(part for part in (python, kernel[: STACKS_MAX - len(python)]) if part)


def _asked(pid: int, signum: int, file: Path) -> str:
    """Ask by the signal, if it is still caught, and wait for what is written. In a thread: it sleeps."""
    before = _size(file)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return ""
    try:
        if not catches(pid, signum):  # it has become another program
            return ""
        signal.pidfd_send_signal(pidfd, signum)
    except OSError:
        return ""
    finally:
        os.close(pidfd)
    ends_s, size = time.monotonic() + _ANSWER_S, before
    while time.monotonic() < ends_s:
        time.sleep(_QUIET_S)
        now = _size(file)
        if now == size > before:
            break
        size = now
    if size <= before:
        return ""
    return "\n".join(last_lines(file, _LINES_MAX, min(size - before, STACKS_MAX)))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


async def _py_spy(pid: int) -> str:
    """What py-spy sees from outside, if there is one."""
    program = shutil.which("py-spy")
    if program is None:
        return ""
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        spy = await asyncio.create_subprocess_exec(
            program, "dump", "--nonblocking", "--pid", str(pid), stdin=null, stdout=pipe, stderr=null
        )
    except OSError:
        return ""
    try:
        said, _ = await spy.communicate()
        return said[:STACKS_MAX].decode(errors="replace").strip()
    finally:
        if spy.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                spy.kill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(spy.wait(), 1)
