"""What values mean once they are good: numbers, text, commands, flags, durations, nodes."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from posixpath import normpath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.command import flag_arguments
from orchestrator.config.compile import compile_job
from orchestrator.config.host import Host
from orchestrator.config.report import Report
from orchestrator.config.restart_checks import least_delay_s
from orchestrator.core.policies import Backoff
from orchestrator.core.restart import delay_s
from orchestrator.core.specs import JobSpec

HOST = Host(
    cwd="/home/me",
    env={"PATH": "/usr/bin:/bin"},
    interpreter="/opt/python",
    cpus=6,
    gpus=lambda: 0,
    is_file=lambda path: normpath(path) in {"/recipes/train.py", "/recipes/run.sh", "/recipes/python"},
    is_dir=lambda path: path in {"/home/me", "/data"},
    is_executable=lambda path: (
        normpath(path) in {"/usr/bin/python", "/recipes/run.sh", "/opt/python", "/data/bin/tool"}
    ),
    default_path="/bin",
    cpu_set=lambda: frozenset({0, 1, 2, 3, 8, 9}),
    numa_nodes=lambda: (frozenset(range(4)), frozenset(range(4, 8)), frozenset(range(8, 12))),
    hard_limit={"nofile": 4096, "memlock": 65536}.get,
)


def compiled(data: Mapping[str, Any], host: Host = HOST) -> JobSpec:
    report = Report()
    found = compile_job({"run_id": "r", "node": {"name": "n"}, **data}, host, report, run_dir="/home/me/runs/r/n")
    assert [str(problem) for problem in report.problems] == []
    assert found is not None
    return found


def refused(data: Mapping[str, Any], host: Host = HOST) -> list[str]:
    report = Report()
    assert compile_job({"run_id": "r", "node": {"name": "n"}, **data}, host, report, run_dir="/r") is None
    return [str(problem) for problem in report.problems]


def cmd(worker: Mapping[str, Any], recipe_dir: str | None = None) -> tuple[str, ...]:
    return compiled({"worker": worker, "recipe": {"dir": recipe_dir}}).groups[0].worker.cmd


def test_a_command_is_a_list_or_one_string_that_is_split_once() -> None:
    assert cmd({"cmd": ["python", "a b", 3, 0.1, True, 1e-05, ""]}) == (
        "python",
        "a b",
        "3",
        "0.1",
        "true",
        "1e-05",
        "",
    )
    assert cmd({"cmd": "python 'a b' c"}) == ("python", "a b", "c")


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
def test_a_string_is_split_as_a_shell_splits_it(words: list[str]) -> None:
    assert cmd({"cmd": shlex.join(["python", *words])}) == ("python", *words)


def test_a_script_beside_the_recipe_is_found_there_once() -> None:
    assert cmd({"cmd": ["python", "train.py", "train.py"]}, "/recipes") == ("python", "/recipes/train.py", "train.py")
    assert cmd({"cmd": ["./run.sh", "x"]}, "/recipes") == ("/recipes/run.sh", "x")


def test_a_bare_program_is_never_taken_from_beside_the_recipe() -> None:
    assert cmd({"cmd": ["python", "x.py"]}, "/recipes") == ("python", "x.py")


def test_python_means_our_interpreter_and_other_macros_wait_for_the_start() -> None:
    assert cmd({"cmd": ["__python__", "-m", "__rank__", "x__python__"]}) == (
        "/opt/python", "-m", "__rank__", "x/opt/python"
    )  # fmt: skip


def test_a_program_is_looked_up_on_the_path_of_the_workers_from_their_directory() -> None:
    worker: dict[str, Any] = {"cmd": ["tool"], "cwd": "/data", "env": {"PATH": "bin"}}
    assert compiled({"worker": worker}).groups[0].worker.cwd == "/data"
    assert len(refused({"worker": {**worker, "cwd": None}})) == 1
    assert len(refused({"worker": {**worker, "env": {"PATH": None}}})) == 1
    assert cmd({"cmd": ["./bin/tool"], "cwd": "/data"}) == ("./bin/tool",)


def test_a_program_named_by_a_macro_is_not_looked_up() -> None:
    assert cmd({"cmd": ["./run-__rank__"]}) == ("./run-__rank__",)


def test_environment_values_become_text_and_null_unsets() -> None:
    env = compiled({"worker": {"cmd": "python", "env": {"A": True, "B": 3, "C": 1e-3, "D": None, "E": "x"}}})
    assert env.groups[0].worker.env == {"A": "true", "B": "3", "C": "0.001", "D": None, "E": "x"}


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("gnu", ["--lr=0.1", "--amp", "--tag=a b", "-n", "3", "--layer=1", "--layer=2", "-I", "a", "-I", "b"]),
        ("spaced", ["--lr", "0.1", "--amp", "--tag", "a b", "-n", "3", "--layer", "1", "2", "-I", "a", "b"]),
        ("hydra", ["lr=0.1", "amp=true", "off=false", "tag='a b'", "n=3", "layer=[1,2]", "I=[a,b]"]),
    ],
)
def test_flags_are_appended_in_the_style_of_the_script(style: str, expected: list[str]) -> None:
    flags = {"lr": 0.1, "amp": True, "off": False, "none": None, "tag": "a b", "n": 3, "layer": [1, 2], "I": ["a", "b"]}
    assert cmd({"cmd": "python x", "flags": flags, "flags_style": style}) == ("python", "x", *expected)


def test_a_hydra_flag_survives_hydras_own_parser() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: PLC0415

    for value in ("a b", "it's", "a\\", "a b\\\n", "\\'", "x,y", "[1]", "", "2:4", "a=b"):
        (argument,) = flag_arguments({"key": value}, "hydra")
        assert str(OverridesParser.create().parse_override(argument).value()) == value


@pytest.mark.parametrize(("nodes", "expected"), [(1, (1, 1)), ("1", (1, 1)), ("1:1", (1, 1))])
def test_nodes_on_one_machine(nodes: object, expected: tuple[int, int]) -> None:
    group = compiled({"worker": {"cmd": "python"}, "nodes": nodes}).groups[0]
    assert (group.min_nodes, group.max_nodes) == expected


def test_nodes_as_a_range() -> None:
    data = {"worker": {"cmd": "python"}, "nodes": "2:4", "rendezvous": {"kind": "redis", "url": "redis://h"}}
    group = compiled(data).groups[0]
    assert (group.min_nodes, group.max_nodes) == (2, 4)


@pytest.mark.parametrize(("wanted", "gpus", "expected"), [("cpu", 2, 6), ("gpu", 2, 2), ("auto", 2, 2), ("auto", 0, 6)])
def test_the_number_of_workers_follows_the_machine(wanted: str, gpus: int, expected: int) -> None:
    host = replace(HOST, gpus=lambda: gpus)
    assert compiled({"worker": {"cmd": "python", "nproc": wanted}}, host).groups[0].worker.nproc == expected


def test_a_machine_without_gpus_has_none_to_run_on() -> None:
    assert refused({"worker": {"cmd": "python", "nproc": "gpu"}}) == [
        "worker.nproc: 'gpu' finds no GPU on this machine; allowed: a whole number from 1 to 65536, cpu, auto"
    ]


def test_numbers_from_environment_variables_are_text_and_count() -> None:
    job = compiled(
        {"worker": {"cmd": "python", "nproc": "2"}, "node": {"name": "n", "rank": "3"}, "stop": {"grace_s": "1.5"}}
    )
    assert (job.groups[0].worker.nproc, job.node.rank, job.stop.grace_s) == (2, 3, 1.5)


def test_an_umask_is_octal_digits() -> None:
    assert compiled({"worker": {"cmd": "python", "umask": "022"}}).groups[0].worker.umask == 0o22


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (1024, (1024, 1024)),
        ("1024", (1024, 1024)),
        ("1024:4096", (1024, 4096)),
        (0, (0, 0)),
    ],
)
def test_a_limit_is_a_number_or_a_pair(written: object, meant: tuple[int, int]) -> None:
    worker = {"cmd": "python", "limits": {"nofile": written}}
    assert compiled({"worker": worker}).groups[0].worker.limits == {"nofile": meant}


def test_a_limit_may_be_lifted_where_this_process_has_none() -> None:
    worker = {"cmd": "python", "limits": {"core": "unlimited", "stack": "8192:unlimited"}}
    assert compiled({"worker": worker}).groups[0].worker.limits == {"core": (None, None), "stack": (8192, None)}
    assert len(refused({"worker": {"cmd": "python", "limits": {"memlock": "unlimited", "nofile": "1:4097"}}})) == 2


@pytest.mark.parametrize(
    ("start", "preload", "meant"),
    [
        ("exec", ["torch"], None),
        ("zygote", [], ()),
        ("zygote", ["torch", "a.b"], ("torch", "a.b")),
        ("zygote", "a", ("a",)),
    ],
)
def test_modules_are_preloaded_for_a_zygote_alone(start: str, preload: object, meant: object) -> None:
    assert compiled({"worker": {"cmd": "python", "start": start, "preload": preload}}).groups[0].worker.preload == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (None, []),
        ("0-2,8", [{0, 1, 2, 8}] * 3),
        (3, [{3}] * 3),
        ([0, 1, "8-9"], [{0, 1, 8, 9}] * 3),
        ("spread", [{0, 1}, {2, 3}, {8, 9}]),
        ("numa", [{0, 1, 2, 3}, {0, 1, 2, 3}, {8, 9}]),
    ],
)
def test_each_local_worker_gets_its_processors(written: object, meant: list[set[int]]) -> None:
    worker = {"cmd": "python", "nproc": 3, "affinity": written}
    assert list(compiled({"worker": worker}).groups[0].worker.affinity) == meant


def test_a_signal_that_preempts_is_no_longer_forwarded() -> None:
    stop = compiled({"worker": {"cmd": "python"}, "stop": {"preempt_signals": ["SIGUSR1", "term"]}}).stop
    assert (sorted(stop.preempt), sorted(stop.forward)) == ([10, 15], [12])


def test_logs_stand_in_the_directory_of_the_run_unless_told_otherwise() -> None:
    assert compiled({"worker": {"cmd": "python"}}).logs.dir == "/home/me/runs/r/n/logs"
    assert compiled({"worker": {"cmd": "python"}, "logs": {"dir": "l"}}).logs.dir == "/home/me/l"
    assert compiled({"worker": {"cmd": "python"}, "logs": {"console": [0, 2]}}).logs.console == frozenset({0, 2})


@pytest.mark.parametrize(("kind", "kept"), [("files", 70000), ("tee", 70000), ("inherit", None)])
def test_what_is_kept_of_logs(kind: str, kept: int | None) -> None:
    limits = {} if kind == "inherit" else {"max_bytes": 70000}
    assert compiled({"worker": {"cmd": "python"}, "logs": {"kind": kind, **limits}}).logs.max_bytes == kept


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:p@h:1/2",
        "rediss://h",
        "unix:///p/s?db=1",
        "redis://[::1]:6379",
        "redis://h/0?socket_timeout=1",
        "redis+sentinel://:p%40@a:1,b:2/main/1?sentinel_password=s",
        "rediss+cluster://a:1,[::1]:2",
    ],
)
def test_urls_of_redis(url: str) -> None:
    data = {"worker": {"cmd": "python"}, "rendezvous": {"kind": "redis", "url": url}}
    assert compiled(data).rendezvous.url == url


BACKOFFS = st.builds(
    Backoff,
    initial_s=st.floats(0, 10),
    factor=st.floats(1, 3),
    max_s=st.floats(0, 100),
    jitter=st.floats(0, 0.99),
    reset_after_s=st.just(1e9),
)


@given(st.integers(1, 30), BACKOFFS, st.lists(st.floats(0, 1, exclude_max=True), min_size=30, max_size=30))
def test_no_draw_of_delays_is_shorter_than_the_least(restarts: int, backoff: Backoff, draws: list[float]) -> None:
    taken = sum(delay_s(number, backoff, draws[number - 1]) for number in range(1, restarts + 1))
    assert least_delay_s(restarts, backoff) <= taken + 1e-6


def test_the_least_delay_of_very_many_restarts_is_cheap_to_tell() -> None:
    backoff = Backoff(initial_s=1, factor=2, max_s=60, jitter=0, reset_after_s=300)
    assert least_delay_s(10**9, backoff) == pytest.approx(60e9, rel=1e-6)


def test_this_machine_is_described_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from orchestrator.cli.job import this_host  # noqa: PLC0415

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    host = this_host()
    assert (host.cwd, host.interpreter, host.gpus()) == (str(tmp_path), sys.executable, 2)
    assert host.cpus == len(os.sched_getaffinity(0))
    assert host.is_executable(sys.executable)
    assert not host.is_executable(str(tmp_path))
