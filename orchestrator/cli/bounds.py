"""How much a stranger's interpolations may unfold to: references that double at each step would fill any memory.

OmegaConf has no limit of its own, so its two ways of looking something up are counted. Invariant: what one job's
composition resolves stays below these numbers, or ends in an error that OmegaConf raises as its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf.base import Container
from omegaconf.errors import InterpolationResolutionError

MAX_LOOKUPS = 10_000
MAX_CHARACTERS = 16 << 20
MAX_NODES = 400_000  # of a job and of what each of its roles sees
TOO_MUCH = f"unfolds to more than {MAX_LOOKUPS} references, {MAX_CHARACTERS >> 20} MiB or {MAX_NODES} nodes"


class _Spent:
    lookups = 0
    characters = 0
    nodes = 0
    told = False


def begin() -> None:
    """Count anew: another job."""
    _Spent.lookups = _Spent.characters = _Spent.nodes = 0
    _Spent.told = False


def too_many_nodes() -> bool:
    """Count one more node of a job."""
    _Spent.nodes += 1
    return _Spent.nodes > MAX_NODES


def is_news() -> bool:
    """Whether it has not been said of this job yet that it is too much: what comes after it is not to blame."""
    news, _Spent.told = not _Spent.told, True
    return news


def install() -> None:
    """Have OmegaConf's lookups counted; repeated calls change nothing."""
    for name in ("_resolve_node_interpolation", "_evaluate_custom_resolver"):
        look = getattr(Container, name)
        if not hasattr(look, "counted"):
            setattr(Container, name, _counted(look))


def _counted(look: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever OmegaConf's own takes
        _Spent.lookups += 1
        if _Spent.lookups > MAX_LOOKUPS or _Spent.characters > MAX_CHARACTERS:
            raise InterpolationResolutionError(TOO_MUCH)
        found = look(*args, **options)
        value = found._value() if hasattr(found, "_value") else found  # noqa: SLF001 - a node, or a resolver's answer
        _Spent.characters += len(value) if isinstance(value, str) else 0
        return found

    counted.counted = True  # type: ignore[attr-defined]  # a mark
    return counted
