"""Several roles in one run: who waits for whom, and when the run as a whole has ended.

Pure: what is known of each role goes in as a `RoleView`, decisions come out with their reasons. A run with one role has
nothing to decide here. Invariant: the same views lead to the same decision on every node, so no node need be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from fnmatch import fnmatchcase

from orchestrator.core.rendezvous import Closed, Emptied, Notice, Restart, Settled, Superseded, Up
from orchestrator.core.specs import GroupSpec, Need, SuccessKind, SuccessPolicy
from orchestrator.core.words import Outcome


class Level(IntEnum):
    """How far the workers of a settled round have come, on all its nodes."""

    SETTLED = 0
    STARTED = 1
    HEALTHY = 2


@dataclass(frozen=True, slots=True)
class RoleView:
    """What is known of a role: its newest round (0: none yet), how far that is, its end, and whether all have left."""

    round: int = 0
    level: Level = Level.SETTLED
    closed: Closed | None = None
    gone: bool = False


WORD_S = 0.5  # within which nodes that are told to stop at the same time have told each other

Views = Mapping[str, RoleView]

_LEVEL = {Need.STARTED: Level.STARTED, Need.HEALTHY: Level.HEALTHY}


def heard(view: RoleView, news: RoleView | Notice) -> RoleView:
    """The view after a look at the role, or after word of it."""
    match news:
        case RoleView():
            return news
        case Settled(round=number):
            return RoleView(number)
        case Up():
            return RoleView(news.round, Level(news.level))
        case Superseded() | Restart():
            return RoleView(0)
        case Closed() | Emptied():
            return replace(view, closed=news) if isinstance(news, Closed) else replace(view, gone=True)
    return view


def admits(on: Iterable[str], node: str) -> bool:
    """Whether one of the patterns ``on`` matches the node's name; without any, every node is welcome."""
    patterns = tuple(on)
    return not patterns or any(fnmatchcase(node, pattern) for pattern in patterns)


def admitted(groups: Iterable[GroupSpec], node: str) -> tuple[GroupSpec, ...]:
    """The groups in which the node of this name takes part."""
    return tuple(group for group in groups if admits(group.on, node))


def unmet(group: GroupSpec, views: Views) -> str:
    """What ``group`` still waits for, for people; empty when it may be started."""
    waiting = [f"{role} is not {need} yet" for role, need in group.depends_on.items() if not _is_met(need, views[role])]
    return ", ".join(waiting)


def _is_met(need: Need, view: RoleView) -> bool:
    """A role that is over and ended well was once whatever is needed of it."""
    if view.closed is not None:
        return view.closed.outcome is Outcome.SUCCEEDED
    return need in _LEVEL and view.round > 0 and view.level >= _LEVEL[need]


def hopeless(group: GroupSpec, views: Views) -> str:
    """The role that ``group`` waits for in vain, because it has ended otherwise; empty if there is none."""
    for role in group.depends_on:
        closed = views[role].closed
        if closed is not None and closed.outcome is not Outcome.SUCCEEDED:
            return role
    return ""


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """How the run as a whole has ended. ``role`` decided it."""

    outcome: Outcome
    role: str
    why: str


def verdict(policy: SuccessPolicy, views: Views) -> RunVerdict | None:
    """The run's end, as soon as it can be told; None while roles that decide are still at it."""
    deciding = policy.roles if policy.kind is SuccessKind.LISTED else tuple(views)
    ended = {role: view.closed for role, view in views.items() if role in deciding and view.closed is not None}
    good = [role for role, closed in ended.items() if closed.outcome is Outcome.SUCCEEDED]
    bad = [role for role, closed in ended.items() if closed.outcome is not Outcome.SUCCEEDED]
    if policy.kind is SuccessKind.ANY:
        if good:
            return RunVerdict(Outcome.SUCCEEDED, good[0], f"role {good[0]} succeeded, and any is enough")
        return _lost(bad, views) if len(bad) == len(deciding) else None
    if bad:
        return _lost(bad, views)
    if len(good) == len(deciding):
        names = ", ".join(good)
        return RunVerdict(Outcome.SUCCEEDED, good[-1], f"role{'s' if len(good) > 1 else ''} {names} succeeded")
    return None


def _lost(bad: Sequence[str], views: Views) -> RunVerdict:
    """A role that failed says more about the end than one that was stopped, maybe for it."""
    ends = [(role, closed) for role in bad if (closed := views[role].closed) is not None]
    role, closed = next(((role, end) for role, end in ends if end.outcome is Outcome.FAILED), ends[0])
    return RunVerdict(closed.outcome, role, f"role {role} {closed.outcome}: {closed.reason}")


def dependants(role: str, groups: Iterable[GroupSpec]) -> tuple[str, ...]:
    """The roles that depend on ``role``, directly."""
    return tuple(group.role for group in groups if role in group.depends_on)


def may_run(view: RoleView, waited_s: float, most_s: float) -> bool:
    """Whether workers of a role may still run on other nodes, for who has waited so long to stop what they depend on.

    A role that nobody has ended goes on: it is not waited for, but for the moment that word of its end may take.
    """
    if view.closed is None:
        return view.round > 0 and waited_s < WORD_S
    return not view.gone and waited_s < most_s


def circle(groups: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Roles that wait for each other, in that order; empty if every role can be started. ``groups``: needs by role."""
    left = {role: [need for need in needs if need in groups] for role, needs in groups.items()}
    while ready := [role for role, needs in left.items() if not any(need in left for need in needs)]:
        for role in ready:
            del left[role]
    if not left:
        return ()
    walk = [next(iter(left))]
    while walk.count(walk[-1]) < 2:  # noqa: PLR2004 - seen twice: the walk has closed
        walk.append(next(need for need in left[walk[-1]] if need in left))
    return tuple(walk[walk.index(walk[-1]) :])
