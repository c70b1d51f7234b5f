"""The job of a run as it is published for those who come later, and how two of them differ.

Plain data, as it was composed: interpolations are not resolved, and secrets are references to variables. What every
node must agree on is the ``job``; ``defaults`` are what a node may decide for itself, as the first one did. Invariant:
two publications with one digest lead to the same job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import RendezvousError

PROTOCOL = 4  # of commands and keys: agents of different ones cannot meet
DEEPEST = 60  # a recipe may be 50 deep
SHOWN = 60  # characters of a value in a message
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Publication:
    """What is published of a job."""

    job: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    protocol: int = PROTOCOL

    @property
    def digest(self) -> str:
        """What tells one job from another."""
        agreed = json.dumps([self.protocol, _settled(self.job)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(agreed.encode()).hexdigest()

    @property
    def text(self) -> str:
        """The whole of it, as JSON."""
        return json.dumps({"protocol": self.protocol, "job": self.job, "defaults": self.defaults})

    @classmethod
    def from_text(cls, text: str) -> Publication:
        """From what a server holds; ValueError if it is no publication."""
        try:
            found = json.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        match found:
            case {"protocol": int(protocol), "job": dict(job), "defaults": dict(defaults)}:
                _bound(found, DEEPEST)
                return cls(job, defaults, protocol)
        raise ValueError("it has no protocol, job and defaults")


def differences(ours: Publication, theirs: Publication) -> tuple[str, ...]:
    """Each key on which two jobs do not agree, with both values, in the order of their names."""
    found = [] if ours.protocol == theirs.protocol else [f"protocol: {ours.protocol} here, {theirs.protocol} there"]
    here, there = (dict(_leaves(_settled(one.job), "")) for one in (ours, theirs))
    for path in sorted(here.keys() | there.keys()):
        left, right = here.get(path, _NOTHING), there.get(path, _NOTHING)
        if left != right or type(left) is not type(right):
            found.append(f"{path}: {_shown(left)} here, {_shown(right)} there")
    return tuple(found)


def _bound(node: object, levels: int) -> None:
    if levels == 0:
        raise ValueError("it is nested too deeply")
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _bound(value, levels - 1)


def _settled(node: Any, *, names: bool = False) -> Any:  # noqa: ANN401 - YAML holds anything
    """``node`` with one spelling for each number, and without mappings that hold nothing, but for those with ``names``.

    A role is one although it says nothing of its own.
    """
    if isinstance(node, Mapping):
        kept = {str(key): value for key, value in node.items() if names or value != {}}
        return {key: _settled(value, names=key == "roles") for key, value in kept.items()}
    if isinstance(node, list | tuple):
        return [_settled(value) for value in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - as above
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, node


def _shown(value: object) -> str:
    if value is _NOTHING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def other_job(run_id: str, ours: Publication, theirs: str) -> RendezvousError:
    """That a run has another job than ours, and where they differ."""
    try:
        found = differences(ours, Publication.from_text(theirs))
    except ValueError as problem:
        found = (f"what the run has cannot be read: {problem}",)
    return RendezvousError(
        f"run {run_id} has another job than this agent: {'; '.join(found)}. "
        "Start all agents of a run with the same job, or give this one another run_id"
    )
