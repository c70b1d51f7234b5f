"""Which keys all nodes of a run must agree on, and which each node decides for itself.

Works on data as it was composed, with interpolations unresolved. Invariant: a key that is not listed here is the job's,
so that a new one is agreed on unless somebody has thought about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IDENTITY = ("run_id", "recipe", "sweep", "hydra")
"""What names a job or says how it came to be, and is none of it."""

NODE = (
    "node",
    "logs",
    "rendezvous.kind",  # a node that brings the server listens, the others connect
    "rendezvous.url",
    "rendezvous.listen",
    "rendezvous.password",
    "rendezvous.reopen",
    "health.kind",
    "health.host",
    "health.port",
    "health.token",
    "health.timeout_s",
    "health.server",
    "watchdog.path",
    "worker.nproc",
    "worker.cwd",
    "worker.affinity",
    "worker.backend",
)
"""What each node decides for itself."""

OF_ALL = ("preflight", "startup", "readiness", "liveness")
"""What ``health`` may ask of all nodes. Without any of it, that section is each node's own."""

CARRIED = ("worker.nproc", "worker.cwd", "recipe")
"""Of these, what a node that takes the job from the run has as its defaults."""


def is_node_field(path: str) -> bool:
    """Whether the key at ``path``, also one of a role, is a node's own."""
    parts = path.split(".")
    if parts[0] == "roles":
        parts = parts[2:]
    return any(".".join(parts[:size]) in NODE for size in range(1, len(parts) + 1))


def job_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``data`` all nodes must agree on."""
    found = {name: value for name, value in _pruned(data, "").items() if name not in IDENTITY}
    if _torchruns(data):
        found["worker"] = {name: value for name, value in found["worker"].items() if name != "cmd"}
    health = found.get("health")
    if isinstance(health, Mapping) and not any(health.get(name) for name in OF_ALL):
        del found["health"]  # whether and where a node can be asked is its own business
    return found


def defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``data`` a node may take over from the first one."""
    found = _carried(data)
    if _torchruns(data):
        found.setdefault("worker", {})["cmd"] = data["worker"].get("cmd")
    roles = data.get("roles")
    if isinstance(roles, Mapping):
        carried = {name: _carried(role) for name, role in roles.items() if isinstance(role, Mapping)}
        found.update({"roles": kept} if (kept := {name: more for name, more in carried.items() if more}) else {})
    return found


def _torchruns(data: Mapping[str, Any]) -> bool:
    """Whether the command is torchrun's: its agents may give their workers arguments of their own."""
    worker = data.get("worker")
    return isinstance(worker, Mapping) and worker.get("macros") == "torchrun"


def _carried(data: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in CARRIED:
        section, _, name = path.partition(".")
        value = data.get(section)
        if name:
            if isinstance(value, Mapping) and value.get(name) is not None:
                found.setdefault(section, {})[name] = value[name]
        elif value:
            found[section] = value
    return found


def merged(job: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """``job`` with those keys of ``more`` that are no job's; the job's own win."""
    found = dict(job)
    for name, value in more.items():
        mine = found.get(name)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            found[name] = merged(mine, value)
        else:
            found.setdefault(name, value)
    return found


def _pruned(data: Mapping[str, Any], above: str) -> dict[str, Any]:
    found = {}
    for name, value in data.items():
        path = f"{above}{name}"
        if is_node_field(path):
            continue
        found[name] = _pruned(value, f"{path}.") if isinstance(value, Mapping) else value
    return found
