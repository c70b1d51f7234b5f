"""What a job would do, told without doing it: commands, environment, policies, the machine, and who said what.

Composes and checks as a run does, and stops there: takes no lock, makes no directory, starts no process. Invariant:
everything shown went through the job's secrets.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from signal import SIGTERM
from typing import Any

from orchestrator.cli import argv, needs, resolvers
from orchestrator.cli.compose import compose
from orchestrator.cli.job import Job, check
from orchestrator.cli.paths import data_dir, shown
from orchestrator.cli.secrets import MASK
from orchestrator.core import graph, ranks
from orchestrator.core.affinity import ranges
from orchestrator.core.failures import signal_name
from orchestrator.core.policies import Rule, Scope, WatchdogKind
from orchestrator.core.rendezvous import Seat
from orchestrator.core.roles import admits
from orchestrator.core.rule_words import condition, consequence, scope_words
from orchestrator.core.specs import UNIX, GroupSpec, HealthSpec, LogsSpec, Need, SuccessKind, SuccessPolicy
from orchestrator.core.stopping import in_time
from orchestrator.core.table import Row, build
from orchestrator.errors import ConfigError, Problem

_LATER = "(known at the start)"
_AT_START = ("MASTER_ADDR", "MASTER_PORT", "ORCHESTRATOR_TOKEN", "TORCHELASTIC_ERROR_FILE", "ORCHESTRATOR_RESULT_FILE")

_IF_WATCHED = ("ORCHESTRATOR_WATCHDOG_FILE", "ORCHESTRATOR_STACKS_FILE", "TORCHELASTIC_TIMER_FILE")


def checked(words: list[str]) -> Job:
    """The job that ``orchestrate`` would run for the same words."""
    line = argv.parse(words)
    if line.flags.shows or line.flags.sweeps:
        flag = next(name for name in line.flags.given if not name.startswith("--config"))
        raise ConfigError([*line.problems, Problem(flag, "is for orchestrate only", "leave it out")])
    made = resolvers.register()
    composed = compose(line)
    return check(composed.cfg, line, made, composed.problems, lacking=True)


def machine(job: Job, group: GroupSpec) -> tuple[Row, ...]:
    """The table of a group of this job."""
    return build(group, preempt=bool(job.spec.stop.preempt))


def plan(job: Job) -> dict[str, Any]:
    """Everything about the job, as JSON-ready values."""
    spec = job.spec
    rendezvous = {**asdict(spec.rendezvous), "url": job.secrets.mask(spec.rendezvous.url or "") or None}
    return {
        "run_id": spec.run_id,
        "run_dir": spec.run_dir,
        "node": asdict(spec.node),
        "groups": [_group(job, group) for group in spec.groups],
        "success": _plain(asdict(spec.success)),
        "rendezvous": rendezvous,
        "stop": _plain(asdict(spec.stop)),
        "logs": _plain(asdict(spec.logs)),
        "health": {**asdict(spec.health), "token": spec.health.token and MASK} if spec.health else None,
        "settings": {path: {"value": value, "origin": origin} for path, value, origin in settings(job)},
        "needs": needs.values(job.needs),
        "notes": [job.secrets.mask(str(note)) for note in job.notes],
    }


def _group(job: Job, group: GroupSpec) -> dict[str, Any]:
    return {
        "role": group.role,
        "nodes": [group.min_nodes, group.max_nodes],
        "spares": group.spare_nodes,
        "on": list(group.on),
        "depends_on": dict(group.depends_on),
        "cascade": group.cascade,
        "workers": list(_workers(job, group)),
        "limits": {name: list(bounds) for name, bounds in group.worker.limits.items()},
        "restart": _plain(asdict(group.restart)),
        "probes": _plain(asdict(group.probes)) if group.probes else None,
        "preflight": _plain(asdict(group.preflight)) if group.preflight else None,
        "watchdog": _plain(asdict(group.watchdog)),
        "machine": rows(machine(job, group)),
    }


def rows(table: tuple[Row, ...]) -> list[dict[str, Any]]:
    """A table as JSON-ready values."""
    return [{name: value for name, value in asdict(row).items() if value is not None} for row in table]


def _workers(job: Job, group: GroupSpec) -> Iterator[dict[str, Any]]:
    """Each local worker, as it would be if this node came first and the least number of equal nodes met."""
    spec, nproc = job.spec, group.worker.nproc
    seat = Seat(
        round=1,
        token=0,
        slot=0,
        size=group.min_nodes,
        base_rank=0,
        world_size=group.min_nodes * nproc,
        members_hash="",
        master_addr="",
        master_port=0,
        charged=0,
        consecutive=0,
    )
    for place in ranks.places(seat, nproc):
        where = spec.rendezvous.url or _LATER
        watched = None if group.watchdog.kind is WatchdogKind.DISABLED else ""
        env = ranks.worker_env(spec, group, place, {}, error_file="", result_file="", store=where, watchdog=watched)
        env |= dict.fromkeys((name for name in _AT_START if name in env and name not in group.worker.env), _LATER)
        env |= dict.fromkeys((name for name in _IF_WATCHED if env.get(name) == ""), _LATER)
        unset = [name for name, value in group.worker.env.items() if value is None]
        yield {
            "local_rank": place.local_rank,
            "rank": place.rank,
            "cmd": [job.secrets.mask(word) for word in ranks.fill_in(group.worker.cmd, spec, group, place)],
            "env": {name: job.secrets.mask_named(name, value) for name, value in env.items()},
            "unset": unset,
            "cpus": sorted(group.worker.affinity[place.local_rank]) if group.worker.affinity else None,
        }


def _plain(value: Any) -> Any:  # noqa: ANN401 - a spec's fields
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def settings(job: Job) -> Iterator[tuple[str, Any, str]]:
    """What is not as conf/ has it: path, value and origin."""
    own = shown(data_dir("conf"))
    for path, value in _leaves(job.data, ""):
        origin = job.origins.of(path)
        if origin and not origin.startswith(own) and path != "recipe.dir":
            name = path.rpartition(".")[2]
            yield path, job.secrets.mask_named(name, "null" if value is None else str(value)), job.secrets.mask(origin)


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - YAML holds anything
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        yield path, shlex.join(map(str, node)) if path.endswith("worker.cmd") else json.dumps(node, default=str)
    else:
        yield path, node


def text(job: Job) -> str:
    """The plan for a person."""
    spec = job.spec
    lines = [f"run {spec.run_id}, node {spec.node.name}, files in {shown(spec.run_dir)}"]
    for at, group in enumerate(spec.groups):
        lines += [*([""] if at else []), *_group_lines(job, group)]
    if len(spec.groups) > 1:
        lines += ["", "success", f"  {_success_line(spec.success)}"]
    if job.needs:
        lines += ["", "needs", *(f"  {line}" for line in needs.lines(job.needs))]
    lines += ["", "rendezvous", *_rendezvous_lines(job)]
    stop = spec.stop
    lines += ["", "stop", f"  {signal_name(stop.signal)}, {stop.grace_s:g} s later SIGKILL"]
    if stop.platform_grace_s is not None:
        within = in_time(stop, SIGTERM)
        lines += [f"  {within.grace_s:g} s when the platform asks, which kills {stop.platform_grace_s:g} s later"]
    lines += [f"  {signal_name(number)} goes to the workers" for number in sorted(stop.forward)]
    lines += [f"  {signal_name(number)} ends the agent with exit code 75" for number in sorted(stop.preempt)]
    lines += ["", "logs", f"  {spec.logs.kind}, in {shown(spec.logs.dir)}{_kept(spec.logs)}"]
    if spec.health is not None:
        lines += ["", "health", f"  {_health_line(spec.health)}"]
    lines += ["", "settings that differ from conf/"]
    lines += [f"  {path} = {value}  [{origin}]" for path, value, origin in settings(job)] or ["  none"]
    for group in spec.groups:
        table = graph.text(machine(job, group)).splitlines()
        lines += ["", f"machine of {group.role}", *(f"  {line}" for line in table)]
    return "\n".join(lines) + "\n"


def _kept(logs: LogsSpec) -> str:
    kept = f"; of each file the newest {logs.max_bytes} bytes" if logs.max_bytes is not None else ""
    slowed = f"; at most {logs.console_bytes_per_s} bytes/s shown" if logs.console_bytes_per_s is not None else ""
    return kept + slowed


def _health_line(health: HealthSpec) -> str:
    port = f", port {health.port}" if health.port else ", a free port"
    by = f", by {health.server}" if health.server else ""
    where = health.host if health.host.startswith(UNIX) else f"{health.host}{port}"
    return f"{where}{by}; alive while the agent has turned within {health.timeout_s} s"


def _group_lines(job: Job, group: GroupSpec) -> Iterator[str]:
    low, high, worker = group.min_nodes, group.max_nodes, group.worker
    span = f"{low} to {high} nodes" if low != high else f"{low} node{'s' if low > 1 else ''}"
    here = "on this one" if admits(group.on, job.spec.node.name) else "on each, and none on this one"
    yield f"role {group.role}: {span}, {worker.nproc} worker{'s' if worker.nproc > 1 else ''} {here}"
    yield from (f"  {line}" for line in place_lines(group))
    yield from ("", "commands")
    workers = list(_workers(job, group))
    for one in workers:
        on = f" on processors {ranges(one['cpus'])}" if one["cpus"] else ""
        yield f"  local rank {one['local_rank']}{on}: {shlex.join(one['cmd'])}"
    yield f"  in {shown(worker.cwd or os.curdir)}{f', run by {worker.backend}' if worker.backend else ''}"
    for name, bounds in worker.limits.items():
        soft, hard = ("unlimited" if bound is None else bound for bound in bounds)
        yield f"  limit {name}: {soft}{f', hard {hard}' if hard != soft else ''}"
    yield from ("", "environment, added to yours, of local rank 0")
    yield from (f"  {name}={value}" for name, value in sorted(workers[0]["env"].items()))
    yield from (f"  {name} is unset" for name in workers[0]["unset"])
    yield from ("", "restart", *(f"  {line}" for line in _restart_lines(group)))
    yield from ("", "watchdog", f"  {_watchdog_line(group)}")


def place_lines(group: GroupSpec) -> Iterator[str]:
    """Where a role runs, and what it waits for, if that is said."""
    if group.on:
        yield f"on nodes named {' or '.join(group.on)}"
    for role, need in group.depends_on.items():
        needed = "has succeeded" if need is Need.SUCCEEDED else f"is {need}"
        yield f"waits until {role} {needed}{', and is restarted when that is' if group.cascade else ''}"


def _success_line(success: SuccessPolicy) -> str:
    if success.kind is SuccessKind.LISTED:
        return f"when {', '.join(success.roles)} succeeded; the others are stopped then"
    return f"when {success.kind} of the roles succeeded"


def _restart_lines(group: GroupSpec) -> Iterator[str]:
    restart = group.restart
    yield str(restart.kind)
    if restart.kind == "never":
        return
    budget, delays = restart.budget, restart.backoff
    within = f"within {budget.per_s:g} s" if budget.per_s is not None else "in the whole run"
    yield f"at most {'any number of' if budget.max is None else budget.max} restarts {within}"
    yield f"after {delays.initial_s:g} s, then times {delays.factor:g} each, at most {delays.max_s:g} s"
    if restart.scope is not Scope.GROUP:
        yield f"a failure restarts {scope_words(restart.scope)}; the others run on"
    for number, rule in enumerate(restart.rules):
        what = consequence(rule.action, rule.scope or restart.scope)
        yield f"rule {number} {what}: {condition(rule)}{_own(rule)}"
    progress = restart.progress
    if progress.refill:
        yield "budgets begin anew when the run has got further than at the last charged restart"
    if progress.max_stalled is not None:
        yield f"{progress.max_stalled} restarts in a row without progress end the run"


def _own(rule: Rule) -> str:
    """What a rule has of its own."""
    parts = []
    if rule.budget is not None:
        within = f" within {rule.budget.per_s:g} s" if rule.budget.per_s is not None else ""
        most = "any number" if rule.budget.max is None else f"{rule.budget.max}"
        parts.append(f"at most {most}{within}, of its own")
    if rule.backoff is not None:
        parts.append(f"after {rule.backoff.initial_s:g} s, at most {rule.backoff.max_s:g} s")
    return f"; {'; '.join(parts)}" if parts else ""


def _watchdog_line(group: GroupSpec) -> str:
    watchdog = group.watchdog
    limits = [f"{watchdog.timeout_s:g} s without a word, {watchdog.warmup_s:g} s before the first one"]
    limits += [f"{limit:g} s in {name}" for name, limit in watchdog.sections.items()]
    if watchdog.learn is not None:
        limits.append(f"or what the run teaches, from {watchdog.learn.floor_s:g} s on")
    return {
        WatchdogKind.DISABLED: "disabled",
        WatchdogKind.OBSERVE: f"observe: tells after {watchdog.after_s:g} s without CPU time and output",
        WatchdogKind.TIMER: "timer: restarts when a timer of torch's expires",
    }.get(watchdog.kind, f"{watchdog.kind}: restarts after {', '.join(limits)}")


def _rendezvous_lines(job: Job) -> Iterator[str]:
    chosen = job.spec.rendezvous
    where = job.secrets.mask(chosen.url) if chosen.url else "a private server"
    listen = f", listening on {chosen.listen[0]}:{chosen.listen[1]}" if chosen.listen else ""
    yield f"  {chosen.kind}: {where}{listen}"
    yield f"  join within {chosen.join_timeout_s:g} s, lease {chosen.lease_s:g} s"
