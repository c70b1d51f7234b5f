"""Performs what the machine says: two lanes, first in, first out, so that a stop never overtakes a start.

What takes time runs as one task a lane; what it learns is posted. Waiting that belongs to a state (a join, a backoff)
is cancelled when that state is left; the last word to the group displaces everything that still waits for the server.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import assert_never

from orchestrator.core.policies import Scope
from orchestrator.core.rendezvous import Seat
from orchestrator.core.restart import consecutive_failures, delay_s, judge
from orchestrator.core.result import Ending
from orchestrator.core.specs import GroupSpec
from orchestrator.core.words import Effect, Event, Outcome
from orchestrator.edge.backend import WorkerBackend
from orchestrator.edge.membership import Membership
from orchestrator.edge.messages import Message, Post, rendezvous_failed
from orchestrator.edge.workers import LocalWorkers
from orchestrator.errors import ExitCode, InternalError, RendezvousError

Answer = Callable[[int], Awaitable[Message]]  # to what an effect asks during a visit

WAITING: frozenset[Effect] = frozenset(
    {
        Effect.AWAIT_DEPENDENCIES,
        Effect.RUN_PREFLIGHT,
        Effect.JOIN_ROUND,
        Effect.AWAIT_SEAT,
        Effect.START_WORKERS,
        Effect.AWAIT_DECISION,
        Effect.START_BACKOFF,
        Effect.REPORT_SUCCESS,
    }
)
"""Effects that wait for something, and only as long as the state that ordered them lasts."""

WITHOUT_WORKERS: frozenset[Effect] = (WAITING | {Effect.LEAVE_RUN}) - {Effect.START_WORKERS}
"""Effects that are ordered when there are no workers."""


class Lane:
    """Orders of one kind, done one after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.orders: asyncio.Queue[tuple[Effect, int]] = asyncio.Queue()
        self.current: tuple[Effect, asyncio.Task[None]] | None = None

    def drop_all(self) -> None:
        """Forget what is queued, and cancel what is being done."""
        while not self.orders.empty():
            self.orders.get_nowait()
        if self.current is not None:
            self.current[1].cancel()


class Performer:
    """Turns effects into calls, and their ends into messages."""

    def __init__(
        self,
        group: GroupSpec,
        membership: Membership,
        workers: LocalWorkers,
        backend: WorkerBackend,
        *,
        post: Post,
        answers: Mapping[Effect, Answer],
    ) -> None:
        """``answers`` to what effects ask that neither the workers nor the group know."""
        self._group = group
        self._membership = membership
        self._workers = workers
        self._backend = backend
        self._post = post
        self._answers: dict[Effect, Answer] = {  # what is asked for, to be posted as the answer comes
            Effect.JOIN_ROUND: membership.join,
            Effect.AWAIT_SEAT: membership.stand_by,
            Effect.AWAIT_DECISION: membership.reporting.decision,
            **answers,
        }
        self._redis = Lane("redis")
        self._guard = Lane("guard")
        self._tasks: list[asyncio.Task[None]] = []
        self._reported = (0, -1)  # the round of the last report, and how severe it was
        self.visit = 0  # the current stay in a state
        self.healthy_since: float | None = None
        self.ending: Ending | None = None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Open the lanes."""
        self._tasks = [tasks.create_task(self._drain(lane), name=lane.name) for lane in (self._redis, self._guard)]

    def stop(self) -> None:
        """Close the lanes: nothing may outlive the decision that ended the run."""
        for task in self._tasks:
            task.cancel()

    def leave_state(self) -> None:
        """The machine has moved: what waited on behalf of the state that it left is over."""
        self.visit += 1
        for lane in (self._redis, self._guard):
            if lane.current is not None and lane.current[0] in WAITING:
                lane.current[1].cancel()

    def order(self, effect: Effect) -> None:
        """Have ``effect`` done: in its lane, or at once where it is only a word to the guard."""
        if effect in WITHOUT_WORKERS:
            self._membership.lease.release()
        match effect:
            case Effect.LEAVE_RUN:
                self._redis.drop_all()
                self._redis.orders.put_nowait((effect, self.visit))
            case Effect.START_WORKERS | Effect.STOP_WORKERS:
                self._guard.orders.put_nowait((effect, self.visit))
            case Effect.KILL_WORKERS:
                self._workers.kill()
            case Effect.REPLACE_WORKERS:
                self._workers.replace(self._membership.reporting.replacement)
            case Effect.REVIVE_GUARD:
                self._guard.drop_all()  # what the dead one was to do has been done, by its death
                self._backend.recover()
            case _:
                self._redis.orders.put_nowait((effect, self.visit))

    def _seat(self) -> Seat:
        if self._membership.seat is None:
            raise InternalError("workers are to start without a seat")
        return self._membership.seat

    async def _drain(self, lane: Lane) -> None:
        while True:
            effect, visit = await lane.orders.get()
            if effect in WAITING and visit != self.visit:
                continue  # the state that ordered it was left before its turn came
            task = asyncio.create_task(self._perform(effect, visit), name=effect.value)
            lane.current = (effect, task)
            try:
                await asyncio.wait([task])
            finally:
                lane.current = None
                task.cancel()
            if not task.cancelled():
                task.result()  # raises what is not a RendezvousError: our bug, which ends the agent

    async def _perform(self, effect: Effect, visit: int) -> None:
        try:
            await self._do(effect, visit)
        except RendezvousError as error:
            self._post(rendezvous_failed(error))

    async def _do(self, effect: Effect, visit: int) -> None:
        match effect:
            case (
                Effect.AWAIT_DEPENDENCIES
                | Effect.RUN_PREFLIGHT
                | Effect.JOIN_ROUND
                | Effect.AWAIT_SEAT
                | Effect.AWAIT_DECISION
            ):
                self._post(await self._answers[effect](visit))
            case Effect.START_WORKERS:
                self._membership.lease.hold()  # first, on the same wire: none may run without a fence
                await self._workers.start(self._seat())
            case Effect.STOP_WORKERS:
                await self._stop_workers()
            case Effect.REPORT_FAILURE:
                await self._report_failure()
            case Effect.REPORT_SUCCESS:
                await self._membership.reporting.success(self._workers.ignored)
            case Effect.REPORT_LEVEL:
                await self._membership.reporting.level(int(self._workers.level()))
            case Effect.START_BACKOFF:
                await self._membership.reporting.wait_backoff()
                self._post(Message(event=Event.BACKOFF_ELAPSED, visit=visit))
            case Effect.LEAVE_RUN:
                await self._leave_run()
            case Effect.KILL_WORKERS | Effect.REPLACE_WORKERS | Effect.REVIVE_GUARD:
                raise InternalError(f"{effect} belongs in no lane")
            case _:
                assert_never(effect)

    async def _leave_run(self) -> None:
        if self.ending is None:
            raise InternalError("the run is left without an ending")
        await self._membership.leave(self.ending)
        self._post(Message(event=Event.RUN_LEFT, reason=self.ending.reason))

    async def _stop_workers(self) -> None:
        about = self._membership.seat.round if self._membership.seat else None
        unkillable = await self._workers.stop()
        if not unkillable:
            self._post(Message(event=Event.WORKERS_STOPPED, round=about))
            return
        reason = f"processes {unkillable} survived SIGKILL: this node is unfit until they are gone"
        ending = Ending(outcome=Outcome.FAILED, exit_code=int(ExitCode.NODE_UNFIT), reason=reason)
        self._post(Message(event=Event.WORKERS_UNKILLABLE, reason=reason, round=about, ending=ending))

    async def _report_failure(self) -> None:
        """Report what has failed; of several, those that are judged more severely than what was reported before."""
        for failure, errno in await self._workers.failed.news():
            judgement = judge(failure, self._group.restart, spawn_errno=errno)
            if judgement.action.spares or judgement.scope is not Scope.GROUP:
                continue  # the group stops for another one's sake
            if failure.round == self._reported[0] and judgement.action.severity <= self._reported[1]:
                continue
            self._reported = (failure.round, judgement.action.severity)
            healthy_s = 0.0 if self.healthy_since is None else time.monotonic() - self.healthy_since
            backoff = judgement.backoff(self._group.restart)
            consecutive = consecutive_failures(self._seat().consecutive, healthy_s, backoff)
            wait_s = delay_s(consecutive, backoff, random.random())
            await self._membership.reporting.failure(judgement, wait_s, consecutive, failure)
