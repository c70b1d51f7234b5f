"""Replaces workers within a round: what is left of the old ones is stopped, the group asked, the delay waited for.

Which failures lead here is `workers`' to say, and when it begins the machine's. Invariant: of one local rank there is
one worker that is not to be replaced, and it is never started before its predecessor's tree is gone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from orchestrator.core.charges import rule_of
from orchestrator.core.failures import Failure
from orchestrator.core.policies import RestartPolicy, Scope, StopPolicy
from orchestrator.core.rendezvous import Part, Replacement
from orchestrator.core.restart import Judgement, consecutive_failures, delay_s
from orchestrator.edge.backend import WorkerBackend
from orchestrator.edge.failed import Failed
from orchestrator.edge.messages import Post, rendezvous_failed
from orchestrator.edge.starter import Starter
from orchestrator.edge.worker_files import Worker
from orchestrator.errors import RendezvousError

Ask = Callable[[Judgement, float, Part, Failure], Awaitable[Replacement | None]]
"""Asks the group to start a part again after this delay; None: the round is over, which others tell."""


@dataclass(slots=True, eq=False)
class Exchange:
    """Some workers, and those who come in their place."""

    part: Part
    failed: Failed
    judgement: Judgement
    old: list[Worker]
    new: list[Worker]
    task: asyncio.Task[None] | None = None


class Replacing:
    """The replacements of one node. ``workers`` are all of the round, by handle; they are changed here."""

    def __init__(
        self,
        policy: RestartPolicy,
        stop: StopPolicy,
        workers: dict[int, Worker],
        *,
        backend: WorkerBackend,
        starter: Starter,
        post: Post,
        log: Callable[..., None],
        start: Callable[[Sequence[Worker]], Awaitable[None]],
        unkillable: Callable[[Failed], None],
    ) -> None:
        """``start`` starts workers, ``unkillable`` hears of a failure that concerns all, because its remains live."""
        self._policy = policy
        self._stop = stop
        self._workers = workers
        self._backend = backend
        self._starter = starter
        self._post = post
        self._log = log
        self._start = start
        self._unkillable = unkillable
        self._exchanges: list[Exchange] = []

    def plan(self, worker: Worker, failed: Failed, judgement: Judgement) -> list[Worker]:
        """Have new workers made for those that a failure concerns; returns the latter. They begin with `begin`."""
        current = [one for one in self._workers.values() if not one.replaced]
        whole = judgement.scope is Scope.NODE
        old = current if whole else [worker]
        incarnation = 1 + max(one.incarnation for one in old)
        backoff = judgement.backoff(self._policy)
        row = consecutive_failures(max(one.row for one in old), failed.failure.age_s, backoff)
        for exchange in [one for one in self._exchanges if whole]:
            self._cancel(exchange)  # it is a part of this one
        new = [self._starter.new(one.place, incarnation) for one in old]
        for one in old:
            one.replaced = True
        for one in new:
            one.row = row
            self._workers[one.handle] = one
        ranks = {one.place.local_rank for one in old}
        gone = [one for one in self._workers.values() if one.replaced and one.place.local_rank in ranks]
        part = Part(None if whole else worker.place.local_rank, incarnation)
        self._exchanges.append(Exchange(part, failed, judgement, gone, new))
        return old

    def begin(self, tasks: asyncio.TaskGroup, ask: Ask) -> None:
        """Carry out what is planned."""
        for exchange in self._exchanges:
            if exchange.task is None:
                exchange.task = tasks.create_task(self._carry_out(exchange, ask), name=f"replace {exchange.part}")

    def end(self) -> None:
        """Nothing is replaced any more: the group stops, or has lost its workers."""
        for exchange in list(self._exchanges):
            self._cancel(exchange)

    def _cancel(self, exchange: Exchange) -> None:
        self._exchanges.remove(exchange)
        if exchange.task is not None:
            exchange.task.cancel()

    async def put_down(self, worker: Worker) -> bool:
        """Stop one worker and all that it started; whether nothing of it is left."""
        return not await self._end([worker])

    async def _end(self, workers: Sequence[Worker]) -> Sequence[int]:
        stop, handles = self._stop, [worker.handle for worker in workers]
        return await self._backend.stop(handles, signum=stop.signal, grace_s=stop.grace_s, kill_wait_s=stop.kill_wait_s)

    async def _carry_out(self, exchange: Exchange, ask: Ask) -> None:
        if await self._end(exchange.old):
            self._unkillable(exchange.failed)
            return
        for worker in exchange.old:
            self._workers.pop(worker.handle, None)
        backoff = exchange.judgement.backoff(self._policy)
        wait_s = delay_s(exchange.new[0].row, backoff, random.random())
        failure = exchange.failed.failure
        try:
            reply = await ask(exchange.judgement, wait_s, exchange.part, failure)
        except RendezvousError as error:
            self._post(rendezvous_failed(error))
            return
        if reply is None:
            return
        self._tell(exchange, reply)
        await asyncio.sleep(reply.delay_ms / 1000)
        await self._start(exchange.new)
        if exchange in self._exchanges:
            self._exchanges.remove(exchange)

    def _tell(self, exchange: Exchange, reply: Replacement) -> None:
        self._log(
            "restart_decided",
            scope=exchange.judgement.scope,
            ranks=[worker.place.rank for worker in exchange.new],
            incarnation=exchange.part.incarnation,
            cause=exchange.failed.failure.to_dict(),
            charged=reply.charged,
            delay_s=reply.delay_ms / 1000,
            remaining=reply.remaining,
            rule=rule_of(reply.id),
            reason=exchange.judgement.why,
        )
