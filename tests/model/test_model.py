"""Thousands of interleavings on a real server: whatever agents do and whatever befalls it, the promises hold."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.edge.servers import Server, binary_of
from tests.model.machine import Model

EFFORT = float(os.environ.get("ORCHESTRATOR_MODEL_EXAMPLES", "1"))  # multiplies the examples
PHASES = [hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if EFFORT > 1 else [])]  # shrinking takes minutes
RANDOM = os.environ.get("ORCHESTRATOR_MODEL_RANDOM") == "1"  # other paths each time


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    running = Server(binary_of("valkey"))
    running.start()
    yield running.url
    running.stop()


def hold(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, round(examples * EFFORT)),
            stateful_step_count=steps,
            deadline=None,
            derandomize=not RANDOM,
            phases=PHASES,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(max(120, 400 * EFFORT))
def test_promises_hold_on_every_path(url: str) -> None:
    hold(type("ModelHere", (Model,), {"url": url}), examples=300, steps=30)
