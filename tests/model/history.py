"""What the oracle keeps: a group's rules, rounds as they were first seen, and what one server remembers."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

from orchestrator.core.policies import Budget, ProgressPolicy

Key = tuple[int, str]  # a token and the hash of the members, which together are one round
BUDGET, FREE, NO_PROGRESS = Budget(max=2), Budget(max=100, per_s=3600), ProgressPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The group's rules, as its job has them."""

    minimum: int
    maximum: int
    spares: int = 0
    budget: Budget = BUDGET
    free: Budget = FREE
    lease_s: float = 6.0
    last_call_s: float = 1.0
    scale_up_s: float = 4.0
    again: bool = False  # restart=always
    own: Budget | None = None  # of rule 0
    progress: ProgressPolicy = NO_PROGRESS

    @property
    def lease_ms(self) -> int:
        return round(self.lease_s * 1000)


@dataclass(frozen=True, slots=True)
class Round:
    """A settled round, as first seen."""

    number: int
    token: int
    size: int
    world: int
    hash: str
    addr: str
    seats: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Command:
    """One executed command."""

    name: str
    node: str
    nonce: str
    round: int  # as claimed
    token: int
    slot: int
    hash: str
    charged: int
    at: int  # ms, on the server's clock
    reply: object

    @property
    def key(self) -> Key:
        """The round that is claimed."""
        return self.token, self.hash


@dataclass
class History:
    """What holds as long as the server remembers; copied with a snapshot of it."""

    round: int = 0  # the highest that this server was told of or has made
    token: int = 0
    charged: int = 0
    told: int = 0  # charged restarts, by the claims of commands
    last_at: int | None = None
    restoring: tuple[int, int] | None = None  # the token of the round that is being restored, and since when
    enough: tuple[int, int] | None = None  # the round that ended, and since when MIN wait for the next
    spoke: dict[str, int] = field(default_factory=dict)  # nonce -> when its lease was last prolonged
    arrived: dict[str, int] = field(default_factory=dict)  # nonce -> how many had joined before it began to wait
    arrivals: int = 0
    charges: list[int] = field(default_factory=list)  # when restarts were charged, since budgets began anew
    own: list[int] = field(default_factory=list)  # the same of rule 0's own budget
    free: list[int] = field(default_factory=list)  # when rounds ended without a charge
    seated: dict[str, int] = field(default_factory=dict)  # names and slots of the last round of this history
    reported: set[tuple[Key, str]] = field(default_factory=set)  # who has told this server of success
    whole: bool = True  # nothing of before was lost
    clock_set: bool = False

    def copy(self) -> History:
        """As a replica has it."""
        return deepcopy(self)
