"""conf/ and recipes/ are found from a checkout, an editable install, and a wheel in a clean environment."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={key: value for key, value in {**os.environ, **(env or {})}.items() if key != "PYTHONPATH" or env},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done


def assert_hello(done: subprocess.CompletedProcess[str]) -> None:
    assert all(f"rank {rank} of 4" in done.stdout for rank in range(4)), done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The bin directory of a new environment that has the wheel and what it asks for, and nothing else."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home / "venv", with_pip=True)
    run(home / "venv/bin/python", "-m", "pip", "install", "-q", wheel, cwd=home)
    return home / "venv/bin"


def test_a_wheel_in_a_clean_environment_runs_anywhere(clean: Path, tmp_path: Path) -> None:
    assert_hello(run(clean / "orchestrate", "recipe=hello", cwd=tmp_path))
    assert_hello(run(clean / "python", "-m", "orchestrator", "recipe=hello", cwd=tmp_path))
    assert (
        "nproc: 3"
        in run(clean / "orchestrate-torchrun", "--print-recipe", "--nproc-per-node=3", "x.py", cwd=tmp_path).stdout
    )
    graph = run(clean / "orchestratectl", "graph", "recipe=hello", cwd=tmp_path).stdout
    assert graph.startswith("stateDiagram-v2")
    swept = run(clean / "orchestrate", "-m", "recipe=hello", "worker.nproc=1,2", cwd=tmp_path)
    assert "2 succeeded" in swept.stderr
    assert "2 succeeded" in run(clean / "orchestratectl", "sweep", "sweeps/hello", cwd=tmp_path).stdout


def test_an_editable_install_runs_anywhere(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    # what it depends on is this environment's own; only the package itself is installed
    site = next(path for path in sys.path if path.endswith("site-packages"))
    run(
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-e",
        ROOT,
        cwd=tmp_path,
        env={"PYTHONPATH": site},
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "venv/lib" / f"python3.{sys.version_info.minor}" / "site-packages/others.pth").write_text(f"{site}\n")
    assert_hello(run(tmp_path / "venv/bin/orchestrate", "recipe=hello", cwd=tmp_path / "elsewhere"))


def test_a_checkout_runs_without_being_installed(tmp_path: Path) -> None:
    assert_hello(run(sys.executable, "-m", "orchestrator", "recipe=hello", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}))


def test_the_wheel_holds_what_is_needed_and_no_more(wheel: Path) -> None:
    names = set(run(sys.executable, "-m", "zipfile", "-l", wheel, cwd=ROOT).stdout.split())
    assert {"orchestrator/_data/conf/config.yaml", "orchestrator/_data/recipes/hello.yaml"} <= names
    assert any(name.endswith("lua/join.lua") for name in names)
    assert not any(name.startswith(("tests/", "conf/", "recipes/")) for name in names)
