"""``roles`` as they are composed: each one's keys are laid over the job's before an interpolation is resolved.

So ``${worker.nproc}`` means the role's own wherever the role, or the job, has written it. Invariant: whatever of the
job a role does not give reaches it, except under a choice of another kind, of which it has that kind's defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from orchestrator.cli import yaml12
from orchestrator.cli.argv import Override
from orchestrator.cli.origins import gives
from orchestrator.cli.paths import data_dir
from orchestrator.cli.plain import plain
from orchestrator.config.groups import Role
from orchestrator.config.report import UNRESOLVED, Report
from orchestrator.config.roles import CHOICES, KEYS, PARTS, is_role_name, is_role_path
from orchestrator.config.schema import GROUPS
from orchestrator.core.health import ProbeWay
from orchestrator.errors import Problem

_WAYS = frozenset(map(str, ProbeWay))
_NO_ROLE_HAS = ("roles", "success")


def separate(cfg: DictConfig, report: Report) -> tuple[dict[str, Any], tuple[Role, ...]]:
    """The job's plain data, and each role with what it has of its own, resolved.

    Of a job with roles, what they may give stays as it was written: it has a meaning in a role only.
    """
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    entries = raw.get("roles")
    if not entries or not isinstance(entries, dict):
        return {**plain(cfg, report), **({"roles": entries} if "roles" in raw else {})}, ()
    found = Report()
    data = plain(cfg, found)
    report.problems += [one for one in found.problems if not (one.path.startswith("roles") or is_role_path(one.path))]
    sound = {str(name): entry for name, entry in entries.items() if isinstance(entry, dict)}
    roles = [_role(cfg, raw, name, entry) for name, entry in sound.items() if is_role_name(name)]
    for key in KEYS:
        if key not in PARTS and key in raw:
            data[key] = raw[key]
        elif isinstance(data.get(key), dict) and isinstance(raw[key], dict):
            data[key].update({part: raw[key][part] for part in PARTS[key] if part in raw[key]})
    seen = {role.name: _shown(role.own, role.data) for role in roles}
    data["roles"] = {str(name): merged(entry, seen.get(str(name), entry)) for name, entry in entries.items()}
    return data, tuple(roles)


def _role(cfg: DictConfig, raw: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> Role:
    told = {key: value for key, value in entry.items() if key in KEYS and (key not in PARTS or isinstance(value, dict))}
    own = {key: _own(key, value) for key, value in told.items()}
    laid = {key: _over(key, raw.get(key), value) for key, value in own.items()}
    root = OmegaConf.create({**raw, **laid, "role": name})
    OmegaConf.copy_cache(cfg, root)
    found = Report()
    data = {key: value for key, value in plain(root, found).items() if key in KEYS}
    problems = tuple(problem for problem in found.problems if is_role_path(problem.path))
    return Role(name=name, own=own, data=data, problems=problems)


def _own(key: str, value: Any) -> Any:  # noqa: ANN401 - YAML holds anything
    """What of a role's ``key`` is a role's to say, in its long form."""
    if key in CHOICES and isinstance(value, str) and "${" not in value:
        return {"kind": value}
    return {part: inner for part, inner in value.items() if part in PARTS[key]} if key in PARTS else value


def _over(key: str, job: Any, own: Any) -> Any:  # noqa: ANN401 - as above
    """A role's ``own`` value of ``key`` over the job's."""
    if key in CHOICES and isinstance(own, dict) and differs(job, own):
        return merged(_shipped(key, own["kind"]), own)
    if key == "health" and isinstance(job, dict):  # a probe that asks in another way is another probe
        job = {name: probe for name, probe in job.items() if not _asks_otherwise(probe, own.get(name))}
    return merged(job, own)


def differs(job: Any, own: Mapping[str, Any]) -> bool:  # noqa: ANN401 - as above
    """Whether a role has chosen another kind than the job."""
    kind: object = job.get("kind") if isinstance(job, Mapping) else job
    return bool(own.get("kind", kind) != kind)


def _asks_otherwise(probe: object, own: object) -> bool:
    if not isinstance(probe, dict) or not isinstance(own, dict):
        return False
    ways = _WAYS.intersection(own)
    return bool(ways) and ways != _WAYS.intersection(probe)


def _shipped(group: str, kind: object) -> Any:  # noqa: ANN401 - as above
    if not isinstance(kind, str) or kind not in GROUPS[group]:
        return {}
    file = data_dir("conf") / group / f"{kind}.yaml"
    return yaml12.read(file.read_text(encoding="utf-8"), str(file)).data


def merged(job: Any, own: Any) -> Any:  # noqa: ANN401 - as above
    """Mappings key by key; of anything else, the role's own."""
    if not isinstance(job, dict) or not isinstance(own, dict):
        return own
    return {**job, **{key: merged(job.get(key), value) for key, value in own.items()}}


def _shown(own: Any, resolved: Any) -> Any:  # noqa: ANN401 - as above
    """What a role says itself, with its values."""
    if not isinstance(own, dict) or not isinstance(resolved, dict):
        return resolved
    return {key: _shown(value, resolved.get(key)) for key, value in own.items()}


def defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """The job's ``data`` as far as it can be judged without a role: what depends on other values is none yet."""
    found = dict(data)
    for key in KEYS:
        section = data.get(key)
        if isinstance(section, dict):
            found[key] = {name: _judged(value, f"{key}.{name}") for name, value in section.items()}
        elif key in data:
            found[key] = _judged(section, key)
    return found


def _judged(value: Any, path: str) -> Any:  # noqa: ANN401 - as above
    return UNRESOLVED if is_role_path(path) and "${" in str(value) else value


def seen_by(role: Role, data: Mapping[str, Any], recipe_dir: object) -> Role:
    """``role`` with the rest of the job, whose own ``data`` has been settled."""
    whole = {key: value for key, value in data.items() if key not in (*KEYS, *_NO_ROLE_HAS)}
    for section, parts in PARTS.items():
        job, own = data.get(section), role.data.get(section)
        if isinstance(job, dict) and isinstance(own, dict):
            kept = {key: value for key, value in job.items() if key not in parts}
            job = {**kept, **{key: value for key, value in own.items() if key in parts}}
        whole[section] = job
    header = data.get("recipe")
    whole |= {"role": role.name, "recipe": {**header, "dir": recipe_dir} if isinstance(header, dict) else header}
    return replace(role, data={**role.data, **whole})


def shadowed(overrides: Iterable[Override], data: Mapping[str, Any], roles: tuple[Role, ...]) -> Iterator[Problem]:
    """The overrides that reach no role, because each gives its own."""
    for override in overrides if roles else ():
        if override.key == "role":
            yield Problem("role", "names the only group, and there are roles", "leave it out", override.origin)
            continue
        given = [path for path in _leaves(data, "") if is_role_path(path) and gives(override, path)]
        if given and all(_hides(role, path, data) for role in roles for path in given):
            instead = " or ".join(f"roles.{role.name}.{override.key}=" for role in roles)
            fact = f"reaches no role: {' and '.join(role.name for role in roles)} have their own"
            yield Problem(override.key, fact, f"write {instead}", override.origin)


def _hides(role: Role, path: str, data: Mapping[str, Any]) -> bool:
    section = path.partition(".")[0]
    own = role.own.get(section)
    chosen = section in CHOICES and isinstance(own, Mapping) and differs(data.get(section), own)
    return chosen or role.gives(path)


def _leaves(node: Any, path: str) -> Iterator[str]:  # noqa: ANN401 - as above
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path
