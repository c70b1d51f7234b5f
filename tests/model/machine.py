"""The walks: what agents do, what befalls them, and what befalls time and their server.

Nothing is judged here; the oracle does that at every command, and the world where everything has to come to rest.
"""

from __future__ import annotations

from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from orchestrator.core.policies import Budget, ProgressPolicy, RuleAction
from orchestrator.core.status import WishKind
from orchestrator.core.words import Outcome
from tests.model.agent import Agent, Phase
from tests.model.history import Rules
from tests.model.virtual import Fate, finish
from tests.model.world import World

DAY_MS, BOUND_MS = 86_400_000, 240_000
NAMES = st.sampled_from("abcde")
PICK = st.integers(0, 11)
SPAN = st.sampled_from([0, 10, 1000, 2000, 4000, 7000, 13_000])  # ms, in which everybody does what is due
MISHAP = st.sampled_from(["fail", "succeed", "leave", "spawn", "wish"])
DELAY = st.sampled_from([0.0, 0.5, 3.0])
HAND = st.sampled_from(["lane", "keeper"])
ACTION = st.sampled_from([RuleAction.RETRY, RuleAction.RETRY, RuleAction.RETRY_FREE, RuleAction.FATAL])
ENDS = [RuleAction.RETRY, RuleAction.RETRY_FREE, RuleAction.EXCLUDE_NODE, RuleAction.FATAL]
OWN = st.none() | st.just(0)  # the rule whose own budget is charged
RULES = [
    Rules(minimum=2, maximum=2),
    Rules(minimum=2, maximum=3, spares=1),
    Rules(minimum=1, maximum=4, budget=Budget(max=2, per_s=60)),
    Rules(minimum=3, maximum=3, spares=2, free=Budget(max=3, per_s=40)),
    Rules(minimum=2, maximum=5, free=Budget(max=4), last_call_s=0.0, scale_up_s=0.0),
    Rules(minimum=1, maximum=2, again=True, budget=Budget(max=3)),
    Rules(minimum=1, maximum=1, spares=1, budget=Budget(max=None)),
    Rules(minimum=2, maximum=3, budget=Budget(max=1), own=Budget(max=2), progress=ProgressPolicy(refill=True)),
    Rules(minimum=1, maximum=3, own=Budget(max=1, per_s=60), progress=ProgressPolicy(refill=True, max_stalled=2)),
]


class Model(RuleBasedStateMachine):
    """One run, and what happens to it."""

    url: ClassVar[str]
    world: World

    @initialize(
        rules=st.sampled_from(RULES), pace_ms=st.sampled_from([0, 1, 40]), names=st.integers(2, 5), span_ms=SPAN
    )
    def begin(self, rules: Rules, pace_ms: int, names: int, span_ms: int) -> None:
        self.world = World(self.url, rules, pace_ms=pace_ms)
        for name in "abcde"[:names]:
            self.world.spawn(name)
        self.world.run(span_ms)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if not self.world.oracle.broken:
                self.world.come_to_rest(BOUND_MS)
        finally:
            self.world.close()

    def few(self) -> bool:
        """Whether one less would be too few for a round, most of the time."""
        alive = {agent.name for agent in self.world.agents if agent.awake}
        return len(alive) <= max(2, self.world.rules.minimum) and self.world.commands % 8 > 0

    def early(self) -> bool:
        """Whether the walk would end too early if the run did."""
        return len(self.world.oracle.book) < 5

    def some(self, pick: int, *phases: Phase) -> Agent | None:
        """One of those that are awake, if there is any; something is about to befall it, and a replica may not hear."""
        if self.world.commands % 3 == 0:
            self.world.remember()
        found = [agent for agent in self.world.agents if agent.awake and (not phases or agent.phase in phases)]
        return found[pick % len(found)] if found else None

    # -- what agents do by themselves

    @rule(name=NAMES, nproc=st.integers(1, 3), hint=st.none() | st.integers(0, 3), listens=st.booleans(), span_ms=SPAN)
    def spawn(self, name: str, nproc: int, hint: int | None, listens: bool, span_ms: int) -> None:
        if len(self.world.agents) < 7:
            self.world.spawn(name, nproc, hint, listens=listens)
        self.world.run(span_ms)

    @rule(span_ms=SPAN)
    def go_on(self, span_ms: int) -> None:
        self.world.run(span_ms)

    @rule(pick=PICK, hand=HAND)
    def turn(self, pick: int, hand: str) -> None:
        if (agent := self.some(pick)) is not None:
            self.world.turn(agent, hand)

    @rule(pick=PICK, hand=HAND, fate=st.sampled_from([None, *Fate]))
    def one_command(self, pick: int, hand: str, fate: Fate | None) -> None:
        if (agent := self.some(pick)) is not None:
            self.world.advance(agent, hand, fate)

    @rule()
    def rest(self) -> None:
        self.world.come_to_rest(BOUND_MS)

    # -- what befalls agents

    @rule(
        pick=PICK,
        actions=st.tuples(ACTION, st.none() | ACTION),
        own=OWN,
        delay_s=DELAY,
        at_once=st.booleans(),
        span_ms=SPAN,
    )
    def fail(
        self,
        pick: int,
        actions: tuple[RuleAction, RuleAction | None],
        own: int | None,
        *,
        delay_s: float,
        at_once: bool,
        span_ms: int,
    ) -> None:
        if (agent := self.some(pick, Phase.RUNNING)) is not None:
            first, then = actions
            if first is RuleAction.FATAL and self.early():
                first = RuleAction.RETRY
            agent.fail(first, then, delay_s, own)
            if at_once:
                self.world.turn(agent, "lane")
        self.world.run(span_ms)

    @rule(pick=PICK, action=st.sampled_from(ENDS[:2]), own=OWN, at_once=st.booleans(), span_ms=SPAN)
    def fail_in_part(self, pick: int, action: RuleAction, own: int | None, *, at_once: bool, span_ms: int) -> None:
        if (agent := self.some(pick, Phase.RUNNING)) is not None:
            agent.fail_in_part(action, own)
            if at_once:
                self.world.turn(agent, "lane")
        self.world.run(span_ms)

    @rule(pick=PICK, steps=st.integers(1, 3))
    def get_on(self, pick: int, steps: int) -> None:
        if (agent := self.some(pick, Phase.RUNNING)) is not None:
            agent.memory.got_to(agent.claim.step + steps)

    @rule(actions=st.lists(st.sampled_from(ENDS), min_size=5, max_size=5), span_ms=SPAN)
    def fail_together(self, actions: list[RuleAction], span_ms: int) -> None:
        for agent, action in zip(list(self.world.agents), actions, strict=False):
            spares = action is RuleAction.EXCLUDE_NODE and self.few()
            ends = action is RuleAction.FATAL and self.early()
            if agent.awake and agent.phase is Phase.RUNNING and not (ends or spares):
                agent.fail(action, None, 1.0)
        self.world.run(span_ms)

    @rule(pick=PICK, at_once=st.booleans(), span_ms=SPAN)
    def succeed(self, pick: int, at_once: bool, span_ms: int) -> None:
        if (agent := self.some(pick, Phase.RUNNING)) is not None:
            agent.succeed()
            if at_once:
                self.world.turn(agent, "lane")
        self.world.run(span_ms)

    @rule(pick=PICK, after_s=st.sampled_from([0.5, 5.0, 30.0]), span_ms=SPAN)
    def be_slow(self, pick: int, after_s: float, span_ms: int) -> None:
        """A member goes on renewing, but its workers take their time to stop."""
        if (agent := self.some(pick, Phase.RUNNING, Phase.FINISHING)) is not None:
            agent.stops_in_s = after_s
        self.world.run(span_ms)

    @rule(pick=PICK, span_ms=SPAN)
    def leave(self, pick: int, span_ms: int) -> None:
        if not self.few() and (agent := self.some(pick)) is not None:
            agent.leave("pre-empted")
        self.world.run(span_ms)

    @rule(pick=PICK, will=st.booleans(), span_ms=SPAN)
    def die(self, pick: int, will: bool, span_ms: int) -> None:
        if not self.few() and (agent := self.some(pick)) is not None:
            self.world.bury(agent, will=will)
        self.world.run(span_ms)

    @rule(pick=PICK, span_ms=SPAN)
    def die_and_come_back(self, pick: int, span_ms: int) -> None:
        if (agent := self.some(pick)) is not None:
            self.world.bury(agent, will=False)
            self.world.spawn(agent.name)
        self.world.run(span_ms)

    @rule(pick=PICK, span_ms=SPAN)
    def sleep(self, pick: int, span_ms: int) -> None:
        if not self.few() and (agent := self.some(pick)) is not None:
            agent.awake = False
        self.world.run(span_ms)

    @rule(pick=PICK, span_ms=SPAN)
    def wake(self, pick: int, span_ms: int) -> None:
        for agent in [one for one in self.world.agents if not one.awake][pick % 3 :]:
            agent.awake = True
        self.world.run(span_ms)

    @precondition(lambda self: not self.early())
    @rule(pick=PICK, span_ms=SPAN)
    def close(self, pick: int, span_ms: int) -> None:
        if (agent := self.some(pick)) is not None:
            closed = finish(agent.store.close(agent.claim, Outcome.STOPPED, 143, f"closed by {agent.nonce}", None))
            self.world.hearsay.told(agent, closed, self.world.now)
            agent.leave("stopped")
            self.world.tell()
        self.world.run(span_ms)

    @precondition(lambda self: self.world.now.state == "closed")
    @rule(name=NAMES, span_ms=SPAN)
    def come_and_reopen(self, name: str, span_ms: int) -> None:
        self.world.turn(self.world.spawn(name, reopens=True), "lane")
        self.world.run(span_ms)

    @precondition(lambda self: self.world.agents)
    @rule(
        kind=st.sampled_from([WishKind.RESTART, WishKind.DRAIN, WishKind.RESTART, WishKind.STOP]),
        name=NAMES,
        span_ms=SPAN,
    )
    def wish(self, kind: WishKind, name: str, span_ms: int) -> None:
        if kind is WishKind.STOP and self.early():
            return
        if self.world.published():
            finish(self.world.control().wish(kind, name if kind is WishKind.DRAIN else ""))
            self.world.tell()
        self.world.run(span_ms)

    # -- what befalls time and the server

    @rule(span_ms=st.sampled_from([1, 999, 2000, 3900, 4100, 5999, 6001, 12_001, DAY_MS]))
    def silence(self, span_ms: int) -> None:
        self.world.true_ms += span_ms

    @rule(by_ms=st.sampled_from([-DAY_MS, -3000, -1, 1000, 3000, 5000, DAY_MS]), span_ms=SPAN)
    def set_clock(self, by_ms: int, span_ms: int) -> None:
        self.world.offset_ms += by_ms
        self.world.hearsay.clock_set = True
        if by_ms > 0:
            self.world.oracle.history.clock_set = True
        self.world.run(span_ms)

    @rule(newcomer=st.none() | NAMES, span_ms=SPAN)
    def forget(self, newcomer: str | None, span_ms: int) -> None:
        if newcomer is not None and len(self.world.agents) < 7:
            self.world.spawn(newcomer)
        self.world.forget()
        self.world.run(span_ms)

    @rule(pick=PICK, what=MISHAP, spans_ms=st.tuples(SPAN, SPAN), rests=st.booleans())
    def fall_behind(self, pick: int, what: str, spans_ms: tuple[int, int], *, rests: bool) -> None:
        """A replica takes over that has not heard of the last that happened."""
        self.world.remember()
        agent = self.some(pick, Phase.RUNNING)
        match what:
            case "fail" if agent is not None:
                agent.fail(RuleAction.RETRY, None, 0.5)
            case "succeed" if agent is not None:
                agent.succeed()
            case "leave" if agent is not None and not self.few():
                agent.leave("pre-empted")
            case "spawn" if len(self.world.agents) < 7:
                self.world.spawn("abcde"[pick % 5])
            case "wish" if self.world.published():
                finish(self.world.control().wish(WishKind.RESTART))
        self.world.run(spans_ms[0])
        self.world.go_back()
        self.world.run(spans_ms[1])
        if rests:
            self.world.come_to_rest(BOUND_MS)

    @rule(newcomers=st.integers(0, 3), spans_ms=st.tuples(SPAN, SPAN))
    def go_on_apart(self, newcomers: int, spans_ms: tuple[int, int]) -> None:
        """Half of all agents are cut off while a server that has forgotten everything serves the others."""
        cut_off = [agent for agent in self.world.agents[::2] if agent.awake]
        for agent in cut_off:
            agent.awake = False
        self.world.forget()
        for name in "edc"[:newcomers]:
            if len(self.world.agents) < 7:
                self.world.spawn(name)
        self.world.run(spans_ms[0])
        for agent in cut_off:
            agent.awake = True
        self.world.run(spans_ms[1])

    @rule(span_ms=SPAN)
    def remember(self, span_ms: int) -> None:
        self.world.remember()
        self.world.run(span_ms)

    @precondition(lambda self: self.world.snapshot is not None)
    @rule(span_ms=SPAN)
    def go_back(self, span_ms: int) -> None:
        self.world.go_back()
        self.world.run(span_ms)
