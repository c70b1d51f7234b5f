"""The checks before each join: a node that fails one keeps out of the round, cools down, and tries again.

Looks and runs; when a node is hopeless is `core.health`'s to say. Invariant: nothing here holds up the loop: commands
are the guard's children, and disks are looked at by threads.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.core.failures import signal_name
from orchestrator.core.health import Check, CheckKind, PreflightPolicy, cooldown_s, too_skewed
from orchestrator.core.result import Ending
from orchestrator.core.specs import JobSpec
from orchestrator.core.words import Event, Outcome
from orchestrator.edge.errorfile import last_lines
from orchestrator.edge.filework import FileThread
from orchestrator.edge.guard.client import Exited, SpawnFailed
from orchestrator.edge.messages import Message
from orchestrator.edge.processes import Processes
from orchestrator.edge.redis.connection import Connection
from orchestrator.errors import ExitCode

LINES = 5  # of what a command wrote last
MIB = 1 << 20


class Preflight:
    """One node's checks. Remembers how often they failed in a row, and until when the node keeps away."""

    def __init__(
        self,
        job: JobSpec,
        role: str,
        policy: PreflightPolicy,
        processes: Processes,
        connection: Connection,
        *,
        log: Callable[..., None],
    ) -> None:
        self._job = job
        self._role = role
        self._policy = policy
        self._processes = processes
        self._connection = connection
        self._log = log
        self._failed = 0
        self._not_before = 0.0  # on our monotonic clock
        self._outputs = Path(job.run_dir, "preflight")

    async def run(self, visit: int) -> Message:
        """Wait out the cool-down, look at everything, and say what came of it. Raises RendezvousError."""
        await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
        for number, check in enumerate(self._policy.checks):
            began = time.monotonic()
            why, lines = await self._passes(number, check)
            if why:
                return self._fail(f"health.preflight[{number}], {check.name()}", why, lines, visit)
            self._log("check_passed", check=check.name(), took_s=round(time.monotonic() - began, 3))
        self._failed, self._not_before = 0, 0.0
        return Message(event=Event.PREFLIGHT_PASSED, reason="this node is fit", visit=visit)

    def _fail(self, name: str, why: str, lines: tuple[str, ...], visit: int) -> Message:
        self._failed += 1
        wait_s = cooldown_s(self._failed, self._policy)
        reason = f"{name}: {why}"
        attempts = {"attempt": self._failed, "attempts": self._policy.attempts}
        self._log("preflight_failed", check=name, reason=why, last_lines=lines, retry_s=wait_s, **attempts)
        if wait_s is None:
            reason = f"this node is unfit: {reason}"
            ending = Ending(outcome=Outcome.FAILED, exit_code=int(ExitCode.NODE_UNFIT), reason=reason)
            return Message(event=Event.NODE_UNFIT, reason=reason, visit=visit, ending=ending)
        self._not_before = time.monotonic() + wait_s
        return Message(event=Event.PREFLIGHT_FAILED, reason=reason, visit=visit)

    async def _passes(self, number: int, check: Check) -> tuple[str, tuple[str, ...]]:
        """Why a check fails, empty if it does not; and the last lines of what it wrote."""
        if check.kind is CheckKind.EXEC:
            return await self._executes(number, check)
        if check.kind is CheckKind.CLOCK_SKEW:
            await self._connection.open(self._job.rendezvous.join_timeout_s)
            server_s, sent_s, heard_s = await self._connection.clock()
            return too_skewed(server_s, sent_s, heard_s, check.bound), ()
        thread = FileThread("preflight")  # its own: one that hangs must not hold up the others
        try:
            async with asyncio.timeout(check.timeout_s):
                return await thread.ask(lambda: _looks(check)), ()
        except TimeoutError:
            return f"no answer within {check.timeout_s:g} s", ()
        except OSError as error:
            return error.strerror or str(error), ()
        finally:
            thread.close(0.0)

    async def _executes(self, number: int, check: Check) -> tuple[str, tuple[str, ...]]:
        output, thread = self._outputs / f"{number}.log", FileThread("preflight")
        env = {
            **os.environ,
            "ORCHESTRATOR_RUN_ID": self._job.run_id,
            "ORCHESTRATOR_GROUP": self._role,
            "ORCHESTRATOR_NODE": self._job.node.name,
        }

        def prepare() -> None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.unlink(missing_ok=True)

        try:
            await thread.ask(prepare)
            ended = await self._processes.execute(
                check.cmd, env, output=str(output), within_s=check.timeout_s, before_the_round=True
            )
            why = _how(ended, check)
            return why, tuple(await thread.ask(lambda: last_lines(output, LINES))) if why else ()
        except OSError as error:
            return f"{output}: {error.strerror}", ()
        finally:
            thread.close(0.0)


def _how(ended: Exited | SpawnFailed | None, check: Check) -> str:
    match ended:
        case None:
            return f"it was killed after {check.timeout_s:g} s"
        case SpawnFailed():
            return f"it cannot be started: {os.strerror(ended.errno)} (at {ended.step})"
        case Exited(signal=None):
            return f"exit code {ended.exit_code}" if ended.exit_code else ""
        case _:
            return f"killed by {signal_name(ended.signal or 0)}"


def _looks(check: Check) -> str:
    """Why this node has too little of something; empty if it has enough. May wait for a disk."""
    bound = int(check.bound)
    match check.kind:
        case CheckKind.DISK:
            stats = os.statvfs(check.path)
            free = stats.f_bavail * stats.f_frsize // MIB
            return f"{free} MiB are free, and {bound} are needed" if free < bound else ""
        case CheckKind.MEMORY:
            free = _memory_mib()
            return f"{free} MiB are available, and {bound} are needed" if free < bound else ""
        case _:
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            if soft != resource.RLIM_INFINITY and soft < bound:
                return f"a process may open {soft} files, and {bound} are needed (ulimit -n)"
            used, _, most = Path("/proc/sys/fs/file-nr").read_text(encoding="ascii").split()
            left = int(most) - int(used)
            return f"the system has {left} open files left, and {bound} are needed" if left < bound else ""


def _memory_mib() -> int:
    """What the kernel holds to be available without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    raise OSError(0, "/proc/meminfo has no MemAvailable")
