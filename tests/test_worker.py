from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.worker import heartbeat, progress, report, section


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "result.json"
    monkeypatch.setenv("ORCHESTRATOR_RESULT_FILE", str(path))
    return path


def test_reports_merge(file: Path) -> None:
    report(loss=0.5, step=1)
    report(loss=0.25)
    assert json.loads(file.read_text()) == {"loss": 0.25, "step": 1}
    assert [path.name for path in file.parent.iterdir()] == ["result.json"]


def test_outside_the_orchestrator_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORCHESTRATOR_RESULT_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    report(loss=object())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[1]", "{", "\udcff"])
def test_a_file_that_is_no_object_is_replaced(file: Path, content: str) -> None:
    file.write_bytes(content.encode(errors="surrogateescape"))
    report(a=1)
    assert json.loads(file.read_text()) == {"a": 1}


def test_a_number_in_an_array_is_a_number(file: Path) -> None:
    class Tensor:
        def item(self) -> float:
            return 1.5

    report(loss=Tensor())
    assert json.loads(file.read_text()) == {"loss": 1.5}


def test_what_json_cannot_hold_is_refused_and_the_file_stands(file: Path) -> None:
    report(a=1)
    with pytest.raises(TypeError, match="not object"):
        report(b=object())
    assert json.loads(file.read_text()) == {"a": 1}


def test_threads_do_not_lose_each_others_values(file: Path) -> None:
    threads = [threading.Thread(target=report, kwargs={f"k{n}": n}) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(file.read_text())) == 20


def test_a_missing_disk_costs_a_warning_and_not_the_training(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_RESULT_FILE", str(file / "no" / "such"))
    with pytest.warns(RuntimeWarning, match="was lost"):
        report(a=1)


SPEAKS = """
import orchestrator.worker as worker
for n in range(100):
    worker.heartbeat()
with worker.section("checkpoint"):
    worker.progress(7)
"""


def spoken(environment: dict[str, str], code: str = SPEAKS) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(Path(__file__).parents[1]), **environment}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True, check=True
    )


def test_signs_of_life_are_lines_that_a_shell_could_write(tmp_path: Path) -> None:
    pipe, stacks = tmp_path / "pipe", tmp_path / "stacks"
    os.mkfifo(pipe)
    fd = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    code = f"{SPEAKS}\nimport os, time; time.sleep(0.11); worker.progress(8); print(os.getpid())"
    pid = spoken(
        {"ORCHESTRATOR_WATCHDOG_FILE": str(pipe), "ORCHESTRATOR_STACKS_FILE": str(stacks)}, code
    ).stdout.strip()
    lines = os.read(fd, 65536).decode().splitlines()
    os.close(fd)
    assert lines[0].startswith(f"stacks {pid} ")
    assert lines[1] == f"beat {pid}"
    assert lines[-1] == f"step {pid} 8"
    assert [line for line in lines if "checkpoint" in line] == [f"enter {pid} checkpoint", f"leave {pid} checkpoint"]
    assert stacks.exists()


@pytest.mark.parametrize("path", [None, "", "/no/such/pipe", "/", "/dev/null"])
def test_signs_of_life_without_a_listener_are_no_trouble(path: str | None) -> None:
    done = spoken({} if path is None else {"ORCHESTRATOR_WATCHDOG_FILE": path})
    assert (done.stdout, done.stderr) == ("", "")


def test_a_section_ends_however_it_is_left_and_has_a_name_that_can_be_said() -> None:
    with pytest.raises(KeyError), section("load"):
        raise KeyError
    with pytest.raises(ValueError, match="'no spaces'"), section("no spaces"):
        pass


def test_signs_of_life_cost_next_to_nothing() -> None:
    began = time.perf_counter()
    for step in range(20_000):
        heartbeat()
        progress(step)
    assert (time.perf_counter() - began) / 40_000 < 20e-6, "a microsecond, on a machine with nothing else to do"


def test_importing_it_brings_in_nothing_beyond_the_standard_library() -> None:
    code = "import sys; import orchestrator.worker; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"hydra", "omegaconf", "redis", "rich", "transitions", "yaml", "asyncio"}
    assert not heavy & set(loaded)


def test_sharing_brings_in_sockets_and_no_redis_client() -> None:
    code = "import sys; import orchestrator.worker, orchestrator.edge.redis.worker_store; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"redis", "asyncio", "ssl", "importlib.resources"} & set(loaded)
