"""The pass over the command line: what is sorted where, and that nothing is changed on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from orchestrator.cli import argv
from tests.cli.invoke import Commands

AWKWARD = st.sampled_from(list("\\'\"${}[],=: \t\n#~()@!|*?-+.é漢\u2028"))
WORDS = st.lists(
    st.text(AWKWARD | st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), max_size=4
)


@given(WORDS.filter(bool))
@settings(max_examples=400, deadline=None)
def test_any_command_behind_the_dashes_arrives_verbatim(words: list[str]) -> None:
    (override,) = argv.parse(["--", *words]).overrides
    cfg = OmegaConf.create({})
    value = OverridesParser.create().parse_override(override.hydra).value()
    OmegaConf.update(cfg, "cmd", value, force_add=True)
    found = [word if (word := cfg.cmd._get_node(at)._value()) == "???" else cfg.cmd[at] for at in range(len(words))]
    assert found == words


@given(words=WORDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_command_is_planned_verbatim(words: list[str], commands: Commands) -> None:
    said = commands.ctl("plan", "--json", "--", "true", *words)
    planned: dict[str, Any] = json.loads(said.out)
    assert planned["groups"][0]["workers"][0]["cmd"] == ["true", *words]


def test_the_command_may_hold_further_dashes_and_what_looks_like_our_words() -> None:
    words = ["prog", "--", "-m", "--cfg", "a.b=c", "x.yaml", "???", "${oc.env:HOME}", ""]
    line = argv.parse(["--", *words])
    assert line.flags.given == {}
    assert [override.key for override in line.overrides] == ["worker.cmd"]


@pytest.mark.parametrize(
    ("words", "flags", "overrides"),
    [
        (["a.b=1", "--cfg", "job", "c=2"], ["--cfg=job"], ["++a.b=1", "++c=2"]),
        (["a=1", "-m", "b=2"], ["--multirun"], ["++a=1", "++b=2"]),
        (["--info", "a=1"], ["--info=all"], ["++a=1"]),
        (["--info", "searchpath", "a=1"], ["--info=searchpath"], ["++a=1"]),
        (["a=1", "-c", "job", "-p", "worker", "--resolve"], ["--cfg=job", "--package=worker", "--resolve"], ["++a=1"]),
        (["--multi", "a=1"], ["--multirun"], ["++a=1"]),
        (["--config-dir", "x y", "a=1"], ["--config-dir=x y"], ["++a=1"]),
    ],
)
def test_flags_move_to_the_front_with_their_values(words: list[str], flags: list[str], overrides: list[str]) -> None:
    line = argv.parse(words)
    assert line.problems == []
    assert line.flags.words() == flags
    assert line.hydra_overrides == overrides


@pytest.mark.parametrize(
    ("word", "hydra"),
    [
        ("worker.nproc=2", "++worker.nproc=2"),
        ("nodes=2:4", "++nodes=2:4"),
        ("+x=1", "+x=1"),
        ("++x=1", "++x=1"),
        ("~restart", "~restart"),
        ("~restart=never", "~restart=never"),
        ("hydra.run.dir=x", "hydra.run.dir=x"),
        ("hydra/launcher=basic", "hydra/launcher=basic"),
        ("restart=never", "restart=never"),
        ("restart='never'", "restart='never'"),
        ("restart.kind=never", "restart=never"),
        ("restart={budget: {max: 1}}", "++restart={budget: {max: 1}}"),
        ("recipe=null", "recipe=null"),
        ("recipe.name=x", "++recipe.name=x"),
        ("role=", "++role="),
    ],
)
def test_overrides_are_opened_unless_they_choose(word: str, hydra: str) -> None:
    line = argv.parse([word])
    assert line.problems == []
    assert line.hydra_overrides == [hydra]
    assert line.overrides[0].text == word


def test_a_choice_with_values_becomes_both() -> None:
    line = argv.parse(["restart={kind: always, budget: {max: 2}}"])
    assert line.hydra_overrides == ["restart=always", "++restart={ budget: {max: 2}}"]
    assert line.chosen == {"restart"}


def test_yaml_files_become_recipes_in_their_order(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "a b.yaml").touch()
    (tmp_path / "it's.yml").touch()
    assert argv.parse(["a b.yaml"]).hydra_overrides == ["recipe='./a b.yaml'"]
    assert argv.parse([str(tmp_path / "a b.yaml")]).hydra_overrides == [f"recipe='{tmp_path}/a b.yaml'"]
    assert argv.parse(["a b.yaml", "it's.yml"]).hydra_overrides == ["recipe=['./a b.yaml','./it\\'s.yml']"]


def test_every_part_of_a_sweep_over_choices_is_checked() -> None:
    assert argv.parse(["-m", "restart=never,always"]).problems == []
    problems = argv.parse(["-m", "restart=nevr,always,alway"]).problems
    assert [problem.fact for problem in problems] == ["'nevr' is not a choice", "'alway' is not a choice"]


def test_words_for_the_shells_completion_are_left_alone() -> None:
    line = argv.parse(["-sc", "query=bash"])
    assert (line.flags.words(), line.hydra_overrides) == (["--shell-completion"], ["query=bash"])


@pytest.mark.parametrize(
    ("url", "hydra"),
    [
        ("redis+sentinel://a:1,b:2/m?sentinel_password=x", "'redis+sentinel://a:1,b:2/m?sentinel_password=x'"),
        ("'redis+cluster://a:1,b:2'", "'redis+cluster://a:1,b:2'"),
        ("redis://a,redis://b", "redis://a,redis://b"),
    ],
)
def test_a_url_of_several_hosts_needs_no_quotes_and_several_urls_are_a_sweep(url: str, hydra: str) -> None:
    (override,) = argv.parse([f"rendezvous.url={url}"]).overrides
    assert override.hydra == f"++rendezvous.url={hydra}"


def test_secrets_on_the_command_line_are_not_their_own_origin() -> None:
    (override,) = argv.parse(["worker.env.API_KEY=abc"]).overrides
    assert override.origin == "override worker.env.API_KEY=***"


@pytest.mark.parametrize(
    ("words", "write"),
    [
        (["train.py", "--lr", "0.1"], "orchestrate -- python train.py --lr 0.1"),
        (["worker.nproc=2", "python", "train.py"], "orchestrate worker.nproc=2 -- python train.py"),
        (["--nproc-per-node", "4", "train.py", "-x"], "orchestrate worker.nproc=4 -- python train.py -x"),
        (
            ["--standalone", "--nnodes=1:4", "--nproc_per_node=gpu", "--rdzv-endpoint=h:29400", "train.py"],
            "orchestrate nodes=1:4 worker.nproc=gpu rendezvous.url=redis://h -- python train.py",
        ),
    ],
)
def test_a_script_is_answered_with_the_line_to_write(words: list[str], write: str) -> None:
    (problem,) = argv.parse(words).problems
    assert problem.remedy == f"write: {write}"


@pytest.mark.parametrize(
    ("flag", "remedy"),
    [
        ("--max-restarts=3", "write restart.budget.max=3"),
        ("--max_restarts=3", "write restart.budget.max=3"),
        ("--monitor-interval=1", "leave it out: nothing is polled"),
        ("--standalone", "leave it out: one node brings its own server"),
    ],
)
def test_flags_of_torchrun_are_answered_with_ours(flag: str, remedy: str) -> None:
    (problem,) = argv.parse([flag, "--", "true"]).problems
    assert (problem.path, problem.fact, problem.remedy) == (flag.partition("=")[0], "is torchrun's", remedy)
