"""``health``: what turns it on, and every word about what is wrong with it."""

# ruff: noqa: E501 - every message stands whole, as it is said

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.config.fields import job_fields
from tests.cli.invoke import Commands

RUN = ["--", "true"]


def health(commands: Commands, *words: str) -> Any:  # noqa: ANN401 - JSON
    said = commands.ctl("plan", "--json", *words, *RUN)
    assert said.err == ""
    return json.loads(said.out)["health"]


def test_it_is_off_by_default(commands: Commands) -> None:
    assert health(commands) is None


@pytest.mark.parametrize("word", ["health=http", "health.kind=http", "health.port=0", "health.timeout_s=60"])
def test_the_choice_or_any_of_its_keys_turns_it_on(commands: Commands, word: str) -> None:
    assert health(commands, word) == {
        "host": "127.0.0.1",
        "port": 0,
        "timeout_s": 60,
        "token": None,
        "server": None,
    }


def test_torchelastics_variable_turns_it_on_with_its_port(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_HEALTH_CHECK_PORT", "8181")
    assert health(commands)["port"] == 8181
    assert health(commands, "health.port=8182")["port"] == 8182
    assert health(commands, "health=disabled") is None
    monkeypatch.setenv("TORCHELASTIC_HEALTH_CHECK_PORT", "")
    assert health(commands) is None


def test_what_is_no_port_in_torchelastics_variable_is_told(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_HEALTH_CHECK_PORT", "http")
    (said,) = commands.ctl("plan", *RUN).errors
    assert said.startswith("health.port: 'http' is not a whole number; allowed: a whole number from 0 to 65535 [")


def test_a_disabled_one_ignores_its_keys_with_a_note(commands: Commands) -> None:
    said = commands.ctl("plan", "--json", "health=disabled", "health.port=1", *RUN)
    assert json.loads(said.out)["notes"] == [
        "health.port: is ignored with health=disabled; it belongs to health=http [override health.port=1]"
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_a_server_for_this_machine_alone_needs_no_token(commands: Commands, host: str) -> None:
    assert health(commands, f"health.host='{host}'")["host"] == host


def test_a_token_is_never_shown(commands: Commands) -> None:
    words = ("health.host=0.0.0.0", "health.token=hunter22")
    assert health(commands, *words)["token"] == "***"
    said = commands.ctl("plan", *words, *RUN)
    assert "hunter22" not in said.out + said.err
    said = commands.ctl("plan", "health.token='hunter 22'", *RUN)
    assert "hunter" not in said.out + said.err


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (
            "health.prot=1",
            "health.prot: unknown key; did you mean 'port'? known: host, port, server, timeout_s, token [override health.prot=1]",
        ),
        (
            "health.port=70000",
            "health.port: 70000 is too large; allowed: a whole number from 0 to 65535 [override health.port=70000]",
        ),
        (
            "health.timeout_s=1",
            "health.timeout_s: 1 is too small; allowed: a whole number from 2 [override health.timeout_s=1]",
        ),
        (
            "health.server=mymodule",
            "health.server: 'mymodule' is not a class's name; allowed: package.module:Class [override health.server=mymodule]",
        ),
        (
            "health.host=0.0.0.0",
            "health.host: '0.0.0.0' can be reached from outside, and health.token is not given; give health.token, or listen on 127.0.0.1 [override health.host=0.0.0.0]",
        ),
        (
            "health.host='http://h'",
            "health.host: 'http://h' is not a host; allowed: a name or an address, such as 127.0.0.1 [override health.host='http://h']",
        ),
    ],
)
def test_what_is_wrong_is_told(commands: Commands, word: str, says: str) -> None:
    said = commands.ctl("plan", word, *RUN)
    assert (said.code, said.errors) == (2, [says])


def test_where_a_node_is_asked_for_its_health_is_its_own_business() -> None:
    on = {"health": {"kind": "http", "port": 1, "host": "h", "token": "t", "timeout_s": 9, "server": "a:B"}}
    assert job_fields(on) == job_fields({"health": {"kind": "disabled"}})
