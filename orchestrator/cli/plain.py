"""From OmegaConf to plain data, leaf by leaf, so that one broken interpolation hides nothing else.

`DictConfig` ends here. A leaf that cannot be resolved is a problem with its path, and UNRESOLVED in the data.
Invariant: what is returned holds only dicts, lists, scalars and None.
"""

from __future__ import annotations

from typing import Any

from omegaconf import Container, DictConfig, ListConfig, Node
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException, UnsupportedInterpolationType

from orchestrator.cli import bounds
from orchestrator.cli.recipes import LEFT_TO_YOU
from orchestrator.config.report import UNRESOLVED, Report, show

_DEEPEST = 60  # a recipe is at most 50 deep; only an interpolation of a parent leads deeper


def plain(cfg: DictConfig, report: Report) -> dict[str, Any]:
    """The data of a composed job, without Hydra's own part."""
    return {str(key): _value(cfg, key, str(key), report, 0) for key in cfg if key != "hydra"}


def _value(parent: Container, key: Any, path: str, report: Report, depth: int) -> Any:  # noqa: ANN401 - YAML holds anything
    if depth > _DEEPEST or bounds.too_many_nodes():
        return _endless(depth, path, report)
    node = parent._get_node(key)  # noqa: SLF001 - indexing would resolve, and raise for a missing value
    if not isinstance(node, Node):
        return None
    written: object = node._value()  # noqa: SLF001
    try:
        if node._is_interpolation():  # noqa: SLF001
            node = node._dereference_node()  # noqa: SLF001
    except (OmegaConfBaseException, RecursionError) as error:
        return _broken(error, written if isinstance(written, str) else "", path, report)
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():  # noqa: SLF001
        return {str(name): _value(node, name, f"{path}.{name!s}", report, depth + 1) for name in node}
    if isinstance(node, ListConfig) and not node._is_none() and not node._is_missing():  # noqa: SLF001
        return [_value(node, at, f"{path}[{at}]", report, depth + 1) for at in range(len(node))]
    return node._value()  # noqa: SLF001


def _endless(depth: int, path: str, report: Report) -> Any:  # noqa: ANN401 - stands for any value
    if depth > _DEEPEST:
        return _unresolved(path, "holds itself through an interpolation", "break the circle", report)
    return _unresolved(path, bounds.TOO_MUCH, "write it plainly", report) if bounds.is_news() else UNRESOLVED


def _broken(error: BaseException, text: str, path: str, report: Report) -> Any:  # noqa: ANN401 - as above
    if bounds.TOO_MUCH in str(error) and not bounds.is_news():
        return UNRESOLVED
    fact, remedy = _why(error, text, path)
    return _unresolved(path, fact, remedy, report)


def _unresolved(path: str, fact: str, remedy: str, report: Report) -> Any:  # noqa: ANN401 - stands for any value
    report.problem(path, fact, remedy)
    return UNRESOLVED


def _why(error: BaseException, text: str, path: str) -> tuple[str, str]:
    """What is wrong with an interpolation, and what to do about it."""
    if text == LEFT_TO_YOU:
        return "is left to you", f"give {path}=VALUE on the command line"
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "Environment variable" in said:
        name = said.split("'")[1]
        return f"environment variable {name!r} is not set", f"set it, or give a default: ${{oc.env:{name},DEFAULT}}"
    if isinstance(error, RecursionError) or "ecursive interpolation" in said:
        return f"{show(text)} leads back to itself", "break the circle"
    if isinstance(error, UnsupportedInterpolationType):
        return f"{show(text)} asks for a resolver that does not exist", "see OmegaConf's resolvers, such as oc.env"
    if isinstance(error, InterpolationKeyError):
        return f"{show(text)} leads to no key", "correct the key, or write \\${ for the characters themselves"
    too_much = bounds.TOO_MUCH in said
    fact = f"{show(text)} {bounds.TOO_MUCH}" if too_much else f"{show(text)} cannot be resolved: {said}"
    return fact, "write it plainly" if too_much else "write \\${ for the characters themselves"
