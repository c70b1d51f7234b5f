"""The section ``sweep``: how the jobs of a parameter sweep are run, and what is looked for among them.

It is judged in every job, so that a recipe which is right for one job is right for a sweep of it. Invariant: nothing of
it changes what a single job does, or its digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.convert import key
from orchestrator.config.readers import name, optional, text, whole, word
from orchestrator.config.report import INVALID, UNRESOLVED, Report, join, show
from orchestrator.config.shape import any_of, shaped

_PLAIN = {"type": ["string", "number", "boolean", "null"]}


@shaped({"type": "object", "additionalProperties": any_of(_PLAIN, {"type": "array", "minItems": 1, "items": _PLAIN})})
def params(value: object, path: str, report: Report) -> object:
    """``{override: values}``, each as text in Hydra's grammar, or as a list of plain values."""
    if not isinstance(value, Mapping):
        return report.problem(path, f"{show(value)} is not a mapping", "write a.b: [0.1, 0.01], or {} for none")
    found = {
        str(override): _values(values, join(path, str(override)), report)
        for override, values in value.items()
        if values is not UNRESOLVED
    }
    return INVALID if INVALID in found.values() else found


def _values(value: object, path: str, report: Report) -> object:
    items = value if isinstance(value, list) else [value]
    wrong = [item for item in items if item is not None and not isinstance(item, str | int | float)]
    if not items or wrong:
        fact = "has no values" if not items else f"{show(wrong[0])} is no plain value"
        return report.problem(path, fact, "allowed: a list such as [0.1, 0.01], or text such as range(1,5)")
    return tuple(items) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """What of a sweep is said once for all its jobs."""

    name: str | None = key(optional(name), default=None)
    jobs: int | str = key(whole(1, words=("auto",)), default="auto")
    on_failure: str = key(word("continue", "stop"), default="continue")
    retries: int = key(whole(0), default=0)
    objective: str | None = key(optional(text), default=None)
    direction: str = key(word("minimize", "maximize"), default="minimize")
    prune: str | None = key(optional(word("halving")), default=None)
    cpus: int | None = key(optional(whole(0)), default=None)
    gpus: int | None = key(optional(whole(0)), default=None)
    memory_mb: int | None = key(optional(whole(1)), default=None)
    params: Mapping[str, object] = key(params, default={})
