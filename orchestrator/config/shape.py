"""The shape of what may be written, as JSON schema: what an editor can know of a value before anything is read.

A reader carries its shape beside itself (`shaped`); a dataclass has those of its fields. A shape may allow what its
reader refuses, for relations and lookups are not shapes. Invariant: it never refuses what the reader takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

Shape = dict[str, Any]
About = Mapping[str, Shape]
"""What is to be added to the property at a path: its description, its default."""

F = TypeVar("F", bound=Callable[..., object])
SCALAR: Shape = {"type": ["string", "number", "boolean"]}
WRITTEN: Shape = {"$ref": "#/definitions/interpolation"}
INTERPOLATION: Shape = {
    "description": "looked up when the job is composed, as in ${oc.env:NAME}; ??? leaves it to the command line",
    "type": "string",
    "pattern": r"\$\{|^\?\?\?$",
}


def shaped(shape: Shape | Callable[[], Shape]) -> Callable[[F], F]:
    """A reader with its shape; one that needs other classes is computed when it is asked for."""

    def mark(read: F) -> F:
        read.shape = shape  # type: ignore[attr-defined]  # functions take attributes
        return read

    return mark


def shape_of(read: object) -> Shape:
    """The shape of a reader; any value, if it has none."""
    shape = getattr(read, "shape", {})
    return dict(shape() if callable(shape) else shape)


def has_shape(read: object) -> bool:
    """Whether somebody has thought about it."""
    return hasattr(read, "shape")


def any_of(*shapes: Shape) -> Shape:
    """One of several, without those of one inside of another."""
    flat: list[Shape] = []
    for shape in shapes:
        flat += shape["anyOf"] if [*shape] == ["anyOf"] else [shape]
    found = [shape for at, shape in enumerate(flat) if shape not in flat[:at]]
    return {"anyOf": found} if len(found) > 1 else found[0]


def written(shape: Shape) -> Shape:
    """``shape``, or what is looked up later."""
    return any_of(shape, WRITTEN) if shape else {}


def or_null(shape: Shape) -> Shape:
    """``shape``, or null."""
    return any_of(shape, {"type": "null"}) if shape else {}


def object_of(cls: type[Any], about: About = {}, path: str = "") -> Shape:  # noqa: B006 - nothing writes to it
    """A mapping with the keys of a dataclass."""
    return {"type": "object", "additionalProperties": False, "properties": _properties(cls, about, path)}


def choice_of(choices: Mapping[str, type[Any]], about: About, path: str) -> Shape:
    """One of several dataclasses: its kind alone, or a mapping. A key of another choice is no error."""
    merged: dict[str, Shape] = {"kind": written({"enum": [*choices]})}
    for cls in choices.values():
        for name, shape in _properties(cls, about, path).items():
            if name in merged and merged[name] != shape:
                shape = {**shape, **any_of(_bare(merged[name]), _bare(shape))}  # noqa: PLW2901 - both kinds have it
            merged[name] = shape
    mapping = {"type": "object", "additionalProperties": False, "properties": merged}
    return written(any_of({"enum": [*choices]}, mapping, {"type": "null"}))


def _bare(shape: Shape) -> Shape:
    return {name: value for name, value in shape.items() if name not in ("description", "default")}


def _properties(cls: type[Any], about: About, path: str) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for one in fields(cls):
        if one.name == "kind":
            continue
        where = f"{path}.{one.name}" if path else one.name
        told = one.metadata
        if "section" in told:
            inner = object_of(told["section"], about, where)
            shape = inner if path else or_null(inner)  # an empty section of a job says nothing
        elif "choices" in told:
            shape = choice_of(told["choices"], about, where)
        else:
            shape = shape_of(told["read"])
        found[one.name] = {**written(shape), **about.get(where, {})}
    return found
