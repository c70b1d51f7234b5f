"""``job.yaml``: the composed job as a recipe that runs again, without secrets.

Interpolations stay as they were written; a literal secret becomes ``${oc.env:NAME}``. Invariant: what is written here,
read as a recipe in any directory, composes to the same job once those variables are set.
"""

from __future__ import annotations

import os
import shlex
from posixpath import join
from typing import Any

from omegaconf import OmegaConf

from orchestrator.cli import yaml12
from orchestrator.cli.job import Job, this_host
from orchestrator.cli.quoting import literal
from orchestrator.cli.secrets import is_secret_name, url_secrets, variable, worth_masking
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
    if isinstance(data.get("worker"), dict):
        data["worker"]["cmd"] = _anchored(data["worker"].get("cmd"), job)
    data = without_secrets(data)
    return _HEAD + _needed(job, data) + yaml12.write(data)


def _anchored(cmd: Any, job: Job) -> Any:  # noqa: ANN401 - unresolved YAML
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
    for folder in (job.data["recipe"].get("dir"), worker_cwd(job.spec.groups[0].worker.cwd, host)):
        at = script_at(plain, folder, host)
        if at is not None:
            path = literal(join(folder, plain[at].removeprefix("./")))
            return (
                cmd.replace(plain[at], shlex.quote(path), 1) if words is not cmd else [*cmd[:at], path, *cmd[at + 1 :]]
            )
    return cmd


def without_secrets(data: Any) -> Any:  # noqa: ANN401 - unresolved YAML
    """``data`` with each literal secret, also one that the environment holds, replaced by a reference to a variable."""
    known = {value: name for name, value in os.environ.items() if is_secret_name(name) and worth_masking(value)}
    return _without_secrets(data, "", known)


def _without_secrets(node: Any, name: str, known: dict[str, str]) -> Any:  # noqa: ANN401 - unresolved YAML
    """``node`` with each literal secret replaced by the variable that it should come from."""
    if isinstance(node, dict):
        return {key: _without_secrets(value, str(key), known) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_secrets(value, name, known) for value in node]
    if isinstance(node, bool) or not isinstance(node, str | int | float):
        return node
    text = str(node)
    passwords = url_secrets(text) if "${" not in text else {}
    if passwords:
        begin = "REDIS" if text.startswith("redis") else variable(name)
        for suffix, password in passwords.items():
            reference = _reference(f"{begin}_{suffix}")
            text = text.replace(f":{password}@", f":{reference}@").replace(
                f"password={password}", f"password={reference}"
            )
        return text
    if is_secret_name(name) and text and "${" not in text:
        return _reference(variable(name))
    found = [value for value in sorted(known, key=len, reverse=True) if value in text]
    for value in found:
        before, _, after = text.partition(value)
        slashes = len(before) - len(before.rstrip("\\"))  # before an interpolation a backslash would escape it
        text = f"{before}{chr(92) * slashes}{_reference(known[value])}{after.replace(value, _reference(known[value]))}"
    return text if found else node


def _reference(name: str) -> str:
    return f"${{oc.env:{name}}}"


def _needed(job: Job, data: Any) -> str:  # noqa: ANN401 - unresolved YAML
    """A line that says which variables have to be set, besides those that are always there."""
    text = str(data)
    redis = ("REDIS_PASSWORD", "REDIS_SENTINEL_PASSWORD", "REDIS_SSL_PASSWORD")
    names = {name for name in (*job.secrets.values, *redis) if f"${{oc.env:{name}}}" in text}
    return f"# It needs these variables: {', '.join(sorted(names))}\n" if names else ""
