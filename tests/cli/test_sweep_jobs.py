"""The jobs of a sweep before they run: composed as Hydra would, and named by what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from orchestrator.cli import argv, resolvers
from orchestrator.cli.compose import compose
from orchestrator.cli.sweep.compose import Composer
from orchestrator.cli.sweep.jobs import Planned, Planner, key_of
from orchestrator.config.convert import convert
from orchestrator.config.report import Report
from orchestrator.config.sweep import SweepConfig
from orchestrator.errors import ConfigError

VALUES = "allowed: a list such as [0.1, 0.01], or text such as range(1,5)"
RUN = "++worker.cmd=['true']"
BATCHES = [
    [RUN],
    [RUN, "++worker.env.A=1", "++stop.grace_s=3"],
    [RUN, "restart=never", "++worker.env.A=1", "watchdog=disabled"],
    ["++restart.budget.max=7", "recipe=hello", "++worker.env={A: 1}", "++worker.env.B=2"],
    ["++worker.env.B=2", "++worker={env: {B: 3}}", RUN],
    ["++restart.budget.max=2", "++restart={budget: {max: 3}}", "restart=always", RUN],
    ["recipe=[hello,flaky]", "++worker.flags.lr=0.1"],
    [RUN, "++roles={a: {worker: {nproc: 2}}}", "++roles.b.worker.nproc=3", "~stop.dump"],
]


def composer(*words: str) -> tuple[Composer, Any, DictConfig]:
    """A composer, Hydra's own loader, and the sweep's configuration."""
    resolvers.register()
    composed = compose(argv.parse(list(words)))
    return Composer(composed.hydra.config_loader, composed.cfg), composed.hydra.config_loader, composed.cfg


def plain(cfg: DictConfig) -> Any:  # noqa: ANN401 - YAML holds anything
    """All of it, but for what is shown only."""
    data: Any = OmegaConf.to_container(cfg, resolve=False)
    data["hydra"] = {key: value for key, value in data["hydra"].items() if key not in ("help", "hydra_help")}
    return data


@pytest.mark.parametrize("overrides", BATCHES, ids=str)
def test_a_job_is_what_hydra_composes(overrides: list[str]) -> None:
    ours, hydra, master = composer()
    for _ in range(2):  # the second is made of what the first has left
        assert plain(ours.compose(overrides)) == plain(hydra.load_sweep_config(master, overrides))


def keys(*variants: list[str]) -> list[str]:
    """The keys of jobs."""
    ours, _, _ = composer()
    return [key_of(ours.compose([RUN, *overrides])) for overrides in variants]


def test_a_key_is_of_what_a_job_does() -> None:
    first, *same = keys(
        [],
        ["++run_id=x"],
        ["++node.name=n"],
        ["logs=files"],
        ["++sweep.objective=loss"],
        ["++recipe.description=x"],
        ["++worker.nproc=1"],
    )
    assert set(same) == {first}
    others = keys(["++worker.nproc=2"], ["restart=never"], ["++worker.env.A=1"], ["++worker.env.A='1'"])
    assert len({first, *others}) == 5


def planner(tmp_path: Path, *words: str) -> Planner:
    """A planner for a command line."""
    made = resolvers.register()
    line = argv.parse(["-m", *words])
    composed = compose(argv.parse(["--", "true"]))
    ours = Composer(composed.hydra.config_loader, composed.cfg)
    return Planner(line, made, ours, folder=str(tmp_path), name="s")


def planned(tmp_path: Path, *overrides: str) -> Planned:
    """One job."""
    (one,) = planner(tmp_path, "worker.env.A=1,2", "worker.nproc=2").plan([[*overrides, RUN]], 0)
    return one


def test_a_job_has_a_directory_and_a_run_of_its_own(tmp_path: Path) -> None:
    first = planned(tmp_path, "++worker.env.A=1", "++worker.nproc=2", "++worker.env.DIR=${hydra:runtime.output_dir}")
    again = planned(tmp_path, "++worker.env.A=1", "++worker.nproc=2", "++worker.env.DIR=${hydra:runtime.output_dir}")
    assert first.spec.run_dir == str(tmp_path / first.key)
    assert first.spec.groups[0].worker.env == {"A": "1", "DIR": str(tmp_path / first.key)}
    assert first.key == again.key
    assert first.spec.run_id != again.spec.run_id
    assert first.spec.run_id.startswith(f"s-{first.key}-")


def test_parameters_are_what_the_command_line_does_not_fix(tmp_path: Path) -> None:
    one = planned(tmp_path, "++worker.env.A=1", "++worker.nproc=2", "++stop.grace_s=2.5", "++worker.flags.x='y z'")
    assert one.params == {"worker.env.A": 1, "stop.grace_s": 2.5, "worker.flags.x": "y z", "worker.cmd": "['true']"}
    assert one.overrides[:2] == ("worker.env.A=1", "worker.nproc=2")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("++rendezvous.listen=127.0.0.1:0", "rendezvous.listen: the jobs of a sweep share a server"),
        ("++health={kind: http, port: 8080}", "health.port: port 8080 cannot be that of several jobs"),
        ("++health={kind: http, host: 'unix:/tmp/x'}", "health.host: one socket cannot be that of several jobs"),
        ("++watchdog={kind: timer, path: /tmp/x}", "watchdog.path: one pipe cannot be that of several jobs"),
        ("++nodes=2", "rendezvous: embedded"),
        ("+x", "missing EQUAL"),
    ],
)
def test_what_several_jobs_cannot_have_is_refused(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(tmp_path, override)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"params": 3}, "sweep.params: 3 is not a mapping; write a.b: [0.1, 0.01], or {} for none"),
        ({"params": {"a": []}}, f"sweep.params.a: has no values; {VALUES}"),
        ({"params": {"a": [{}]}}, f"sweep.params.a: a mapping is no plain value; {VALUES}"),
        ({"prune": "half"}, "sweep.prune: 'half' is not allowed; allowed: halving"),
        ({"name": "a/b"}, "sweep.name: 'a/b' is not a name; allowed: 1 to 64 of A-Z a-z 0-9 . _ -"),
        ({"gpus": -1}, "sweep.gpus: -1 is too small; allowed: a whole number from 0"),
    ],
)
def test_a_wrong_section_is_told(data: object, says: str) -> None:
    report = Report()
    convert(SweepConfig, data, "sweep", report)
    assert [str(problem) for problem in report.problems] == [says]
