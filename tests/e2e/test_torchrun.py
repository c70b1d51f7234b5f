"""An unchanged torchrun with this rendezvous: it forms a world, takes newcomers in, and outlives a lost agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.harness import external_server, marked, until
from tests.edge.servers import Server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.torch,
    pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra [torch]"),
]
ROOT = Path(__file__).parents[2]
LEASE_S = 1.0

REDUCE = """
import sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank()])
dist.all_reduce(total)
with open(sys.argv[1], "a") as out:
    out.write(f"{dist.get_rank()} {dist.get_world_size()} {total.item()}\\n")
dist.destroy_process_group()
"""

STAY = """
import os, sys, time
env, agent = os.environ, os.getppid()
with open(sys.argv[1], "a") as out:
    out.write(f"{env['RANK']} {env['WORLD_SIZE']} {env['TORCHELASTIC_RESTART_COUNT']} {agent}\\n")
while os.getppid() == agent and not os.path.exists(sys.argv[2]):  # torchrun leaves orphans; these go by themselves
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with external_server(password="s3cret") as running:
        yield running


@pytest.fixture
def torchrun(tmp_path: Path, server: Server) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start torchrun's agents; they find the plug-in as pyproject.toml announces it, installed or not."""
    announced = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    metadata = tmp_path / "path" / "orchestrator-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: orchestrator\nVersion: 0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in announced.items()]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    mark = uuid.uuid4().hex
    env = {**os.environ, "PYTHONPATH": f"{metadata.parent}:{ROOT}", "REDIS_PASSWORD": "s3cret", "TEST_MARK": mark}
    endpoint = server.url.rpartition("@")[2].partition("/")[0]
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str, *arguments: str, nodes: str, conf: str = "") -> subprocess.Popen[bytes]:
        path = tmp_path / "script.py"
        path.write_text(script)
        command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=orchestrator"]
        command += [f"--rdzv-endpoint={endpoint}", f"--rdzv-id={mark}", f"--nnodes={nodes}", "--nproc-per-node=2"]
        command += [f"--rdzv-conf=lease={LEASE_S},last_call_timeout=0.2{conf}", "--max-restarts=3", str(path)]
        with (tmp_path / f"agent{len(started)}").open("wb") as log:
            agent = subprocess.Popen([*command, *arguments], env=env, stdout=log, stderr=log, start_new_session=True)
        started.append(agent)
        return agent

    yield start
    for pid in marked(f"TEST_MARK={mark}"):
        os.kill(pid, signal.SIGKILL)
    for agent in started:
        agent.wait(10)


def rows(path: Path) -> list[tuple[int, ...]]:
    text = path.read_text() if path.exists() else ""
    return [tuple(map(int, line.split())) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def logs(directory: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(directory.glob("agent*")))


def test_two_agents_form_one_world_that_reduces(
    torchrun: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    agents = [torchrun(REDUCE, str(tmp_path / "said"), nodes="2") for _ in range(2)]
    assert [agent.wait(30) for agent in agents] == [0, 0], logs(tmp_path)
    assert sorted(rows(tmp_path / "said")) == [(rank, 4, 6) for rank in range(4)]
    late = torchrun(REDUCE, str(tmp_path / "late"), nodes="2")
    assert late.wait(30) == 1, "success has closed the run"
    assert "is closed (succeeded: all workers succeeded)" in logs(tmp_path)


def test_a_newcomer_is_taken_in_and_the_loss_of_rank_0_is_survived_alone(
    torchrun: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    said, flag = tmp_path / "said", tmp_path / "flag"

    def in_world(size: int) -> set[int]:
        """Wait until so many workers have started as one world since the file was last emptied; their agents."""
        until(lambda: {row[0] for row in rows(said) if row[1] == size} == set(range(size)), f"a world of {size}")
        found = {row[3] for row in rows(said) if row[1] == size}
        assert {row[2] for row in rows(said)} == {0}, "a change of membership is no restart that counts"
        said.write_text("")
        return found

    first = torchrun(STAY, str(said), str(flag), nodes="1:2")
    assert in_world(2) == {first.pid}
    second = torchrun(STAY, str(said), str(flag), nodes="1:2")
    assert in_world(4) == {first.pid, second.pid}
    first.kill()  # with it goes the round's store
    assert in_world(2) == {second.pid}
    flag.touch()
    assert second.wait(30) == 0, logs(tmp_path)


def test_an_unknown_key_is_refused_and_the_known_ones_are_named(
    torchrun: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    assert torchrun(STAY, nodes="1", conf=",leese=3").wait(30) == 1
    assert "--rdzv-conf: unknown key leese; known are lease, last_call_timeout, join_timeout" in logs(tmp_path)
