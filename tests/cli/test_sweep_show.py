from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli.secrets import Secrets
from orchestrator.cli.sweep.table import columns, ranked, short_names, table
from orchestrator.core.sweep import Sweep, SweepJob, to_dict
from tests.cli.invoke import Commands
from tests.cli.sweeps import MIXED, job, sweep


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    (tmp_path / "sweep.json").write_text(json.dumps(to_dict(MIXED)))
    return tmp_path


def test_the_table_has_the_best_first_and_marked(commands: Commands, stored: Path) -> None:
    said = commands.ctl("sweep", str(stored))
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "sweep lr: 3 succeeded, 1 pruned, 1 failed, 1 cancelled; loss: minimize",
        "   job   loss     lr  opt   state      took   dir",
        "*    1   0.25   0.01  adam  succeeded  1.5 s  k1",
        "     0    0.5    0.1  sgd   succeeded  1.5 s  k0",
        "     4    nan  0.001  adam  succeeded  1.5 s  k4",
        "     2  0.125      1  sgd   pruned     1.5 s  k2   3 of 4 were better at step 2",
        "     3            10  =1+1  failed     1.5 s  k3   exit code 1, ValueError: <b>&",
        "     5           100  sgd   cancelled  1.5 s  k5   the sweep was stopped",
    ]


def test_json_has_the_same_order(commands: Commands, stored: Path) -> None:
    said = commands.ctl("sweep", "--json", str(stored))
    values = json.loads(said.out)
    assert [one["n"] for one in values["jobs"]] == [1, 0, 4, 2, 3, 5]
    assert values["best"]["n"] == 1
    assert values["jobs"][2]["value"] == "nan"


def test_where_more_is_better_the_order_is_the_other() -> None:
    assert [one.n for one in ranked(replace(MIXED, direction="maximize"))] == [0, 1, 4, 2, 3, 5]


def test_a_sweep_without_an_objective_has_no_best(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps(to_dict(sweep(job(0, lr=1), job(1, lr=2), objective=None))))
    first, *rows = commands.ctl("sweep", str(tmp_path)).out.splitlines()
    assert first == "sweep lr: 2 succeeded"
    assert not any("*" in row for row in rows)


def test_a_sweep_without_jobs_is_told_as_one(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps(to_dict(sweep())))
    assert commands.ctl("sweep", str(tmp_path)).out.startswith("sweep lr: no jobs")


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("{", "is not a sweep's: Expecting"),
        ("[]", "is not a sweep's: sweep.json: is no object"),
        ('{"jobs": []}', "is not a sweep's: name: is missing"),
        ("[" * 100_000, "is not a sweep's: "),
        ("\udcff", "is not a sweep's: "),
    ],
)
def test_a_file_that_is_no_sweeps_is_an_error(commands: Commands, tmp_path: Path, text: str, fact: str) -> None:
    (tmp_path / "sweep.json").write_bytes(text.encode(errors="surrogateescape"))
    said = commands.ctl("sweep", str(tmp_path))
    assert said.code == 2
    assert fact in said.err


def test_a_directory_without_a_sweep_is_an_error(commands: Commands, tmp_path: Path) -> None:
    remedy = "give the directory of a sweep, hydra.sweep.dir: sweeps/NAME unless you chose it"
    said = commands.ctl("sweep", str(tmp_path))
    assert (said.code, said.err) == (2, f"error: {tmp_path}: has no sweep.json; {remedy}\n")
    said = commands.ctl("sweep", str(tmp_path / "none"))
    assert (said.code, said.err) == (2, f"error: none: is not a directory; {remedy}\n")
    (tmp_path / "sweep.json").mkdir()
    assert "cannot be read: Is a directory" in commands.ctl("sweep", str(tmp_path)).err


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--watch"]])
def test_anything_but_one_directory_is_an_error(commands: Commands, words: list[str]) -> None:
    said = commands.ctl("sweep", *words)
    assert said.code == 2
    assert "give one directory" in said.err


def test_secrets_and_control_characters_are_not_shown(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "hush-hush")
    secret = SweepJob(
        n=0,
        key="k0",
        overrides=("worker.env.MY_KEY=abc", "worker.cmd=[echo,hush-hush]"),
        params={"worker.env.MY_KEY": "abc", "worker.cwd": "\x1b[2J"},
        message="said hush-hush",
    )
    (tmp_path / "sweep.json").write_text(json.dumps(to_dict(Sweep(name="s", jobs=(secret,)))))
    said = commands.ctl("sweep", str(tmp_path)).out
    values = commands.ctl("sweep", "--json", str(tmp_path)).out
    for text in (said, values):
        assert "hush" not in text
        assert "abc" not in text
        assert "\x1b" not in text
    assert json.loads(values)["jobs"][0]["overrides"] == ["worker.env.MY_KEY=***", "worker.cmd=[echo,***]"]


def test_a_column_is_called_by_as_few_words_as_tell_it_apart() -> None:
    assert short_names(["worker.flags.lr", "roles.a.worker.nproc", "roles.b.worker.nproc", "recipe"]) == {
        "worker.flags.lr": "lr",
        "roles.a.worker.nproc": "a.worker.nproc",
        "roles.b.worker.nproc": "b.worker.nproc",
        "recipe": "recipe",
    }
    assert short_names(["nproc", "worker.nproc"]) == {"nproc": "nproc", "worker.nproc": "worker.nproc"}


def test_what_only_some_jobs_have_gets_a_column_too() -> None:
    found = sweep(job(0, value=1.0, a=1), job(1, value=2.0, b=True))
    assert columns(found) == ("worker.flags.a", "worker.flags.b")
    assert table(found, Secrets()).splitlines()[1:] == [
        "   job  loss  a  b     state      took   dir",
        "*    0     1  1        succeeded  1.5 s  k0",
        "     1     2     true  succeeded  1.5 s  k1",
    ]
