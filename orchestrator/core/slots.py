"""Which of a machine's resources each running job has: processors and memory are counted, GPUs are handed out by name.

Nothing is pinned or enforced here. Invariant: no GPU is in two grants at once, and what was given back is free again.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is to share."""

    cpus: int
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them
    memory_mb: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one job takes; 0 of something takes none of it, and is not kept from others' share."""

    cpus: int = 0
    gpus: int = 0
    memory_mb: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one job has until it gives it back."""

    slot: int  # the lowest number that no running job has
    need: Need
    gpus: tuple[str, ...] = ()


@dataclass(slots=True)
class Slots:
    """A machine's resources, and who has them. ``limit``: so many jobs at once; None: as many as there is room for."""

    machine: Machine
    limit: int | None = None
    _grants: dict[int, Grant] = field(default_factory=dict)

    def lacking(self, need: Need) -> str:
        """What the whole machine has too little of for one such job; empty if it would fit alone."""
        has = {"cpus": self.machine.cpus, "gpus": len(self.machine.gpus), "memory_mb": self.machine.memory_mb}
        return next((name for name, most in has.items() if getattr(need, name) > most), "")

    def take(self, need: Need) -> Grant | None:
        """A grant of ``need``, or None while there is no room for it."""
        if self.limit is not None and len(self._grants) >= self.limit:
            return None
        held = list(self._grants.values())
        if need.cpus and need.cpus > self.machine.cpus - sum(one.need.cpus for one in held):
            return None
        if need.memory_mb and need.memory_mb > self.machine.memory_mb - sum(one.need.memory_mb for one in held):
            return None
        taken = {gpu for one in held for gpu in one.gpus}
        free = [gpu for gpu in self.machine.gpus if gpu not in taken]
        if need.gpus > len(free):
            return None
        slot = next(number for number in range(len(held) + 1) if number not in self._grants)
        self._grants[slot] = grant = Grant(slot=slot, need=need, gpus=tuple(free[: need.gpus]))
        return grant

    def give_back(self, grant: Grant) -> None:
        """The job that had it has ended."""
        del self._grants[grant.slot]

    def at_once(self, need: Need) -> int:
        """How many such jobs would fit on the idle machine, at least one."""
        limits = [self.limit] if self.limit is not None else []
        has = {"cpus": self.machine.cpus, "gpus": len(self.machine.gpus), "memory_mb": self.machine.memory_mb}
        limits += [most // getattr(need, name) for name, most in has.items() if getattr(need, name)]
        return max(1, min(limits, default=self.machine.cpus))
