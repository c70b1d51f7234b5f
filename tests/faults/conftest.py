"""The faults have the fixtures of real launches and of a real guard."""

from __future__ import annotations

from tests.e2e.conftest import launch, nodes, server
from tests.edge.guard.conftest import agent, layer

__all__ = ["agent", "launch", "layer", "nodes", "server"]
