"""The commands as processes: Hydra's own faces still work, and every way to end is a clean one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.cli import main, torchrun_hints
from orchestrator.errors import InternalError, NodeError
from tests.cli.invoke import Commands

ROOT = Path(main.__file__).parents[2]
VERBS = (
    "known: doctor, drain, events, graph, join, logs, plan, recipes, report, restart, schema, status, stop, sweep; "
    "see orchestratectl --help"
)
IMPORTS = """
import sys
from orchestrator.cli import main, torchrun_hints
heavy = {"hydra", "omegaconf", "yaml", "asyncio", "redis", "rich", "transitions", "logging"} & set(sys.modules)
print(sorted(heavy))
"""


def orchestrate(tmp_path: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_shows_how_to_begin_and_what_can_be_chosen(tmp_path: Path) -> None:
    done = orchestrate(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "orchestrate -- python train.py",
        "restart: always, never, on_failure",
        "recipe: ",
        "--multirun",
        "nproc: 1 ",
        'eval "$(orchestrate -sc install=bash)"',
    ):
        assert part in done.stdout


def test_help_names_every_key_with_its_default(tmp_path: Path) -> None:
    shown = orchestrate(tmp_path, "--help").stdout.partition("== Keys")[2].partition("\n")[2].partition("\n== ")[0]
    composed = yaml.safe_load(orchestrate(tmp_path, "--cfg", "job").stdout)
    made_up = {"run_id": "(made up)", "node": {"name": "(made up)", "rank": None, "addr": None}}
    for group in ("restart", "watchdog", "rendezvous", "stop", "logs"):
        del composed[group]["kind"]
    composed["health"] = {"port": 0, "host": "127.0.0.1", "token": None, "timeout_s": 60, "server": None}
    composed["health"] |= {
        "startup": None,
        "readiness": None,
        "liveness": None,
        "preflight": [],
        "preflight_attempts": 5,
        "preflight_cooldown_s": 10,
    }
    composed["logs"]["prefix"] = "[{role}{rank}] "
    composed["rendezvous"]["reopen"] = 0  # as Slurm counts
    composed["stop"]["platform_grace_s"] = None
    assert yaml.safe_load(shown) == {**composed, **made_up}


def test_help_calls_torchruns_flags_as_their_hints_do(tmp_path: Path) -> None:
    rows = re.findall(r"^ +(--[\w-]+)=(\S+) +(\S+)$", orchestrate(tmp_path, "--help").stdout, re.MULTILINE)
    assert len(rows) > 5
    assert [torchrun_hints.override(flag, value) for flag, value, _ in rows] == [ours for *_, ours in rows]


def test_cfg_shows_a_job_that_loads_as_yaml(tmp_path: Path) -> None:
    done = orchestrate(tmp_path, "worker.nproc=3", "--cfg", "job", "--", "python", "x y")
    assert (done.returncode, done.stderr) == (0, "")
    data = yaml.safe_load(done.stdout)
    assert (data["worker"]["nproc"], data["worker"]["cmd"]) == (3, ["python", "x y"])


def test_info_shows_where_recipes_are_looked_for(tmp_path: Path) -> None:
    done = orchestrate(tmp_path, "--info", "searchpath", ORCHESTRATE_RECIPES="/some/where")
    assert done.returncode == 0
    assert f"recipes:///some/where:{tmp_path}/recipes:{ROOT}/recipes" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("rest", "restart="),
        ("restart=", "restart=never"),
        ("recipe=hel", "recipe=hello"),
        ("worker.np", "worker.nproc="),
    ],
)
def test_the_shell_completes(tmp_path: Path, typed: str, offered: str) -> None:
    done = orchestrate(tmp_path, "-sc", "query=bash", COMP_LINE=f"orchestrate {typed}", COMP_POINT="99")
    assert (done.returncode, done.stderr) == (0, "")
    assert offered in done.stdout.split()


def test_a_half_typed_line_completes_to_nothing_and_stays_quiet(tmp_path: Path) -> None:
    done = orchestrate(tmp_path, "-sc", "query=bash", COMP_LINE="orchestrate recipe=nosuch work", COMP_POINT="99")
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_completion_installs_into_a_shell(tmp_path: Path) -> None:
    done = orchestrate(tmp_path, "-sc", "install=bash")
    assert done.returncode == 0
    assert "complete " in done.stdout


def test_version_names_both(tmp_path: Path) -> None:
    done = orchestrate(tmp_path, "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("orchestrate ")
    assert ", Hydra 1.3" in done.stdout


def test_importing_the_command_costs_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_only_showing_makes_no_file(tmp_path: Path) -> None:
    for words in (["--help"], ["--cfg", "all"], ["--info"], ["--hydra-help"], ["--version"]):
        assert orchestrate(tmp_path, *words).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "--hydra-help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_only_our_own_bugs_show_a_traceback(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> int:
        def work(_words: object) -> int:
            raise error

        monkeypatch.setattr(main, "_orchestrate", work)
        said = commands.orchestrate()
        assert ("Traceback" in said.err) == (said.code == 70)
        return said.code

    assert [raising(error) for error in (InternalError("x"), ZeroDivisionError(), NodeError("unfit"))] == [70, 70, 4]


def test_control_characters_do_not_reach_the_terminal(commands: Commands) -> None:
    said = commands.orchestrate("role=\x1b[2Jx", "--", "true")
    assert said.code == 2
    assert "\x1b" not in said.err


def test_a_sweep_runs_each_job_and_ends_with_1_if_one_failed(tmp_path: Path) -> None:
    words = [
        "-m",
        "restart=never",
        "worker.env.CODE=0,3",
        "--",
        sys.executable,
        "-c",
        "import os; exit(int(os.environ['CODE']))",
    ]
    done = orchestrate(tmp_path, *words)
    assert done.returncode == 1
    assert len(list(tmp_path.glob("sweeps/*/*/result.json"))) == 2
    assert not list(tmp_path.rglob(".hydra"))
    assert not list(tmp_path.rglob("multirun.yaml"))


def test_a_run_writes_no_files_of_hydras(tmp_path: Path) -> None:
    done = orchestrate(tmp_path, "run_id=r", "--", "true", XDG_RUNTIME_DIR=str(tmp_path / "none"))
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("runs/r/*")
    assert not (run / ".hydra").exists()
    assert (run / "job.yaml").exists()


@pytest.mark.parametrize("words", [["--help"], ["plan", "--help"], ["graph", "-h", "--json"]])
def test_every_verb_helps(commands: Commands, words: list[str]) -> None:
    said = commands.ctl(*words)
    assert (said.code, said.err) == (0, "")
    assert "orchestratectl graph restart=never" in said.out


def test_the_control_commands_version_is_ours(commands: Commands) -> None:
    assert commands.ctl("--version").out.startswith("orchestrate ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], f"error: verb: is missing; {VERBS}\n"),
        (
            ["pln"],
            f"error: verb: 'pln' is not a verb; did you mean 'plan'? {VERBS}\n",
        ),
    ],
)
def test_a_wrong_verb_is_an_error_like_any_other(commands: Commands, words: list[str], line: str) -> None:
    said = commands.ctl(*words)
    assert (said.code, said.err) == (2, line)
