"""Choices and their kinds: who wins, what is ignored, and what one choice implies for another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.invoke import Commands

RUN = ["--", "true"]


def plan(commands: Commands, *words: str) -> dict[str, Any]:
    said = commands.ctl("plan", "--json", *words)
    assert said.err == ""
    planned: dict[str, Any] = json.loads(said.out)
    return planned


def restart(commands: Commands, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = plan(commands, *words)["groups"][0]["restart"]
    return found


def write(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text("worker: {cmd: 'true'}\n" + text)


def test_the_default_is_to_restart_on_failure(commands: Commands) -> None:
    assert restart(commands, *RUN)["kind"] == "on_failure"


@pytest.mark.parametrize("text", ["restart: never", "restart: {kind: never}", "defaults: [{override /restart: never}]"])
def test_a_recipe_chooses_by_a_word_a_kind_or_a_default(commands: Commands, tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    assert restart(commands, "r.yaml")["kind"] == "never"


@pytest.mark.parametrize("word", ["restart=always", "restart.kind=always", "restart={kind: always}"])
def test_the_command_line_beats_the_recipe(commands: Commands, tmp_path: Path, word: str) -> None:
    write(tmp_path, "restart: never")
    assert restart(commands, "r.yaml", word)["kind"] == "always"


def test_values_of_a_recipe_stay_when_the_command_line_chooses_another_kind(commands: Commands, tmp_path: Path) -> None:
    write(tmp_path, "restart: {kind: always, budget: {max: 9}}")
    found = restart(commands, "r.yaml", "restart=on_failure")
    assert (found["kind"], found["budget"]["max"], found["backoff"]["factor"]) == ("on_failure", 9, 2)


def test_keys_of_another_choice_are_ignored_with_a_note(commands: Commands, tmp_path: Path) -> None:
    write(tmp_path, "restart:\n  kind: never\n  budget: {max: 9}")
    assert plan(commands, "r.yaml")["notes"] == [
        "restart.budget: is ignored with restart=never; it belongs to restart=on_failure and restart=always [r.yaml:4]"
    ]


def test_a_choice_alone_draws_no_note(commands: Commands) -> None:
    for choice in ("restart=never", "restart=always", "logs=files", "logs=inherit", "rendezvous=embedded"):
        assert plan(commands, choice, *RUN)["notes"] == []


def test_a_url_implies_redis(commands: Commands) -> None:
    planned = plan(commands, "rendezvous.url=redis://h", *RUN)
    assert (planned["rendezvous"]["kind"], planned["rendezvous"]["url"]) == ("redis", "redis://h")
    assert planned["notes"] == []


@pytest.mark.parametrize("where", ["command line", "recipe"])
def test_a_server_that_was_chosen_is_not_changed_by_a_url(commands: Commands, tmp_path: Path, where: str) -> None:
    write(tmp_path, "rendezvous: {url: 'redis://h'}" if where == "command line" else "rendezvous: embedded")
    word = "rendezvous=embedded" if where == "command line" else "rendezvous.url=redis://h"
    planned = plan(commands, "r.yaml", word)
    assert planned["rendezvous"]["kind"] == "embedded"
    assert len(planned["notes"]) == 1
    assert planned["notes"][0].startswith("rendezvous.url: is ignored with rendezvous=embedded; ")


def test_an_empty_section_of_a_recipe_says_nothing(commands: Commands, tmp_path: Path) -> None:
    write(tmp_path, "restart:\nlogs: {}\nnode:\n")
    assert restart(commands, "r.yaml")["budget"]["max"] == 3


def test_restart_never_has_no_backoff_in_its_machine(commands: Commands) -> None:
    states = {row["source"] for row in plan(commands, "restart=never", *RUN)["groups"][0]["machine"]}
    assert "BACKOFF" not in states
    assert "DECIDING" in states


def test_every_key_can_be_given_without_a_plus(commands: Commands) -> None:
    planned = plan(commands, "worker.env.NEW=1", "worker.flags.lr=0.1", "restart.rules=[{action: fatal}]", *RUN)
    worker = planned["groups"][0]["workers"][0]
    assert worker["env"]["NEW"] == "1"
    assert worker["cmd"] == ["true", "--lr=0.1"]
    assert planned["groups"][0]["restart"]["rules"][0]["action"] == "fatal"
