"""The jobs of a sweep, before they run: composed, checked, and each under the key that its content gives it.

Invariant: nothing is started or written here, and jobs with the same key do the same.
"""

from __future__ import annotations

import hashlib
import json
import secrets as randomness
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override as Parsed
from hydra.core.override_parser.types import QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from orchestrator.cli.argv import Line, Override
from orchestrator.cli.compose import FOREIGN, problems_of
from orchestrator.cli.job import Job, check
from orchestrator.cli.jobyaml import job_yaml
from orchestrator.cli.publication import publication
from orchestrator.cli.resolvers import MadeUp
from orchestrator.cli.secrets import MASK, Secrets, is_secret_name
from orchestrator.cli.sweep.compose import Composer
from orchestrator.core.publication import Publication
from orchestrator.core.specs import UNIX, JobSpec, RendezvousKind
from orchestrator.core.sweep import Scalar
from orchestrator.errors import ConfigError, Problem

_NOT_ITS = ("run_id", "node", "logs", "sweep", "hydra")  # what says who runs a job, and not what it is
_HEADER = ("name", "description", "needs")  # what a recipe says of itself
_KEY_LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A job that can be started as it stands, once: its run_id is its own."""

    key: str
    arguments: tuple[str, ...]  # as Hydra's sweeper gave them
    overrides: tuple[str, ...]  # the same as they were typed, without secrets
    params: Mapping[str, Scalar]
    spec: JobSpec
    job_yaml: str
    publication: Publication
    secrets: Secrets
    notes: tuple[Problem, ...]


class Planner:
    """Makes jobs of what a sweeper asks for. ``folder`` is the sweep's, absolute, and ``name`` begins each run_id."""

    def __init__(self, line: Line, made: MadeUp, composer: Composer, *, folder: str, name: str) -> None:
        self._line = line
        self._made = made
        self._composer = composer
        self._folder = folder
        self._name = name
        parsed = [(composer.parse(override.hydra), override) for override in line.overrides]
        self._fixed = {one.get_key_element(): override for one, override in parsed if not one.is_sweep_override()}

    def plan(self, batch: Sequence[Sequence[str]], first: int) -> list[Planned]:
        """A batch of jobs; a ConfigError has what is wrong with any of them, each once."""
        planned, problems = [], list[Problem]()
        for at, arguments in enumerate(batch):
            try:
                planned.append(self.one(arguments, first + at))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(list({str(problem): problem for problem in problems}.values()))
        return planned

    def one(self, arguments: Sequence[str], number: int) -> Planned:
        """One job, with a run_id that no other has."""
        line = self._line_of(arguments)
        try:
            cfg = self._composer.compose([override.hydra for override in line.overrides])
        except FOREIGN as error:
            raise ConfigError(problems_of(error, line)) from None
        key = key_of(cfg)
        self._place(cfg, key, number)
        job = check(cfg, line, self._made)
        self._refuse(job)
        shown = tuple(_shown(override.text, job.secrets) for override in line.overrides)
        return Planned(
            key=key,
            arguments=tuple(arguments),
            overrides=shown,
            params=self._params(line, job.secrets),
            spec=job.spec,
            job_yaml=job_yaml(job),
            publication=publication(job),
            secrets=job.secrets,
            notes=job.notes,
        )

    def _line_of(self, arguments: Sequence[str]) -> Line:
        """The command line that would run this job alone. What it fixes, sweepers pass on as they understand it."""
        overrides = []
        for word in arguments:
            key, _, _ = word.partition("=")
            typed = Override(word.removeprefix("++"), key.lstrip("+~"), word)
            overrides.append(self._fixed.get(key, typed))
        return replace(self._line, overrides=overrides)

    def _place(self, cfg: DictConfig, key: str, number: int) -> None:
        """Give the job its name, its directory and its number."""
        with read_write(cfg.hydra), open_dict(cfg.hydra):
            cfg.hydra.mode = RunMode.MULTIRUN
            cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
            cfg.hydra.runtime.output_dir = str(Path(self._folder, key))
        cfg.run_id = f"{self._name}-{key}-{randomness.token_hex(3)}"
        HydraConfig.instance().set_config(cfg)

    def _refuse(self, job: Job) -> None:
        """What several jobs of one process cannot have."""
        wrong = []
        if job.spec.rendezvous.kind is RendezvousKind.EMBEDDED and job.spec.rendezvous.listen is not None:
            fact = "the jobs of a sweep share a server that listens for nobody"
            wrong.append(Problem("rendezvous.listen", fact, "give rendezvous.url, or leave it out"))
        health = job.spec.health
        if health is not None and health.host.startswith(UNIX):
            wrong.append(Problem("health.host", "one socket cannot be that of several jobs", "write 127.0.0.1"))
        elif health is not None and health.port != 0:
            fact = f"port {health.port} cannot be that of several jobs"
            wrong.append(Problem("health.port", fact, "write 0, which takes a free one for each"))
        if any(group.watchdog.path is not None for group in job.spec.groups):
            wrong.append(Problem("watchdog.path", "one pipe cannot be that of several jobs", "leave it out"))
        if wrong:
            raise ConfigError([job.origins.fill_in(problem) for problem in wrong])

    def _params(self, line: Line, secrets: Secrets) -> dict[str, Scalar]:
        """What distinguishes this job: the values of all that the command line does not fix."""
        found: dict[str, Scalar] = {}
        for override in line.overrides:
            if override not in self._fixed.values():
                value = scalar(self._composer.parse(override.hydra))
                hidden = is_secret_name(override.key.rpartition(".")[2]) and value is not None
                found[override.key] = MASK if hidden else secrets.mask(value) if isinstance(value, str) else value
        return found


def scalar(parsed: Parsed) -> Scalar:
    """The value of an override; of a list or a mapping, its text."""
    value = parsed.value()
    if isinstance(value, QuotedString):
        return value.text
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(parsed.get_value_element_as_str())


def key_of(cfg: DictConfig) -> str:
    """The name that a job's content gives it: a hash of all that says what it does, before it is resolved."""
    data: Any = OmegaConf.to_container(cfg, resolve=False)
    data = {name: value for name, value in data.items() if name not in _NOT_ITS}
    header = data.get("recipe")
    if isinstance(header, dict):
        data["recipe"] = {name: value for name, value in header.items() if name not in _HEADER}
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_KEY_LENGTH]


def _shown(text: str, secrets: Secrets) -> str:
    key, equals, value = text.partition("=")
    return f"{key}{equals}{secrets.mask_named(key.rpartition('.')[2], value)}"
