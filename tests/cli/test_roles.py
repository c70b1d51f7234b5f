"""What is shown, published and written of several roles: each as it will be, and no secret of any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.jobyaml import job_yaml
from orchestrator.cli.publication import as_recipe, publication
from orchestrator.cli.yaml12 import read
from orchestrator.config.fields import is_node_field
from orchestrator.core.publication import Publication, differences
from tests.cli.invoke import Commands
from tests.cli.test_publication import composed, joined

ROLES = """\
run_id: r
rendezvous: {url: 'redis://h'}
worker: {nproc: 2, env: {PORT: 80}}
restart: {kind: on_failure, budget: {max: 7}}
roles:
  trainer:
    depends_on: {data: healthy}
    on: [gpu*]
    nodes: 1:2
    worker: {cmd: [echo, '${worker.env.PORT}', '${worker.nproc}'], nproc: 4}
    restart: {cascade: true}
  data:
    worker: {cmd: 'true', cwd: /, env: {PORT: 81}}
    restart: never
    watchdog: timer
    health: {readiness: {tcp: {port: '${worker.env.PORT}'}}}
success: [trainer]
"""


@pytest.fixture
def roles(commands: Commands, tmp_path: Path) -> Commands:
    (tmp_path / "r.yaml").write_text(ROLES)
    return commands


def plan(commands: Commands, *words: str) -> dict[str, Any]:
    said = commands.ctl("plan", "--json", *words)
    assert said.err == ""
    planned: dict[str, Any] = json.loads(said.out)
    return planned


def test_the_plan_has_each_role(roles: Commands) -> None:
    planned = plan(roles, "r.yaml", "node.name=gpu1")
    data, trainer = planned["groups"]
    assert (data["role"], data["on"], data["depends_on"], data["cascade"]) == ("data", [], {}, False)
    assert (trainer["role"], trainer["on"], trainer["depends_on"], trainer["cascade"]) == (
        "trainer",
        ["gpu*"],
        {"data": "healthy"},
        True,
    )
    assert (trainer["nodes"], trainer["spares"]) == ([1, 2], 0)
    assert [worker["cmd"] for worker in trainer["workers"]] == [["echo", "80", "4"]] * 4
    assert (data["restart"]["kind"], trainer["restart"]["budget"]["max"]) == ("never", 7)
    assert planned["success"] == {"kind": "listed", "roles": ["trainer"]}


def test_the_text_of_the_plan_says_the_same(roles: Commands) -> None:
    said = roles.ctl("plan", "r.yaml", "node.name=cpu1")
    for part in (
        "role data: 1 node, 2 workers on this one",
        "role trainer: 1 to 2 nodes, 4 workers on each, and none on this one",
        "on nodes named gpu*",
        "waits until data is healthy, and is restarted when that is",
        "when trainer succeeded; the others are stopped then",
        "machine of data",
        "machine of trainer",
    ):
        assert part in said.out


def test_each_setting_of_a_role_has_its_origin(roles: Commands) -> None:
    settings = plan(roles, "r.yaml", "node.name=gpu1", "roles.data.restart=always", "roles.trainer.worker.nproc=3")
    origins = {path: one["origin"] for path, one in settings["settings"].items() if path.startswith("roles.")}
    assert origins == {
        "roles.trainer.depends_on.data": "r.yaml:7",
        "roles.trainer.on": "r.yaml:8",
        "roles.trainer.nodes": "r.yaml:9",
        "roles.trainer.worker.cmd": "r.yaml:10",
        "roles.trainer.worker.nproc": "override roles.trainer.worker.nproc=3",
        "roles.trainer.restart.cascade": "r.yaml:11",
        "roles.data.worker.cmd": "r.yaml:13",
        "roles.data.worker.cwd": "r.yaml:13",
        "roles.data.worker.env.PORT": "r.yaml:13",
        "roles.data.restart.kind": "override roles.data.restart=always",
        "roles.data.watchdog.kind": "r.yaml:15",
        "roles.data.health.readiness.tcp.port": "r.yaml:16",
    }


def test_the_graph_says_whose_machine_it_is(roles: Commands) -> None:
    drawn = roles.ctl("graph", "r.yaml", "node.name=gpu1").out
    assert drawn.count("stateDiagram-v2") == 2
    assert drawn.startswith("%% role data\nstateDiagram-v2\n")
    assert "\n%% role trainer\n%% on nodes named gpu*\n%% waits until data is healthy" in drawn
    assert list(json.loads(roles.ctl("graph", "--json", "r.yaml", "node.name=gpu1").out)) == ["data", "trainer"]


def test_the_composed_job_and_the_help_show_roles(roles: Commands) -> None:
    shown = roles.orchestrate("--cfg", "job", "r.yaml")
    assert shown.code == 0
    assert "roles:\n  trainer:\n    depends_on:\n      data: healthy\n" in shown.out
    told = roles.orchestrate("--help").out
    for key in ("roles: {}", "success: all", "cascade: false"):
        assert key in told


def test_a_job_with_roles_runs_again_from_its_yaml(
    roles: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = composed("r.yaml", "node.name=gpu1", "roles.data.worker.nproc=9")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "job.yaml").write_text(job_yaml(before))
    monkeypatch.chdir(tmp_path / "other")
    after = composed("job.yaml")
    assert (after.spec.groups, after.spec.success) == (before.spec.groups, before.spec.success)


def test_each_roles_script_is_absolute_in_its_yaml(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("x/a.py", "x/b.py"):
        (tmp_path / name).touch()
    text = "worker: {cmd: [echo, a.py]}\nroles: {a: {}, b: {worker: {cmd: echo b.py}}}\n"
    (tmp_path / "x" / "r.yaml").write_text(text)
    data = read(job_yaml(composed("x/r.yaml")), "job.yaml").data
    assert data["worker"]["cmd"] == ["echo", f"{tmp_path}/x/a.py"]
    assert data["roles"]["b"]["worker"]["cmd"] == f"echo {tmp_path}/x/b.py"
    assert "worker" not in data["roles"]["a"]


def test_a_joined_job_has_the_same_roles(roles: Commands) -> None:
    first = composed("r.yaml", "node.name=gpu1", "roles.data.worker.nproc=9")
    published = publication(first)
    second = joined(published, "node.name=gpu2", "roles.trainer.worker.nproc=5", "roles.data.watchdog.path=/tmp/p")
    assert differences(publication(second), published) == ()
    assert publication(second).digest == published.digest
    assert [group.role for group in second.spec.groups] == ["data", "trainer"]
    assert [group.worker.nproc for group in second.spec.groups] == [9, 5]
    assert [group.worker.cwd for group in second.spec.groups] == ["/", None]
    assert second.spec.groups[1].worker.cmd == ("echo", "80", "5")
    assert second.spec.groups[0].probes == first.spec.groups[0].probes


@pytest.mark.parametrize(
    "own", ["roles.data.worker.nproc=3", "roles.data.worker.cwd=/tmp", "roles.data.watchdog.path=/tmp/x"]
)
def test_what_a_node_decides_for_a_role_is_no_part_of_the_digest(roles: Commands, own: str) -> None:
    one, other = (publication(composed("r.yaml", "node.name=gpu1", *more)) for more in ([], [own]))
    assert (one.digest, differences(one, other)) == (other.digest, ())


@pytest.mark.parametrize(
    "own",
    [
        "roles.data.on=[gpu*]",
        "roles.data.restart=always",
        "roles.trainer.depends_on.data=started",
        "roles.data.worker.env.A=1",
        "success=any",
    ],
)
def test_what_a_run_agrees_on_of_a_role_is(roles: Commands, own: str) -> None:
    one, other = (publication(composed("r.yaml", "node.name=gpu1", *more)) for more in ([], [own]))
    assert one.digest != other.digest
    assert differences(other, one)[0].startswith(own.partition("=")[0].split("=")[0].rpartition(".")[0])


def test_a_role_that_says_nothing_is_still_one(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("run_id: r\nworker: {cmd: 'true'}\nroles: {a: {}}\n")
    one, other = (publication(composed("r.yaml", *more)) for more in ([], ["roles.b.worker.nproc=2"]))
    assert one.digest != other.digest
    assert differences(other, one) == ("roles.b: {} here, nothing there",)
    assert [group.role for group in joined(other, "node.name=x").spec.groups] == ["a", "b"]


def test_who_joins_decides_only_what_is_a_nodes_own(roles: Commands) -> None:
    assert is_node_field("roles.data.worker.nproc")
    assert not is_node_field("roles.data.worker.cmd")
    published = Publication({"worker": {"cmd": ["true"]}})
    with (
        pytest.raises(Exception, match="belongs to the job, which the run has"),
        as_recipe(published, "r", "redis://h", ["roles.data.restart=never"]),
    ):
        pass


def test_secrets_of_roles_are_told_apart_and_shown_nowhere(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two roles may have one variable with different values."""
    text = "run_id: r\nworker:\n  cmd: [echo, '${worker.env.API_KEY}']\n"
    text += "  env: {API_KEY: hunter-job, OTHER_KEY: hunter-other}\n"
    text += "roles:\n  a: {}\n  b: {worker: {env: {API_KEY: hunter-b}}}\n  c-1: {worker: {env: {API_KEY: hunter-c}}}\n"
    (tmp_path / "r.yaml").write_text(text)
    for words in (["plan"], ["plan", "--json"], ["graph"]):
        assert "hunter" not in commands.ctl(*words, "r.yaml").out
    assert "hunter" not in commands.orchestrate("--cfg", "job", "r.yaml").out
    wrong = commands.orchestrate("r.yaml", "roles.b.worker.cmd=[hunter-b]", "roles.c-1.worker.cwd=/hunter-c")
    assert wrong.code == 2
    assert "hunter" not in wrong.err
    before = composed("r.yaml")
    written = job_yaml(before)
    assert "hunter" not in written + publication(before).text
    assert "# It needs these variables: API_KEY, B_API_KEY, C_1_API_KEY, OTHER_KEY\n" in written
    values = {"API_KEY": "hunter-job", "B_API_KEY": "hunter-b", "C_1_API_KEY": "hunter-c", "OTHER_KEY": "hunter-other"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "job.yaml").write_text(written)
    assert composed("job.yaml").spec == before.spec
