"""The agent of one group: one inbox, one consumer. It moves the machine by what is posted, and has effects performed.

What is the node's, and what several groups have in common, is `agent`'s. Whatever is learnt anywhere comes back as a
message; nothing else moves the machine.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.core.machine import Facts, GroupMachine
from orchestrator.core.rendezvous import Seat
from orchestrator.core.result import Ending, RunResult
from orchestrator.core.snapshot import Snapshot, in_round
from orchestrator.core.specs import GroupSpec, JobSpec
from orchestrator.core.stopping import in_time
from orchestrator.core.table import build
from orchestrator.core.words import FINAL, Effect, Event, Outcome, State
from orchestrator.edge.backend import BackendEvent, BackendLost, Fenced, WorkerBackend
from orchestrator.edge.effects import WAITING, Answer, Performer
from orchestrator.edge.journal import Journal
from orchestrator.edge.membership import Membership
from orchestrator.edge.messages import Message
from orchestrator.edge.processes import Processes
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.group import GroupStore
from orchestrator.edge.tail import Tailer
from orchestrator.edge.watchdog import Watchdog
from orchestrator.edge.workers import LocalWorkers
from orchestrator.errors import InternalError

if TYPE_CHECKING:
    from orchestrator.edge.company import Company
    from orchestrator.edge.learner import Learner


class GroupAgent:
    """One node's part in one group of one run."""

    def __init__(
        self,
        job: JobSpec,
        group: GroupSpec,
        *,
        backend: WorkerBackend,
        processes: Processes,
        connection: Connection,
        store: GroupStore,
        journal: Journal,
        tailer: Tailer | None = None,
        company: Company | None = None,
    ) -> None:
        """``processes`` run the commands of probes and preflight; ``company`` is there if the run has several roles."""
        self._job, self.spec = job, group
        self._machine = GroupMachine(build(group, preempt=bool(job.stop.preempt)))
        self._journal = journal
        self._processes = processes
        self._company = company
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._backend = backend
        self._membership = Membership(job, group, connection, store, post=self.post, log=self.log, fence=backend.fence)
        self.watchdog = Watchdog(group.watchdog, self.log, self._membership.got_to)
        self._workers = LocalWorkers(
            job,
            group,
            backend=backend,
            processes=processes,
            tailer=tailer,
            watchdog=self.watchdog,
            store=connection.address.url,
            post=self.post,
            log=self.log,
        )
        self._learner = self._make_learner(connection)
        answers = self._make_answers(processes, connection)
        if company is not None:
            company.join(group.role, self._inbox.put_nowait, store, lambda: self._membership.claim)
            answers[Effect.AWAIT_DEPENDENCIES] = partial(company.dependencies, group)
        self._performer = Performer(group, self._membership, self._workers, backend, post=self.post, answers=answers)
        backend.attach(self._hear)
        self._round = 0  # the round that we are in; 0 while we are joining one
        self._rounds = 0
        self._entered = time.monotonic()
        self._started = self._since = time.time()  # for people
        self._spent: defaultdict[State, float] = defaultdict(float)
        self._ending: Ending | None = None
        self.closed = False  # whether the group has ended with us
        self.stale = 0  # messages that came too late to matter

    def _make_learner(self, connection: Connection) -> Learner | None:
        if self.watchdog.learning is None:
            return None
        from orchestrator.edge.learner import Learner  # noqa: PLC0415 - few jobs want it

        learner = Learner(self.watchdog.learning, self._membership.share_gaps, connection, self.log)
        self.watchdog.on_turn = learner.turn
        return learner

    def _make_answers(self, processes: Processes, connection: Connection) -> dict[Effect, Answer]:
        if self.spec.preflight is None:
            return {}
        from orchestrator.edge.preflight import Preflight  # noqa: PLC0415 - few jobs want it

        look = Preflight(self._job, self.role, self.spec.preflight, processes, connection, log=self.log)
        return {Effect.RUN_PREFLIGHT: look.run}

    @property
    def state(self) -> State:
        """Where the group is, as this agent sees it."""
        return self._machine.state

    @property
    def role(self) -> str:
        """The group's name."""
        return self.spec.role

    @property
    def alone(self) -> bool:
        """Whether no other node had a part in the newest round that we were in."""
        seat = self._membership.seat
        return self.spec.max_nodes == 1 or (seat is not None and seat.size == 1)

    def post(self, message: Message) -> None:
        """Put a message into the inbox, unless other roles have to end first; from the event loop's thread only."""
        if self._company is None or not self._company.holds(self.spec, message):
            self._inbox.put_nowait(message)

    def log(self, event: str, **fields: object) -> None:
        """Write a line to the journal, stamped with the group and the round."""
        self._journal.write(event, round=self._round, group=self.spec.role, **fields)

    def lose_server(self, reason: str) -> None:
        """The embedded server does not run."""
        self._membership.lose_server(reason)

    def _hear(self, event: BackendEvent) -> None:
        match event:
            case Fenced():
                self._membership.lease.fenced(event.at_s)
            case BackendLost():
                self.post(Message(event=Event.GUARD_LOST, reason=event.reason))
            case _:
                self._workers.hear(event)

    def request_stop(self, message: Message, signum: int) -> None:
        """A signal to the agent ends our part in the group."""
        if self._machine.state not in FINAL:
            ladder = in_time(self._job.stop, signum)
            if ladder is not self._job.stop:
                self._workers.stopping.hasten(ladder)
            self.log("stop_requested", signal=signum, reason=message.reason)
            self.post(message)

    def forward(self, signum: int) -> None:
        """Pass a signal on to the workers as it is."""
        self._workers.forward(signum)

    async def run(self) -> None:
        """Take part until the group's run, or our part in it, ends. Raises for our own bugs only, as a group."""
        self.watchdog.open(self._job.run_dir)
        if self.watchdog.path is not None:
            self._processes.inherit(self.watchdog.path)
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = [tasks.create_task(self.watchdog.run(), name="watchdog")]
                if self._learner is not None:
                    watching.append(tasks.create_task(self._learner.run(), name="learner"))
                await self._consume(tasks)
                for task in watching:
                    task.cancel()
        finally:
            self.watchdog.close()  # first: a bug of ours may show once more in what follows
            await self._workers.end()
            self._membership.close()
            await self._backend.close()

    async def fail(self, ending: Ending) -> None:
        """End because of a bug, of which the group shall hear."""
        if self._machine.state in FINAL:
            return
        self._ending = ending
        self._workers.kill()  # before the others may start in their place
        await self._membership.leave(ending)

    async def _consume(self, tasks: asyncio.TaskGroup) -> None:
        self._performer.start(tasks)
        self._membership.attach(tasks)
        self._workers.attach(tasks)
        self.post(Message(event=Event.AGENT_STARTED))
        while self._machine.state not in FINAL:
            message = await self._inbox.get()
            if self._is_stale(message):
                self.stale += 1
            else:
                self._take(message)
        self._performer.stop()
        self._membership.unwatch()

    def _is_stale(self, message: Message) -> bool:
        """About a round that we have left, or done for a state that we have left."""
        other_round = message.round is not None and message.round != self._round
        return other_round or (message.visit is not None and message.visit != self._performer.visit)

    def _take(self, message: Message) -> None:
        if message.ending is not None and (self._ending is None or message.event is Event.WORKERS_UNKILLABLE):
            self._ending = self._performer.ending = message.ending
            self.closed = message.event is Event.RUN_CLOSED or message.ending.declares
        if message.event is Event.GUARD_LOST:
            self._workers.lost()
        before = self._machine.state
        outcome = self._ending.outcome if self._ending else None
        step = self._machine.step(message.event, Facts(reason=message.reason, outcome=outcome))
        after = step.row.target
        if message.event is Event.LEASE_LOST and (after is not before or step.effects):  # it is heard more than once
            self.log("lease_lost", reason=message.reason)
        if after is not before or WAITING.intersection(step.effects):
            self._move(before, after)
        if message.seat is not None:
            self._sit_down(message.seat)
        if after is not before or step.effects:  # what changes nothing is no news
            self.log("transition", **{"from": before, "to": after, "on": message.event, "reason": step.reason})
        for effect in step.effects:
            self._performer.order(effect)

    def _move(self, before: State, after: State) -> None:
        now = time.monotonic()
        self._spent[before] += now - self._entered
        self._entered, self._since = now, time.time()
        self._performer.leave_state()
        if after is State.HEALTHY:
            self._performer.healthy_since = now
        elif after in (State.WAITING, State.PREFLIGHT, State.RENDEZVOUS):
            self._round, self._performer.healthy_since = 0, None

    def _sit_down(self, seat: Seat) -> None:
        self._round = seat.round
        self._rounds += 1
        if self._learner is not None:
            self._learner.ask()
        self.log(
            "round_settled",
            world_size=seat.world_size,
            nodes=seat.size,
            group_rank=seat.slot,
            base_rank=seat.base_rank,
            charged=seat.charged,
            why=seat.why,
        )

    def snapshot(self) -> Snapshot:
        """What this agent is doing now, for whoever asks for its health."""
        group, state, seat = self.spec, self._machine.state, self._membership.seat
        seat = seat if in_round(state) else None
        failures = self._workers.failed.all
        return Snapshot(
            run_id=self._job.run_id,
            group=group.role,
            node=self._job.node.name,
            started=self._started,
            since=self._since,
            state=state,
            round=self._round,
            rounds=self._rounds,
            nodes=seat.size if seat else None,
            group_rank=seat.slot if seat else None,
            world_size=seat.world_size if seat else None,
            workers=self._workers.views(),
            charged=self._membership.charged,
            remaining=self._membership.remaining(group.restart.budget),
            failures=self._workers.failed.count,
            last_failure=failures[-1] if failures else None,
            lease_lag_s=self._membership.lease.lag_s,
            journal_dropped=self._journal.dropped,
        )

    def result(self) -> RunResult:
        """How the run ended, once `run` is over, by whatever."""
        ending = self._ending
        if ending is None:
            raise InternalError("the run ended without an ending")
        failed = ending.outcome is Outcome.FAILED
        return RunResult(
            state=self._machine.state if self._machine.state in FINAL else State.FAILED,
            exit_code=ending.exit_code,
            reason=ending.reason,
            rounds=self._rounds,
            restarts=self._membership.charged,
            # What the whole group holds to be the cause; our own first failure only where it has said nothing.
            root_cause=(ending.cause or self._workers.failed.first) if failed else None,
            failures=self._workers.failed.all,
            results=self._workers.results(),
            timings={
                "total_s": sum(self._spent.values()),
                **{f"{name.lower()}_s": t for name, t in self._spent.items()},
            },
        )
