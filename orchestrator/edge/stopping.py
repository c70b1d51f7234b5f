"""Stops a round's workers by the ladder that the guard climbs, and says where those stand who do not obey.

What a stop may take is decided in `core/stopping.py`. Invariant: nothing here prolongs a stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from orchestrator.core.policies import StopPolicy
from orchestrator.core.stopping import DUMP_AT
from orchestrator.edge.backend import WorkerBackend
from orchestrator.edge.stacks import WITHIN_S, stacks_of
from orchestrator.edge.worker_files import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DUMPED_MAX = 8  # workers whose stacks are taken at once
_DUMP_PART = 0.15  # of the grace, until its end is near

Asked = Mapping[int, tuple[int, int | None]]  # pid of a worker: whom to ask for its stacks, by which signal


class Stopping:
    """The stops of one role on this node, one at a time."""

    def __init__(self, policy: StopPolicy, backend: WorkerBackend, log: Callable[..., None]) -> None:
        self._policy = policy
        self._backend = backend
        self._log = log
        self._handles: list[int] = []  # of whom is being stopped
        self._until_s: float | None = None  # of the loop's clock: nobody runs longer
        self._deadline: asyncio.TimerHandle | None = None

    def hasten(self, policy: StopPolicy) -> None:
        """Stop by ``policy`` from now on: a stop under way, and one to come, has no more than its grace, from now."""
        loop = asyncio.get_running_loop()
        if self._until_s is None:
            self._policy, self._until_s = policy, loop.time() + policy.grace_s
            if self._handles:
                self._deadline = loop.call_at(self._until_s, self._kill)

    def _grace_s(self) -> float:
        if self._until_s is None:
            return self._policy.grace_s
        return min(self._policy.grace_s, max(0.0, self._until_s - asyncio.get_running_loop().time()))

    def _kill(self) -> None:
        self._backend.kill(self._handles)

    async def stop(self, workers: Sequence[Worker], asked: Asked) -> list[int]:
        """Stop them, and whatever they left behind; returns the pids that would not die."""
        policy, grace_s = self._policy, self._grace_s()
        self._handles = [worker.handle for worker in workers]
        try:
            async with self._dumping(grace_s, workers, asked):
                return list(
                    await self._backend.stop(
                        self._handles, signum=policy.signal, grace_s=grace_s, kill_wait_s=policy.kill_wait_s
                    )
                )
        finally:
            self._handles = []
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    @asynccontextmanager
    async def _dumping(self, grace_s: float, workers: Sequence[Worker], asked: Asked) -> AsyncIterator[None]:
        """Meanwhile tell of those who take long, if that is wished."""
        if not self._policy.dump:
            yield
            return
        dump = asyncio.create_task(self._tell_stuck(grace_s, workers, asked), name="dump")
        try:
            yield
        finally:
            dump.cancel()
            await asyncio.wait([dump])
            if not dump.cancelled():
                dump.result()  # raises our bugs

    async def _tell_stuck(self, grace_s: float, workers: Sequence[Worker], asked: Asked) -> None:
        await asyncio.sleep(grace_s * DUMP_AT)
        within_s = min(WITHIN_S, grace_s * _DUMP_PART)
        stuck = [(worker, worker.pid) for worker in workers if worker.pid is not None and not worker.ended]
        stacks = await asyncio.gather(
            *(
                stacks_of(*asked.get(pid, (pid, None)), worker.stacks_file, within_s=within_s)
                for worker, pid in stuck[:DUMPED_MAX]
            )
        )
        for at, (worker, pid) in enumerate(stuck):
            place = worker.place
            self._log(
                "worker_stuck",
                rank=place.rank,
                local_rank=place.local_rank,
                pid=pid,
                reason=f"it has not ended within {grace_s * DUMP_AT:g} s of the {grace_s:g} s that it has",
                stacks=stacks[at] if at < len(stacks) else "",
            )
