"""``roles`` and ``success``: which keys a role may hold, and how its own ones are read.

What the other keys mean is the same as at the top level, and is read there; relations between roles are `groups`'
business. Invariant: a path of which `is_role_path` says no has one value for the whole job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.convert import key
from orchestrator.config.fields import OF_ALL
from orchestrator.config.readers import list_of, name, text, word
from orchestrator.config.report import INVALID, UNRESOLVED, Report, join, listed, nearest, show
from orchestrator.config.shape import any_of, shaped, written
from orchestrator.core.specs import Need, SuccessKind, SuccessPolicy

OWN = ("on", "depends_on")
"""What only a role has."""

KEYS = (*OWN, "nodes", "worker", "restart", "watchdog", "health", "rendezvous")
"""What a role may give; all but its own is laid over the job's."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "health": (*OF_ALL, "preflight_attempts", "preflight_cooldown_s"),
    "rendezvous": ("spares",),
}
"""Where a role may give only some of the keys: the others are the agent's, which has all roles."""

CHOICES = ("restart", "watchdog")
"""What a role may choose."""

SECTIONS = (*CHOICES, *PARTS, "worker")
"""What is a mapping: empty in a recipe, it says nothing."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_role_name(name: str) -> bool:
    """Whether a role may have this name; it becomes part of paths, of file names and of Redis keys."""
    return _NAME.fullmatch(name) is not None


def is_role_path(path: str) -> bool:
    """Whether a role may give the key at ``path``, or what is above it."""
    first, *deeper = re.split(r"[.\[]", path)
    return first in KEYS and (first not in PARTS or (bool(deeper) and deeper[0] in PARTS[first]))


@shaped(
    any_of(
        {"type": "string"},
        {"type": "array"},
        {"type": "object", "additionalProperties": written({"enum": [str(one) for one in Need]})},
    )
)
def needs(value: object, path: str, report: Report) -> object:
    """``{ROLE: NEED}``; a role that is only named has to be started."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        value = {str(one): str(Need.STARTED) if isinstance(one, str) else one for one in value if one is not UNRESOLVED}
    if not isinstance(value, Mapping):
        return report.problem(path, f"{show(value)} is not a mapping", "write {ROLE: healthy}, or {} for none")
    read = word(*map(str, Need))
    found = {str(role): read(need, join(path, str(role)), report) for role, need in value.items() if need != UNRESOLVED}
    return {role: Need(str(need)) for role, need in found.items() if need is not INVALID}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleConfig:
    """What only a role can say."""

    on: tuple[str, ...] = key(list_of(text), default=())
    depends_on: Mapping[str, Need] = key(needs, default={})


@shaped({"type": "object"})
def roles(value: object, path: str, report: Report) -> object:
    """The roles by name, as they are; whether they hold only what a role may."""
    if not isinstance(value, Mapping):
        return report.problem(path, f"{show(value)} is not a mapping", "write NAME: {…} for each, or {} for none")
    for role, entry in value.items():
        where = join(path, str(role))
        if not is_role_name(str(role)):
            report.problem(where, f"{show(role)} is not a role's name", "allowed: 1 to 64 of A-Z a-z 0-9 _ -")
        elif not isinstance(entry, Mapping):
            report.hole(where, f"{show(entry)} is not a mapping", "write {} to change nothing")
        else:
            _judge(entry, KEYS, where, report)
            for section, known in PARTS.items():
                _part(entry.get(section, {}), known, join(where, section), report)
    return {str(role): entry for role, entry in value.items()}


def _part(given: object, known: tuple[str, ...], path: str, report: Report) -> None:
    if isinstance(given, Mapping):
        _judge(given, known, path, report)
    else:
        report.problem(path, f"{show(given)} is not a mapping", f"a role may have {listed(known)}")


def _judge(given: Mapping[object, object], known: tuple[str, ...], path: str, report: Report) -> None:
    for one in given:
        if one not in known:
            remedy = f"{nearest(one, known)}a role may have {listed(known)}"
            report.problem(join(path, str(one)), "is not a role's to say", remedy)


@shaped(any_of({"enum": ["all", "any"]}, {"type": "array", "minItems": 1, "items": {"type": ["string", "number"]}}))
def success(value: object, path: str, report: Report) -> object:
    """``all``, ``any`` or a list of roles."""
    if isinstance(value, str) and value in (SuccessKind.ALL, SuccessKind.ANY):
        return SuccessPolicy(kind=SuccessKind(value))
    if not isinstance(value, list):
        hint = nearest(value, ["all", "any"])
        return report.problem(path, f"{show(value)} is not allowed", f"{hint}allowed: all, any, or a list of roles")
    if not value:
        return report.problem(path, "names no role", "allowed: all, any, or a list of roles")
    found = [name(role, f"{path}[{at}]", report) for at, role in enumerate(value) if role is not UNRESOLVED]
    named = [role for role in found if isinstance(role, str)]
    return SuccessPolicy(kind=SuccessKind.LISTED, roles=tuple(dict.fromkeys(named))) if named else INVALID
