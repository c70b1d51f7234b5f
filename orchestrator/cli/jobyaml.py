"""``job.yaml``: the composed job as a recipe that runs again, without secrets.

Interpolations stay as they were written; a literal secret becomes ``${oc.env:NAME}``. Invariant: what is written here,
read as a recipe in any directory, composes to the same job once those variables are set.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from posixpath import join
from typing import Any

from omegaconf import OmegaConf

from orchestrator.cli import yaml12
from orchestrator.cli.job import Job, this_host
from orchestrator.cli.quoting import literal
from orchestrator.cli.secrets import is_secret_name, literals, url_secrets, variable, worth_masking
from orchestrator.config.program import script_at, worker_cwd

_HEAD = "# This job as it was composed. It runs again: orchestrate PATH_OF_THIS_FILE\n"


def job_yaml(job: Job) -> str:
    """The text of ``job.yaml``."""
    data: Any = OmegaConf.to_container(job.cfg, resolve=False)
    data = {key: value for key, value in data.items() if key != "hydra"}
    data["rendezvous"]["kind"] = str(job.spec.rendezvous.kind)  # a URL may have implied it, and dropped a key
    data["rendezvous"] = {key: value for key, value in data["rendezvous"].items() if key in job.data["rendezvous"]}
    data["health"]["kind"] = job.data["health"]["kind"]  # one of its keys may have implied it
    header = data.get("recipe")
    if isinstance(header, dict):
        data["recipe"] = {**header, "needs": job.data["recipe"].get("needs", []), "dir": None}
    cwd = {group.role: group.worker.cwd for group in job.spec.groups}
    roles = data.get("roles") or {}
    for entry, where in [(data, next(iter(cwd.values()))), *((roles[role], cwd[role]) for role in roles)]:
        if isinstance(entry.get("worker"), dict) and "cmd" in entry["worker"]:
            entry["worker"]["cmd"] = _anchored(entry["worker"]["cmd"], where, job)
    data = without_secrets(data)
    return _HEAD + _needed(data) + yaml12.write(data)


def _anchored(cmd: Any, cwd: str | None, job: Job) -> Any:  # noqa: ANN401 - unresolved YAML
    """The command with its script's path made absolute: the recipe's directory, or the one where workers start."""
    words = cmd
    if isinstance(cmd, str):
        try:
            words = shlex.split(cmd)
        except ValueError:  # quotes that an interpolation closes
            return cmd
    if not isinstance(words, list):
        return cmd
    host = this_host()
    plain = tuple(word if isinstance(word, str) and "${" not in word else "" for word in words)
    for folder in (job.data["recipe"].get("dir"), worker_cwd(cwd, host)):
        at = script_at(plain, folder, host)
        if at is not None:
            path = literal(join(folder, plain[at].removeprefix("./")))
            return (
                cmd.replace(plain[at], shlex.quote(path), 1) if words is not cmd else [*cmd[:at], path, *cmd[at + 1 :]]
            )
    return cmd


def without_secrets(data: Any) -> Any:  # noqa: ANN401 - unresolved YAML
    """``data`` with each literal secret, also one that the environment holds, replaced by a reference to a variable.

    Of secrets with one name and several values, a role's gets the role's name in front.
    """
    known = {value: name for name, value in os.environ.items() if is_secret_name(name) and worth_masking(value)}
    values: dict[str, set[str]] = {}
    for name, value in literals(data):
        values.setdefault(name, set()).add(value)
    several = frozenset(name for name, found in values.items() if len(found) > 1)
    found = _without_secrets({key: value for key, value in data.items() if key != "roles"}, "", known)
    if isinstance(data.get("roles"), dict):
        roles = {
            name: _without_secrets(entry, "", known, _Own(variable(str(name)), several))
            for name, entry in data["roles"].items()
        }
        found = {key: roles if key == "roles" else found[key] for key in data}
    return found


@dataclass(frozen=True, slots=True)
class _Own:
    """Which names of variables stand for another value elsewhere, and what tells one from the other."""

    role: str = ""
    several: frozenset[str] = frozenset()

    def reference(self, name: str) -> str:
        return _reference(f"{self.role}_{name}" if name in self.several else name)


_NOBODY = _Own()


def _without_secrets(node: Any, name: str, known: dict[str, str], own: _Own = _NOBODY) -> Any:  # noqa: ANN401 - unresolved YAML
    """``node`` with each literal secret replaced by the variable that it should come from."""
    if isinstance(node, dict):
        return {key: _without_secrets(value, str(key), known, own) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_secrets(value, name, known, own) for value in node]
    if isinstance(node, bool) or not isinstance(node, str | int | float):
        return node
    text = str(node)
    passwords = url_secrets(text) if "${" not in text else {}
    if passwords:
        begin = "REDIS" if text.startswith("redis") else variable(name)
        for suffix, password in passwords.items():
            reference = own.reference(f"{begin}_{suffix}")
            text = text.replace(f":{password}@", f":{reference}@").replace(
                f"password={password}", f"password={reference}"
            )
        return text
    if is_secret_name(name) and text and "${" not in text:
        return own.reference(variable(name))
    found = [value for value in sorted(known, key=len, reverse=True) if value in text]
    for value in found:
        before, _, after = text.partition(value)
        slashes = len(before) - len(before.rstrip("\\"))  # before an interpolation a backslash would escape it
        text = f"{before}{chr(92) * slashes}{_reference(known[value])}{after.replace(value, _reference(known[value]))}"
    return text if found else node


def _reference(name: str) -> str:
    return f"${{oc.env:{name}}}"


def _needed(data: Any) -> str:  # noqa: ANN401 - unresolved YAML
    """A line that says which variables have to be set, besides those that are always there."""
    names = sorted({name for name in re.findall(r"\$\{oc\.env:(\w+)\}", str(data)) if is_secret_name(name)})
    return f"# It needs these variables: {', '.join(names)}\n" if names else ""
