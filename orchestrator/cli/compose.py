"""Composition: a sorted command line becomes one DictConfig, by Hydra, once.

Hydra stops at its first error; when it does, each override is judged by itself and the composition is tried again
without the bad ones, so that the rest can be checked too. Invariant: whatever Hydra, OmegaConf or YAML raise leaves
here as problems, never as their exception.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus, run_job
from hydra.errors import HydraException, MissingConfigException
from hydra.types import HydraContext, RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator.cli import source
from orchestrator.cli.argv import Line, Override
from orchestrator.cli.paths import data_dir, shown
from orchestrator.cli.quoting import quoted, unquoted
from orchestrator.config.report import show
from orchestrator.errors import ConfigError, Problem

VERSION_BASE = "1.3"
CONFIG_NAME = "config"
_PLUGINS = {
    "submitit_slurm": "orchestrator[slurm]",
    "submitit_local": "orchestrator[slurm]",
    "optuna": "orchestrator[sweep]",
    "ray": "hydra-ray-launcher",
}
FOREIGN = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, RecursionError)
"""What Hydra and its parts raise for what a user wrote."""


@dataclass(frozen=True, slots=True)
class Composed:
    """One composed job, with Hydra's own part, and what made it."""

    cfg: DictConfig
    hydra: Hydra
    problems: tuple[Problem, ...]


def compose(line: Line) -> Composed:
    """Compose the job of ``line``; raises ConfigError only if there is nothing to check further."""
    if line.script:
        raise ConfigError(line.problems)
    hydra = _hydra(line)
    try:
        return Composed(_load(hydra, line, line.overrides), hydra, tuple(line.problems))
    except (*FOREIGN, ConfigError) as error:
        bad = {override: problem for override in line.overrides if (problem := _judge(override)) is not None}
        if not bad:
            raise ConfigError([*line.problems, *problems_of(error, line)]) from None
    problems = [*line.problems, *bad.values()]
    try:
        return Composed(_load(hydra, line, [one for one in line.overrides if one not in bad]), hydra, tuple(problems))
    except (*FOREIGN, ConfigError) as error:
        raise ConfigError([*problems, *problems_of(error, line)]) from None


def _hydra(line: Line) -> Hydra:
    """A Hydra on our conf/, as `hydra.main` makes it."""
    setbase(VERSION_BASE)
    source.register()
    GlobalHydra.instance().clear()
    search = create_config_search_path(line.flags.directory("--config-path") or str(data_dir("conf")))
    added = line.flags.directory("--config-dir")
    if added is not None:
        if not Path(added).is_dir():
            raise ConfigError([Problem("--config-dir", f"{added!r} is not a directory", "give one that exists")])
        search.prepend(provider="command-line", path=f"file://{added}", anchor=SearchPathQuery(provider="schema"))
    return Hydra.create_main_hydra2(task_name="orchestrate", config_search_path=search)


def _load(hydra: Hydra, line: Line, overrides: Sequence[Override]) -> DictConfig:
    source.LOADED.clear()
    cfg = hydra.compose_config(
        config_name=line.flags.given.get("--config-name", CONFIG_NAME),
        overrides=[override.hydra for override in overrides],
        run_mode=RunMode.RUN,
        with_log_configuration=True,
    )
    cfg.hydra.mode = RunMode.RUN
    return cfg


def _judge(override: Override) -> Problem | None:
    """What is wrong with an override by itself."""
    try:
        parsed = OverridesParser.create().parse_override(override.hydra)
        if parsed.is_sweep_override():
            remedy = f"add -m to sweep over them, or {'choose one' if override.is_choice else _in_quotes(override)}"
            return Problem(override.key, "has several values", remedy, override.origin)
        OmegaConf.create([parsed.value()])
    except HydraException as error:
        fact = f"cannot be parsed: {_first_line(error)}"
        return Problem(override.key, fact, _in_quotes(override), override.origin)
    except OmegaConfBaseException as error:
        fact = f"has a broken interpolation: {_first_line(error)}"
        return Problem(override.key, fact, "write ${key}, or \\${ for the characters themselves", override.origin)
    return None


def _in_quotes(override: Override) -> str:
    """How to write an override whose value is text, quoted for Hydra and for the shell."""
    key, _, value = override.text.partition("=")
    if not re.fullmatch(r"[\w$-]+(\.[\w$-]+)*", key):
        return "write key=value, and a key of words with dots between them"
    word = f"{key}={quoted(unquoted(value))}"
    return f"quote it as text: {_shell(word)}"


def _shell(word: str) -> str:
    """The word as a shell takes it; in double quotes where they do, for single ones are Hydra's."""
    return shlex.quote(word) if re.search('[$`!\\\\"]', word) else f'"{word}"'


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def problems_of(error: BaseException, line: Line) -> list[Problem]:
    """What Hydra, OmegaConf or YAML raised, as problems in our words."""
    if isinstance(error, ConfigError):
        return list(error.problems)
    if isinstance(error, MissingConfigException):
        return [_missing(error)]
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"{shown(mark.name)}:{mark.line + 1}:{mark.column + 1}" if mark else ""
        return [Problem("configuration", f"is not YAML: {error.problem or error.context}", "correct the line", where)]
    if isinstance(error, RecursionError):
        return [Problem("recipe", "its defaults lead back to itself", "break the circle")]
    deeper = error.__cause__ or error.__context__
    said = _first_line(error).removesuffix(".")
    if isinstance(deeper, OmegaConfBaseException) and _first_line(deeper) not in said:
        said = f"{said}: {_first_line(deeper)}"
    for override in line.overrides:
        if f"'{override.key}'" in said or override.hydra in said:
            remedy = "write it without +" if override.text.startswith("+") else ""
            return [Problem(override.key, said, remedy, override.origin)]
    return [Problem("configuration", said)]


def _missing(error: MissingConfigException) -> Problem:
    """A choice or a file that is not there."""
    name = error.missing_cfg_file or CONFIG_NAME
    group, _, choice = name.rpartition("/") if name.startswith("hydra/") else name.partition("/")
    options = error.options or ()
    if choice in _PLUGINS and group.startswith("hydra/"):
        return Problem(group, f"{show(choice)} is not installed", f"pip install {shlex.quote(_PLUGINS[choice])}")
    remedy = f"allowed: {', '.join(options)}" if options else "see --info searchpath"
    return Problem(group, f"{show(choice or name)} is not found", remedy)


def perform(composed: Composed, task: Callable[[DictConfig], Any]) -> None:
    """What `hydra.main` does once a job is composed: its directory, its logging, its callbacks, and the task."""
    cfg, hydra = composed.cfg, composed.hydra
    callbacks = Callbacks(cfg)
    callbacks.on_run_start(config=cfg, config_name=CONFIG_NAME)
    done = run_job(
        hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
        task_function=task,
        config=cfg,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
    )
    callbacks.on_run_end(config=cfg, config_name=CONFIG_NAME, job_return=done)
    if done.status is not JobStatus.COMPLETED:
        raise done._return_value  # noqa: SLF001 - its public name prints before it raises


def full_errors() -> None:
    """Make `hydra.main` raise what it would print. Its own switch is a variable that all children would inherit."""
    import hydra._internal.utils as internal  # noqa: PLC0415 - the module, to replace a name in it

    internal._is_env_set = lambda name: True  # noqa: ARG005, SLF001


class _Unsaved(OmegaConf):
    """OmegaConf for Hydra's own sweeper, whose multirun.yaml would hold secrets in plain text."""

    @staticmethod
    def save(*_args: object, **_options: object) -> None:
        """Write nothing."""


class _Unmade:
    """A path for Hydra's own sweeper, which would make the sweep's directory before its jobs are known to be sound."""

    def __init__(self, *_parts: object) -> None:
        """Of whatever."""

    def mkdir(self, *_options: object, **_more: object) -> None:
        """Make nothing; launchers make what they need."""

    def __truediv__(self, _name: str) -> _Unmade:
        return self


def through_hydra(line: Line, task: Callable[[DictConfig], Any]) -> None:
    """What `hydra.main` does with a command line; for everything but a plain run."""
    import hydra as package  # noqa: PLC0415 - named like the class's instances here
    from hydra._internal.core_plugins import basic_sweeper  # noqa: PLC0415 - to replace a name in it

    full_errors()
    setbase(VERSION_BASE)
    source.register()
    vars(basic_sweeper).update(
        OmegaConf=_Unsaved, Path=_Unmade
    )  # after the scan for plugins, which executes the module anew
    source.LOADED.clear()
    GlobalHydra.instance().clear()
    sys.argv = [sys.argv[0], *line.flags.words(), *line.hydra_overrides]
    decorate = package.main(version_base=VERSION_BASE, config_path=str(data_dir("conf")), config_name=CONFIG_NAME)
    decorate(task)()
