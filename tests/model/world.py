"""A run on a real server: its agents, true time and the server's clock, and what can befall the server.

Time is virtual and moves only here. Agents' clocks are true; the server's is off by what it was set to.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from inspect import CORO_CREATED, getcoroutinestate

from orchestrator.core.policies import Backoff, RestartKind, RestartPolicy, Rule, RuleAction
from orchestrator.core.publication import Publication
from orchestrator.core.rendezvous import Bid, Claim
from orchestrator.edge.redis.control import RunControl
from orchestrator.edge.redis.group import GroupStore
from orchestrator.edge.redis.scripts import group_keys
from tests.edge.servers import RENDEZVOUS
from tests.model.agent import Agent, Phase
from tests.model.hearsay import Hearsay
from tests.model.history import Command, History, Rules
from tests.model.oracle import Oracle
from tests.model.seen import PEEK, Seen, seen
from tests.model.virtual import Fate, VirtualConnection, finish

EPOCH_MS = 1_900_000_000_000  # on the server's clock when the world begins
BUSY = 3000  # commands within one stretch of time that would show a loop


@dataclass(frozen=True)
class Snapshot:
    """What the server had stored at some moment, and what was true of that."""

    values: tuple[tuple[str, bytes], ...]
    history: History


class World:
    """One run."""

    def __init__(self, url: str, rules: Rules, *, pace_ms: int = 1) -> None:
        self.rules = rules
        self.oracle = Oracle(rules)
        self.hearsay = Hearsay(self.oracle)
        self.run_id = f"run-{secrets.token_hex(4)}"
        self.keys = group_keys(self.run_id, "r")
        self.connection = VirtualConnection(url, lambda: self.server_ms, self._executed)
        self.agents: list[Agent] = []
        self.true_ms = 0
        self.offset_ms = EPOCH_MS
        self.pace_ms = pace_ms  # what a command takes
        self.snapshot: Snapshot | None = None
        self.commands = 0
        self.now = self._peek()
        self._serial = 0

    @property
    def server_ms(self) -> int:
        return self.true_ms + self.offset_ms

    def close(self) -> None:
        for agent in self.agents:
            agent.stop()
        self.connection.ask("DEL", *self.keys)
        self.connection.disconnect()

    # -- agents

    def spawn(
        self, name: str, nproc: int = 1, hint: int | None = None, *, listens: bool = True, reopens: bool = False
    ) -> Agent:
        """A new process."""
        self._serial += 1
        nonce = f"{name}{self._serial}"
        rules = self.rules
        store = GroupStore(
            self.connection,
            run_id=self.run_id,
            role="r",
            node=name,
            nonce=nonce,
            min_nodes=rules.minimum,
            max_nodes=rules.maximum,
            spare_nodes=rules.spares,
            rendezvous=replace(
                RENDEZVOUS,
                lease_s=rules.lease_s,
                last_call_s=rules.last_call_s,
                scale_up_s=rules.scale_up_s,
                reopen=reopens,
            ),
            restart=RestartPolicy(
                kind=RestartKind.ALWAYS if rules.again else RestartKind.ON_FAILURE,
                budget=rules.budget,
                free=rules.free,
                backoff=Backoff(initial_s=1, factor=2, max_s=3, jitter=0, reset_after_s=60),
                rules=(Rule(action=RuleAction.RETRY, budget=rules.own),),
                progress=rules.progress,
            ),
            publication=Publication({"role": "r", "nodes": rules.maximum}, {}),
        )
        agent = Agent(
            name=name,
            nonce=nonce,
            store=store,
            bid=Bid(nproc=nproc, addr=f"addr-{nonce}", port=1000, hint=hint),
            lease_s=rules.lease_s,
            now_s=lambda: self.true_ms / 1000,
            told=lambda who, said: self.hearsay.told(who, said, self.now),
            listens=listens,
            lane_due=self.true_ms / 1000,
        )
        self.oracle.nproc[nonce] = nproc
        self.agents.append(agent)
        return agent

    def bury(self, agent: Agent, *, will: bool) -> None:
        """The process is gone; its guard may say so."""
        agent.stop()
        self.agents.remove(agent)
        if will:
            finish(agent.store.leave(Claim(), "its process has died"))
            self.tell()

    def control(self) -> RunControl:
        return RunControl(self.connection, self.run_id)

    def advance(self, agent: Agent, hand: str, fate: Fate | None = Fate.ANSWERED) -> None:
        """Let one command of an agent go, and whatever it does until its next one. None: only come to the first."""
        task = agent.start(hand)
        if task is None:
            return
        try:
            if getcoroutinestate(task) == CORO_CREATED:
                task.send(None)
            if fate is not None:
                task.send(fate)
        except StopIteration:
            if hand == "lane" and agent.lane is task:
                agent.lane = None
            elif hand == "keeper" and agent.keeper is task:
                agent.keeper = None
            self._sweep()

    def turn(self, agent: Agent, hand: str) -> None:
        """Have an agent finish what this hand does."""
        self.advance(agent, hand)
        while (agent.lane if hand == "lane" else agent.keeper) is not None:
            self.advance(agent, hand)
        self.tell()

    def tell(self) -> None:
        """Everybody who listens hears what is new."""
        for agent in self.agents:
            if agent.listens and agent.awake:
                finish(agent.listen())
        self._sweep()

    def _sweep(self) -> None:
        self.agents = [agent for agent in self.agents if agent.phase is not Phase.OVER]

    # -- time

    def run(self, span_ms: int) -> None:
        """Everybody who is awake does what is due, when it is."""
        until, before = self.true_ms + span_ms, self.commands
        while True:
            awake = [agent for agent in self.agents if agent.awake]
            (due, hand), _, agent = min(
                ((agent.next_due(), number, agent) for number, agent in enumerate(awake)),
                default=((float("inf"), ""), 0, None),
                key=lambda entry: (entry[0][0], entry[1]),
            )
            if agent is None or due * 1000 > until:
                break
            self.true_ms = max(self.true_ms, -int(-due * 1000 // 1))
            self.turn(agent, hand)
            self.oracle.must(self.commands - before < BUSY, "agents go round in circles")
        self.true_ms = max(self.true_ms, until)

    # -- the server

    def forget(self) -> None:
        """The server comes back without its data."""
        self.true_ms += 1  # two processes do not run at once
        self.connection.ask("DEL", *self.keys)
        self._lost(History())

    def remember(self) -> None:
        """What a replica has from here on until it is told more."""
        values = [(key, self.connection.ask("DUMP", key)) for key in self.keys]
        self.snapshot = Snapshot(
            tuple((key, value) for key, value in values if isinstance(value, bytes)), self.oracle.history.copy()
        )

    def go_back(self) -> None:
        """The replica is promoted."""
        if self.snapshot is None:
            return
        self.true_ms += 1
        self.connection.ask("DEL", *self.keys)
        for key, value in self.snapshot.values:
            self.connection.ask("RESTORE", key, 3_600_000, value)
        self._lost(self.snapshot.history.copy())

    def _lost(self, history: History) -> None:
        self.oracle.lost(history, self.server_ms)
        self.connection.outages += 1
        self.now = self._peek()

    def _peek(self) -> Seen:
        raw = self.connection.ask("EVAL", PEEK, len(self.keys), *self.keys)
        if not isinstance(raw, bytes):
            raise TypeError(raw)
        return seen(raw)

    def _executed(self, name: str, args: tuple[str | int, ...], reply: object) -> None:
        self.commands += 1
        if name == "job":  # only looks
            return
        before, self.now = self.now, self._peek()
        node, nonce, number, token, slot, _, members, charged = args[:8]
        command = Command(
            name,
            str(node),
            str(nonce),
            int(number),
            int(token),
            int(slot),
            str(members),
            int(charged),
            self.server_ms,
            reply,
        )
        self.oracle.executed(command, before, self.now)
        self.true_ms += self.pace_ms

    # -- the goal

    def reached(self) -> bool:
        """Whether all that are alive are where they should be."""
        now, rules = self.now, self.rules
        alive = [agent for agent in self.agents if agent.awake]
        if len({agent.name for agent in alive}) < max(1, rules.minimum):
            return True
        if now.state != "settled" or any(agent.phase is Phase.FINISHING for agent in alive):
            return False  # who has succeeded is told of the others' success
        seated = [agent for agent in alive if agent.phase in (Phase.RUNNING, Phase.FINISHING)]
        standby = [agent for agent in alive if agent.phase in (Phase.STANDBY, Phase.WAITING)]
        here = {agent.name for agent in seated if agent.claim.round == now.round and agent.claim.token == now.token}
        full = now.size == rules.maximum  # whoever stands by once is never sent away
        spent = rules.free.max is not None and len(now.free) >= rules.free.max
        everybody = len(seated) + len(standby) == len(alive)
        return everybody and here == now.seats.keys() - now.done | here and (not standby or full or spent)

    def come_to_rest(self, bound_ms: int) -> None:
        """From here on nothing befalls anybody: the group gets to where it should be, and stays there."""
        until, calm_ms = self.true_ms + bound_ms, 0
        while calm_ms <= 2 * self.rules.lease_ms:
            before = self.now.round, self.now.token
            if any(agent.phase is Phase.FINISHING for agent in self.agents) or self.now.done:
                for agent in [one for one in self.agents if one.awake and one.phase is Phase.RUNNING]:
                    agent.succeed()
            self.run(self.rules.lease_ms // 3)
            same = before == (self.now.round, self.now.token)
            calm_ms = calm_ms + self.rules.lease_ms // 3 if self.reached() and same else 0
            self.oracle.must(self.true_ms < until, f"no rest: {self.describe()}")

    def describe(self) -> str:
        agents = ", ".join(
            f"{agent.nonce} {agent.phase.name} {agent.claim.round}/{agent.claim.slot}"
            for agent in self.agents
            if agent.awake
        )
        return f"{self.now} with {agents}"

    def published(self) -> bool:
        """Whether there is a job, by which an operator finds the run."""
        return self.connection.ask("EXISTS", self.keys[-1]) == 1
