"""The JSON schema of a recipe: editors can read it, all that is right passes, and what a shape can tell is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import yaml12
from orchestrator.cli.paths import data_dir
from orchestrator.cli.schema_text import schema
from orchestrator.config.convert import convert
from orchestrator.config.report import Report
from orchestrator.config.schema import GROUPS, JobConfig
from orchestrator.config.shape import has_shape
from orchestrator.errors import ConfigError
from tests.cli.invoke import Commands
from tests.config.test_bad_configs import BAD

jsonschema = pytest.importorskip("jsonschema", reason="is in the extra [dev]")

SCHEMA = schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
RECIPES = sorted(data_dir("recipes").glob("*.yaml"))
CONF = [path for path in sorted(data_dir("conf").rglob("*.yaml")) if "hydra" not in path.parts]
TELLABLE = re.compile(
    r"unknown key|unknown limit|is not a choice|is not allowed|is too (small|large)|is negative|is not HOST:PORT"
    r"|is not (a|an) (number|name|mapping|list|signal|whole number|host|limit|port|path|exit code|role's name)\b"
    r"|is not octal|is not text|is not a role's to say|is not a recipe's to choose|has no action|names no role"
)
ONLY_READ = {
    "a directory as the run's id",
    "a range of codes upside down",
    "a default placed in hydra",
}
"""What looks like a shape, and is not one."""


def errors(data: object) -> list[str]:
    return [f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in VALIDATOR.iter_errors(data)]


def read(text: str) -> Any:  # noqa: ANN401 - YAML
    return yaml12.read(text, "r.yaml").data


def test_it_is_a_schema_that_editors_read(commands: Commands) -> None:
    said = commands.ctl("schema")
    assert json.loads(said.out) == json.loads(commands.ctl("schema", "--json").out) == SCHEMA
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_passes(path: Path) -> None:
    assert errors(read(path.read_text())) == []


@pytest.mark.parametrize("path", CONF, ids=lambda path: path.stem)
def test_every_default_passes(path: Path) -> None:
    data = read(path.read_text())
    data = {name: value for name, value in data.items() if name not in ("defaults", "hydra")}
    assert errors({path.parent.name: data} if path.parent.name in GROUPS else data) == []


def test_a_new_recipe_and_a_composed_job_pass(commands: Commands, tmp_path: Path) -> None:
    assert commands.ctl("recipes", "new", "mine").code == 0
    assert errors(read((tmp_path / "recipes" / "mine.yaml").read_text())) == []
    for path in RECIPES:
        assert errors(read(commands.ctl("recipes", "show", path.stem).out)) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "restart:\nworker:\n",
        "worker: {nproc: '${oc.env:N}', cmd: [a, '${run_id}', 1, true]}",
        "worker: ${other}",
        "nodes: ???",
        "nodes: 2:4",
        "stop: {signal: sigusr1, grace_s: '1e1'}",
        "restart: {kind: never, budget: {max: 1}}",
        "restart: {rules: [{exit_codes: 64-78, signals: TERM, action: retry, budget: {max: null}}]}",
        "roles: {a: {restart: never, depends_on: b}, b: {health: {readiness: {tcp: {port: 80__rank__}}}}}",
        "worker: {limits: {nofile: '1:unlimited', core: 0}, affinity: [0, 2-3], umask: '022'}",
        "defaults: [base, ./sub/base, _self_, {override /restart: never}, {override /hydra/launcher: basic}]",
        "sweep: {params: {worker.flags.lr: [0.1, 0.01], seed: 'range(1,5)'}}",
    ],
)
def test_what_may_be_written_passes(text: str) -> None:
    assert errors(read(text)) == []


def test_every_key_has_a_shape_and_a_description() -> None:
    for cls, path in classes(JobConfig, ""):
        for one in fields(cls):
            told = one.metadata
            assert one.name == "kind" or "section" in told or "choices" in told or has_shape(told["read"]), (
                path,
                one.name,
            )
    lacking = [path for path, found in properties(SCHEMA, "") if "description" not in found]
    assert [path for path in lacking if path.count(".") < 2 and not path.endswith("kind")] == UNCOMMENTED


UNCOMMENTED = ["node", "worker", "recipe", "recipe.name", "recipe.description"]
"""Keys that conf/ lets speak for themselves."""


def classes(cls: Any, path: str) -> Iterator[tuple[Any, str]]:  # noqa: ANN401 - a dataclass
    yield cls, path
    for one in fields(cls):
        inner = [one.metadata["section"]] if "section" in one.metadata else one.metadata.get("choices", {}).values()
        for each in inner:
            assert is_dataclass(each)
            yield from classes(each, f"{path}.{one.name}")


def properties(shape: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in [shape, *shape.get("anyOf", [])]:
        for name, found in one.get("properties", {}).items():
            where = f"{path}.{name}" if path else name
            yield where, found
            yield from properties(found, where)


def test_defaults_and_kinds_are_told() -> None:
    told = dict(properties(SCHEMA, ""))
    assert told["worker.nproc"]["default"] == 1
    assert told["worker.nproc"]["description"].startswith(
        "workers on this node: a number, cpu, gpu (one each), or auto"
    )
    assert told["restart.budget.max"]["default"] == 3
    assert told["stop.signal"]["default"] == "TERM"
    assert told["restart"]["anyOf"][0] == {"enum": ["never", "on_failure", "always"]}
    assert "never" in told["restart"]["description"]


def given() -> Iterator[tuple[str, Any, str]]:
    """The wrong configurations that one file, or one override, makes: name, data, and what is said of it."""
    for bad in BAD:
        words = bad.words[: bad.words.index("--")] if "--" in bad.words else bad.words
        try:
            if bad.recipe is not None and words == ["r.yaml"]:
                yield bad.name, read(bad.recipe), bad.says[0]
            elif bad.recipe is None and len(words) == 1 and re.fullmatch(r"[a-z_.A-Z0-9]+=[^'(]*", words[0]):
                key, _, value = words[0].partition("=")
                data = read(f"x: {value}")["x"]
                for name in reversed(key.split(".")):
                    data = {name: data}
                yield bad.name, data, bad.says[0]
        except ConfigError:
            continue  # it is no YAML, or not as a recipe has it


def test_what_a_shape_can_tell_is_refused() -> None:
    cases = [(name, data, says) for name, data, says in given() if "recipe=" not in says]
    missed = [name for name, data, says in cases if TELLABLE.search(says) and not errors(data)]
    assert set(missed) <= ONLY_READ
    refused = [name for name, data, _ in cases if errors(data)]
    assert len(cases) > 80
    assert len(refused) >= 0.6 * len(cases), "the rest are relations between values, lookups and interpolations"


POOL: list[Any] = [
    None, True, False, 0, 1, 2, 3, 7, 80, 255, 300, 65536, 70000, -1, 0.5, 1.5, 0.05, 1e9, "", "0", "1", "+3",
    "-1", "1.5", "1e3", ".5", "inf", "x", "a b", "a:b", "a.b", "a.b:c", "TERM", "sigusr1", "KILL", "all", "any",
    "true", "false", "yes", "2:4", "0:2", "4:2", "022", "0777", "1777", "9", "64-78", "0-3,8", "numa", "unlimited",
    "1:unlimited", "127.0.0.1", "h:1", "[::1]:6379", "unix:/tmp/s", "redis://h:1", "http://h", "/path", "/a b",
    "80__rank__", "longpassword", "group", "worker", "gnu", "exec", "zygote", "stop", "halving", "started", "ü",
    "..", "a\nb", "env:A", "cmd:x", "torch>=2", "torch >", "(", "range(1,5)", [], ["a"], [1, 2], ["TERM"],
    ["KILL"], [None], ["torch", "env:X"], [[1]], [{"action": "retry"}], [{"exec": "true"}], [{"action": "x"}],
    [{}], {}, {"a": 1}, {"a": None}, {"a": "healthy"}, {"a": [1, "b"]}, {"a": {}}, {"nofile": 1}, {"all": "tee"},
    {"tcp": {"port": 1}}, {"exec": ["x"]}, {"stdout": ["x"]}, {"s": {"timeout_s": 1}}, {"factor": 3},
    {"worker": {"nproc": 2}},
]  # fmt: skip
"""Values of every kind that some reader takes, for all of them."""


def leaves(cls: Any, path: tuple[str, ...], kinds: dict[str, str]) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:  # noqa: ANN401 - a dataclass
    for one in fields(cls):
        where = (*path, one.name)
        if "section" in one.metadata:
            yield from leaves(one.metadata["section"], where, kinds)
        elif "choices" in one.metadata:
            for kind, each in one.metadata["choices"].items():
                yield from leaves(each, where, {**kinds, one.name: kind})
        elif one.name != "kind":
            yield where, kinds


LEAVES = list(leaves(JobConfig, (), {}))


def judged(path: tuple[str, ...], kinds: dict[str, str], value: Any) -> tuple[bool, bool]:  # noqa: ANN401 - YAML
    """Whether the converter takes a value at a path, and whether the schema does."""
    data: Any = value
    for name in reversed(path):
        data = {name: data}
    for group, kind in kinds.items():
        data[group]["kind"] = kind
    report = Report()
    convert(JobConfig, data, "", report)
    return not report.problems, not errors(data)


@pytest.mark.parametrize(
    ("path", "kinds"), LEAVES, ids=[f"{'.'.join(path)}-{'-'.join(k.values())}" for path, k in LEAVES]
)
def test_whatever_is_taken_passes(path: tuple[str, ...], kinds: dict[str, str]) -> None:
    refused = [value for value in POOL if judged(path, kinds, value) == (True, False)]
    assert refused == []


def test_most_of_what_is_not_taken_does_not_pass() -> None:
    verdicts = [judged(path, kinds, value) for path, kinds in LEAVES for value in POOL]
    wrong = [passes for taken, passes in verdicts if not taken]
    assert len(wrong) > 5000
    assert sum(wrong) <= 0.05 * len(wrong), "bounds of numbers in quotes, and what has to be looked up"
