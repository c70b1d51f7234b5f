"""From a composed job to a checked one: plain data, the compilation, the origins, and the job's own YAML.

Everything here only reads; the one exception, taking a free node name, is asked for explicitly when a run begins.
Invariant: a `Job` has no problem left, and whatever of it is shown goes through its secrets.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from orchestrator.cli import bounds, needs, source
from orchestrator.cli.argv import Line
from orchestrator.cli.origins import Origins
from orchestrator.cli.paths import absolute
from orchestrator.cli.resolvers import MadeUp, claim_number
from orchestrator.cli.roles import defaults, seen_by, separate, shadowed
from orchestrator.cli.secrets import Secrets
from orchestrator.config.compile import compile_job
from orchestrator.config.groups import Role
from orchestrator.config.host import Host
from orchestrator.config.report import UNRESOLVED, Report
from orchestrator.core.specs import JobSpec
from orchestrator.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Job:
    """One job that can be started as it stands."""

    spec: JobSpec
    data: Mapping[str, Any]
    cfg: DictConfig
    notes: tuple[Problem, ...]
    secrets: Secrets
    origins: Origins
    needs: tuple[needs.Met, ...]


def check(
    cfg: DictConfig, line: Line, made: MadeUp, problems: tuple[Problem, ...] = (), *, lacking: bool = False
) -> Job:
    """Check a composed job; raises a ConfigError with every problem there is. Masks what the problems quote.

    A job whose needs are not met is refused, unless it may be ``lacking``.
    """
    bounds.begin()  # for the directory by itself, and so below: nothing shall fail for what another has spent
    report = Report()
    report.problems.extend(problems)
    run_dir = _output_dir(cfg)
    bounds.begin()
    data, roles = separate(cfg, report)
    bounds.begin()
    if data.get("run_id") is UNRESOLVED:  # the name that is made up from it is only an echo
        report.problems = [one for one in report.problems if one.path != "node.name"]
    if run_dir is None and report.clean("run_id", "role", "node"):
        report.problem("hydra.run.dir", "cannot be resolved", "correct its interpolation")
    report.problems.extend(shadowed(line.overrides, data, roles))
    needed = _settle(data, line)
    roles = tuple(_settled(role, data, line) for role in roles)
    _log_level(cfg, report)
    spec = _compiled(data, roles, report, run_dir or "", made)
    secrets = Secrets.of([data, *(role.data for role in roles)], os.environ)
    origins = Origins(line, source.LOADED, dict(cfg.hydra.runtime.choices), needed)
    found = needs.looked_up(_needs(data.get("recipe")))
    _lacks(found, report, lacking=lacking)
    if spec is None or report.problems:
        raise ConfigError([origins.fill_in(problem) for problem in report.problems])
    notes = tuple(origins.fill_in(note) for note in report.notes)
    return Job(spec=spec, data=data, cfg=cfg, notes=notes, secrets=secrets, origins=origins, needs=tuple(found))


def _compiled(
    data: dict[str, Any], roles: Sequence[Role], report: Report, run_dir: str, made: MadeUp
) -> JobSpec | None:
    run_id = data.get("run_id")
    made_up = run_id if run_id in made.run_ids else None
    given = defaults(data) if roles else data
    return compile_job(given, this_host(), report, run_dir=run_dir, made_up_run_id=made_up, roles=roles)


def claim(job: Job, line: Line, made: MadeUp) -> Job:
    """Give this agent a name of its own among those of its run on this host; the job as it is with that name."""
    spec = job.spec
    if spec.node.name not in made.node_names or spec.run_id in made.run_ids:
        return job  # it was given, or nobody else can have made up the same run
    made.number = claim_number(spec.run_id)
    if made.number == 0:
        return job
    OmegaConf.clear_cache(job.cfg)
    if job.cfg.hydra.mode is RunMode.RUN:  # its directory is named after the node
        with read_write(job.cfg.hydra.runtime):
            job.cfg.hydra.runtime.output_dir = "???"
    return check(job.cfg, line, made)


def this_host() -> Host:
    """The facts of this machine and process."""
    return Host(
        cwd=str(Path.cwd()),
        env=os.environ,
        interpreter=sys.executable,
        cpus=len(os.sched_getaffinity(0)),
        gpus=_gpus,
        is_file=os.path.isfile,
        is_dir=os.path.isdir,
        is_executable=lambda path: Path(path).is_file() and os.access(path, os.X_OK),
        default_path=os.defpath,
        cpu_set=lambda: frozenset(os.sched_getaffinity(0)),
        numa_nodes=_numa_nodes,
        hard_limit=_hard_limit,
    )


def _numa_nodes() -> tuple[frozenset[int], ...]:
    """As Linux lists them; a kernel without NUMA has no such list."""
    from orchestrator.config.process import cpu_list  # noqa: PLC0415 - as everything for `numa`

    nodes = sorted(Path("/sys/devices/system/node").glob("node[0-9]*"), key=lambda node: int(node.name[4:]))
    return tuple(cpu_list((node / "cpulist").read_text()) for node in nodes)


def _hard_limit(name: str) -> int | None:
    import resource  # noqa: PLC0415 - only if limits are given

    hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
    return None if hard == resource.RLIM_INFINITY else hard


def _gpus() -> int:
    """As many as CUDA_VISIBLE_DEVICES names, else as the driver has devices."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])


def _output_dir(cfg: DictConfig) -> str | None:
    """The run's directory, absolute, and known to ``${hydra:runtime.output_dir}``. A sweep has set it already."""
    found: str | None = None
    if OmegaConf.is_missing(cfg.hydra.runtime, "output_dir"):
        with contextlib.suppress(OmegaConfBaseException, RecursionError):
            found = absolute(str(OmegaConf.select(cfg, "hydra.run.dir")))
        with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = found or str(Path.cwd())
        HydraConfig.instance().set_config(cfg)
        return found
    return str(cfg.hydra.runtime.output_dir)


def _settle(data: dict[str, Any], line: Line) -> dict[str, str]:
    """What depends on who said something; where each need was said is returned.

    A URL implies Redis, a key of health=http implies it, and a recipe's directory serves only its own command.
    """
    chosen = line.chosen.union(*(recipe.chosen for recipe in source.LOADED.values()))
    server = data.get("rendezvous")
    if isinstance(server, dict) and server.get("url") is not None and "rendezvous" not in chosen:
        if server.get("kind") == "embedded":
            server["kind"] = "redis"
        for name in [name for name in ("listen", "password") if server.get(name) is None]:
            server.pop(name, None)  # embedded's own, which nobody has given
    health = data.get("health")
    if isinstance(health, dict) and health.get("kind") == "disabled" and "health" not in chosen:
        health["kind"] = "http" if len(health) > 1 or _asked_by_roles(data) else "disabled"
    header = data.get("recipe")
    needed: dict[object, str] = {}
    if isinstance(header, dict):
        if not any(f"++{needs.PATH}".startswith(one.hydra.partition("=")[0]) for one in line.overrides):
            for recipe in reversed(source.LOADED.values()):
                needed |= {need: origin for need, origin in recipe.needs.items() if need not in needed}
            header.update({"needs": list(needed)} if needed else {})
        if not data.get("roles") and _typed(line, "worker", "worker.cmd"):
            header["dir"] = None
    _maybe_a_stray(data, line)
    return {f"{needs.PATH}[{at}]": origin for at, origin in enumerate(needed.values())}


def _needs(header: object) -> list[object]:
    given = header.get("needs") if isinstance(header, dict) else None
    return given if isinstance(given, list) else [given]


def _lacks(found: list[needs.Met], report: Report, *, lacking: bool) -> None:
    """Report what is missing as one problem, and not once more where it is used."""
    problem = needs.unmet(found)
    repeated = [one for one in report.problems if needs.excused(one, found)]
    if problem is not None and (repeated or not lacking):
        report.problems = [problem, *(one for one in report.problems if one not in repeated)]


def _asked_by_roles(data: Mapping[str, Any]) -> bool:
    """Whether a role has a probe or a check."""
    roles = data.get("roles")
    entries = roles.values() if isinstance(roles, dict) else ()
    return any(isinstance(entry, dict) and bool(entry.get("health")) for entry in entries)


def _settled(role: Role, data: Mapping[str, Any], line: Line) -> Role:
    """A role with the settled job; the recipe's directory serves its command if that is from a recipe."""
    header = data.get("recipe")
    own = f"roles.{role.name}"
    from_role = ("roles", own, f"{own}.worker", f"{own}.worker.cmd")
    typed = _typed(line, *(from_role if role.gives("worker.cmd") else ("worker", "worker.cmd")))
    found = seen_by(role, data, header.get("dir") if isinstance(header, dict) and not typed else None)
    _maybe_a_stray(found.data, line)
    return found


def _typed(line: Line, *keys: str) -> bool:
    return any(override.key in keys for override in line.overrides)


def _maybe_a_stray(data: Any, line: Line) -> None:  # noqa: ANN401 - YAML holds anything
    """A command that is not there may be among the words that were not understood."""
    worker = data.setdefault("worker", {})
    if isinstance(worker, dict) and worker.get("cmd") is None and line.strays:
        worker["cmd"] = UNRESOLVED


def _log_level(cfg: DictConfig, report: Report) -> None:
    """LOGLEVEL is read by Python's logging, which raises when it does not know the word."""
    level = OmegaConf.select(cfg, "hydra.job_logging.root.level")
    if isinstance(level, str) and level not in logging.getLevelNamesMapping():
        report.problem("LOGLEVEL", f"{level!r} is not a level", "allowed: DEBUG, INFO, WARNING, ERROR, CRITICAL")
