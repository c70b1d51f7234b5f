"""Several roles: what each takes over from the job, what it says itself, and in which order they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import plan as planner
from orchestrator.config.roles import is_role_path
from orchestrator.core.specs import GroupSpec, JobSpec, Need, SuccessKind, SuccessPolicy
from tests.cli.invoke import Commands

TRUE = "worker: {cmd: 'true'}\n"


class Jobs:
    """Compiles the recipe ``r.yaml``, with overrides."""

    def __init__(self, commands: Commands, tmp_path: Path) -> None:
        self._commands, self._path = commands, tmp_path / "r.yaml"

    def write(self, text: str) -> None:
        self._path.write_text(text)

    def spec(self, text: str, *words: str) -> JobSpec:
        self.write(text)
        return planner.checked(["r.yaml", *words]).spec

    def roles(self, text: str, *words: str) -> dict[str, GroupSpec]:
        return {group.role: group for group in self.spec(text, *words).groups}

    def errors(self, text: str, *words: str) -> list[str]:
        self.write(text)
        said = self._commands.orchestrate("r.yaml", *words)
        assert said.code == 2
        return said.errors


@pytest.fixture
def jobs(commands: Commands, tmp_path: Path) -> Jobs:
    return Jobs(commands, tmp_path)


def test_without_roles_there_is_one_group(jobs: Jobs) -> None:
    spec = jobs.spec(TRUE, "role=x")
    (only,) = spec.groups
    assert (only.role, only.on, only.depends_on, only.cascade) == ("x", (), {}, False)
    assert spec.success == SuccessPolicy()
    assert jobs.spec(TRUE + "roles: {}").groups[0].role == "default"


def test_a_role_is_laid_over_the_job(jobs: Jobs) -> None:
    a, b = jobs.roles(
        "nodes: 2:3\nrun_id: r\nrendezvous: {url: 'redis://h', spares: 1}\n"
        "worker: {cmd: [sh, x], nproc: 2, flags: {a: 1}, env: {A: 1, B: 2}}\nrestart: {budget: {max: 9}}\n"
        "roles:\n  a: {}\n  b: {nodes: 1, rendezvous: {spares: 0}, worker: {cmd: 'true', env: {B: 3, C: null}},"
        " restart: {budget: {per_s: 60000}}}\n"
    ).values()
    assert (a.min_nodes, a.max_nodes, a.spare_nodes, a.worker.cmd) == (2, 3, 1, ("sh", "x", "-a", "1"))
    assert (b.min_nodes, b.max_nodes, b.spare_nodes, b.worker.cmd) == (1, 1, 0, ("true", "-a", "1"))
    assert (a.worker.nproc, b.worker.nproc) == (2, 2)
    assert b.worker.env == {"A": "1", "B": "3", "C": None}
    assert (a.restart.budget.max, b.restart.budget.max, b.restart.budget.per_s) == (9, 9, 60000)


def test_interpolations_mean_the_roles_own(jobs: Jobs) -> None:
    roles = jobs.roles(
        "worker: {cmd: 'true', nproc: 2, env: {WHO: '${role}', N: '${worker.nproc}'}}\n"
        "roles:\n  a: {}\n  b: {worker: {nproc: 5, env: {TWICE: '${worker.nproc}${.N}', C: '${roles.c.nodes}'}}}\n"
        "  c: {nodes: 1}\n"
    )
    assert roles["a"].worker.env == {"WHO": "a", "N": "2"}
    assert roles["b"].worker.env == {"WHO": "b", "N": "5", "TWICE": "55", "C": "1"}


def test_the_job_may_ask_for_what_only_roles_have(jobs: Jobs) -> None:
    text = "worker: {cmd: [echo, '${worker.env.X}'], cwd: '/${role}'}\n"
    text += "health: {liveness: {tcp: {port: '${worker.env.X}'}}}\n"
    (found,) = jobs.roles(text + "roles: {tmp: {worker: {env: {X: 80}}}}").values()
    assert found.worker.cmd == ("echo", "80")
    assert found.probes is not None
    assert found.probes.liveness is not None
    assert (found.worker.cwd, found.probes.liveness.port) == ("/tmp", "80")


@pytest.mark.parametrize("own", ["restart: never", "restart: {kind: never}"])
def test_a_word_equals_its_kind(jobs: Jobs, own: str) -> None:
    assert jobs.roles(TRUE + f"roles: {{a: {{{own}}}}}")["a"].restart.kind == "never"


def test_another_kind_takes_nothing_over(jobs: Jobs) -> None:
    text = TRUE + "restart: {kind: on_failure, budget: {max: 9}, backoff: {factor: 3}}\n"
    roles = jobs.roles(text + "roles: {a: {restart: {kind: always, backoff: {max_s: 7}}}, b: {restart: on_failure}}")
    a, b = roles["a"].restart, roles["b"].restart
    assert (a.kind, a.budget.max, a.backoff.factor, a.backoff.max_s) == ("always", 3, 2, 7)
    assert (b.kind, b.budget.max, b.backoff.factor, b.backoff.max_s) == ("on_failure", 9, 3, 60)


def test_another_kinds_defaults_are_those_of_its_file(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_TIMER_FILE", "/tmp/pipe")
    assert jobs.roles(TRUE + "roles: {a: {watchdog: timer}}")["a"].watchdog.path == "/tmp/pipe"


def test_a_probe_that_asks_in_another_way_is_another_probe(jobs: Jobs) -> None:
    text = TRUE + "health: {liveness: {tcp: {port: 1}, period_s: 3}}\nroles:\n"
    text += "  a: {health: {liveness: {file: {path: /x}}}}\n  b: {health: {liveness: {period_s: 9}}}\n"
    text += "  c: {health: {liveness: null}}\n"
    roles = jobs.roles(text)
    ways = {name: role.probes.liveness if role.probes else None for name, role in roles.items()}
    assert ways["a"] is not None
    assert ways["b"] is not None
    assert (ways["a"].way, ways["a"].period_s, ways["b"].way, ways["b"].period_s) == ("file", 10, "tcp", 9)
    assert ways["c"] is None


def test_a_roles_probe_turns_health_on_unless_it_was_turned_off(jobs: Jobs) -> None:
    text = TRUE + "roles: {a: {health: {liveness: {tcp: {port: 1}}}}, b: {}}"
    on, off = jobs.spec(text), jobs.spec(text, "health=disabled")
    assert on.health is not None
    assert [group.probes is not None for group in on.groups] == [True, False]
    assert (off.health, [group.probes for group in off.groups]) == (None, [None, None])


def test_the_command_line_has_the_last_word(jobs: Jobs) -> None:
    text = TRUE + "roles:\n  a: {restart: always, depends_on: [b], worker: {nproc: 2}}\n  b: {}\n"
    words = ["roles.a.restart=never", "roles.a.worker.nproc=4", "roles.a.depends_on.b=healthy", "roles.b.on=[x*,*]"]
    roles = jobs.roles(text, *words, "roles.c.worker.cmd=[echo,1]", "roles.c.restart={kind: always, budget: {max: 1}}")
    assert (roles["a"].restart.kind, roles["a"].worker.nproc) == ("never", 4)
    assert (roles["a"].depends_on, roles["b"].on) == ({"b": Need.HEALTHY}, ("x*", "*"))
    assert (roles["c"].worker.cmd, roles["c"].restart.kind, roles["c"].restart.budget.max) == (
        ("echo", "1"),
        "always",
        1,
    )


def test_an_override_reaches_the_roles_that_do_not_say_otherwise(jobs: Jobs) -> None:
    roles = jobs.roles(TRUE + "roles: {a: {worker: {nproc: 2}}, b: {}}", "worker.nproc=7")
    assert [roles[name].worker.nproc for name in "ab"] == [2, 7]


def test_an_empty_section_says_nothing(jobs: Jobs) -> None:
    roles = jobs.roles(TRUE + "restart: never\nroles:\n  a:\n    restart:\n    worker:\n    health:\n")
    assert roles["a"].restart.kind == "never"


@pytest.mark.parametrize("on", ["on: gpu*", "on: [gpu*]"])
def test_on_is_one_pattern_or_several(jobs: Jobs, on: str) -> None:
    assert jobs.roles(TRUE + f"roles: {{a: {{{on}}}}}", "node.name=gpu1")["a"].on == ("gpu*",)


@pytest.mark.parametrize("needs", ["[b, c]", "{b: started, c: started}"])
def test_a_list_of_needs_means_started(jobs: Jobs, needs: str) -> None:
    roles = jobs.roles(TRUE + f"roles: {{a: {{depends_on: {needs}}}, b: {{}}, c: {{depends_on: b}}}}")
    assert roles["a"].depends_on == {"b": Need.STARTED, "c": Need.STARTED}
    assert list(roles) == ["b", "c", "a"]
    assert [role.needed for role in roles.values()] == [True, True, False]


def test_roles_come_after_what_they_need_and_else_as_written(jobs: Jobs) -> None:
    text = TRUE + "roles: {z: {}, m: {depends_on: [b]}, a: {}, b: {depends_on: [c]}, c: {}, y: {depends_on: [z]}}"
    assert list(jobs.roles(text)) == ["z", "a", "c", "b", "m", "y"]


def test_cascade_is_part_of_restarting(jobs: Jobs) -> None:
    roles = jobs.roles(
        TRUE + "restart: {cascade: true}\nroles: {a: {}, b: {restart: {cascade: false}}, c: {restart: never}}"
    )
    assert [roles[name].cascade for name in "abc"] == [True, False, False]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("all", SuccessPolicy()),
        ("any", SuccessPolicy(kind=SuccessKind.ANY)),
        ("[b]", SuccessPolicy(kind=SuccessKind.LISTED, roles=("b",))),
        ("[b, a, b]", SuccessPolicy(kind=SuccessKind.LISTED, roles=("b", "a"))),
    ],
)
def test_success(jobs: Jobs, text: str, policy: SuccessPolicy) -> None:
    assert jobs.spec(TRUE + f"roles: {{a: {{}}, b: {{}}}}\nsuccess: {text}").success == policy


def test_scripts_are_found_beside_the_recipe_unless_the_command_is_typed(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "s.py").touch()
    text = "worker: {cmd: [python3, s.py]}\nroles: {a: {}, b: {worker: {cmd: [python3, s.py, b]}}}\n"
    (tmp_path / "x" / "r.yaml").write_text(text)
    beside = str(tmp_path / "x" / "s.py")
    for words, wanted in [
        ([], [("python3", beside), ("python3", beside, "b")]),
        (["--", "echo", "s.py"], [("echo", "s.py"), ("python3", beside, "b")]),
        (["roles.b.worker.cmd=[echo,s.py]"], [("python3", beside), ("echo", "s.py")]),
    ]:
        assert [group.worker.cmd for group in planner.checked(["x/r.yaml", *words]).spec.groups] == wanted


def test_one_role_on_one_node_needs_no_server(jobs: Jobs) -> None:
    """Only a role that this node has no part in needs another node."""
    text = TRUE + "roles: {a: {on: [n]}, b: {}}"
    assert len(jobs.spec(text, "node.name=n").groups) == 2
    told = [line.partition(";")[0] for line in jobs.errors(text, "node.name=m")]
    assert told == [
        "run_id: is made up on each node, and roles.a.on needs one in common",
        "rendezvous: embedded has no address for other nodes, and roles.a.on needs one",
    ]


def test_notes_are_told_once(jobs: Jobs, commands: Commands) -> None:
    jobs.write(
        TRUE + "restart:\n  kind: never\n  budget: {max: 9}\nroles: {a: {}, b: {}, c: {restart: {budget: {max: 1}}}}\n"
    )
    planned: dict[str, Any] = json.loads(commands.ctl("plan", "--json", "r.yaml").out)
    ignored = "is ignored with restart=never; it belongs to restart=on_failure and restart=always"
    assert planned["notes"] == [
        f"restart.budget: {ignored} [r.yaml:4]",
        f"roles.c.restart.budget: {ignored} [r.yaml:5]",
    ]


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("worker.nproc", True),
        ("restart.rules[0].action", True),
        ("nodes", True),
        ("health.liveness.tcp.port", True),
        ("health.preflight[0]", True),
        ("health.port", False),
        ("health", False),
        ("rendezvous.spares", True),
        ("rendezvous.url", False),
        ("stop.signal", False),
        ("roles.a.worker", False),
    ],
)
def test_which_paths_a_role_may_give(path: str, *, own: bool) -> None:
    assert is_role_path(path) is own
