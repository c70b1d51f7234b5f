"""The names that others rely on: commands, keys, variables, files, events and exit codes, seen from outside.

A change here breaks somebody's script. Additions are free, so everything is asked for and nothing else is forbidden.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import errors
from orchestrator.cli.paths import data_dir
from orchestrator.core.words import FINAL, State

AMBIENT = ("SLURM_", "TORCHELASTIC_", "ORCHESTRAT", "OMP_NUM_THREADS", "LOGLEVEL")

RUN_ID = f"contract-{os.getpid()}"  # no other run of this host may have it, for the node is named by a lock

WORKER = """
import json, os, signal, sys
from orchestrator.worker import report
rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
with open(f"seen.{attempt}.{rank}", "w") as seen:
    json.dump({"env": dict(os.environ), "argv": sys.argv[1:]}, seen)
print("to stdout", flush=True)
print("to stderr", file=sys.stderr, flush=True)
if attempt == 0 and rank == 0:
    open("both").close()  # a FIFO: waits for the other
    sys.exit(3)
if attempt == 0:
    with open("both", "w"):
        signal.pause()
report(loss=rank / 2)
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended, and where it ran."""

    code: int
    out: str
    err: str
    directory: Path


def command(module: str, directory: Path, *words: str) -> Ended:
    env = {name: value for name, value in os.environ.items() if not name.startswith(AMBIENT)}
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=directory,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    return Ended(done.returncode, done.stdout, done.stderr, directory)


def orchestrate(directory: Path, *words: str) -> Ended:
    return command("orchestrator", directory, *words)


def orchestratectl(directory: Path, *words: str) -> Ended:
    return command("orchestrator.cli.ctl", directory, *words)


@dataclass(frozen=True)
class Run:
    """A run of two workers that failed once, and then succeeded."""

    directory: Path
    files: Path

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.files / "events.jsonl").read_text().splitlines()]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["event"] == event]

    @property
    def result(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.files / "result.json").read_text())
        return value

    def seen(self, attempt: int, rank: int) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.directory / f"seen.{attempt}.{rank}").read_text())
        return value


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("contract")
    (directory / "work.py").write_text(WORKER)
    os.mkfifo(directory / "both")
    options = (
        f"run_id={RUN_ID}",
        "role=trainer",
        "worker.nproc=2",
        "restart.budget.max=5",
        "restart.backoff.initial_s=0",
    )
    macros = ("__rank__", "__local_rank__", "of=__world_size__", "__else__")
    ended = orchestrate(directory, *options, "worker.env.LR=0.1", "--", sys.executable, "work.py", *macros)
    assert ended.code == 0, ended.err
    return Run(directory, directory / "runs" / RUN_ID / f"{socket.gethostname().partition('.')[0]}.0")


# -- files of a run


def test_a_run_leaves_its_files_where_they_are_looked_for(run: Run) -> None:
    files = {str(path.relative_to(run.files)) for path in run.files.rglob("*") if path.is_file()}
    streams = {
        f"logs/trainer/{number}/{rank}/{stream}.log"
        for number in (1, 2)
        for rank in (0, 1)
        for stream in ("stdout", "stderr")
    }
    assert files >= {"events.jsonl", "result.json", "job.yaml", *streams}
    for stream in streams:
        assert (run.files / stream).read_text() == f"to {Path(stream).stem}\n"
    left = {path.name for path in run.directory.rglob("*")}
    assert not left & {".hydra", "multirun.yaml", "outputs"}, "they would hold secrets"


def test_the_job_is_kept_as_it_was_composed(run: Run) -> None:
    job = yaml.safe_load((run.files / "job.yaml").read_text())
    assert (job["run_id"], job["role"], job["restart"]["budget"]["max"]) == (RUN_ID, "trainer", 5)
    assert job["node"]["name"] == "${orchestrate.node_name:${run_id}}", "unresolved"
    assert "hydra" not in job


HEAD = {"ts": float, "mono": float, "run_id": str, "group": str, "node": str, "round": int, "event": str}
NUMBER_OR_NULL = (int, type(None))
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "transition": {"from": str, "to": str, "on": str, "reason": str},
    "round_settled": {"world_size": int, "nodes": int, "group_rank": int},
    "worker_started": {"rank": int, "local_rank": int, "pid": int},
    "worker_exited": {
        "rank": int,
        "pid": int,
        "exit_code": NUMBER_OR_NULL,
        "signal": NUMBER_OR_NULL,
        "kind": str,
        "sent_by_us": bool,
    },
    "restart_decided": {"cause": dict, "charged": bool, "delay_s": float, "remaining": int},
}


def test_every_record_of_the_journal_says_when_where_and_what(run: Run) -> None:
    for record in run.records:
        assert list(record)[: len(HEAD)] == list(HEAD)
        assert {name: type(record[name]) for name in HEAD} == HEAD
        assert (record["run_id"], record["group"], record["node"]) == (RUN_ID, "trainer", run.files.name)
    clock = [record["mono"] for record in run.records]
    assert clock == sorted(clock)


@pytest.mark.parametrize("event", FIELDS)
def test_an_event_has_its_fields(run: Run, event: str) -> None:
    records = run.of(event)
    assert records
    for record in records:
        wrong = {name for name, kind in FIELDS[event].items() if not isinstance(record.get(name, ...), kind)}
        assert not wrong, record


def test_the_journal_tells_the_story(run: Run) -> None:
    told = [
        (record["from"], record["on"], record["to"])
        for record in run.of("transition")
        if record["round"] != 1 or record["to"] in ("STARTING", "HEALTHY")
    ]
    met = ("RENDEZVOUS", "round_settled", "STARTING")
    assert told[:2] == [("INIT", "agent_started", "RENDEZVOUS"), met]
    assert told[-6:] == [
        ("BACKOFF", "backoff_elapsed", "RENDEZVOUS"),
        met,
        ("STARTING", "workers_started", "HEALTHY"),
        ("HEALTHY", "workers_succeeded", "FINISHING"),
        ("FINISHING", "run_closed", "CLOSING"),
        ("CLOSING", "run_left", "SUCCEEDED"),
    ]
    (decided,) = run.of("restart_decided")
    assert (decided["charged"], decided["remaining"], decided["delay_s"]) == (True, 4, 0.0)
    assert (decided["cause"]["exit_code"], decided["cause"]["node"]) == (3, run.files.name)
    settled = [(one["round"], one["world_size"], one["nodes"], one["group_rank"]) for one in run.of("round_settled")]
    assert settled == [(1, 2, 1, 0), (2, 2, 1, 0)]


def test_the_result_has_its_keys(run: Run) -> None:
    result = run.result
    keys = ("state", "exit_code", "rounds", "restarts", "root_cause", "failures", "results", "timings")
    assert set(result) >= {*keys}
    assert [result[key] for key in keys[:5]] == ["SUCCEEDED", 0, 2, 1, None]
    assert [(failure["rank"], failure["exit_code"]) for failure in result["failures"]] == [(0, 3)]
    assert result["results"] == {"0": {"loss": 0.0}, "1": {"loss": 0.5}}
    assert all(isinstance(seconds, float) and seconds >= 0 for seconds in result["timings"].values())


def test_a_root_cause_has_its_keys(tmp_path: Path) -> None:
    code = "import sys; print('boom', file=sys.stderr); sys.exit(9)"
    assert orchestrate(tmp_path, "restart=never", "--", sys.executable, "-c", code).code == 1
    (path,) = tmp_path.glob("runs/*/*/result.json")
    cause = json.loads(path.read_text())["root_cause"]
    keys = ("node", "rank", "pid", "exit_code", "signal", "message", "traceback", "last_lines")
    assert set(cause) >= {*keys}
    values = [cause[key] for key in ("node", "rank", "exit_code", "signal", "last_lines")]
    assert values == [path.parent.name, 0, 9, None, ["boom"]]
    assert cause["pid"] > 1


# -- what a worker sees


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_sees_the_variables_of_torchrun_and_ours(run: Run, rank: int) -> None:
    env = run.seen(1, rank)["env"]
    expected = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "ROLE_RANK": str(rank),
        "ROLE_NAME": "trainer",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_RESTART_COUNT": "1",
        "TORCHELASTIC_MAX_RESTARTS": "5",
        "TORCHELASTIC_RUN_ID": RUN_ID,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
        "ORCHESTRATOR_RUN_ID": RUN_ID,
        "ORCHESTRATOR_GROUP": "trainer",
        "ORCHESTRATOR_ROUND": "2",
        "LR": "0.1",
    }
    assert {name: env.get(name) for name in expected} == expected
    assert 0 < int(env["MASTER_PORT"]) < 65536
    for name in ("TORCHELASTIC_ERROR_FILE", "ORCHESTRATOR_RESULT_FILE"):
        assert Path(env[name]).parent.is_dir()
    assert "TORCHELASTIC_TIMER_FILE" not in env, "there is no watchdog to listen"


def test_the_token_grows_and_is_equal_on_all_ranks(run: Run) -> None:
    tokens = [[run.seen(attempt, rank)["env"]["ORCHESTRATOR_TOKEN"] for rank in (0, 1)] for attempt in (0, 1)]
    assert tokens[0][0] == tokens[0][1]
    assert tokens[1][0] == tokens[1][1]
    assert int(tokens[1][0]) > int(tokens[0][0]) > 1_600_000_000_000


def test_macros_in_the_command_are_filled_in_and_other_text_is_not(run: Run) -> None:
    assert [run.seen(1, rank)["argv"] for rank in (0, 1)] == [[str(r), str(r), "of=2", "__else__"] for r in (0, 1)]


# -- exit codes

TELL_THE_AGENT = 'kill -{} "$(cut -d" " -f4 "/proc/$PPID/stat")"; exec sleep 60'


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ("--", "true")),
        (1, ("restart=never", "--", "false")),
        (2, ("worker.nproc=0", "--", "true")),
        (3, ("rendezvous.url=redis://127.0.0.1:1", "rendezvous.join_timeout_s=0.1", "--", "true")),
        (75, ("stop.preempt_signals=[USR1]", "--", "sh", "-c", TELL_THE_AGENT.format("USR1"))),
        (128 + 15, ("--", "sh", "-c", TELL_THE_AGENT.format("TERM"))),
        (128 + 3, ("--", "sh", "-c", TELL_THE_AGENT.format("QUIT"))),
    ],
)
def test_an_exit_code_says_whose_fault_it_is(tmp_path: Path, code: int, words: tuple[str, ...]) -> None:
    ended = orchestrate(tmp_path, *words)
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert (tmp_path / "runs").exists() == (code != 2), "a wrong configuration starts nothing"
    for result in tmp_path.glob("runs/*/*/result.json"):
        assert json.loads(result.read_text())["exit_code"] == code


def test_errors_have_the_exit_codes_of_the_table() -> None:
    codes: dict[type[errors.OrchestratorError], int] = {
        errors.ConfigError: 2,
        errors.RendezvousError: 3,
        errors.NodeError: 4,
        errors.InternalError: 70,
        errors.IllegalEvent: 70,
    }
    assert {kind: kind.exit_code for kind in codes} == codes
    assert sorted(errors.ExitCode) == [0, 1, 2, 3, 4, 70, 75]


# -- configuration

DEFAULTS: Mapping[str, object] = {
    "role": "default",
    "nodes": 1,
    "node.addr": None,
    "worker.cmd": ["true"],
    "worker.flags": {},
    "worker.flags_style": "gnu",
    "worker.start": "exec",
    "worker.preload": [],
    "worker.nproc": 1,
    "worker.env": {},
    "worker.cwd": None,
    "worker.umask": None,
    "worker.limits": {},
    "worker.affinity": None,
    "worker.store": "agent",
    "restart.kind": "on_failure",
    "restart.budget": {"max": 3, "per_s": None},
    "restart.free": {"max": 100, "per_s": 3600},
    "restart.backoff.initial_s": 1,
    "restart.backoff.factor": 2,
    "restart.backoff.max_s": 60,
    "restart.backoff.jitter": 0.1,
    "restart.backoff.reset_after_s": 300,
    "restart.rules": [],
    "stop.signal": "TERM",
    "stop.grace_s": 30,
    "stop.forward": ["USR1", "USR2"],
    "stop.preempt_signals": [],
    "stop.kill_wait_s": 10,
    "stop.dump": False,
    "rendezvous.kind": "embedded",
    "rendezvous.listen": None,
    "rendezvous.join_timeout_s": 600,
    "rendezvous.last_call_s": 1,
    "rendezvous.lease_s": 5,
    "rendezvous.scale_up_s": 10,
    "rendezvous.server_grace_s": 600,
    "logs.kind": "tee",
    "logs.dir": None,
    "logs.console": "all",
    "logs.max_bytes": None,
    "logs.console_bytes_per_s": None,
}
FROM_ENVIRONMENT = {
    "run_id": ("SLURM_JOB_ID", "SLURM_STEP_ID"),
    "node.rank": ("SLURM_NODEID",),
    "stop.platform_grace_s": ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"),
    "logs.prefix": ("TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE",),
}


def at(data: Mapping[str, Any], path: str) -> object:
    found: Any = data
    for name in path.split("."):
        found = found[name]
    return found


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    ended = orchestrate(tmp_path_factory.mktemp("composed"), "--cfg", "job", "--", "true")
    assert ended.code == 0, ended.err
    data: dict[str, Any] = yaml.safe_load(ended.out)
    return data


def test_the_keys_of_a_job_and_their_defaults(composed: dict[str, Any]) -> None:
    assert {path: at(composed, path) for path in DEFAULTS} == DEFAULTS


def test_what_the_environment_may_say_is_in_sight(composed: dict[str, Any]) -> None:
    for path, names in FROM_ENVIRONMENT.items():
        for name in names:
            assert f"${{oc.env:{name}," in str(at(composed, path))


@pytest.mark.parametrize(
    ("group", "kinds"),
    [
        ("restart", {"never", "on_failure", "always"}),
        ("rendezvous", {"embedded", "redis"}),
        ("stop", {"default"}),
        ("logs", {"files", "tee", "inherit"}),
    ],
)
def test_a_group_has_its_choices(group: str, kinds: set[str]) -> None:
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (data_dir("conf") / group).iterdir()}
    assert set(files) >= kinds
    assert {kind: content["kind"] for kind, content in files.items()} == {kind: kind for kind in files}


def test_the_keys_of_the_choices_that_are_no_default() -> None:
    conf = data_dir("conf")
    redis = yaml.safe_load((conf / "rendezvous" / "redis.yaml").read_text())
    assert redis.pop("url") is None
    for name in ("join_timeout_s", "last_call_s", "lease_s", "scale_up_s", "server_grace_s"):
        assert redis[name] == DEFAULTS[f"rendezvous.{name}"]
    files = yaml.safe_load((conf / "logs" / "files.yaml").read_text())
    assert files == {"kind": "files", "dir": None, "max_bytes": None}


# -- commands


def test_the_console_scripts_are_installed() -> None:
    found = {entry.name: entry.value for entry in entry_points(group="console_scripts", name="orchestrate")}
    found |= {entry.name: entry.value for entry in entry_points(group="console_scripts", name="orchestratectl")}
    assert found == {
        "orchestrate": "orchestrator.cli.main:main",
        "orchestratectl": "orchestrator.cli.ctl:main",
    }


def test_plan_shows_what_would_run_and_starts_nothing(tmp_path: Path) -> None:
    flags = ("worker.flags={lr: 0.1, amp: true, off: false, none: null, name: a b}", "worker.env.API_TOKEN=hunter22")
    ended = orchestratectl(tmp_path, "plan", "--json", *flags, "--", "true")
    assert ended.code == 0, ended.err
    (group,) = json.loads(ended.out)["groups"]
    (worker,) = group["workers"]
    assert worker["cmd"] == ["true", "--lr=0.1", "--amp", "--name=a b"]
    assert {"RANK", "ORCHESTRATOR_TOKEN", "API_TOKEN"} <= set(worker["env"])
    assert {"source", "event", "target"} <= set(group["machine"][0])
    assert "hunter22" not in ended.out
    assert list(tmp_path.iterdir()) == []


def test_graph_draws_the_machine_of_the_job(tmp_path: Path) -> None:
    ended = orchestratectl(tmp_path, "graph", "restart=never", "--", "true")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("stateDiagram-v2\n")
    assert "INIT --> RENDEZVOUS: agent_started" in ended.out
    assert "BACKOFF" not in ended.out, "what the job does not use leaves no row"


def test_the_states_have_their_names() -> None:
    ours = {"INIT", "RENDEZVOUS", "STARTING", "HEALTHY", "DRAINING", "STOPPING", "DECIDING", "BACKOFF", "FINISHING"}
    assert {state.value for state in State} >= {*ours, "CLOSING"}
    assert {state.value for state in FINAL} == {"SUCCEEDED", "FAILED", "STOPPED"}
