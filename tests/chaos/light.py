"""Light agents: all that an agent is towards its group, over real connections, without a machine, a guard and workers.

They keep their lease, listen, and join again when their round is over, as the agent does. Invariant: what they were
told is kept, and `agreement` judges it afterwards.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from orchestrator.core.policies import StopPolicy
from orchestrator.core.rendezvous import Seat
from orchestrator.core.result import Ending
from orchestrator.core.specs import GroupSpec, JobSpec, LogsKind, LogsSpec, NodeSpec, WorkerSpec
from orchestrator.core.words import Event, Outcome
from orchestrator.edge.membership import Membership
from orchestrator.edge.messages import Message
from orchestrator.edge.redis.connection import Connection
from orchestrator.edge.redis.group import GroupStore
from orchestrator.errors import RendezvousError
from tests.edge.servers import RENDEZVOUS, RESTART, World, eventually

OVER = frozenset({Event.ROUND_SUPERSEDED, Event.ROUND_REPEATED, Event.PEER_FAILED, Event.LEASE_LOST})


class LightAgent:
    """One agent. `live` is its life; what it has come to is in ``seats``, ``ending`` and ``refusal``."""

    def __init__(self, job: JobSpec, connection: Connection, store: GroupStore) -> None:
        self.name = job.node.name
        self.connection, self.store = connection, store
        self.membership = Membership(job, job.groups[0], connection, store, post=self.hear, log=lambda *_, **__: None)
        self.seats: list[Seat] = []
        self.ending: Ending | None = None
        self.refusal = ""
        self._over = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._joining: asyncio.Task[Message] | None = None

    @property
    def seat(self) -> Seat | None:
        """Its seat in a round that stands, as far as it knows."""
        return self.seats[-1] if self.seats and not self._over.is_set() and self.ending is None else None

    @property
    def ended(self) -> bool:
        """Whether it takes part no more."""
        return self._life is not None and self._life.done()

    def begin(self) -> None:
        """Take part from now on."""
        self._life = asyncio.create_task(self._live(), name=self.name)

    def again(self) -> None:
        """Join the next round: ours is over, as we know ourselves."""
        self._over.set()

    async def die(self) -> None:
        """Be gone without a word."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])
        await self.connection.close()
        self.membership._joining.close()  # the kernel does this for a process: the port that was offered is free again

    async def leave(self) -> None:
        """Go, and say so."""
        await self.membership.leave(Ending(outcome=Outcome.STOPPED, exit_code=0, reason="it walks away"))
        await self.die()

    def hear(self, message: Message) -> None:
        """What the membership posts: in an agent, this would move the machine."""
        if message.event in OVER:
            if self.seats and message.round in (None, self.seats[-1].round):
                self._over.set()
        elif message.event is Event.RUN_CLOSED:
            self.ending = message.ending
            self._over.set()
            if self._joining is not None:
                self._joining.cancel()  # as the agent does on leaving RENDEZVOUS
        elif message.event is Event.RENDEZVOUS_FAILED:
            self.refusal = message.reason
            self._over.set()

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self.membership.attach(tasks)
            while self.ending is None and not self.refusal:
                await self._join()
                await self._over.wait()
            self.membership.unwatch()

    async def _seat(self) -> Message:
        message = await self.membership.join(0)
        return await self.membership.stand_by(0) if message.event is Event.STOOD_BY else message

    async def _join(self) -> None:
        self._joining = asyncio.create_task(self._seat())
        try:
            await asyncio.wait([self._joining])
        finally:
            self._joining.cancel()
        if self._joining.cancelled():
            return
        try:
            message = self._joining.result()
        except RendezvousError as error:
            self.refusal = str(error)
            self._over.set()
            return
        if message.seat is None:
            self.hear(message)
        else:
            self.seats.append(message.seat)
            self._over.clear()


class Crowd:
    """The light agents of one run; all of them are ended with it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.agents: list[LightAgent] = []

    async def agent(
        self,
        name: str,
        nodes: tuple[int, int],
        *,
        url: str | None = None,
        **durations: float,
    ) -> LightAgent:
        """A new agent that has not joined yet; ``url``, if it shall not go to the server straight away."""
        connection = self.world.connection(url)
        member = await self.world.member(
            name,
            nodes,
            connection=connection,
            **durations,  # type: ignore[arg-type]  # only the durations are varied
        )
        job = JobSpec(
            run_id=self.world.run_id,
            run_dir="",
            node=NodeSpec(name=name, addr="127.0.0.1"),
            groups=(_group(nodes),),
            rendezvous=replace(RENDEZVOUS, join_timeout_s=60, **durations),  # type: ignore[arg-type]  # only the durations are varied
            stop=StopPolicy(signal=15, grace_s=0, kill_wait_s=0),
            logs=LogsSpec(kind=LogsKind.INHERIT, dir="", prefix=""),
        )
        self.agents.append(LightAgent(job, connection, member.store))
        return self.agents[-1]

    async def close(self) -> None:
        await asyncio.gather(*(agent.die() for agent in self.agents))


def _group(nodes: tuple[int, int]) -> GroupSpec:
    worker = WorkerSpec(cmd=(), nproc=1)
    return GroupSpec(role="r", min_nodes=nodes[0], max_nodes=nodes[1], worker=worker, restart=RESTART)


@asynccontextmanager
async def crowd(world: World) -> AsyncIterator[Crowd]:
    """Light agents of a run, that are gone at the end, and agreed with each other all the time."""
    made = Crowd(world)
    try:
        yield made
    finally:
        await made.close()
    found = list(agreement(made.agents))
    assert not found, "\n".join(found)


async def when(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    await eventually(lambda: asyncio.sleep(0, condition()), bool, pause_s=0.005)


async def together(agents: Sequence[LightAgent]) -> int:
    """Wait until these agents, and nobody else, sit in one round that stands; returns it."""
    rounds: set[int] = set()

    def one_round() -> bool:
        for agent in agents:
            assert not agent.ended, f"{agent.name} has ended: {agent.refusal or agent.ending}"
        seats = [agent.seat for agent in agents if agent.seat is not None and agent.seat.size == len(agents)]
        rounds.clear()
        rounds.update(seat.round for seat in seats)
        return len(seats) == len(agents) and len(rounds) == 1

    await when(one_round)
    return rounds.pop()


def agreement(agents: Iterable[LightAgent]) -> list[str]:
    """What does not fit in what the agents were told."""
    found = []
    rounds: defaultdict[int, dict[str, Seat]] = defaultdict(dict)
    for agent in agents:
        numbers = [seat.round for seat in agent.seats]
        if numbers != sorted(set(numbers)):
            found.append(f"rounds only grow: {agent.name} was in {numbers}")
        for seat in agent.seats:
            rounds[seat.round][f"{agent.name}/{id(agent):x}"] = seat
    for number, seats in sorted(rounds.items()):
        if len({replace(seat, slot=0, base_rank=0) for seat in seats.values()}) > 1:
            found.append(f"members agree: round {number}: {seats}")
        slots = sorted(seat.slot for seat in seats.values())
        if slots != sorted(set(slots)) or slots[-1] >= next(iter(seats.values())).size:
            found.append(f"ranks are unique and contiguous: round {number}: {slots}")
        if any(seat.base_rank != seat.slot for seat in seats.values()):  # one worker each
            found.append(f"ranks follow the nodes' order: round {number}: {seats}")
    tokens = [next(iter(seats.values())).token for _, seats in sorted(rounds.items())]
    if tokens != sorted(set(tokens)):
        found.append(f"tokens only grow: {tokens}")
    return found
