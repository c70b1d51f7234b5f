"""Every Lua command says what it takes, and takes what it says."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from orchestrator.edge.redis.scripts import KEY_NAMES, group_keys, script

LUA = Path(str(files("orchestrator.edge.redis") / "lua"))
LIBRARY = sorted((LUA / "lib").glob("*.lua"))
CALLER_FILE = LIBRARY[0]
COMMANDS = sorted(LUA.glob("*.lua"))
READERS = {"job", "look", "status"}  # these only look
WRITES = re.compile(
    r"'(SET|DEL|P?EXPIRE|H(SET|SETNX|DEL|INCRBY)|S(ADD|REM)|Z(ADD|REM)\w*|XADD)'"
    r"|\b(write|set|keep|unset|prolong|close|supersede|settle|restart|charge|pay|forgive|judge_progress|heed_charges|spend_free|lose|free_left|progress|announce|heed|learn|readmit|grow)\("
)
CALLER = 20  # ARGV of every command; what the library documents


def header(path: Path) -> str:
    lines = path.read_text().splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:end])


def code(path: Path) -> str:
    return "\n".join(line.split("--")[0] for line in path.read_text().splitlines())


def indexes(name: str, text: str) -> set[int]:
    return {int(found) for found in re.findall(rf"{name}\[(\d+)\]", text)}


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_documents_exactly_the_arguments_that_it_uses(path: Path) -> None:
    documented = indexes("ARGV", header(path))
    assert documented == indexes("ARGV", code(path))
    assert documented == set(range(CALLER + 1, CALLER + 1 + len(documented)))
    assert "ARGV[1-20]" in header(path)
    assert not re.search(r"\bKEYS\b", code(path)), "keys have names in the library"
    assert not re.search(r"\bARGV\b(?!\[\d)", code(path)), "arguments are named where they are taken"


def test_the_library_documents_the_keys_and_the_caller() -> None:
    arguments = set(range(1, CALLER + 1))
    assert indexes("ARGV", header(CALLER_FILE)) == indexes("ARGV", code(CALLER_FILE)) == arguments
    numbers = set(range(1, len(KEY_NAMES) + 1))
    assert indexes("KEYS", header(CALLER_FILE)) == indexes("KEYS", code(CALLER_FILE)) == numbers
    documented = re.findall(r"KEYS\[\d+\] +(\w+)", header(CALLER_FILE))
    assert tuple(documented) == KEY_NAMES


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_a_part_of_the_library_says_what_lives_in_it(path: Path) -> None:
    number, _, name = path.stem.partition("_")
    assert number.isdecimal()
    assert header(path).startswith(f"-- {name}: ")
    if path != CALLER_FILE:
        assert not indexes("ARGV", code(path))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_begins_with_what_it_does_and_says_what_it_returns(path: Path) -> None:
    text = header(path)
    assert text.startswith(f"-- {path.stem}: ")
    assert "-- returns " in text
    assert "-- KEYS " in text


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_ticks_first_and_finishes_last_or_changes_nothing(path: Path) -> None:
    skipped = (" ", "local", "function", "end", "if", "}")
    body = [line for line in code(path).splitlines() if line and not line.startswith(skipped)]
    if path.stem in READERS:
        assert not re.search(r"\b(tick|finish)\(", code(path))
        assert not WRITES.search(code(path))
    else:
        assert body[0] == "tick()"
        assert body[-1].startswith("return finish(")


@pytest.mark.parametrize("path", [*LIBRARY, *COMMANDS], ids=lambda path: path.stem)
def test_lua_stays_small_and_asks_no_other_clock(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 300
    assert max(map(len, lines)) <= 132
    assert "os.time" not in code(path)
    assert code(path).count("'TIME'") == (1 if path == CALLER_FILE else 0)
    assert not re.search(r"'(KEYS|SCAN)'", code(path))


def test_a_command_is_sent_with_the_library_before_it() -> None:
    assert {path.stem for path in COMMANDS} == (
        {"join", "seat", "renew", "restore", "fail", "replace", "done", "verdict", "leave", "close"}
        | {"publish", "job", "status", "wish", "look", "up", "gaps"}
    )
    for path in COMMANDS:
        assert script(path.stem).source == "".join(part.read_text() for part in LIBRARY) + path.read_text()


def test_all_keys_of_a_run_share_a_hash_tag() -> None:
    keys = group_keys("run-1", "trainer")
    assert keys[0] == "orchestrator:{run-1}:trainer:group"
    assert {key.rpartition(":")[0] for key in keys[:-1]} == {"orchestrator:{run-1}:trainer"}
    assert keys[-1] == "orchestrator:{run-1}:job", "the run's, whatever the role"
    assert len(set(keys)) == len(KEY_NAMES)
