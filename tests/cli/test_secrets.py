"""Secrets: what counts as one, and that no spelling of one gets through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.secrets import MASK, Secrets, is_secret_name, worth_masking
from tests.cli.invoke import Commands

VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"])).filter(
    lambda value: value.strip() == value and worth_masking(value.strip("*\\'\""))
)


@pytest.mark.parametrize(
    "name",
    [
        "WANDB_API_KEY",
        "HF_TOKEN",
        "hf_tokens",
        "PGPASSWORD",
        "DB_PASSWD",
        "apiKey",
        "MY_SECRET_2",
        "ORCHESTRATOR_STORE",
    ],
)
def test_names_that_say_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "KEYBOARD", "LR", "ORCHESTRATOR_TOKEN", "SECRETARY"])
def test_names_that_do_not(name: str) -> None:
    assert not is_secret_name(name)


@given(VALUES)
def test_no_spelling_gets_through(value: str) -> None:
    secrets = Secrets({"TOKEN": value})
    for text in (value, json.dumps({"a": value}), yaml.safe_dump({"a": [value]}, allow_unicode=True), f"x{value}y"):
        masked = secrets.mask(text)
        assert value not in masked
        assert MASK in masked


def test_a_secret_is_masked_where_a_writer_has_folded_it() -> None:
    value = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    text = yaml.safe_dump({"a": value}, width=30)
    assert "fourteen" not in Secrets({"A_SECRET": value}).mask(text)


def test_the_longest_secret_is_masked_first() -> None:
    assert Secrets({"A_KEY": "abcd", "B_KEY": "abcdefgh"}).mask("abcdefgh abcd") == f"{MASK} {MASK}"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://user:pw@host/0", "redis://user:***@host/0"),
        ("at redis://:p@ss:w@host:1, and", "at redis://:***@host:1, and"),
        ("rediss+sentinel://u:pw@a:1,b:2/main/0", "rediss+sentinel://u:***@a:1,b:2/main/0"),
        (
            "redis+sentinel://a/m?sentinel_username=s&sentinel_password=p",
            "redis+sentinel://a/m?sentinel_username=s&sentinel_password=***",
        ),
        ("at redis://h?password=pw&db=1, and", "at redis://h?password=***&db=1, and"),
        ("no://secret.here/a:b", "no://secret.here/a:b"),
        ("mail me@home.org: now", "mail me@home.org: now"),
    ],
)
def test_passwords_in_urls_are_masked_however_short(text: str, masked: str) -> None:
    assert Secrets().mask(text) == masked


def test_short_and_ordinary_values_are_masked_where_they_stand_only() -> None:
    secrets = Secrets({"A_KEY": "1", "B_KEY": "true"})
    assert secrets.mask("1 true") == "1 true"
    assert (secrets.mask_named("A_KEY", "1"), secrets.mask_named("N", "1")) == (MASK, "1")


def test_secrets_are_found_in_config_and_environment() -> None:
    config = {"worker": {"env": {"API_KEY": "from-config", "PIN_KEY": 12345}, "x": ["redis://u:from-url@h"]}}
    secrets = Secrets.of(config, {"HF_TOKEN": "from-env", "HOME": "/home"})
    assert secrets.mask("from-config 12345 from-url from-env /home") == "*** *** *** *** /home"


@pytest.mark.parametrize(
    "flags",
    [
        ["--cfg", "job"],
        ["--cfg", "job", "--resolve"],
        ["--cfg", "all"],
        ["--cfg", "hydra"],
        ["--help"],
        ["--info"],
        ["--info", "config"],
    ],
)
def test_nothing_that_hydra_shows_holds_a_secret(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.setenv("OUTER_TOKEN", "hunter-outer")
    (tmp_path / "r.yaml").write_text(
        "worker:\n  cmd: ['true', '${oc.env:OUTER_TOKEN}']\n  env: {API_KEY: hunter-file, N: '${.API_KEY}'}\n"
        "rendezvous: {url: 'redis://me:hunter-url@h'}\n"
    )
    said = commands.orchestrate("r.yaml", "worker.env.MY_SECRET=hunter-typed", *flags)
    assert said.code == 0
    assert "restart" in said.out
    assert "hunter" not in said.out + said.err


def test_problems_show_no_secret(commands: Commands) -> None:
    said = commands.orchestrate("rendezvous.url=redis:/me:hunter-url@h", "worker.env.API_KEY=[hunter-typed]")
    assert said.code == 2
    assert "hunter-typed" not in said.err
    assert len(said.errors) == 3


def test_the_plan_shows_no_secret(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTER_TOKEN", "hunter-outer")
    words = ["worker.env.API_KEY=hunter-typed", "rendezvous.url=redis://me:hunter-url@h", "worker.env.A_KEY=x7"]
    for flag in ([], ["--json"]):
        said = commands.ctl("plan", *flag, *words, "--", "true", "hunter-outer")
        assert said.code == 0
        assert "hunter" not in said.out
        assert "x7" not in said.out
