"""What agents and the group say to each other, as typed values.

The atomic decisions are the Lua commands of ``edge/redis/lua``; this module is their vocabulary. Instants never cross
the wire: replies give milliseconds left, because no two clocks agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from orchestrator.core.charges import NO_CHARGES, Ledger
from orchestrator.core.words import Outcome


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
    ledger: Ledger = NO_CHARGES
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
    ledger: Ledger = field(default=NO_CHARGES, compare=False)  # as of the reply

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
    head: Ledger = field(default=NO_CHARGES, compare=False)  # the group's numbers after it, without charges


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
    head: Ledger = field(default=NO_CHARGES, compare=False)


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


@dataclass(frozen=True, slots=True)
class Emptied:
    """The group is closed, and all its members have left: none of its workers runs any more."""


Notice = Settled | Superseded | Restart | Closed | Drained | Up | Emptied  # what the group's stream tells
