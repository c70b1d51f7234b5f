"""What agents and the group say to each other, as typed values.

The atomic decisions are the Lua commands of ``edge/redis/lua``; this module is their vocabulary. Instants never cross
the wire: replies give milliseconds left, because no two clocks agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from orchestrator.core.words import Outcome

CHARGES_KEPT = 100  # as many as `lua/lib` shows


@dataclass(frozen=True, slots=True)
class Charge:
    """A restart that was charged, and how long ago.

    ``id`` names what had failed: ``17``, a round; ``17/0/3/1``, what was to be incarnation 1 of local rank 3 in slot 0
    (``all`` of them). ``#2`` at its end: it was charged to the own budget of rule 2.
    """

    id: str
    age_ms: int

    @property
    def is_apart(self) -> bool:
        """Whether restart.budget knows nothing of it."""
        return rule_of(self.id) is not None


def rule_of(id_: str) -> int | None:
    """The rule whose own budget a charge of this name is of; None: it is of restart.budget."""
    number = id_.partition("#")[2]
    return int(number) if number.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Ledger:
    """The newest charges of a run, as its members carry them for a server that loses its memory.

    ``forgiven`` charges, of before the run was reopened or had made progress, no longer count against any budget, and
    ``apart`` of the others were charged to rules' own. ``stalled`` restarts in a row, the newest ones, had made no
    progress when the next one was charged (-1: there was none yet), and by then the run had got to ``paid``.
    """

    forgiven: int = 0
    charges: tuple[Charge, ...] = ()
    apart: int = 0
    stalled: int = -1
    paid: int = 0

    def older(self, by_ms: int) -> Ledger:
        """The same after ``by_ms``."""
        aged = tuple(Charge(charge.id, charge.age_ms + by_ms) for charge in self.charges)
        return replace(self, charges=aged)

    def united(self, other: Ledger) -> Ledger:
        """What both know, the newest charges first; what was forgiven according to either is forgotten."""
        if self.forgiven != other.forgiven:
            return max(self, other, key=lambda ledger: ledger.forgiven)
        known = {charge.id for charge in other.charges}
        both = (*other.charges, *(charge for charge in self.charges if charge.id not in known))
        charges = tuple(sorted(both, key=lambda charge: charge.age_ms)[:CHARGES_KEPT])
        paid, stalled = max((self.paid, self.stalled), (other.paid, other.stalled))
        apart = max(self.apart, other.apart, sum(charge.is_apart for charge in charges))
        return Ledger(self.forgiven, charges, apart, stalled, paid)

    def knows(self, id_: str) -> bool:
        """Whether it has this charge."""
        return any(charge.id == id_ for charge in self.charges)

    def charged(self, id_: str, head: Ledger) -> Ledger:
        """The same with one more charge, after which the group's numbers were those of ``head``.

        What is charged once may be heard of often.
        """
        after = self.united(head)
        return after if self.knows(id_) else after.united(replace(after, charges=(Charge(id_, 0),)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the caller knows of the group, sent with every command: the newest round that it has had a seat in.

    A server that has lost its memory learns from it how far rounds and tokens had got, and goes back to that round.
    ``slot`` -1: the caller had no seat in it, it has only heard of it. Zeros: it has heard of none.
    ``seat`` is what it gives back to such a server; None when that round is over for the caller. ``step`` is one more
    than the highest step that the run is known to have got to; 0: nobody has said.
    """

    round: int = 0
    token: int = 0
    slot: int = -1
    size: int = 0
    members_hash: str = ""
    charged: int = 0
    ledger: Ledger = Ledger()
    seat: Seat | None = None
    succeeded: bool = False  # all its workers of that round
    ignored: int = 0  # of these, with failures that a rule ignores
    step: int = 0
    level: int = 0  # how far they had come, see `Up`


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One agent's place in a settled round. ``slot`` is GROUP_RANK; its workers' RANKs begin at ``base_rank``."""

    round: int
    token: int
    slot: int
    size: int
    base_rank: int
    world_size: int
    members_hash: str
    master_addr: str
    master_port: int
    charged: int  # restarts charged to the run so far
    consecutive: int  # charged restarts since the group was last healthy for long
    why: str = ""  # what made this round: "first", "worker failed", "lost node b", …
    ledger: Ledger = field(default=Ledger(), compare=False)  # as of the reply

    def claim(self) -> Claim:
        """What to send with later commands."""
        return Claim(
            round=self.round,
            token=self.token,
            slot=self.slot,
            size=self.size,
            members_hash=self.members_hash,
            charged=self.charged,
            ledger=self.ledger,
            seat=self,
        )


class Place(IntEnum):
    """Where somebody who waits stands."""

    NEXT = 0  # in the round that is about to be settled
    STANDBY = 1  # a round stands without us; the next gap in it, or the next round, is ours
    FULL = 2  # there are more than the run may have


@dataclass(frozen=True, slots=True, kw_only=True)
class Bid:
    """What an agent brings to a join."""

    nproc: int
    addr: str
    port: int
    hint: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Joined, without a seat yet; ask again in ``due_ms`` at the latest.

    ``round``, ``token``, ``size`` and ``members_hash`` are those of the last round that was settled, which had no place
    for us; ``size`` 0: its members are not known.
    """

    due_ms: int
    joined: int
    place: Place = Place.NEXT
    round: int = 0
    token: int = 0
    size: int = 0
    members_hash: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """Another live agent has this node's name; its lease runs out in ``ms_left`` unless it renews."""

    holder: str
    ms_left: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The group will not have us, and why."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The run is over, for everyone. ``cause`` is a `Failure` as a dict, or None."""

    outcome: Outcome
    exit_code: int
    reason: str = ""
    cause: Mapping[str, Any] | None = None
    charged: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """The round stands, we are in it, our lease is renewed. ``due_ms``: call again then, a foreign lease may end."""

    due_ms: int


@dataclass(frozen=True, slots=True)
class Restoring:
    """The server has lost its memory, and our round is being restored; ``back``: our seat in it is."""

    due_ms: int
    back: bool


@dataclass(frozen=True, slots=True)
class Lapsed:
    """The group no longer counts us as a member: our lease ran out, or the server has forgotten us."""

    why: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """Our round ended without anyone's failure being charged; join the next one."""

    round: int  # the round that ended
    why: str
    lost: tuple[str, ...] = ()  # the members whose loss ended it


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Our round ended by a decision to restart."""

    round: int  # the round that ended
    charged: bool
    delay_ms: int  # left, counted from this reply
    remaining: int | None  # charged restarts that are still allowed; None: no bound
    reason: str = ""
    cause: Mapping[str, Any] | None = None  # a `Failure` as a dict; None when a success is repeated (restart=always)
    id: str = ""  # of the charge; empty: the round's number
    head: Ledger = field(default=Ledger(), compare=False)  # the group's numbers after it, without charges


@dataclass(frozen=True, slots=True)
class Part:
    """What is started again within a round: a local rank, or all of a node (None), as its next incarnation."""

    local_rank: int | None
    incarnation: int

    def __str__(self) -> str:
        return "all" if self.local_rank is None else str(self.local_rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """Some of our workers may be started again within the round, after ``delay_ms``, counted from this reply."""

    charged: bool
    delay_ms: int
    remaining: int | None  # charged restarts that are still allowed; None: no bound
    id: str
    head: Ledger = field(default=Ledger(), compare=False)


@dataclass(frozen=True, slots=True)
class Settled:
    """A round was settled; whoever joined it now asks for its seat."""

    round: int


@dataclass(frozen=True, slots=True)
class Up:
    """The workers of all members of a round have come so far: 1 they run, 2 they are ready; 0: it stands again."""

    round: int
    level: int


@dataclass(frozen=True, slots=True)
class Drained:
    """An operator wishes that the agent ``nonce``, which holds the name ``node``, stops its workers and leaves."""

    node: str
    nonce: str


JoinReply = Seat | Waiting | Held | Refused | Closed  # replies to join and seat
RenewReply = Standing | Waiting | Lapsed | Restoring | Superseded | Restart | Closed
Verdict = Standing | Superseded | Restart | Closed | Lapsed | Restoring  # replies to fail, done and restore
Fate = Verdict | Refused  # replies to verdict
ReplaceReply = Replacement | Verdict
Notice = Settled | Superseded | Restart | Closed | Drained | Up  # what the group's stream tells
