"""The arithmetic of the fence."""

from __future__ import annotations

import pytest

from orchestrator.core.lease import (
    Attempt,
    Contact,
    extended_s,
    fence_s,
    is_at_fault,
    lateness,
    patience_s,
    renewal_s,
    tolerance_s,
)
from orchestrator.core.specs import OnIsolation

LEASES = [1.0, 2.0, 5.0, 60.0, 3600.0]
PAUSE_S = 0.02  # the first one between two attempts, see edge/redis/connection.py


@pytest.mark.parametrize("lease_s", LEASES)
def test_the_fence_leaves_half_a_second_of_the_lease_or_a_fifth_of_it(lease_s: float) -> None:
    assert fence_s(100.0, lease_s) == 100.0 + lease_s - min(0.5, lease_s / 5)


@pytest.mark.parametrize("lease_s", LEASES)
def test_a_dead_connection_and_a_fresh_one_that_is_silent_are_told_before_the_fence(lease_s: float) -> None:
    shown_s = renewal_s(lease_s) + 2 * patience_s(lease_s) + PAUSE_S
    assert shown_s < fence_s(0.0, lease_s)


@pytest.mark.parametrize("lease_s", LEASES)
def test_a_server_that_stays_silent_on_fresh_connections_extends_lease_by_lease(lease_s: float) -> None:
    away = Attempt(0.0, Contact.AWAY)
    shown_s = 2 * patience_s(lease_s)
    until_s = extended_s(away, shown_s, lease_s, OnIsolation.STOP)
    next_shown_s = shown_s + min(patience_s(lease_s), 1.0) + 2 * patience_s(lease_s)
    assert until_s is not None
    assert next_shown_s < until_s


@pytest.mark.parametrize(
    ("contact", "on_isolation", "extends"),
    [
        (Contact.AWAY, OnIsolation.STOP, True),
        (Contact.AWAY, OnIsolation.RUN, True),
        (Contact.SILENT, OnIsolation.STOP, False),
        (Contact.SILENT, OnIsolation.RUN, True),
        (Contact.ANSWERED, OnIsolation.RUN, False),  # what is granted counts from before it was asked for
    ],
)
def test_silence_extends_only_where_that_is_wished(contact: Contact, on_isolation: OnIsolation, extends: bool) -> None:
    assert (extended_s(Attempt(0.0, contact), 0.1, 5.0, on_isolation) is not None) is extends


def test_a_pause_within_an_attempt_extends_nothing() -> None:
    away = Attempt(0.0, Contact.AWAY)
    assert extended_s(away, 1000.0, 5.0, OnIsolation.STOP) == fence_s(2 * patience_s(5.0), 5.0)


def test_computing_is_told_from_being_paused() -> None:
    assert lateness(7.2, 0.1) == "this agent was paused for 7.2 s"
    assert lateness(7.2, 1.0) == "this agent was busy for 7.2 s"


@pytest.mark.parametrize("lease_s", LEASES)
def test_whoever_has_missed_a_renewal_is_to_blame_and_not_whoever_was_a_little_late(lease_s: float) -> None:
    assert is_at_fault(lease_s, lease_s)
    assert not is_at_fault(tolerance_s(lease_s), lease_s)
