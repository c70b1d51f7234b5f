"""The files of conf/ and the dataclasses of the schema say the same, and each file says what choosing it means."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli.paths import data_dir
from orchestrator.config.convert import convert
from orchestrator.config.report import Report
from orchestrator.config.schema import GROUPS, JobConfig, NodeConfig, RecipeHeader, WorkerConfig
from orchestrator.config.sweep import SweepConfig

CONF = data_dir("conf")
FILES = sorted(CONF.rglob("*.yaml"))
CHOICES = [(group, kind) for group, choices in GROUPS.items() for kind in choices]


def content(path: Path) -> dict[str, Any]:
    data = yaml.safe_load(path.read_text())
    assert isinstance(data, dict)
    return data


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_a_file_opens_with_what_choosing_it_means(path: Path) -> None:
    choice = path.relative_to(CONF).with_suffix("").as_posix()
    first = path.read_text().splitlines()[0]
    group, _, kind = choice.rpartition("/")
    assert first.startswith(f"# {group}={kind}: " if group else "# ")
    assert first.endswith(".")


@pytest.mark.parametrize(("group", "kind"), CHOICES)
def test_a_choice_has_exactly_the_keys_and_defaults_of_its_dataclass(group: str, kind: str) -> None:
    cls, data = GROUPS[group][kind], content(CONF / group / f"{kind}.yaml")
    assert [*data] == [field.name for field in fields(cls)]
    assert data["kind"] == kind
    if group == "logs":  # its prefix may come from torchrun's variable
        data.pop("prefix", None)
    if group == "rendezvous":  # on Slurm this is for its variable to say
        assert data.pop("reopen") == "${oc.env:SLURM_RESTART_COUNT,0}"
    if (group, kind) == ("health", "http"):  # torchelastic's variable may say it
        assert data.pop("port") == "${oc.env:TORCHELASTIC_HEALTH_CHECK_PORT,0}"
    if (group, kind) == ("watchdog", "timer"):  # as torchrun's agents have it
        assert data.pop("path") == "${oc.env:TORCHELASTIC_TIMER_FILE,null}"
    if group == "stop":  # platforms that kill are known by their variables
        found = str(data.pop("platform_grace_s"))
        assert all(f"${{oc.env:{name}," in found for name in ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"))
    report = Report()
    assert convert(cls, data, group, report) == cls()
    assert report.problems == []


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_has_a_file_for_each_choice_and_no_other(group: str) -> None:
    assert sorted(path.stem for path in (CONF / group).iterdir()) == sorted(GROUPS[group])


def test_nested_sections_have_exactly_the_keys_of_their_dataclasses() -> None:
    data = content(CONF / "restart" / "on_failure.yaml")
    for name in ("budget", "free", "backoff"):
        section = getattr(GROUPS["restart"]["on_failure"](), name)
        assert [*data[name]] == [field.name for field in fields(section)]


def test_the_primary_file_has_exactly_the_keys_of_the_job() -> None:
    data = content(CONF / "config.yaml")
    assert {*data} - {"defaults", "hydra"} == {field.name for field in fields(JobConfig)} - {*GROUPS}
    for name, cls in (("node", NodeConfig), ("worker", WorkerConfig), ("sweep", SweepConfig), ("recipe", RecipeHeader)):
        assert [*data[name]] == [field.name for field in fields(cls)]
    report = Report()
    assert convert(WorkerConfig, data["worker"], "worker", report) == WorkerConfig()
    assert convert(SweepConfig, data["sweep"], "sweep", report) == SweepConfig()
    assert report.problems == []


def test_always_restarts_with_the_same_patience_as_on_failure() -> None:
    always, on_failure = (content(CONF / "restart" / f"{kind}.yaml") for kind in ("always", "on_failure"))
    assert {**always, "kind": None} == {**on_failure, "kind": None}


@pytest.mark.parametrize(("group", "kind"), CHOICES)
def test_every_value_of_a_choice_is_explained(group: str, kind: str) -> None:
    lines = (CONF / group / f"{kind}.yaml").read_text().splitlines()
    bare = [
        line
        for above, line in pairwise(["", *lines])
        if ": " in line.partition("#")[0] and "#" not in line and not above.startswith("#")
    ]
    assert [line for line in bare if not line.startswith("kind: ")] == []
