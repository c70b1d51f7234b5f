"""What a run's restarts were charged to, as its members carry it for a server that loses its memory.

Values only; the budgets themselves are kept by ``edge/redis/lua``. Invariant: uniting ledgers loses no charge that
counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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


NO_CHARGES = Ledger()
