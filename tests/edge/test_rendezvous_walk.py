"""Random walks of up to four agents over a real server: whatever they do, the group's promises hold."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from orchestrator.core.rendezvous import Claim, Closed, Restart, Seat, Standing
from orchestrator.core.specs import Budget, RuleAction
from orchestrator.core.words import Outcome
from tests.edge.servers import PATIENCE_S, RESTART, Member, Server, World, binary_of, failure

NAMES = st.sampled_from("abcd")
BUDGET, MIN, MAX = 2, 2, 3


class Walk(RuleBasedStateMachine):
    """One run. Time never passes within a step, so nothing lapses: last calls end by asking."""

    server: ClassVar[Server]
    runner: ClassVar[asyncio.Runner]

    def __init__(self) -> None:
        super().__init__()
        self.stack = AsyncExitStack()
        self.run = World(self.server, self.stack)
        self.members: dict[str, Member] = {}
        self.seats: dict[int, dict[int, Seat]] = {}  # round -> slot -> seat
        self.newest: dict[str, int] = {}
        self.charges: dict[int, Restart] = {}  # round -> the charged decision that ended it
        self.closed: Closed | None = None
        self.connection = self.run.connection()
        self.runner.run(self.connection.open(PATIENCE_S))
        self.others = [self.runner.run(self.make(name)) for name in "abcd"]

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())

    async def make(self, name: str) -> Member:
        member = await self.run.member(
            name,
            (MIN, MAX),
            connection=self.connection,
            restart=replace(RESTART, budget=Budget(max=BUDGET)),
            last_call_s=0.0,
            lease_s=60,
            scale_up_s=0.0,
            nonce=secrets.token_hex(4),
        )
        self.members[name] = member
        return member

    def learn(self, member: Member, reply: object) -> None:
        """What a reply says must fit all that was said before."""
        if self.closed is not None:
            assert reply == self.closed
        if isinstance(reply, Closed):
            self.closed = reply
        elif isinstance(reply, Seat):
            assert reply.round >= self.newest.get(member.node, 0), "rounds only grow"
            self.newest[member.node] = reply.round
            known = self.seats.setdefault(reply.round, {}).setdefault(reply.slot, reply)
            assert known == reply, "a slot is one member's"
        elif isinstance(reply, Restart) and reply.charged:
            known_charge = self.charges.setdefault(reply.round, reply)
            assert known_charge.remaining == reply.remaining, "one charge a round"

    def do(self, name: str, what: str, *args: object) -> None:
        member = self.members[name]
        if what in ("join", "ask"):
            reply = self.runner.run(getattr(member, what)())
        else:
            reply = self.runner.run(getattr(member.store, what)(member.claim, *args))
        self.learn(member, reply)

    @rule(name=NAMES)
    def join(self, name: str) -> None:
        self.do(name, "join")

    @rule(names=st.permutations("abcd"), some=st.integers(MIN, 4))
    def meet(self, names: list[str], some: int) -> None:
        """Some join, unless they sit in a round that stands, and learn what came of it."""
        for name in names[:some]:
            member = self.members[name]
            verdict = self.runner.run(member.store.verdict(member.claim))
            self.learn(member, verdict)
            if not isinstance(verdict, Standing):
                self.do(name, "join")
        for name in names[:some]:
            self.ask(name)

    @rule(action=st.sampled_from(RuleAction))
    def all_fail(self, action: RuleAction) -> None:
        for name in self.members:
            self.fail(name, action, twice=False)

    @rule()
    def all_renew(self) -> None:
        for name in self.members:
            self.do(name, "renew")

    @rule(name=NAMES)
    def ask(self, name: str) -> None:
        member = self.members[name]
        if member.store._bid is not None:
            self.do(name, "ask")

    @rule(name=NAMES, action=st.sampled_from(RuleAction), twice=st.booleans())
    def fail(self, name: str, action: RuleAction, twice: bool) -> None:
        if action is RuleAction.FATAL and len(self.charges) < 2:
            action = RuleAction.RETRY  # otherwise most walks would end at their first failure
        for _ in range(1 + twice):
            self.do(name, "fail", action, 0.0, 1, failure(name))

    @rule(name=NAMES)
    def done(self, name: str) -> None:
        self.do(name, "done")

    @rule(name=NAMES)
    def verdict(self, name: str) -> None:
        self.do(name, "verdict")

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        self.runner.run(self.members[name].store.leave(self.members[name].claim, "walks away"))

    @rule(name=NAMES)
    def die_and_come_back(self, name: str) -> None:
        """The agent's guard says that it has died; another process takes over the name and knows nothing."""
        self.leave(name)
        self.runner.run(self.make(name))
        assert self.members[name].claim == Claim()

    @precondition(lambda self: len(self.seats) > 3)
    @rule(name=NAMES)
    def close(self, name: str) -> None:
        self.do(name, "close", Outcome.STOPPED, 143, f"closed by {name}", None)

    @invariant()
    def promises_hold(self) -> None:
        tokens = [next(iter(seats.values())).token for _, seats in sorted(self.seats.items())]
        assert tokens == sorted(set(tokens)), "tokens are unique and grow"
        for seats in self.seats.values():
            assert len({(s.token, s.size, s.members_hash, s.world_size, s.master_addr) for s in seats.values()}) == 1
            assert all(0 <= slot < seat.size for slot, seat in seats.items())
            assert MIN <= next(iter(seats.values())).size <= MAX
            assert sorted(seat.base_rank for seat in seats.values()) == sorted(seats), "ranks follow slots"
        assert len(self.charges) <= BUDGET
        charged = [next(iter(seats.values())).charged for _, seats in sorted(self.seats.items())]
        assert charged == sorted(charged)
        assert max(charged, default=0) <= BUDGET


@pytest.fixture(params=["valkey"])
def walked(request: pytest.FixtureRequest) -> Iterator[type[Walk]]:
    running = Server(binary_of(request.param))
    running.start()
    with asyncio.Runner() as runner:
        yield type("WalkHere", (Walk,), {"server": running, "runner": runner})
    running.stop()


def test_promises_hold_on_every_walk(walked: type[Walk]) -> None:
    run_state_machine_as_test(
        walked,
        settings=settings(
            max_examples=120,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
