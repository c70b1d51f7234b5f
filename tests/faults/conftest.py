"""The faults have the fixtures of real launches and of a real guard, and none leaves anything behind."""

from __future__ import annotations

from tests.e2e.conftest import launch, nodes, server
from tests.edge.guard.conftest import agent, layer
from tests.leaks import nothing_is_left

__all__ = ["agent", "launch", "layer", "nodes", "nothing_is_left", "server"]
