"""What must hold of a group, whatever happens to it, said without its scripts.

The oracle hears of every command that the server executed, with what was stored before and after it. A *history* is
what one server remembers: losing its memory begins another one. What is promised across histories is only what somebody
alive has carried over, which is what the claims of commands show.
"""

from __future__ import annotations

import hashlib

from orchestrator.core.policies import Budget
from tests.model.history import Command, History, Key, Round, Rules
from tests.model.seen import Seen

SEVERITY = {"retry_free": 1, "retry": 2, "exclude_node": 3}
UNPAID = ("two servers had", "the server had fallen behind")  # ends that nobody is known to be interrupted by


class Oracle:
    """Judges one run."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.history = History()
        self.book: dict[Key, Round] = {}
        self.nproc: dict[str, int] = {}  # by nonce
        self.reported: dict[Key, set[str]] = {}  # who reported success, to whatever server
        self.broken = False
        self.may_repeat = False  # a server without memory and with a clock that lags can make a token again

    def must(self, holds: object, what: str) -> None:
        """Fail unless it holds."""
        if not holds:
            self.broken = True
            raise AssertionError(what)

    def lost(self, history: History, now_ms: int) -> None:
        """The server has forgotten everything since ``history``."""
        self.may_repeat |= any(token >= now_ms for token, _ in self.book)
        history.whole, history.seated = False, {}
        self.history = history

    # -- what the server does

    def executed(self, command: Command, before: Seen, after: Seen) -> None:
        """A command was executed."""
        for judge in (self._clock, self._keys, self._claims, self._leases, self._round, self._ends, self._outcome):
            judge(command, before, after)
        self.history.last_at = command.at

    def _clock(self, command: Command, before: Seen, after: Seen) -> None:
        last = self.history.last_at
        if last is not None and command.at < last:
            self.history.clock_set = True
            if self.history.enough is not None:
                self.history.enough = (self.history.enough[0], command.at)
            if self.history.restoring is not None:
                self.history.restoring = (self.history.restoring[0], command.at)

    def _keys(self, command: Command, before: Seen, after: Seen) -> None:
        self.must(not after.eternal, f"every key has a TTL, not so {after.eternal}")

    def _claims(self, command: Command, before: Seen, after: Seen) -> None:
        """What the claim of a command tells is known from now on."""
        if not before.outcome:
            self.history.round = max(self.history.round, command.round)
            self.history.token = max(self.history.token, command.token)
            self.history.told = max(self.history.told, command.charged)

    def _leases(self, command: Command, before: Seen, after: Seen) -> None:
        """Nobody is dropped before its lease is over, or for the server's fault, and nobody is kept beyond it."""
        history, lease_ms, at = self.history, self.rules.lease_ms, command.at
        last = history.last_at
        if last is not None and (at < last or at - last > lease_ms * 2 / 3):
            history.spoke = dict.fromkeys(history.spoke, at)
        going = command.nonce if command.name == "leave" else None
        for name, nonce in before.nonces.items():
            if after.nonces.get(name) != nonce:
                history.arrived.pop(nonce, None)
            if after.nonces.get(name) != nonce and nonce != going and not (before.outcome or after.outcome):
                self.must(
                    history.spoke.get(nonce, 0) + lease_ms <= at,
                    f"{name} was dropped {at - history.spoke.get(nonce, 0)} ms after it spoke",
                )
        if command.name in ("join", "seat", "renew", "restore") and after.nonces.get(command.node) == command.nonce:
            history.spoke[command.nonce] = at
        if after.outcome:  # who has not left yet is remembered, and only that
            self.must(before.outcome is None or set(after.seats) <= set(before.seats), "a closed run is taken part in")
            return
        for name, nonce in after.nonces.items():
            self.must(history.spoke.get(nonce, at) + lease_ms > at, f"the lease of {name} is over, and it is kept")
            self.must(after.leases.get(name, 0) > at, f"{name} takes part without a lease")

    # -- rounds

    def _round(self, command: Command, before: Seen, after: Seen) -> None:
        if command.name == "join" and command.node in after.waiting and after.nonces[command.node] == command.nonce:
            self.history.arrivals += 1
            self.history.arrived.setdefault(command.nonce, self.history.arrivals)
        self._parted(command, before, after)
        if after.state == "settled":
            known = self.book.get(after.key)
            again = self.may_repeat and known is not None and known.addr != after.group.get("addr")
            if known is None or known.number != after.round or again:
                self._settled(command, before, after)
            else:
                self._unchanged(known, after)
        self._restoring(command, after)
        self._patience(command, before, after)
        for name in after.seats if after.state == "settled" else ():
            self.history.arrived.pop(after.nonces.get(name, ""), None)

    def _parted(self, command: Command, before: Seen, after: Seen) -> None:
        """Two servers have gone on from a common past: neither's round stands once they have met."""
        if command.slot < 0 or before.state != "settled" or command.key == before.key:
            return
        older = command.round < before.round and command.token < before.token
        newer = command.round > before.round and command.token > before.token
        self.must(older or newer or after.state != "settled" or after.key != before.key, "two histories have met")

    def _patience(self, command: Command, before: Seen, after: Seen) -> None:
        """Once MIN are in, the others are waited for, but not for ever."""
        if after.state != "open" or len(after.waiting) < self.rules.minimum:
            self.history.enough = None
            return
        number, since = self.history.enough or (-1, 0)
        still = [name for name in after.waiting if before.nonces.get(name) == after.nonces[name]]
        if number != after.round or len(still) < self.rules.minimum:
            self.history.enough = (after.round, command.at)
            return
        latest = max(since, after.number("end_until")) + self.rules.last_call_s * 10_000
        self.must(command.at < latest, f"{after.waiting} wait for {after.absent} since {since}")

    def _settled(self, command: Command, before: Seen, after: Seen) -> None:
        rules, history = self.rules, self.history
        self.must(
            after.token not in {token for token, _ in self.book} or self.may_repeat,
            f"token {after.token} was used before",
        )
        self.must(after.round > history.round, f"round {after.round} comes after {history.round}")
        self.must(after.token > history.token, f"token {after.token} comes after {history.token}")
        history.round, history.token = after.round, after.token
        names = sorted(after.seats, key=lambda name: after.seats[name])
        self.must([after.seats[name][0] for name in names] == list(range(after.size)), f"slots {after.seats}")
        self.must(not any(f"excluded:{name}" in after.group for name in names), "who is excluded has no seat")
        self.must(rules.minimum <= after.size <= rules.maximum, f"size {after.size}")
        ranks, roll = 0, ""
        for name in names:
            self.must(after.seats[name][1] == ranks, f"ranks are contiguous, not so {after.seats}")
            ranks += self.nproc[after.nonces[name]]
            roll += f"{name}\t{self.nproc[after.nonces[name]]}\n"
        self.must(after.number("world") == ranks, f"world size {after.group['world']} of {ranks}")
        self.must(after.group["hash"] == hashlib.sha1(roll.encode()).hexdigest(), "the hash is the members'")
        told = after.number("seat_paid") >= history.told
        self.must(told, f"{after.group['seat_paid']} charged restarts, of {history.told} that were told of")
        self._seating(before, after)
        addr = f"addr-{after.nonces[names[0]]}"
        self.must(after.group["addr"] == addr, f"the master is slot 0's, not {after.group['addr']}")
        self.book[after.key] = Round(
            after.round, after.token, after.size, ranks, after.group["hash"], addr, dict(after.seats)
        )
        history.seated = {name: slot for name, (slot, _) in after.seats.items()}

    def _seating(self, before: Seen, after: Seen) -> None:
        """Survivors keep their slots, and of all others those who have waited longest come first."""
        for name, slot in self.history.seated.items():
            if name in after.seats and slot < after.size:
                self.must(after.seats[name][0] == slot, f"{name} keeps slot {slot}, not {after.seats[name][0]}")
        fresh = {
            name: self.history.arrived.get(after.nonces[name], 0)
            for name in (*after.seats, *after.waiting)
            if name not in self.history.seated and name not in before.slots and name in after.nonces
        }
        last_in = max((fresh[name] for name in after.seats if name in fresh), default=0)
        for name in after.waiting:
            if name in fresh and self.history.whole and before.round > 0:
                self.must(fresh[name] > last_in, f"{name} has waited longer than who got a place")

    def _unchanged(self, known: Round, after: Seen) -> None:
        self.must(
            (known.size, known.world, known.hash, known.addr)
            == (after.size, after.number("world"), after.group.get("hash"), after.group.get("addr")),
            f"round {known} has changed: {after.group}",
        )
        self.must(all(known.seats.get(name) == seat for name, seat in after.seats.items()), "seats have changed")
        gone = known.seats.keys() - after.seats.keys()
        self.must(gone <= self.reported.get((known.token, known.hash), set()), f"{gone} are lost, and the round stands")
        if not self.history.seated:  # it was restored
            self.history.seated = {name: slot for name, (slot, _) in known.seats.items()}

    def _restoring(self, command: Command, after: Seen) -> None:
        if after.state != "restoring":
            self.history.restoring = None
            return
        known = self.book.get(after.key)
        self.must(known and known.number == after.round, f"round {after.round} never was, and is restored")
        if known:
            self.must(all(known.seats.get(name) == seat for name, seat in after.seats.items()), "other seats restored")
        token, since = self.history.restoring or (0, 0)
        self.history.seated = {}
        if token != after.token:
            self.history.restoring = (after.token, command.at)
        else:
            self.must(command.at < since + 2 * self.rules.lease_ms, "restored or superseded within two leases")

    # -- ends

    def _ends(self, command: Command, before: Seen, after: Seen) -> None:
        history, rules = self.history, self.rules
        if before.state == "closed" and after.state != "closed":  # reopened: charges are forgiven
            history.free = []
        if after.number("forgiven") > before.number("forgiven"):
            history.charges, history.own = [], []
        self.must(after.number("charged") >= history.charged, "charges never fall")
        history.charged = max(history.charged, after.number("charged"))
        charged = command.name in ("fail", "done", "replace") and after.charges.keys() - before.charges.keys()
        if charged:
            self._charged(command, before, after, charged)
        if command.name == "replace":
            stands = after.stands and after.key == command.key
            self.must(stands or after.outcome or not charged, "what is replaced is a part of the round that stands")
            if after.free.keys() - before.free.keys():
                history.free.append(command.at)
                self._within(rules.free, history.free, command.at, "restart.free")
        if after.ended[0] == before.ended[0] and before.ended[1] == "restart" and not after.outcome:
            mild, severe = (SEVERITY.get(one.ended[2] or "", 0) for one in (before, after))
            self.must(severe >= mild and after.ended[1] == "restart", f"decided {before.ended}, then {after.ended}")
        if after.ended[0] != before.ended[0] and not charged and not after.outcome:
            why = after.group.get("end_why", "")
            lost = after.group.get("end_lost", "").split("\t") if after.ended[1] == "superseded" else ()
            reported = {name for name in lost if (before.key, name) in history.reported}
            self.must(not reported or before.state != "settled", f"{reported} had reported, and are no loss")
            if before.state == "settled" and not why.startswith(UNPAID):
                history.free.append(command.at)
                self._within(rules.free, history.free, command.at, "restart.free")

    def _charged(self, command: Command, before: Seen, after: Seen, ids: set[str]) -> None:
        """Something was charged: once, and to the one budget that its name says."""
        history, rules = self.history, self.rules
        (name, *others) = ids
        self.must(not others and before.stands | (before.ended[2] == "retry_free"), f"charged {ids}")
        if "#" in name:
            history.own.append(command.at)
            self._within(rules.own or Budget(max=0), history.own, command.at, "the rule's own budget")
        else:
            history.charges.append(command.at)
            self._within(rules.budget, history.charges, command.at, "restart.budget")
        if rules.budget.max is not None and rules.budget.per_s is None:
            self.must(after.spent <= rules.budget.max, f"{after.spent} charged restarts")
        ended = command.name != "replace" and before.ended[0] == after.ended[0]
        if before.ended[2] == "retry_free" and ended:
            history.free = history.free[:-1]

    def _within(self, budget: Budget, ends: list[int], at: int, what: str) -> None:
        """At most ``max`` of them in any window, as far as the clock is honest."""
        if budget.max is None or (budget.per_s is not None and self.history.clock_set):
            return
        recent = [end for end in ends if budget.per_s is None or end > at - budget.per_s * 1000]
        self.must(len(recent) <= budget.max, f"{what} allows {budget.max}, not {len(recent)}")

    def _outcome(self, command: Command, before: Seen, after: Seen) -> None:
        if command.name == "done" and (command.node in after.done or command.node in before.seats):
            self.reported.setdefault(command.key, set()).add(command.node)
            self.history.reported.add((command.key, command.node))
        if after.outcome:
            self.history.seated = {}
        if before.outcome and command.name != "publish":
            self.must(after.outcome == before.outcome, f"closed {before.outcome}, then {after.outcome}")
        if after.outcome and not before.outcome and after.outcome[0] == "succeeded":
            known = self.book[after.key]
            self.must(
                set(known.seats) <= self.reported.get((known.token, known.hash), set()), f"{known} has not succeeded"
            )
        standing = self.book.get(after.key)
        if after.state == "settled" and standing and standing.number == after.round and self.history.whole:
            missing = [name for name in standing.seats if (after.key, name) not in self.history.reported]
            self.must(missing, f"everybody has reported, and round {after.round} stands")
