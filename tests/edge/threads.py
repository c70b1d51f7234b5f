"""Workers as threads of the agent's own process: a backend that has nothing of the guard's, and one that wraps it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.edge.backend import (
    BackendEvent,
    BackendLost,
    Exited,
    Fenced,
    Program,
    Spawned,
    SpawnFailed,
    WorkerBackend,
)

Work = Callable[[Mapping[str, str], threading.Event], int]


@dataclass
class Running:
    handle: int
    stopping: threading.Event = field(default_factory=threading.Event)
    asked: bool = False
    thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class Threads:
    """``worker.cmd`` names a function, as module:function, that takes the environment and an event, and returns a code.

    A thread cannot be ended by force: one that does not heed its event is reported as unkillable.
    """

    def __init__(self, job: JobSpec, group: GroupSpec, local: WorkerBackend) -> None:
        self._lost = False
        self._running: dict[int, Running] = {}
        self._handles = 0
        self._fence: threading.Timer | None = None
        self._fallen = False

    def attach(self, hear: Callable[[BackendEvent], None]) -> None:
        self._hear = hear
        self._loop = asyncio.get_running_loop()

    def new_handle(self) -> int:
        self._handles += 1
        return self._handles

    def start(self, handle: int, program: Program) -> None:
        if self._fallen:
            self._tell(SpawnFailed(handle, "fenced", 0))
            return
        module, _, name = program.argv[0].partition(":")
        try:
            work: Work = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            self._tell(SpawnFailed(handle, "import", 2))
            return
        running = self._running[handle] = Running(handle)
        running.thread = threading.Thread(target=self._work, args=(running, work, dict(program.env)), daemon=True)
        running.thread.start()

    def _work(self, running: Running, work: Work, env: Mapping[str, str]) -> None:
        pid = threading.get_native_id()
        self._tell(Spawned(running.handle, pid))
        try:
            code = work(env, running.stopping)
        except Exception:  # noqa: BLE001 - a worker's own
            code = 1
        self._tell(Exited(running.handle, pid, code, None, core=False, sent_by_us=running.asked))

    def _tell(self, event: BackendEvent) -> None:
        self._loop.call_soon_threadsafe(self._pass_on, event)

    def _pass_on(self, event: BackendEvent) -> None:
        if not self._lost:
            self._hear(event)

    async def stop(self, handles: Sequence[int], *, signum: int, grace_s: float, kill_wait_s: float) -> Sequence[int]:
        self.kill(handles)
        several = [self._running[handle] for handle in handles if handle in self._running]
        deadline = time.monotonic() + grace_s + kill_wait_s
        while any(one.alive for one in several) and time.monotonic() < deadline:  # noqa: ASYNC110 - they are threads
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)  # in which their exits are told
        return [one.thread.native_id or 0 for one in several if one.thread is not None and one.alive]

    def kill(self, handles: Iterable[int]) -> None:
        for handle in handles:
            if handle in self._running:
                self._running[handle].asked = True
                self._running[handle].stopping.set()

    def signal(self, handles: Iterable[int], signum: int) -> None:
        pass  # threads have no signals

    def fence(self, at_s: float | None) -> None:
        if self._fence is not None:
            self._fence.cancel()
            self._fence = None
        if at_s is not None:
            left_s = at_s - time.clock_gettime(time.CLOCK_BOOTTIME)
            self._fallen = self._fallen and left_s <= 0
            self._fence = threading.Timer(max(0.0, left_s), self._fall, (at_s,))
            self._fence.daemon = True
            self._fence.start()

    def _fall(self, at_s: float) -> None:
        self._fallen = True
        self.kill(list(self._running))
        self._tell(Fenced(at_s))

    def recover(self) -> None:
        self._lost = False

    async def close(self) -> None:
        self.fence(None)


class Losing(Threads):
    """Is lost once, with all its workers."""

    def start(self, handle: int, program: Program) -> None:
        super().start(handle, program)
        if handle == 1:
            self._loop.call_later(0.1, self._lose)

    def _lose(self) -> None:
        self.kill(list(self._running))
        self._hear(BackendLost("the other machine went away"))
        self._lost = True


class Nice:
    """Everything as it is, but each worker is started by a program of ours."""

    def __init__(self, job: JobSpec, group: GroupSpec, local: WorkerBackend) -> None:
        self._local = local

    def __getattr__(self, name: str) -> object:
        return getattr(self._local, name)

    def start(self, handle: int, program: Program) -> None:
        argv = ("sh", "-c", 'export WRAPPED=yes; exec "$@"', "sh", *program.argv)
        self._local.start(handle, replace(program, argv=argv))


class Half:
    def __init__(self, job: JobSpec, group: GroupSpec, local: WorkerBackend) -> None: ...

    def start(self, handle: int, program: Program) -> None: ...


class Breaks(Threads):
    def __init__(self, job: JobSpec, group: GroupSpec, local: WorkerBackend) -> None:
        raise RuntimeError("no machine is free")


# -- what workers do


def fine(env: Mapping[str, str], stopping: threading.Event) -> int:
    Path(f"ran.{env['ORCHESTRATOR_ROUND']}.{env['RANK']}").write_text(env["WORLD_SIZE"])
    return 0


def flaky(env: Mapping[str, str], stopping: threading.Event) -> int:
    if env["RANK"] == "0":
        return 7 if env["TORCHELASTIC_RESTART_COUNT"] == "0" else 0
    return 0 if env["TORCHELASTIC_RESTART_COUNT"] != "0" or stopping.wait(60) else 1


def patient(env: Mapping[str, str], stopping: threading.Event) -> int:
    stopping.wait(60)
    return 0


def deaf(env: Mapping[str, str], stopping: threading.Event) -> int:
    time.sleep(60)
    return 0
