"""Workers as processes of this node: one group's share of the guard.

Translates between the group's agent and `Processes`, which several groups may share. Invariant: a group hears of its
own processes only, and of the guard's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from orchestrator.edge.backend import BackendEvent, Program, Zygote
from orchestrator.edge.processes import Processes


class LocalBackend:
    """A `WorkerBackend` on a guard."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._hear: Callable[[BackendEvent], None] = lambda _: None
        self._zygotes: set[Zygote] = set()

    def attach(self, hear: Callable[[BackendEvent], None]) -> None:
        """`WorkerBackend.attach`."""
        self._hear = hear
        self._processes.join(self, hear)

    def new_handle(self) -> int:
        """`WorkerBackend.new_handle`."""
        return self._processes.new_handle()

    def start(self, handle: int, program: Program) -> None:
        """`WorkerBackend.start`."""
        if program.zygote is not None:
            self._zygotes.add(program.zygote)
        self._processes.spawn(handle, program, self._hear)

    async def stop(self, handles: Sequence[int], *, signum: int, grace_s: float, kill_wait_s: float) -> Sequence[int]:
        """`WorkerBackend.stop`; also when the guard hangs, and is killed for it."""
        return await self._processes.stop(handles, signum=signum, grace_s=grace_s, kill_wait_s=kill_wait_s)

    def kill(self, handles: Iterable[int]) -> None:
        """`WorkerBackend.kill`."""
        self._processes.guard.kill(handles)

    def signal(self, handles: Iterable[int], signum: int) -> None:
        """`WorkerBackend.signal`."""
        self._processes.guard.signal(handles, signum)

    def fence(self, at_s: float | None) -> None:
        """`WorkerBackend.fence`: the guard has one for all, which falls with the first of its groups' moments."""
        self._processes.fence(at_s, self)

    def recover(self) -> None:
        """`WorkerBackend.recover`."""
        self._processes.revive()

    async def close(self) -> None:
        """`WorkerBackend.close`: the guard serves others too, and ends with the process that has it."""
        for zygote in self._zygotes:
            self._processes.zygotes.dismiss(zygote, self._processes.guard)
        self._processes.part(self)
