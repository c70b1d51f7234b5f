"""Which words of a command are Python's own."""

from __future__ import annotations

import pytest

from orchestrator.core.python import split


@pytest.mark.parametrize(
    ("cmd", "own", "runs"),
    [
        ("python train.py --lr 0.1", "python", "train.py"),
        ("/venv/bin/python3.12 train", "/venv/bin/python3.12", "train"),
        ("python3.13t -u -OO train.py -m x", "python3.13t -u -OO", "train.py"),
        ("python -uB -W ignore -Werror -X dev -Xutf8 a/b.py", "python -uB -W ignore -Werror -X dev -Xutf8", "a/b.py"),
        ("python -I -m pkg.mod x", "python -I", "-m pkg.mod"),
    ],
)
def test_a_script_and_a_module_are_found_behind_pythons_flags(cmd: str, own: str, runs: str) -> None:
    words = cmd.split()
    found = split(words)
    assert found is not None
    assert (words[: found[0]], words[found[0] : sum(found)]) == (own.split(), runs.split())


@pytest.mark.parametrize(
    "cmd",
    [
        "",
        "true",
        "./train.py",
        "bash -c python",
        "pypy3 train.py",
        "pythonw train.py",
        "python",
        "python -c pass",
        "python -",
        "python -i train.py",
        "python -m",
        "python -mpkg",
        "python -W",
        "python --version",
        "python --check-hash-based-pycs always train.py",
    ],
)
def test_what_is_no_script_and_no_module_for_certain_is_none(cmd: str) -> None:
    assert split(cmd.split()) is None
