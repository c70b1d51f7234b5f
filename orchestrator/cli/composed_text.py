"""A composed job as YAML in which each value says where it came from.

What is shown is what was written: interpolations stay, and a literal secret is a reference to a variable. Invariant:
the text, beside the recipe that it shows, is a recipe of the same job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from orchestrator.cli import source, yaml12
from orchestrator.cli.argv import Line
from orchestrator.cli.jobyaml import without_secrets
from orchestrator.cli.origins import Origins
from orchestrator.cli.recipes import LEFT_TO_YOU

_WIDEST = 56  # columns of YAML, after which an origin no longer stands below the others


@dataclass(frozen=True, slots=True)
class ShownJob:
    """The text, and each value with its path and its origin."""

    text: str
    values: tuple[tuple[str, Any, str], ...]


def shown_job(cfg: DictConfig, line: Line) -> ShownJob:
    """What ``cfg`` was composed to."""
    data: Any = OmegaConf.to_container(cfg, resolve=False)
    data = _unmarked({key: value for key, value in data.items() if key != "hydra"})
    header = data.get("recipe")
    needed = {need: origin for one in reversed(source.LOADED.values()) for need, origin in one.needs.items()}
    if isinstance(header, dict):
        header.pop("dir", None)
        header.update({"needs": list(needed)} if needed else {})
    data = without_secrets(data)
    united = {f"recipe.needs[{at}]": origin for at, origin in enumerate(needed.values())}
    origins = Origins(line, source.LOADED, dict(cfg.hydra.runtime.choices), united)
    values = tuple((path, value, origins.anyhow(path)) for path, value in _leaves(data, ""))
    lines = list(_lines(data, "", {path: origin for path, _, origin in values}))
    return ShownJob("".join(f"{text}\n" for text in _aligned(lines)), values)


def _unmarked(node: Any) -> Any:  # noqa: ANN401 - YAML holds anything
    """``node`` with what is left to the command line as a recipe writes it."""
    if isinstance(node, dict):
        return {str(key): _unmarked(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_unmarked(value) for value in node]
    return "???" if node == LEFT_TO_YOU else node


def _leaves(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        where = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            yield from _leaves(value, where)
        else:
            yield where, value


def _lines(
    node: Mapping[str, Any], path: str, origins: Mapping[str, str], indent: str = ""
) -> Iterator[tuple[str, str]]:
    """Each line of YAML, and the origin that it ends with."""
    for key, value in node.items():
        where = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            yield f"{indent}{yaml12.write_line({key: None}).removesuffix(' null')}", ""
            yield from _lines(value, where, origins, f"{indent}  ")
            continue
        first, *more = yaml12.write_line({key: value}).split("\n")
        if more:  # a comment could become a part of such a value
            yield f"{indent}# {origins[where]}", ""
            yield from ((f"{indent}{line}" if line else "", "") for line in (first, *more))
        else:
            yield f"{indent}{first}", origins[where]


def _aligned(lines: list[tuple[str, str]]) -> Iterator[str]:
    width = max((len(text) for text, origin in lines if origin and len(text) <= _WIDEST), default=0)
    for text, origin in lines:
        yield f"{text:{width}}  # {origin}" if origin else text
