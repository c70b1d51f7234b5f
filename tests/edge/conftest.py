"""No test in here leaves anything behind."""

from __future__ import annotations

from tests.leaks import nothing_is_left

__all__ = ["nothing_is_left"]
