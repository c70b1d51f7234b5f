"""The JSON schema of a recipe, from the same dataclasses that read it.

Draft 7, which editors' YAML servers know best. Invariant: whatever the converter takes, the schema takes.
"""

from __future__ import annotations

from orchestrator.config.restart import RESTART
from orchestrator.config.roles import OWN, PARTS, RoleConfig
from orchestrator.config.schema import GROUPS, JobConfig, WorkerConfig
from orchestrator.config.shape import (
    INTERPOLATION,
    About,
    Shape,
    choice_of,
    object_of,
    or_null,
    written,
)
from orchestrator.config.watchdog import WATCHDOG

DIALECT = "http://json-schema.org/draft-07/schema#"
_CHOOSABLE = rf"^((override|optional) +)?/?({'|'.join(GROUPS)}|recipe|hydra/launcher|hydra/sweeper)$"
_DEFAULTS: Shape = {
    "description": "what this builds on: recipes beside it or by name, and choices, as in - override /restart: never",
    "type": ["array", "null"],
    "items": {
        "anyOf": [
            {"type": "string", "pattern": r"^(/recipe/)?[^/$]"},
            {"type": "object", "minProperties": 1, "maxProperties": 1, "propertyNames": {"pattern": _CHOOSABLE}},
        ]
    },
}


def recipe_schema(about: About) -> Shape:
    """The schema of a whole file. ``about`` has what conf/ says of each key."""
    job = object_of(JobConfig, about)
    properties = {"defaults": _DEFAULTS, **job["properties"]}
    properties["roles"] = {**properties["roles"], **_roles(about)}
    return {
        "$schema": DIALECT,
        "title": "a recipe of the orchestrator",
        "description": "One job: what to run, on how many nodes, and what to do when it fails.",
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": properties,
        "definitions": {"interpolation": INTERPOLATION, "role": _role(about)},
    }


def _roles(about: About) -> Shape:
    names = {"pattern": "^[A-Za-z0-9_-]{1,64}$"}
    mapping = {"type": "object", "propertyNames": names, "additionalProperties": {"$ref": "#/definitions/role"}}
    return {**written(mapping), **about.get("roles", {})}


def _role(about: About) -> Shape:
    """What a role may give: its own keys, and part of the job's."""
    job = object_of(JobConfig, about)["properties"]
    own = object_of(RoleConfig)["properties"]
    properties = {
        **{name: own[name] for name in OWN},
        "nodes": job["nodes"],
        "worker": or_null(object_of(WorkerConfig, about, "worker")),
        "restart": choice_of(RESTART, about, "restart"),
        "watchdog": choice_of(WATCHDOG, about, "watchdog"),
    }
    for section, keys in PARTS.items():
        everything: dict[str, Shape] = {}
        for cls in GROUPS[section].values():
            everything |= object_of(cls, about, section)["properties"]
        part = {name: everything[name] for name in keys}
        properties[section] = or_null({"type": "object", "additionalProperties": False, "properties": part})
    return {"type": "object", "additionalProperties": False, "properties": properties}
