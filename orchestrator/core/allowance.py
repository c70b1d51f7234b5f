"""How much may pass within a time, when a stream is to be slowed by leaving some of it out.

Knows nothing of what passes; seconds are on one monotonic clock. Invariant: over any time, no more passes than
``per_s`` of it, plus one second's worth that was saved up, plus the last piece that was let through whole.
"""

from __future__ import annotations

_ENOUGH_S = 0.5  # what is shut opens again with so much saved up: a person can read a page, not every tenth line


class Allowance:
    """``per_s`` a second; what is not used is saved up for one second. None: without limit."""

    def __init__(self, per_s: int | None, now_s: float) -> None:
        self.limited = per_s is not None
        self._per_s = float(per_s or 1)
        self._left = self._per_s
        self._at_s = now_s
        self._shut = False

    def left(self, now_s: float) -> int:
        """What may pass now; once it was used up, 0 until there is enough again."""
        self._left = min(self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        self._shut = self._shut and self._left < self._enough
        return 0 if self._shut else max(0, int(self._left))

    def spend(self, amount: int) -> None:
        """So much has passed. It may have been more than was left: that is a debt."""
        self._left -= amount
        self._shut = self._shut or self._left < 1

    def due_s(self) -> float:
        """When something may pass again, by what was known at the last look."""
        return self._at_s + max(0.0, self._enough - self._left) / self._per_s if self._shut else self._at_s

    @property
    def _enough(self) -> float:
        return max(1.0, self._per_s * _ENOUGH_S)
