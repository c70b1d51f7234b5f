from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.edge.errorfile import last_lines, python_error, read_error_file

CALLSTACK = 'Traceback (most recent call last):\n  File "t.py", line 1, in f\n    g()\nRuntimeError: foobar\n'


def error_file(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "error.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_format_of_elastic_errors_record(tmp_path: Path) -> None:
    extra = {"py_callstack": CALLSTACK, "timestamp": "1795327915"}
    path = error_file(tmp_path, {"message": {"message": "RuntimeError: foobar", "extraInfo": extra}})
    assert read_error_file(path) == ("foobar", "RuntimeError", CALLSTACK, 1795327915.0)


@pytest.mark.parametrize("timestamp", [10, "10", 10.0])
def test_the_short_format(tmp_path: Path, timestamp: object) -> None:
    path = error_file(tmp_path, {"message": "text", "timestamp": timestamp})
    assert read_error_file(path) == ("text", "", "", 10.0)


@pytest.mark.parametrize(
    ("message", "error_type", "text"),
    [
        ("torch.cuda.OutOfMemoryError: 2 GiB", "torch.cuda.OutOfMemoryError", "2 GiB"),
        ("KeyError: 'a: b'\nand more", "KeyError", "'a: b'\nand more"),
        ("Loss: nan", "", "Loss: nan"),
        ("see http://host", "", "see http://host"),
        ("AssertionError", "AssertionError", ""),
        ("", "", ""),
    ],
)
def test_the_type_is_parted_from_the_message_only_where_it_is_one(
    tmp_path: Path, message: str, error_type: str, text: str
) -> None:
    found = read_error_file(error_file(tmp_path, {"message": message}))
    assert found is not None
    assert (found.error_type, found.message) == (error_type, text)


def test_a_type_with_an_unusual_name_is_known_by_the_traceback(tmp_path: Path) -> None:
    stack = 'Traceback (most recent call last):\n  File "t.py", line 1, in <module>\nmy.pkg.OutOfLuck: today'
    path = error_file(tmp_path, {"message": {"message": "OutOfLuck: today", "extraInfo": {"py_callstack": stack}}})
    found = read_error_file(path)
    assert found is not None
    assert (found.error_type, found.message) == ("my.pkg.OutOfLuck", "today")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        '{"message": {"message": "cut o',
        "[]",
        "null",
        "3",
        {},
        {"message": 3},
        {"message": {}},
        {"message": {"message": None}},
        "[" * 100_000,
        '{"message": "' + "x" * (1 << 20) + '"}',
        "\x00\x01",
    ],
)
def test_nonsense_is_no_error(tmp_path: Path, content: object) -> None:
    assert read_error_file(error_file(tmp_path, content)) is None


@pytest.mark.parametrize("timestamp", ["soon", None, [], "nan", "1e999", 10**400, True, {}])
def test_a_strange_timestamp_costs_only_the_timestamp(tmp_path: Path, timestamp: object) -> None:
    path = error_file(tmp_path, {"message": {"message": "m", "extraInfo": {"timestamp": timestamp}}})
    assert read_error_file(path) == ("m", "", "", 0.0)


def test_strange_extras_cost_only_the_extras(tmp_path: Path) -> None:
    assert read_error_file(error_file(tmp_path, {"message": {"message": "m", "extraInfo": []}})) == ("m", "", "", 0.0)


def test_what_is_no_readable_file_is_no_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    for name in ("missing", "fifo", ".", "binary", "nul\0"):
        assert read_error_file(tmp_path / name) is None
        assert isinstance(last_lines(tmp_path / name), tuple)
    (tmp_path / "fifo").unlink()


def test_last_lines_are_the_last_ones(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(100)))
    assert last_lines(path, n=3) == ("line 97", "line 98", "line 99")
    path.write_bytes(b"one\n\nno newline at the end")
    assert last_lines(path) == ("one", "", "no newline at the end")


def test_last_lines_are_bounded_in_bytes_and_begin_at_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a" * 30 + b"\n" + b"b" * 30 + b"\n")
    assert last_lines(path, max_bytes=40) == ("b" * 30,)
    assert last_lines(path, max_bytes=31) == ("b" * 30,)
    path.write_bytes(b"x" * 1_000_000)
    assert last_lines(path, max_bytes=100) == ("x" * 100,)


def test_last_lines_of_garbage_are_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\xff\x00 10%\r 20%\r\n")
    assert last_lines(path) == (" 20%",)
    path.write_bytes(b"\xff\x00\n")
    assert last_lines(path) == ("\ufffd\x00",)


def stderr_of(code: str, tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "stderr.log"
    with path.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stderr=file, check=False)
    return last_lines(path)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise ValueError('boom')", ("ValueError", "boom")),
        ("raise ValueError('one\\ntwo: three\\nfour')", ("ValueError", "one\ntwo: three\nfour")),
        ("raise KeyError", ("KeyError", "")),
        ("import json; json.loads('')", ("json.decoder.JSONDecodeError", "Expecting value: line 1 column 1 (char 0)")),
        ("try: 1/0\nexcept Exception as e: raise OSError(2, 'gone') from e", ("FileNotFoundError", "[Errno 2] gone")),
        ("try: 1/0\nfinally: {}['k']", ("KeyError", "'k'")),
        ("class Odd(Exception): pass\nraise Odd('name')", ("Odd", "name")),
        ("def f(n): return f(n + 1)\nf(0)", ("RecursionError", "maximum recursion depth exceeded")),
        ("raise ExceptionGroup('many', [ValueError('a'), TypeError('b')])",
         ("ExceptionGroup", "many (2 sub-exceptions); first: ValueError: a")),
        ("x = = 1", ("SyntaxError", "invalid syntax")),
        ("import missing_module_x", ("ModuleNotFoundError", "No module named 'missing_module_x'")),
        ("import sys; sys.exit('a plain word')", ("", "")),
        ("import sys; sys.stderr.write('Loss: nan\\nRuntimeError: quoted in a log\\n')", ("", "")),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_the_exception_that_ended_a_real_python(code: str, expected: tuple[str, str], tmp_path: Path) -> None:
    assert python_error(stderr_of(code, tmp_path)) == expected


def test_ranks_in_front_of_tracebacks_are_no_part_of_them() -> None:
    lines = [f"[rank1]: {line}" for line in CALLSTACK.splitlines()]
    assert python_error(lines) == ("RuntimeError", "foobar")


def test_a_traceback_that_lost_its_head_is_understood() -> None:
    assert python_error(CALLSTACK.splitlines()[1:]) == ("RuntimeError", "foobar")


@pytest.mark.parametrize("lines", [[], [""], ['  File "x", line 1'], ['  File "x", line 1', "no exception here"]])
def test_no_exception_is_found_where_there_is_none(lines: list[str]) -> None:
    assert python_error(lines) == ("", "")
