"""Several roles: each is judged as the whole job that it sees, and what is wrong is told once, where it was written.

A role's data is the job's with its own keys laid over them, so that everything which holds for a job with one group
holds for each role. Relations between roles are judged here too. Invariant: a problem's path is one that the user wrote
or could write: that of the role if its own keys are to blame, else the job's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.config.checks import several_nodes
from orchestrator.config.convert import convert
from orchestrator.config.report import Report, join, listed, nearest
from orchestrator.config.roles import CHOICES, OWN, RoleConfig, is_role_path
from orchestrator.config.schema import JobConfig
from orchestrator.core.roles import admits, circle
from orchestrator.core.specs import GroupSpec, Need, SuccessKind
from orchestrator.errors import Problem

Make = Callable[[JobConfig, Mapping[str, Any], Report], GroupSpec | None]
"""From a role's configuration, and the data that it was read from, to its group; None if it has problems."""

MISSING = "is missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One of ``roles``."""

    name: str
    own: Mapping[str, Any]  # what it says itself, as written
    data: Mapping[str, Any]  # the job as it sees it, resolved
    problems: tuple[Problem, ...] = ()  # of resolving it, with paths as in ``data``

    def gives(self, path: str) -> bool:
        """Whether the value at ``path`` is the role's own."""
        node: object = self.own
        for part in path.partition("[")[0].split("."):
            if not isinstance(node, Mapping):
                break  # it lies within a value that the role gives
            if part not in node:
                return False
            node = node[part]
        return path not in CHOICES or not isinstance(node, Mapping) or "kind" in node

    def _lacks(self, path: str) -> bool:
        """Whether nobody gives a value at ``path``."""
        node: object = self.data
        for part in path.split("."):
            node = node.get(part) if isinstance(node, Mapping) else node
        return node is None

    def path(self, path: str, *, related: bool = False) -> str:
        """How the user knows ``path``. ``related``: other keys of the same choice are to blame as well."""
        section, _, key = path.partition("[")[0].partition(".")
        near = self.gives(path) or (bool(key) and self._lacks(path) and self.gives(path.rpartition(".")[0]))
        to_blame = near or (related and section in CHOICES and bool(self.own.get(section)))
        return f"roles.{self.name}.{path}" if to_blame and is_role_path(path) else path


def groups_of(
    roles: Sequence[Role], job: JobConfig, made_up: str | None, report: Report, make: Make
) -> list[GroupSpec]:
    """The groups of ``roles``, those that others depend on first; some are missing if there are problems."""
    groups: list[GroupSpec] = []
    configs: dict[str, RoleConfig] = {}
    for role in roles:
        inner = report.without(is_role_path)
        known = len(inner.problems)
        inner.problems += role.problems
        own = {name: value for name, value in role.data.items() if name in OWN}
        configs[role.name] = convert(RoleConfig, own, "", inner)
        config = convert(JobConfig, {name: role.data[name] for name in role.data if name not in OWN}, "", inner)
        read = len(inner.problems)
        group = make(config, role.data, inner)
        _tell(role, inner.problems[known:read], roles, report)
        _tell(role, inner.problems[read:], roles, report, related=True)
        report.notes += [note for note in _placed(role, inner.notes) if note not in report.notes]
        if group is not None:
            keys = configs[role.name]
            groups.append(replace(group, on=keys.on, depends_on=keys.depends_on))
    _check_needs(configs, {role.name: role for role in roles}, job.roles, report)
    _check_nodes(configs, job, made_up, report)
    wanted = {needed for group in groups for needed in group.depends_on}
    return ordered(replace(group, needed=group.role in wanted) for group in groups)


def _placed(role: Role, problems: Iterable[Problem], *, related: bool = False) -> list[Problem]:
    found = []
    for problem in problems:
        path = role.path(problem.path, related=related)
        remedy = problem.remedy.replace(f"give {problem.path}=", f"give {path}=")
        found.append(replace(problem, path=path, remedy=remedy))
    return found


def _tell(
    role: Role, problems: Iterable[Problem], roles: Iterable[Role], report: Report, *, related: bool = False
) -> None:
    """Add a role's problems; what is the job's own, or was said of another role as well, is said once."""
    for problem in _placed(role, problems, related=related):
        if problem.path == "worker.cmd" and problem.fact == MISSING:
            hint = nearest(role.name, [other.name for other in roles if other.gives("worker.cmd")])
            where = f"roles.{role.name}.worker.cmd"
            report.problem(where, MISSING, f"{hint}give {where}, or worker.cmd for all roles")
        elif not _said(problem, report):
            report.problems.append(problem)


def _said(problem: Problem, report: Report) -> bool:
    if is_role_path(problem.path) or problem.path.startswith("roles."):
        return any((one.path, one.fact) == (problem.path, problem.fact) for one in report.problems)
    return any(one.path == problem.path for one in report.problems)


def _check_needs(
    configs: Mapping[str, RoleConfig], roles: Mapping[str, Role], names: Iterable[str], report: Report
) -> None:
    """Report roles that wait for what never comes."""
    for name, config in configs.items():
        where = f"roles.{name}.depends_on"
        for needed, need in config.depends_on.items():
            if needed not in names:
                hint = nearest(needed, [one for one in names if one != name])
                report.problem(where, f"{needed!r} is no role", f"{hint}known: {listed(names)}")
            elif need is Need.SUCCEEDED and needed in roles and _kind(roles[needed]) == "always":
                fact = f"{needed!r} never succeeds: it has restart=always"
                report.problem(join(where, needed), fact, f"give roles.{needed}.restart=on_failure, or need healthy")
    left = {name: tuple(config.depends_on) for name, config in configs.items()}
    while found := circle(left):
        fact = f"waits for itself: {' -> '.join(found)}"
        report.problem(f"roles.{found[0]}.depends_on", fact, "take one of them out of the circle")
        left = {name: needs for name, needs in left.items() if name not in found}


def _kind(role: Role) -> object:
    restart = role.data.get("restart")
    return restart.get("kind") if isinstance(restart, Mapping) else restart


def _check_nodes(configs: Mapping[str, RoleConfig], job: JobConfig, made_up: str | None, report: Report) -> None:
    """Report a node that has nothing to do, and what nodes with different roles would need to meet."""
    if not report.clean("node.name") or job.node.name is None:
        return
    node = job.node.name
    elsewhere = [name for name, config in configs.items() if not admits(config.on, node)]
    if elsewhere and len(elsewhere) == len(configs):
        wanted = ", ".join(f"roles.{name}.on is {' '.join(configs[name].on)}" for name in elsewhere)
        report.problem("node.name", f"{node!r} takes part in no role: {wanted}", "give the name of one, or widen an on")
    elif elsewhere:
        several_nodes(job, made_up, f"roles.{elsewhere[0]}.on needs one", report)


def check_success(job: JobConfig, report: Report) -> None:
    """Report a ``success`` that lists what is no role."""
    if job.success.kind is not SuccessKind.LISTED or not report.clean("success"):
        return
    if not job.roles and report.clean("roles"):
        report.problem("success", "lists roles, and there are none", "allowed: all, any; or give roles")
        return
    for at, name in enumerate(job.success.roles):
        if name not in job.roles:
            fact, remedy = f"{name!r} is no role", f"{nearest(name, job.roles)}known: {listed(job.roles)}"
            report.problem(f"success[{at}]", fact, remedy)


def ordered(groups: Iterable[GroupSpec]) -> list[GroupSpec]:
    """``groups`` as they are, but each after those that it depends on; without those that wait in a circle."""
    left, found = list(groups), list[GroupSpec]()
    while ready := [one for one in left if not any(other.role in one.depends_on for other in left)]:
        found.append(ready[0])
        left.remove(ready[0])
    return found
