"""``orchestrate-torchrun`` beside torchrun: the same command line, the same script, and what becomes of both."""

from __future__ import annotations

import json
import re
import signal
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import until
from tests.e2e.nodes import OURS, THEIRS, free_port, script
from tests.edge.servers import Server

pytestmark = pytest.mark.e2e
needs_torch = [
    pytest.mark.torch,
    pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra [torch]"),
]
SIDE_BY_SIDE = [pytest.param(OURS, id="here"), pytest.param(THEIRS, id="torchrun", marks=needs_torch)]

# -- how nodes meet

WHO = """
import os
print(" ".join(os.environ[name] for name in ("RANK", "WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID")), flush=True)
"""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:{}"],) * 2,
        (  # whoever comes first is not the one that brings the server
            ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:{}", "--rdzv-conf=is_host=0"],
            ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:{}", "--rdzv-conf=is_host=1"],
        ),
        (
            ["--node-rank=1", "--master-addr=127.0.0.1", "--master-port={}"],
            ["--node-rank=0", "--master-addr=127.0.0.1", "--master-port={}"],
        ),
    ],
    ids=["c10d", "c10d-client-first", "static-node-1-first"],
)
def test_two_nodes_meet_at_the_endpoint(first: list[str], second: list[str], start: Start, tmp_path: Path) -> None:
    port = free_port()
    common = ("--nnodes=2", "--nproc-per-node=2", "--rdzv-id=j1")
    who = script(tmp_path, WHO)
    one = start(OURS, *common, *(word.format(port) for word in first), who, "arguments")
    if first != second:
        until(lambda: "does not answer yet" in one.stderr, "the first node to have looked for the server")
    other = start(OURS, *common, *(word.format(port) for word in second), who, "may", "differ")
    assert [one.wait(), other.wait()] == [0, 0], one.stderr + other.stderr
    lines = sorted(line.split() for node in (one, other) for line in node.stdout.splitlines())
    assert [(rank, size, run) for rank, size, _, run in lines] == [(str(rank), "4", "j1") for rank in range(4)]
    if "node-rank" in first[0]:
        assert one.stdout.splitlines()[0].split()[2] == "1", "as they are numbered"


def test_nodes_meet_at_a_server_of_the_users_own(start: Start, server: Server, tmp_path: Path) -> None:
    endpoint = server.url.rpartition("@")[2].removeprefix("redis://").partition("/")[0]
    words = ["--nnodes=2", "--rdzv-backend=orchestrator", f"--rdzv-endpoint={endpoint}", f"--rdzv-id={tmp_path.name}"]
    nodes = [start(OURS, *words, script(tmp_path, WHO)) for _ in range(2)]
    assert [node.wait() for node in nodes] == [0, 0], nodes[0].stderr
    assert sorted(node.stdout.split()[0] for node in nodes) == ["0", "1"]


def test_another_run_at_the_same_endpoint_is_kept_out(start: Start, tmp_path: Path) -> None:
    port = free_port()
    common = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}")
    who = script(tmp_path, WHO)
    one = start(OURS, *common, "--rdzv-id=j1", who)
    until(lambda: not _is_free(port), "the server to listen")
    stranger = start(OURS, *common, "--rdzv-id=j2", who)
    assert stranger.wait() == 1
    assert "refuses the user name or password" in stranger.stderr
    assert start(OURS, *common, "--rdzv-id=j1", who).wait() == 0
    assert one.wait() == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


# -- how it ends


@pytest.mark.parametrize("module", SIDE_BY_SIDE)
def test_workers_that_fail_end_the_launcher_with_1(module: str, start: Start, tmp_path: Path) -> None:
    assert start(module, script(tmp_path, "raise SystemExit(7)")).wait() == 1


def test_a_wrong_command_line_or_job_ends_with_2_before_anything_starts(start: Start, tmp_path: Path) -> None:
    name = script(tmp_path, "open('started', 'w')")
    assert start(OURS, "--nosuch", name).wait() == 2
    wrong = start(OURS, "--rdzv-backend=etcd", "--nnodes=0", name)
    assert wrong.wait() == 2
    assert [line.split(":")[1] for line in wrong.stderr.splitlines()] == [" --nnodes", " --rdzv-backend"]
    assert not (tmp_path / "started").exists()


CAUGHT = """
import signal, sys, time
def caught(number, frame):
    print("caught", signal.Signals(number).name, flush=True)
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
    signal.signal(number, caught)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("module", "number"),
    [
        (OURS, signal.SIGINT),
        (OURS, signal.SIGTERM),
        (OURS, signal.SIGUSR1),
        pytest.param(THEIRS, signal.SIGINT, marks=needs_torch),
    ],
)
def test_a_signal_to_the_launcher_is_the_workers_and_ends_with_1(
    module: str, number: signal.Signals, start: Start, tmp_path: Path
) -> None:
    words = ("--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", script(tmp_path, CAUGHT))
    node = start(module, *words)
    until(lambda: node.stdout == "ready\n", "the worker to be ready")
    node.process.send_signal(number)
    assert (node.wait(), node.stdout) == (1, f"ready\ncaught {number.name}\n")


def test_nothing_is_said_and_nothing_is_left_when_all_is_well(start: Start, tmp_path: Path) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr)"
    node = start(OURS, "--nproc-per-node=1", script(tmp_path, code))
    assert (node.wait(), node.stdout, node.stderr) == (0, "out\n", "err\n")
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "out0", "err0", "tmp"}
    assert list((tmp_path / "tmp").iterdir()) == []


def test_torch_is_never_imported(start: Start, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('imported')")
    port = f"--rdzv-endpoint=localhost:{free_port()}"
    nodes = [
        start(OURS, "--nnodes=2", "--rdzv-backend=c10d", port, "--no-python", "true"),
        start(OURS, "--nnodes=2", "--rdzv-backend=c10d", port, "--no-python", "true"),
    ]
    assert [node.wait() for node in nodes] == [0, 0]


FAILS = """
import os, signal
from torch.distributed.elastic.multiprocessing.errors import record
@record
def main():
    if os.environ["LOCAL_RANK"] == "1":
        raise ValueError("boom\\nand more")
    signal.pause()
main()
"""
VARIES = [
    (r"time      : .*", "time      : T"),
    (r"\(pid: \d+\)", "(pid: P)"),
    (r"PID \d+", "PID P"),
    (r"error_file: /.*", "error_file: F"),
    (r"={60}", "=" * 60),
]


def block(text: str) -> list[str]:
    """torchrun's report within ``text``, without what differs from run to run."""
    for pattern, instead in VARIES:
        text = re.sub(pattern, instead, text)
    lines = text.splitlines()
    first = next(at for at, line in enumerate(lines) if line.endswith("ChildFailedError: "))
    return lines[first:]


def failures(lines: list[str]) -> dict[str, list[str]]:
    """The parts of a report by rank."""
    text = "\n".join(lines)
    found = re.findall(r"^\[\d+\]:\n(?:  .*\n?)+", text, re.MULTILINE)
    return {re.findall(r"rank      : (\d+)", one)[0]: one.splitlines()[1:] for one in found}


@pytest.mark.torch
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra [torch]")
def test_the_report_of_a_recorded_failure_is_torchruns_to_the_letter(start: Start, tmp_path: Path) -> None:
    name = script(tmp_path, FAILS)
    handed = [tmp_path / "ours.json", tmp_path / "theirs.json"]
    runs = [
        start(module, *extra, "--nproc-per-node=2", name, env={"TORCHELASTIC_ERROR_FILE": str(path)})
        for (module, extra), path in zip(((OURS, ["--report=torchrun"]), (THEIRS, [])), handed, strict=True)
    ]
    assert [node.wait() for node in runs] == [1, 1]
    ours, theirs = (block(node.stderr) for node in runs)
    frame = [at for at, line in enumerate(theirs) if not line.startswith((" ", "["))]
    assert [line for line in ours if not line.startswith((" ", "["))] == [theirs[at] for at in frame]
    assert failures(ours)["1"] == failures(theirs)["1"]
    mine, peers = (json.loads(path.read_text())["message"] for path in handed)
    assert mine.keys() == peers.keys()
    assert (mine["message"], mine["errorCode"]) == (peers["message"], peers["errorCode"])
    assert mine["extraInfo"].keys() == peers["extraInfo"].keys()
    assert mine["extraInfo"]["py_callstack"] == peers["extraInfo"]["py_callstack"]


@pytest.mark.torch
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra [torch]")
def test_the_report_of_a_killed_worker_is_torchruns_to_the_letter(start: Start, tmp_path: Path) -> None:
    name = script(tmp_path, "import os; os.kill(os.getpid(), 9)")
    runs = [start(module, *extra, name) for module, extra in ((OURS, ["--report=torchrun"]), (THEIRS, []))]
    assert [node.wait() for node in runs] == [1, 1]
    assert block(runs[0].stderr) == block(runs[1].stderr)


def test_the_root_cause_is_handed_to_whoever_launched_us(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    node = start(
        OURS, script(tmp_path, "import os; os.kill(os.getpid(), 9)"), env={"TORCHELASTIC_ERROR_FILE": str(path)}
    )
    assert node.wait() == 1
    said: dict[str, Any] = json.loads(path.read_text())["message"]
    assert said["errorCode"] == -9
    assert re.fullmatch(r"Signal 9 \(SIGKILL\) received by PID \d+", said["message"])
    assert int(said["extraInfo"]["timestamp"]) > 1_600_000_000


# -- what it says


@pytest.mark.parametrize("module", SIDE_BY_SIDE)
def test_output_goes_where_torchrun_has_it(module: str, start: Start, tmp_path: Path) -> None:
    code = """
import os, sys
rank = os.environ["LOCAL_RANK"]
print("apple out", rank, flush=True)
print("pear out", rank, flush=True)
print("err", rank, file=sys.stderr, flush=True)
"""
    words = ("--nproc-per-node=3", "-t", "0:1,2:3", "-r", "1:2", "--duplicate-stdout-filters=apple", "--log-dir=logs")
    node = start(module, *words, script(tmp_path, code))
    assert node.wait() == 0
    shown = {"[default0]:apple out 0", "[default0]:pear out 0", "apple out 1", "pear out 1"}
    assert set(node.stdout.splitlines()) == shown | {"[default2]:apple out 2", "[default2]:pear out 2"}
    assert {line for line in node.stderr.splitlines() if "err" in line} == {"err 0", "[default2]:err 2"}
    logs = tmp_path / "logs"
    (copied,) = logs.rglob("filtered_stdout.log")
    assert sorted(copied.read_text().splitlines()) == ["[default0]:apple out 0", "[default2]:apple out 2"]
    assert [path.read_text() for path in logs.rglob("*1/stderr.log")] == ["err 1\n"]


# -- what workers see

SEES = "import json, os; json.dump(dict(os.environ), open(f'{os.environ[\"RANK\"]}.json', 'w'))"
SAME = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME"),
    *("LOCAL_WORLD_SIZE", "WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID"),
    "TORCHELASTIC_USE_AGENT_STORE",
    *("OMP_NUM_THREADS", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "CUDA_VISIBLE_DEVICES"),
}
"""What both set, to the same value."""
DIFFER = {
    "MASTER_ADDR": "an address that was really used here, a name of the host there",
    "MASTER_PORT": "any free one on both sides",
    "TORCHELASTIC_ERROR_FILE": "in each launcher's own directory",
}
"""What both set, and why the values are not equal."""
OURS_ONLY = ("ORCHESTRATOR_", "PYTHONUNBUFFERED")  # the latter is torchrun's -u, for any command
THEIRS_ONLY = {"TORCHELASTIC_SIGNALS_TO_HANDLE"}  # which torchrun lets slip from its own environment


@pytest.mark.torch
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra [torch]")
def test_a_worker_sees_the_same_variables_under_both(start: Start, tmp_path: Path) -> None:
    words = ["--nproc-per-node=2", "--max-restarts=3", "--role=trainer", "--rdzv-id=j7", "--rdzv-backend=c10d"]
    words += ["--rdzv-endpoint=localhost:0", "--virtual-local-rank", script(tmp_path, SEES)]
    seen = []
    for module in (OURS, THEIRS):
        assert start(module, *words, env={"KEPT": "as it is"}).wait() == 0
        seen.append([json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)])
    for ours, theirs in zip(*seen, strict=True):
        own = {name for name in ours if name.startswith(OURS_ONLY)}
        assert {name: ours[name] for name in SAME} == {name: theirs[name] for name in SAME}
        assert all(ours[name] and theirs[name] for name in DIFFER)
        rest = [
            {name: value for name, value in env.items() if name not in {*SAME, *DIFFER, *own, *THEIRS_ONLY}}
            for env in (ours, theirs)
        ]
        assert rest[0] == rest[1], "inherited, unchanged"
        assert theirs.keys() >= THEIRS_ONLY
