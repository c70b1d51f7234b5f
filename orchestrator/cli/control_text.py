"""A run's status and what became of a wish, in words for a person. Data in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from orchestrator.core.failures import Failure
from orchestrator.core.rendezvous import Closed, Restart
from orchestrator.core.status import (
    Denied,
    Granted,
    GroupState,
    GroupStatus,
    MemberStatus,
    RunStatus,
    WishKind,
    WishReply,
)
from orchestrator.core.words import Outcome

_HEAD = ("slot", "node", "ranks", "address", "lease", "")
Row = tuple[str, ...]


def status_text(status: RunStatus, *, leases: bool = True) -> str:
    """The run in a few lines. Without ``leases`` it is the same until something happens."""
    return "\n".join(line for group in status.groups for line in _group(status.run_id, group, leases)) + "\n"


def _group(run_id: str, group: GroupStatus, leases: bool) -> Iterator[str]:
    yield f"run {run_id}, group {group.role}: {_headline(group)}"
    if group.closed is not None:
        yield from _cause(group.closed)
        yield f"  {_counted(group.round, 'round')}, {_counted(group.charged, 'charged restart')}"
        return
    span = f"{group.min_nodes}" if group.min_nodes == group.max_nodes else f"{group.min_nodes} to {group.max_nodes}"
    here = len(group.members) + len(group.waiting)
    world = f", world size {group.world_size}" if group.state is GroupState.SETTLED else ""
    yield f"  {here} of {_counted(group.max_nodes, 'node', span)}{world}"
    yield f"  {_restarts(group)}"
    if group.last_end is not None:
        yield f"  {_last_end(group)}"
    rows = [*(_member(one, leases) for one in group.members), *(_waiting(one, leases) for one in group.waiting)]
    if rows:
        yield ""
        yield from (f"  {line}" for line in _aligned([_HEAD if leases else (*_HEAD[:4], "", ""), *rows]))


def _headline(group: GroupStatus) -> str:
    why = f" ({group.why})" if group.why else ""
    if group.closed is not None:
        reason = f": {group.closed.reason}" if group.closed.reason else ""
        return f"{group.closed.outcome.value}, exit code {group.closed.exit_code}{reason}"
    if group.state is GroupState.SETTLED:
        return f"round {group.round}{why}"
    if group.state is GroupState.OPEN:
        return f"meeting for the round after {group.round}{why}" if group.round else "meeting for its first round"
    return group.state.value


def _cause(closed: Closed) -> Iterator[str]:
    if closed.cause is None:
        return
    cause = Failure.from_dict(closed.cause)
    if cause.message:
        yield from (f"  | {line}" for line in cause.message.splitlines())


def _restarts(group: GroupStatus) -> str:
    left = "no bound" if group.remaining is None else f"{group.remaining} left"
    free = "" if group.free_remaining is None else f"; {group.free_remaining} uncharged left"
    return f"{_counted(group.charged, 'restart')} charged, {left}{free}"


def _last_end(group: GroupStatus) -> str:
    end = group.last_end
    if isinstance(end, Restart):
        wait = (
            f", starts again in {end.delay_ms / 1000:.1f} s" if end.delay_ms and group.state is GroupState.OPEN else ""
        )
        return f"round {end.round} ended: {end.reason}{wait}"
    return f"round {end.round} ended: {end.why}" if end is not None else ""


def _member(one: MemberStatus, leases: bool) -> Row:
    first = one.base_rank or 0
    ranks = f"{first}" if one.nproc == 1 else f"{first}-{first + one.nproc - 1}"
    word = "succeeded" if one.succeeded else ""
    return (str(one.slot), one.node, ranks, _address(one), _lease(one, leases), word)


def _waiting(one: MemberStatus, leases: bool) -> Row:
    return ("-", one.node, "-", _address(one), _lease(one, leases), "waits")


def _address(one: MemberStatus) -> str:
    return f"[{one.addr}]:{one.port}" if ":" in one.addr else f"{one.addr}:{one.port}"


def _lease(one: MemberStatus, leases: bool) -> str:
    if not leases:
        return ""
    return f"{one.lease_s:.1f} s" if one.lease_s > 0 else "ran out"


def _aligned(rows: Sequence[Row]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _counted(number: int, what: str, shown: str = "") -> str:
    return f"{shown or number} {what}{'' if number == 1 else 's'}"


_DONE = {WishKind.RESTART: "begins a new round", WishKind.DRAIN: "is being left by node {node}"}


def wish_text(kind: WishKind, node: str, role: str, said: WishReply) -> str:
    """What became of a wish in one group."""
    match said:
        case Closed():
            how = f"{said.outcome.value}, exit code {said.exit_code}"
            return f"group {role} is over: {how}{f': {said.reason}' if said.reason else ''}"
        case Denied():
            return f"group {role} does not {kind}: {said.why}"
        case Granted():
            done = f"group {role} {_DONE.get(kind, 'stops').format(node=node)}"
            if said.alive >= said.needed:
                return done
            return f"{done}; {_counted(said.alive, 'node')} of {said.needed} are left, it waits for more"


def wish_dict(said: WishReply) -> dict[str, object]:
    """The same as data."""
    match said:
        case Closed():
            return {
                "granted": said.outcome is Outcome.STOPPED,
                "outcome": said.outcome.value,
                "exit_code": said.exit_code,
                "why": said.reason,
            }
        case Denied():
            return {"granted": False, "why": said.why}
        case Granted():
            return {"granted": True, "alive": said.alive, "needed": said.needed}
