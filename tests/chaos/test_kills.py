"""Agents, guards, and both, killed at any moment of their lives: nothing of them is left, and the others go on."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.chaos.arena import Arena, arena
from tests.chaos.hosts import needs_hosts
from tests.e2e.harness import Launch, marked, until

pytestmark = [pytest.mark.e2e, needs_hosts()]

TRIALS = 6
LIFE_S = 0.9  # from the start of an interpreter to some time after its workers run
LEFT_S = 1.0  # DESIGN 6: nothing of a dead agent is left after this


def kill_guard(run: Arena, launch: Launch) -> None:
    launch.kill_guard()


@pytest.mark.parametrize("whom", ["the agent", "the guard", "both"])
def test_a_kill_at_any_moment_of_a_life_leaves_nothing_and_the_others_go_on(tmp_path: Path, whom: str) -> None:
    draw = random.Random(whom)
    kill = {"the agent": Arena.kill, "the guard": kill_guard, "both": Arena.kill_with_guard}[whom]
    with arena(tmp_path, "ab", nodes=(1, 2), budget=TRIALS) as run:
        a = run.start("a")
        run.settled(a)
        for trial in range(TRIALS):
            b = run.start(f"b{trial}", host="b")
            time.sleep(draw.uniform(0, LIFE_S))  # the moment that is tested
            run.note(f"kill {whom}")
            kill(run, b)
            if whom == "the guard":
                run.settled(a, b)
                run.kill(b)
            until(lambda trial=trial: not marked(f"WITNESS_NODE=b{trial}"), "nothing is left", LEFT_S)  # type: ignore[misc]
            run.settled(a)
        assert run.stop() == [143]
        run.verify()
