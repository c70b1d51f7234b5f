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


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "unix:/run/me/health"])
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
            "health.prot: unknown key; did you mean 'port'? known: host, liveness, port, preflight, preflight_attempts, preflight_cooldown_s, readiness, server, startup, timeout_s, token [override health.prot=1]",
        ),
        (
            "health.port=70000",
            "health.port: 70000 is too large; allowed: a whole number from 0 to 65535 [override health.port=70000]",
        ),
        (
            "health.timeout_s=1",
            "health.timeout_s: 1 is too small; allowed: a whole number from 3 [override health.timeout_s=1]",
        ),
        (
            "health.server=mymodule",
            "health.server: 'mymodule' is not a class's name; allowed: package.module:Class [override health.server=mymodule]",
        ),
        (
            "health.host=0.0.0.0",
            "health.host: '0.0.0.0' can be reached from outside, and health.token is not given; give health.token, or listen on 127.0.0.1 or unix:PATH [override health.host=0.0.0.0]",
        ),
        (
            "health.host='http://h'",
            "health.host: 'http://h' is not a host; allowed: a name or an address, such as 127.0.0.1, or unix:PATH [override health.host='http://h']",
        ),
    ],
)
def test_what_is_wrong_is_told(commands: Commands, word: str, says: str) -> None:
    said = commands.ctl("plan", word, *RUN)
    assert (said.code, said.errors) == (2, [says])


def preflight(commands: Commands, checks: str) -> tuple[list[str], Any]:
    word = f"health.preflight=[{checks}]"
    said = commands.ctl("plan", "--json", word, *RUN)
    found = json.loads(said.out)["groups"][0]["preflight"] if said.code == 0 else None
    return [line.removesuffix(f" [override {word}]") for line in said.errors], found


def test_each_check_is_read_with_its_limit(commands: Commands) -> None:
    errors, found = preflight(
        commands,
        "{exec: [./c, --fast], timeout_s: 5}, {disk: {path: /data, free_mb: 9}}, {memory: {free_mb: 8}}, {fds: 7},"
        "{clock_skew_s: 0.5}",
    )
    assert errors == []
    assert [(one["kind"], one["bound"], one["timeout_s"]) for one in found["checks"]] == [
        ("exec", 0, 5),
        ("disk", 9, 30),
        ("memory", 8, 30),
        ("fds", 7, 30),
        ("clock_skew_s", 0.5, 30),
    ]
    assert (found["checks"][0]["cmd"], found["checks"][1]["path"]) == (["./c", "--fast"], "/data")
    assert (found["attempts"], found["cooldown_s"]) == (5, 10)


@pytest.mark.parametrize(
    ("checks", "says"),
    [
        (
            "{exc: a}",
            "health.preflight[0].exc: unknown key; did you mean 'exec'? known: clock_skew_s, disk, exec, fds, memory, timeout_s",
        ),
        (
            "{}",
            "health.preflight[0]: has no check; allowed: one of exec, disk, memory, fds, clock_skew_s in each entry",
        ),
        (
            "{fds: 1, memory: {free_mb: 1}}",
            "health.preflight[0]: has memory and fds; allowed: one of exec, disk, memory, fds, clock_skew_s in each entry",
        ),
        (
            "{disk: {path: /}}",
            "health.preflight[0].disk.free_mb: is missing; say what is needed: disk: {path: /data, free_mb: 1000}",
        ),
        ("{fds: 0}", "health.preflight[0].fds: 0 is too small; allowed: a whole number from 1 to 1073741824"),
        ("{exec: []}", "health.preflight[0].exec: is missing; say what is needed: exec: [./check.sh]"),
        ("3", "health.preflight[0]: 3 is not a mapping; known: clock_skew_s, disk, exec, fds, memory, timeout_s"),
    ],
)
def test_a_check_that_is_none_is_told(commands: Commands, checks: str, says: str) -> None:
    assert preflight(commands, checks) == ([says], None)


def probe(commands: Commands, kind: str, text: str) -> tuple[list[str], Any]:
    word = f"health.{kind}={{{text}}}"
    said = commands.ctl("plan", "--json", word, *RUN)
    found = json.loads(said.out)["groups"][0]["probes"] if said.code == 0 else None
    return [line.removesuffix(f" [override {word}]") for line in said.errors], found


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("exec: [./alive, __rank__]", {"way": "exec", "cmd": ["./alive", "__rank__"]}),
        ("http: {port: 8000, path: /healthz}", {"way": "http", "port": "8000", "path": "/healthz"}),
        ("tcp: {port: 80__local_rank__, host: h}", {"way": "tcp", "port": "80__local_rank__", "host": "h"}),
        ("file: {path: /a, fresh_s: 5}, period_s: 2", {"way": "file", "path": "/a", "fresh_s": 5, "period_s": 2}),
    ],
)
def test_a_probe_asks_in_one_of_four_ways(commands: Commands, text: str, read: dict[str, Any]) -> None:
    errors, found = probe(commands, "liveness", text)
    assert errors == []
    assert found["startup"] is None
    assert {name: found["liveness"][name] for name in read} == read


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("period_s: 1", "health.liveness: does not say how to ask; allowed: one of exec, http, tcp, file"),
        (
            "tcp: {port: 1}, file: {path: /a}",
            "health.liveness: asks by tcp and by file; allowed: one of exec, http, tcp, file",
        ),
        ("tcp: {}", "health.liveness.tcp.port: is missing; say what to ask: tcp: {port: 8000}"),
        (
            "tcp: {port: 0}",
            "health.liveness.tcp.port: 0 is not a port; allowed: 1 to 65535, or with macros, as in 80__local_rank__",
        ),
        (
            "http: {port: 1, path: a b}",
            "health.liveness.http.path: 'a b' is not a path; allowed: a path such as /healthz, without spaces",
        ),
        (
            "tcp: {port: 1}, success_threshold: 2",
            "health.liveness.success_threshold: 2 is too large; allowed: 1; only readiness can ask for more",
        ),
        ("tcp: {port: 1}, period_s: 0", "health.liveness.period_s: 0 is too small; allowed: seconds from 0.1"),
        (
            "tpc: {port: 1}",
            "health.liveness.tpc: unknown key; did you mean 'tcp'? known: exec, failure_threshold, file, http, initial_delay_s, period_s, success_threshold, tcp, timeout_s",
        ),
    ],
)
def test_a_probe_that_cannot_be_asked_is_told(commands: Commands, text: str, says: str) -> None:
    assert probe(commands, "liveness", text) == ([says], None)


def test_a_rule_about_a_probe_that_is_not_there_can_never_match(commands: Commands) -> None:
    rules = "restart.rules=[{kinds: [probe], action: fatal}]"
    said = commands.ctl("plan", rules, *RUN)
    assert said.errors == [
        (
            "restart.rules[0]: can never match: nothing is asked by health.liveness; give that probe, or remove the rule "
            f"[override {rules}]"
        )
    ]
    assert commands.ctl("plan", rules, "health.liveness={tcp: {port: 1}}", *RUN).code == 0
    assert commands.ctl("plan", "restart.rules=[{kinds: [probe, spawn], action: fatal}]", *RUN).code == 0


def test_readiness_may_ask_for_several_successes(commands: Commands) -> None:
    assert probe(commands, "readiness", "tcp: {port: 1}, success_threshold: 2")[0] == []


def test_what_all_nodes_are_looked_at_for_is_the_jobs() -> None:
    asks = {"health": {"kind": "http", "port": 1, "preflight": [{"fds": 1}], "preflight_attempts": 3}}
    assert job_fields(asks) == {"health": {"preflight": [{"fds": 1}], "preflight_attempts": 3}}


def test_where_a_node_is_asked_for_its_health_is_its_own_business() -> None:
    on: dict[str, dict[str, Any]] = {
        "health": {"kind": "http", "port": 1, "host": "h", "token": "t", "timeout_s": 9, "server": "a:B"}
    }
    on["health"] |= {"preflight": [], "preflight_attempts": 5}
    assert job_fields(on) == job_fields({"health": {"kind": "disabled"}})
