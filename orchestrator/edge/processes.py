"""This process's hold on its guard: start it, give it the server and the last will, and replace it when it dies.

Everything that a guard must know to be a guard is remembered here, so that a new one can be told the same. Several
groups may share it. Invariant: each of them hears of its own processes, and all of them of what befalls the guard.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from orchestrator.edge.backend import BackendEvent, BackendLost, Program
from orchestrator.edge.embedded import EmbeddedServer
from orchestrator.edge.guard.client import (
    Exited,
    Fenced,
    GhostsKilled,
    GuardClient,
    GuardEvent,
    GuardLost,
    GuardStarted,
    Spawned,
    SpawnFailed,
    Stopped,
    ZygoteFailed,
    sweep_orphans,
)
from orchestrator.edge.guard.launch import Helper, launch
from orchestrator.edge.served import SERVER_HANDLE, Served, Will, Wills
from orchestrator.edge.zygotes import ZygoteBook

HUNG_S = 5.0  # a guard that owes its answer for so long hangs, and is put to an end
LATE_S = 0.5  # the same where it should have killed our workers: others may be starting in their place

Ended = Exited | SpawnFailed
Hear = Callable[[BackendEvent], None]


class Processes:
    """One guard at a time, and who listens to it. Whoever has a fence, or is told of losses, is named by any object."""

    def __init__(self, process: Helper, server: EmbeddedServer | None) -> None:
        self._served = Served(server)
        self._wills = Wills()
        self._inherited: list[str] = []
        self._next_handle = SERVER_HANDLE
        self._next_ticket = 0
        self._stops: dict[int, asyncio.Future[Sequence[int]]] = {}
        self._pids: set[int] = set()
        self._listeners: dict[int, Hear] = {}  # by handle, until it has ended
        self._members: dict[object, Hear] = {}
        self.zygotes = ZygoteBook(self.new_handle)
        self._fences: dict[object, float] = {}
        self._fence_s: float | None = None  # the first of them
        self.on_news: Callable[..., None] = lambda *_, **__: None  # an event for the journal, and its fields
        self._cgroup: str | None = None  # where the guard has its cgroups, which are ours to clear if it is killed
        self._alarm: asyncio.TimerHandle | None = None
        self._lost = False  # the guard is dead, and there is no other one yet
        self.guard = GuardClient(process, self._hear)
        self._served.start(self.guard)

    def attach(self) -> None:
        """Listen, on the running loop; what was said before is on its way already."""
        self.guard.attach(asyncio.get_running_loop())

    def join(self, member: object, hear: Hear) -> None:
        """Have ``member`` told when the guard is lost, or its fence has fallen."""
        self._members[member] = hear

    def needs_server(self, client: object, hear: Callable[[str], None]) -> None:
        """Have ``client`` told why the embedded server cannot be had, when that is so."""
        self._served.join(client, hear)

    def part(self, member: object) -> None:
        """It need not be told any more, and has nothing to bequeath."""
        self.fence(None, member)
        self._members.pop(member, None)
        self._served.part(member)
        if self._wills.drop(member):
            self._wills.tell(self.guard)

    def new_handle(self) -> int:
        """A number that this agent has never given to a process."""
        self._next_handle += 1
        return self._next_handle

    def spawn(self, handle: int, program: Program, hear: Hear) -> None:
        """Start a process, and have ``hear`` told of it."""
        self._listeners[handle] = hear
        zygote = program.zygote and self.zygotes.handle_of(program.zygote, self.guard)
        self.guard.spawn(handle, **{field: getattr(program, field) for field in Program.__slots__} | {"zygote": zygote})

    def bequeath(self, will: Will, owner: object) -> None:
        """What the guard says to ``owner``'s group should this process die."""
        self._wills.keep(will, owner)
        self._wills.tell(self.guard)

    def inherit(self, path: str) -> None:
        """A pipe or a socket that the guard removes if this process dies."""
        kept = [one for one in self._inherited if os.path.lexists(one)]  # agents remove their own when they end
        self._inherited = [*kept, path]
        self.guard.inherit(self._inherited)

    def fence(self, at_s: float | None, owner: object) -> None:
        """Have all workers killed at this moment of CLOCK_BOOTTIME unless a later one is set in time; None: never.

        The guard has one fence: of several owners' moments the first one counts, for all.
        """
        if at_s is None:
            self._fences.pop(owner, None)
        else:
            self._fences[owner] = at_s
        first = min(self._fences.values(), default=None)
        if first != self._fence_s:
            self._set_fence(first)

    def _set_fence(self, at_s: float | None) -> None:
        self._fence_s = at_s
        self.guard.fence(at_s)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if at_s is not None:
            left_s = max(0.0, at_s - time.clock_gettime(time.CLOCK_BOOTTIME))
            self._alarm = asyncio.get_running_loop().call_later(left_s, self._await_fall)

    def _await_fall(self) -> None:
        """Now the guard should say that the fence has fallen. It is given a moment from here: we may have been late."""
        self._alarm = asyncio.get_running_loop().call_later(LATE_S, self._fell_unnoticed)

    def _fell_unnoticed(self) -> None:
        """It has not. That it is killed for it is the fence's doing: nobody's failure."""
        if not self._lost and self._fence_s is not None:
            self._kill_guard()
            self._tell_all(Fenced(self._fence_s))

    def _kill_guard(self) -> None:
        """It hangs. Its death is its workers', too."""
        if not self._lost:
            os.kill(self.guard.pid, signal.SIGKILL)  # by number: a child of ours, and unreaped, or it were lost

    async def stop(self, handles: Sequence[int], *, signum: int, grace_s: float, kill_wait_s: float) -> Sequence[int]:
        """Climb the stop ladder for all ``handles`` together; returns the pids that even SIGKILL did not end.

        Raises `asyncio.CancelledError` when the guard dies meanwhile, or hangs and is killed for it: then its loss is
        the news, not the stop's end.
        """
        self._next_ticket += 1
        done: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()
        self._stops[self._next_ticket] = done
        self.guard.stop(handles, signal=signum, grace_s=grace_s, kill_wait_s=kill_wait_s, ticket=self._next_ticket)
        if self._lost:
            done.cancel()
        try:
            async with asyncio.timeout(grace_s + kill_wait_s + HUNG_S):
                unkillable = await done
        except TimeoutError:
            self._kill_guard()
            raise asyncio.CancelledError from None
        if self._lost:  # its last word; news of its death is on its way and says more
            raise asyncio.CancelledError
        return unkillable

    async def execute(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        output: str,
        within_s: float,
        cwd: str | None = None,
        before_the_round: bool = False,
    ) -> Exited | SpawnFailed | None:
        """Run a command to its end, which is killed with all that it started after ``within_s``: then None.

        What it writes is appended to ``output``. ``before_the_round``: there is no worker, and so none that the fence
        must keep from running. Raises `asyncio.CancelledError` when the guard dies meanwhile.
        """
        handle = self.new_handle()
        done: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

        def hear(event: BackendEvent) -> None:
            if isinstance(event, BackendLost):
                done.cancel()
            elif isinstance(event, Exited | SpawnFailed) and not done.done():
                done.set_result(event)

        self.join(done, hear)
        if before_the_round:  # a fence that has fallen stays down until a moment to come is set
            self.fence(time.clock_gettime(time.CLOCK_BOOTTIME) + within_s + HUNG_S, done)
        self.spawn(handle, Program(argv=argv, env=env, cwd=cwd, stdout=output, stderr=output), hear)
        if self._lost:
            done.cancel()
        try:
            async with asyncio.timeout(within_s):
                return await done
        except TimeoutError:
            return None
        finally:
            self.part(done)
            self.guard.kill([handle])  # also what a command that has ended left behind

    def revive(self) -> None:
        """Sweep what the dead guard has left behind, and start another one that knows what it knew; once."""
        if not self._lost:
            return  # another group was faster
        self._sweep()
        self._pids.clear()
        self.zygotes.clear()
        self.guard = GuardClient(launch(), self._hear)
        self._lost = False
        self._served.start(self.guard)
        self.attach()
        self._wills.tell(self.guard)
        self.guard.inherit(self._inherited)
        if self._fence_s is not None:
            self._set_fence(self._fence_s)

    async def quit(self) -> None:
        """End the guard, and with it all that is left; what a dead one has left, another one cleans up."""
        self._fences.clear()
        self._set_fence(None)
        self.revive()
        await self.guard.quit()
        self._sweep()  # nothing, unless it was killed on its way out

    def _sweep(self) -> None:
        sweep_orphans(self.guard.pid, self._pids, home=self._cgroup)
        self._cgroup = None

    def _hear(self, event: GuardEvent) -> None:
        self._served.hear(event)
        match event:
            case Fenced():
                self._fallen(event)
            case Spawned() | SpawnFailed() | Exited():
                self._keep_books(event)
                hear = self._listeners.get(event.handle)
                if hear is not None:
                    hear(event)
                if not isinstance(event, Spawned):
                    self._listeners.pop(event.handle, None)
            case Stopped():
                future = self._stops.pop(event.ticket, None)
                if future is not None and not future.done():
                    future.set_result(event.unkillable)
            case GuardLost():
                self._bereft()
            case _:  # the server's coming and going shows in the connection to it
                self._note(event)

    def _note(self, event: GuardEvent) -> None:
        if isinstance(event, GuardStarted):
            self._cgroup = event.cgroup
            self.on_news("guard_started", pid=event.pid, containment=event.containment)
        elif isinstance(event, GhostsKilled):
            self.on_news("ghosts_killed", pids=event.pids)
        elif isinstance(event, ZygoteFailed):
            self.on_news("zygote_failed", reason=event.reason)
            self.zygotes.failed(event)

    def _keep_books(self, event: Spawned | Ended) -> None:
        if isinstance(event, Spawned):
            self._pids.add(event.pid)
        elif isinstance(event, Exited):
            self._pids.discard(event.pid)  # the number may come again

    def _fallen(self, event: Fenced) -> None:
        if event.at_s == self._fence_s:  # otherwise the guard has been told of a later moment since
            self._fences.clear()
            self._set_fence(None)
        self._tell_all(event)

    def _tell_all(self, event: Fenced | BackendLost) -> None:
        for hear in list(self._members.values()):
            hear(event)

    def _bereft(self) -> None:
        for future in self._stops.values():
            future.cancel()
        self._stops.clear()
        self._listeners.clear()
        self._lost = True
        self._tell_all(BackendLost("the guard process died"))
