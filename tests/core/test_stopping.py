from __future__ import annotations

from dataclasses import replace
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2

import pytest

from orchestrator.core.policies import StopPolicy
from orchestrator.core.stopping import comes_from_outside, in_time

INF = float("inf")


def policy(grace_s: float, kill_wait_s: float, platform_s: float | None) -> StopPolicy:
    return StopPolicy(
        signal=SIGTERM,
        grace_s=grace_s,
        kill_wait_s=kill_wait_s,
        preempt=frozenset({SIGUSR1}),
        platform_grace_s=platform_s,
    )


@pytest.mark.parametrize(
    ("grace_s", "kill_wait_s", "platform_s", "expected"),
    [
        (30, 10, None, (30, 10)),  # no platform that kills
        (30, 10, 30, (28, 1)),  # the defaults under Slurm and Kubernetes
        (28, 10, 30, (28, 1)),
        (10, 10, 30, (10, 10)),  # there is time for both
        (25, 10, 30, (25, 2.5)),
        (300, 10, 330, (300, 10)),
        (0, 10, 30, (0, 10)),
        (30, 0.5, 30, (28, 0.5)),
        (30, 10, 2, (0, 1)),
        (30, 10, 1, (0, 0.5)),
        (30, 10, 0, (0, 0)),
    ],
)
@pytest.mark.parametrize("signum", [SIGTERM, SIGUSR1])
def test_a_stop_from_outside_is_over_before_the_platform_kills(
    grace_s: float, kill_wait_s: float, platform_s: float | None, expected: tuple[float, float], signum: int
) -> None:
    cut = in_time(policy(grace_s, kill_wait_s, platform_s), signum)
    assert (cut.grace_s, cut.kill_wait_s) == expected
    assert cut.grace_s + cut.kill_wait_s <= (INF if platform_s is None else platform_s)


@pytest.mark.parametrize("signum", [SIGINT, SIGHUP, SIGUSR2])
def test_whoever_asks_by_hand_has_the_whole_grace(signum: int) -> None:
    whole = policy(300, 10, 30)
    assert not comes_from_outside(whole, signum)
    assert in_time(whole, signum) is whole


def test_a_relayed_signal_is_what_workers_are_asked_with() -> None:
    relaying = replace(policy(30, 10, 30), relay=True)
    assert (in_time(relaying, SIGINT).signal, in_time(relaying, SIGINT).grace_s) == (SIGINT, 30)
    assert (in_time(relaying, SIGUSR1).signal, in_time(relaying, SIGUSR1).grace_s) == (SIGUSR1, 28)
    assert in_time(relaying, SIGTERM).signal == SIGTERM
    assert in_time(policy(30, 10, None), SIGINT).signal == SIGTERM
