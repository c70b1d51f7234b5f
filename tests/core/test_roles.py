"""Who waits for whom, and when a run of several roles has ended, over everything that can be known of a few roles."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.rendezvous import Closed
from orchestrator.core.roles import (
    Level,
    RoleView,
    RunVerdict,
    admits,
    admitted,
    circle,
    dependants,
    hopeless,
    unmet,
    verdict,
)
from orchestrator.core.specs import GroupSpec, Need, SuccessKind, SuccessPolicy
from orchestrator.core.words import Outcome
from tests.core.specs import group

ALL, ANY = SuccessPolicy(), SuccessPolicy(kind=SuccessKind.ANY)
RUNS = RoleView(round=1, level=Level.HEALTHY)


def ended(outcome: Outcome) -> RoleView:
    return replace(RUNS, closed=Closed(outcome=outcome, exit_code=0, reason=f"it {outcome}"))


SUCCEEDED, FAILED, STOPPED = ended(Outcome.SUCCEEDED), ended(Outcome.FAILED), ended(Outcome.STOPPED)
VIEWS = (RUNS, SUCCEEDED, FAILED, STOPPED)


def role(name: str, *on: str, **needs: Need) -> GroupSpec:
    return replace(group(), role=name, on=on, depends_on=needs)


def listed(*roles: str) -> SuccessPolicy:
    return SuccessPolicy(kind=SuccessKind.LISTED, roles=roles)


def outcome(found: RunVerdict | None) -> str:
    return str(found.outcome) if found else "-"


@pytest.mark.parametrize(
    ("on", "node", "welcome"),
    [
        ((), "a", True),
        (("a",), "a", True),
        (("a",), "A", False),
        (("gpu*", "cpu?"), "cpu1", True),
        (("gpu*", "cpu?"), "cpu12", False),
        (("node[0-3].0",), "node2.0", True),
    ],
)
def test_a_role_admits_the_nodes_that_one_of_its_patterns_matches(
    on: tuple[str, ...], node: str, *, welcome: bool
) -> None:
    assert admits(on, node) is welcome
    assert admitted([role("r", *on)], node) == ((role("r", *on),) if welcome else ())


@pytest.mark.parametrize(
    ("need", "view", "met"),
    [
        (Need.STARTED, RoleView(), False),
        (Need.STARTED, RoleView(round=1), False),
        (Need.STARTED, RoleView(round=1, level=Level.STARTED), True),
        (Need.STARTED, RUNS, True),
        (Need.HEALTHY, RoleView(round=1, level=Level.STARTED), False),
        (Need.HEALTHY, RoleView(round=0, level=Level.HEALTHY), False),
        (Need.HEALTHY, RUNS, True),
        (Need.SUCCEEDED, RUNS, False),
        *((need, SUCCEEDED, True) for need in Need),
        *((need, end, False) for need in Need for end in (FAILED, STOPPED)),
    ],
)
def test_what_a_role_waits_for(need: Need, view: RoleView, *, met: bool) -> None:
    waiting = role("t", data=need)
    assert unmet(waiting, {"data": view, "t": RoleView()}) == ("" if met else f"data is not {need} yet")
    assert unmet(role("t"), {"t": RoleView()}) == ""


@pytest.mark.parametrize("need", Need)
def test_a_role_waits_in_vain_for_one_that_ended_otherwise(need: Need) -> None:
    found = [hopeless(role("t", data=need), {"data": view}) for view in VIEWS]
    assert found == ["", "", "data", "data"]


@pytest.mark.parametrize(
    ("policy", "a", "b", "ends"),
    [
        (ALL, RUNS, RUNS, "-"),
        (ALL, SUCCEEDED, RUNS, "-"),
        (ALL, SUCCEEDED, SUCCEEDED, "succeeded"),
        (ALL, SUCCEEDED, FAILED, "failed"),
        (ALL, RUNS, FAILED, "failed"),
        (ALL, STOPPED, FAILED, "failed"),
        (ALL, STOPPED, RUNS, "stopped"),
        (ANY, SUCCEEDED, RUNS, "succeeded"),
        (ANY, FAILED, RUNS, "-"),
        (ANY, FAILED, SUCCEEDED, "succeeded"),
        (ANY, STOPPED, FAILED, "failed"),
        (ANY, STOPPED, STOPPED, "stopped"),
        (listed("a"), SUCCEEDED, RUNS, "succeeded"),
        (listed("a"), RUNS, FAILED, "-"),
        (listed("a"), SUCCEEDED, FAILED, "succeeded"),
        (listed("a"), FAILED, SUCCEEDED, "failed"),
        (listed("a", "b"), SUCCEEDED, RUNS, "-"),
    ],
)
def test_how_a_run_of_two_roles_ends(policy: SuccessPolicy, a: RoleView, b: RoleView, ends: str) -> None:
    assert outcome(verdict(policy, {"a": a, "b": b})) == ends


@pytest.mark.parametrize(("policy", "views"), [*product((ALL, ANY, listed("b")), product(VIEWS, repeat=3))])
def test_a_verdict_names_a_role_that_decides_and_ended_so(policy: SuccessPolicy, views: tuple[RoleView, ...]) -> None:
    known = dict(zip("abc", views, strict=True))
    found = verdict(policy, known)
    if found is None:
        return
    closed = known[found.role].closed
    assert closed is not None
    assert closed.outcome is found.outcome
    assert found.role in (policy.roles or known)
    assert found.role in found.why


@given(
    st.sampled_from([ALL, ANY, listed("a"), listed("a", "c")]),
    st.lists(st.sampled_from(VIEWS[1:]), min_size=3, max_size=3),
    st.permutations("abc"),
)
def test_success_stands_whatever_ends_later(policy: SuccessPolicy, ends: list[RoleView], order: list[str]) -> None:
    """And once every role has ended, there is a verdict."""
    views = dict.fromkeys("abc", RUNS)
    stands: str | None = None
    for name, end in zip(order, ends, strict=True):
        views[name] = end
        found = outcome(verdict(policy, views))
        if stands is not None:
            assert found != "-"
            assert (found == "succeeded") == (stands == "succeeded")
        stands = found if found != "-" else stands
    assert stands is not None


NAMES = "abcdef"
NEEDS = st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=3), max_size=6)


@given(NEEDS)
def test_a_circle_is_found_exactly_if_there_is_one(needs: dict[str, list[str]]) -> None:
    found = circle(needs)
    reach = {name: {need for need in wanted if need in needs} for name, wanted in needs.items()}
    for _ in NAMES:
        reach = {name: near.union(*(reach[one] for one in near)) for name, near in reach.items()}
    assert bool(found) == any(name in near for name, near in reach.items())
    if found:
        assert found[0] == found[-1]
        assert len(set(found)) == len(found) - 1
        assert all(after in needs[before] for before, after in pairwise(found))


def test_dependants_are_those_that_name_the_role() -> None:
    groups = [role("a"), role("b", a=Need.STARTED), role("c", b=Need.HEALTHY, a=Need.SUCCEEDED)]
    assert dependants("a", groups) == ("b", "c")
    assert dependants("c", groups) == ()
