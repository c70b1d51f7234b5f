"""How long an unfit node keeps away, and when a clock is too far from the server's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.health import COOLDOWN_MOST_S, cooldown_s, too_skewed
from tests.core.specs import PREFLIGHT


def test_a_node_keeps_away_twice_as_long_each_time_and_is_then_given_up() -> None:
    policy = replace(PREFLIGHT, attempts=4, cooldown_s=10)
    assert [cooldown_s(failed, policy) for failed in (1, 2, 3, 4)] == [10, 20, 40, None]


@given(st.integers(1, 10_000))
def test_the_cooldown_never_exceeds_an_hour(failed: int) -> None:
    found = cooldown_s(failed, replace(PREFLIGHT, attempts=100_000))
    assert found is not None
    assert 10 <= found <= COOLDOWN_MOST_S


@pytest.mark.parametrize(
    ("server_s", "fits"), [(100.0, True), (101.4, True), (101.6, False), (98.6, True), (98.4, False)]
)
def test_half_the_round_trip_is_in_the_clocks_favour(server_s: float, fits: bool) -> None:
    assert (too_skewed(server_s, 99.5, 100.5, bound_s=1) == "") is fits


def test_which_way_the_clock_is_wrong_is_told() -> None:
    assert too_skewed(90, 100, 100, 1) == (
        "the clock is 10.000 s ahead of the server's, give or take 0.000 s; the limit is 1 s"
    )
    assert "behind the server's" in too_skewed(110, 100, 100, 1)


@given(st.floats(-5, 5), st.floats(0, 2), st.floats(0, 1))
def test_a_clock_is_never_blamed_for_less_than_its_limit(skew: float, trip: float, when: float) -> None:
    """The server read its clock somewhere in the round trip: an honest clock within the bound always passes."""
    read_at = 1000 + trip * when
    if abs(skew) <= 1:
        assert too_skewed(read_at + skew, 1000, 1000 + trip, 1 + 1e-9) == ""
