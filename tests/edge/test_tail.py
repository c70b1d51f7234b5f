from __future__ import annotations

import os
import pty
import random
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.edge import tail
from orchestrator.edge.console import Console
from orchestrator.edge.tail import Tailer
from orchestrator.edge.tailed import CHUNK, render_prefix
from tests.edge.pipes import Reader, stalled
from tests.edge.procs import wait_until

PREFIX = b"[default0] "


class Screen:
    """A tailer on a console of two pipes."""

    def __init__(self, bytes_per_s: int | None = None) -> None:
        self.out, self.err = Reader(), Reader()
        self.console = Console(self.out.fd, self.err.fd, environ={})
        self.tailer = Tailer(self.console, bytes_per_s=bytes_per_s)
        self.tailer.start()

    def end(self) -> tuple[bytes, bytes]:
        assert self.tailer.finish(20)
        assert self.console.close(20)
        return self.out.all(), self.err.all()


@pytest.fixture
def screen() -> Screen:
    return Screen()


def prefixed(data: bytes, prefix: bytes = PREFIX) -> bytes:
    return b"".join(prefix + line for line in data.splitlines(keepends=True)) if data else b""


def append(path: Path, data: bytes) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(data)


def test_each_line_gets_the_prefix_and_the_file_is_untouched(screen: Screen, tmp_path: Path) -> None:
    path = tmp_path / "default" / "1" / "0" / "stdout.log"
    screen.tailer.add(path, PREFIX, 1)
    assert path.read_bytes() == b"", "it is there before the worker starts"
    append(path, b"one\ntwo\n\nfour\n")
    assert screen.end()[0] == PREFIX + b"one\n" + PREFIX + b"two\n" + PREFIX + b"\n" + PREFIX + b"four\n"
    assert path.read_bytes() == b"one\ntwo\n\nfour\n"


def test_stdout_and_stderr_go_to_their_own_descriptors(screen: Screen, tmp_path: Path) -> None:
    screen.tailer.add(tmp_path / "o", b"", 1)
    screen.tailer.add(tmp_path / "e", b"", 2)
    append(tmp_path / "o", b"out\n")
    append(tmp_path / "e", b"err\n")
    assert screen.end() == (b"out\n", b"err\n")


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff\xfe binary \x80\n\x1b[31mred\x1b[0m\n",
        b"x" * 10_000_000 + b"\nnext\n",
        b"y" * (CHUNK - 1) + b"\n" + b"z" * CHUNK + b"\n",
        b"\n" * 100_000,
        b"no newline at the end",
        random.Random(1).randbytes(300_000).replace(b"\r", b"").replace(b"\x0b", b"").replace(b"\x0c", b""),
    ],
    ids=["binary", "ten megabytes", "chunk borders", "empty lines", "unfinished", "random"],
)
def test_any_bytes_pass_through_as_they_are(screen: Screen, tmp_path: Path, data: bytes) -> None:
    append(tmp_path / "log", data)
    screen.tailer.add(tmp_path / "log", PREFIX, 1)
    lines = data.split(b"\n")
    expected = b"\n".join(PREFIX + line if line or n < len(lines) - 1 else line for n, line in enumerate(lines))
    assert screen.end()[0] == expected
    assert (tmp_path / "log").read_bytes() == data


def test_lines_are_shown_while_the_worker_runs(screen: Screen, tmp_path: Path) -> None:
    screen.tailer.add(tmp_path / "log", PREFIX, 1)
    for number in range(20):
        append(tmp_path / "log", b"line %d\n" % number)
        screen.out.until(b"line %d\n" % number)
    assert screen.end()[0].count(PREFIX) == 20


def test_an_unfinished_line_is_shown_after_a_while_and_continued_without_a_second_prefix(
    screen: Screen, tmp_path: Path
) -> None:
    screen.tailer.add(tmp_path / "log", PREFIX, 1)
    append(tmp_path / "log", b"Password: ")
    screen.out.until(PREFIX + b"Password: ")
    append(tmp_path / "log", b"accepted\n")
    assert screen.end()[0] == PREFIX + b"Password: accepted\n"


def test_a_line_written_in_two_quick_parts_is_not_cut_by_another_worker(screen: Screen, tmp_path: Path) -> None:
    screen.tailer.add(tmp_path / "a", b"[a] ", 1)
    screen.tailer.add(tmp_path / "b", b"[b] ", 1)
    append(tmp_path / "a", b"half ")
    append(tmp_path / "b", b"whole\n")
    append(tmp_path / "a", b"done\n")
    assert sorted(screen.end()[0].splitlines()) == [b"[a] half done", b"[b] whole"]


def test_another_workers_line_does_not_continue_an_unfinished_one(screen: Screen, tmp_path: Path) -> None:
    screen.tailer.add(tmp_path / "a", b"[a] ", 1)
    screen.tailer.add(tmp_path / "b", b"[b] ", 1)
    append(tmp_path / "a", b"waiting")
    screen.out.until(b"[a] waiting")
    append(tmp_path / "b", b"line\n")
    screen.out.until(b"[b] line\n")
    append(tmp_path / "a", b" over\n")
    assert screen.end()[0] == b"[a] waiting\n[b] line\n[a]  over\n"


def test_many_writing_processes_are_never_mixed_within_a_line(screen: Screen, tmp_path: Path) -> None:
    # whole lines in one write: who is interrupted within a line for long has it continued on another
    lines = "for n in range(3000): print(sys.argv[1], n, 'x' * (n % 300), file=out, flush=n % 7 == 0)"
    script = f"import sys\nout = open(1, 'w', buffering=1 << 20)\n{lines}"
    paths = {name: tmp_path / name for name in "abcdefgh"}
    workers = []
    for name, path in paths.items():
        screen.tailer.add(path, f"[{name}] ".encode(), 1)
        with path.open("ab") as file:
            workers.append(subprocess.Popen([sys.executable, "-c", script, name], stdout=file))
    assert [worker.wait() for worker in workers] == [0] * len(workers)
    shown = screen.end()[0].splitlines()
    for name, path in paths.items():
        mark = f"[{name}] ".encode()
        assert [line[4:] for line in shown if line.startswith(mark)] == path.read_bytes().splitlines()
    assert len(shown) == 8 * 3000


def test_files_may_be_added_late_and_twice(screen: Screen, tmp_path: Path) -> None:
    for number in range(300):
        path = tmp_path / str(number)
        append(path, b"%d\n" % number)
        screen.tailer.add(path, PREFIX, 1)
        screen.tailer.add(path, PREFIX, 1)
    assert sorted(screen.end()[0].split()) == sorted([b"[default0]"] * 300 + [b"%d" % n for n in range(300)])


def test_a_file_that_its_writers_closed_holds_no_descriptor_and_is_still_followed(
    screen: Screen, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    screen.tailer.add(path, b"", 1)
    append(path, b"one\n")
    screen.out.until(b"one\n")
    wait_until(lambda: str(path) not in open_files(), "the file is closed")
    append(path, b"two\n")
    screen.out.until(b"two\n")
    assert screen.end()[0] == b"one\ntwo\n"


def open_files() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return found


def test_a_file_truncated_by_its_worker_is_followed_from_its_new_beginning(screen: Screen, tmp_path: Path) -> None:
    path = tmp_path / "log"
    screen.tailer.add(path, PREFIX, 1)
    append(path, b"a long first line\n")
    screen.out.until(b"first line\n")
    path.write_bytes(b"new\n")  # as `echo new > /dev/stderr` does in a shell
    screen.out.until(PREFIX + b"new\n")
    screen.end()


def test_a_file_that_cannot_be_made_is_named_and_disturbs_nothing_else(screen: Screen, tmp_path: Path) -> None:
    append(tmp_path / "file", b"fine\n")
    screen.tailer.add(tmp_path / "file" / "below", PREFIX, 1)
    screen.tailer.add(tmp_path / "file", b"", 1)
    out, err = screen.end()
    assert out == b"fine\n"
    assert b"below: File exists; its output is not shown" in err


def test_without_inotify_output_is_still_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(tail, "Inotify", unavailable)
    screen = Screen()
    screen.tailer.add(tmp_path / "log", PREFIX, 1)
    append(tmp_path / "log", b"one\n")
    screen.out.until(PREFIX + b"one\n")
    assert b"no inotify" in screen.end()[1]


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """A worker that never stops writing; gives the number of lines that it has written."""
    path = tmp_path / "log"
    script = "n = 0\nwhile True: print(n, flush=True); n += 1"
    with path.open("ab") as file:
        worker = subprocess.Popen([sys.executable, "-c", script], stdout=file)
    yield lambda: path.read_bytes().count(b"\n")
    worker.kill()
    worker.wait()


def test_a_worker_that_never_stops_writing_does_not_hold_up_the_end(
    screen: Screen, tmp_path: Path, endless: Callable[[], int]
) -> None:
    screen.tailer.add(tmp_path / "log", PREFIX, 1)
    screen.out.until(b" 1000\n")
    screen.end()


def tailer_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "tailer"}


def test_a_stalled_terminal_stalls_neither_the_worker_nor_the_end(tmp_path: Path, endless: Callable[[], int]) -> None:
    spoken, others = Reader(), tailer_threads()
    with stalled() as (_, fd):
        console = Console(fd, spoken.fd, environ={})
        tailer = Tailer(console)
        tailer.start()
        tailer.add(tmp_path / "log", PREFIX, 1)
        before = endless()
        wait_until(lambda: endless() > before + 1000, "the worker goes on")
        began = time.monotonic()
        assert not tailer.finish(0.3)
        assert time.monotonic() - began < 5
    wait_until(lambda: tailer_threads() <= others, "the thread ends with its terminal")
    assert console.close(20)
    assert b"bytes of workers' output were not shown; the log files have them]" in spoken.all()


def test_a_terminal_that_reads_again_gets_everything(tmp_path: Path) -> None:
    data = b"".join(b"line %d\n" % number for number in range(50_000))
    append(tmp_path / "log", data)
    source, fd = os.pipe()
    console = Console(fd, fd, environ={})
    tailer = Tailer(console)
    tailer.start()
    tailer.add(tmp_path / "log", PREFIX, 1)
    got = bytearray()
    while len(got) < len(data) + 50_000 * len(PREFIX):
        got += os.read(source, 4096)
    assert tailer.finish(20)
    assert bytes(got) == prefixed(data)
    os.close(source)
    os.close(fd)


def test_a_closed_terminal_ends_nothing(tmp_path: Path) -> None:
    source, fd = os.pipe()
    os.close(source)
    tailer = Tailer(Console(fd, fd, environ={}))
    tailer.start()
    append(tmp_path / "log", b"line\n" * 100_000)
    tailer.add(tmp_path / "log", PREFIX, 1)
    assert tailer.finish(20)
    os.close(fd)


def test_a_tailer_that_was_never_started_ends_at_once() -> None:
    tailer = Tailer(Console(1, 2))
    assert tailer.finish(0)
    assert tailer.finish(0), "once more is fine"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(tailer._bell)


def test_beyond_the_limit_whole_lines_are_left_out_counted_and_the_file_has_them_all(tmp_path: Path) -> None:
    screen = Screen(bytes_per_s=1000)
    data = b"".join(b"line %05d\n" % number for number in range(20_000))
    append(tmp_path / "log", data)
    screen.tailer.add(tmp_path / "log", PREFIX, 1)
    screen.out.until(b"bytes dropped: logs.console_bytes_per_s]\n")
    append(tmp_path / "log", b"the end\n")
    shown = screen.end()[0]
    marks = [int(size) for size in re.findall(rb"\[(\d+) bytes dropped: logs.console_bytes_per_s\]\n", shown)]
    lines = [line for line in shown.splitlines(keepends=True) if b"dropped" not in line]
    assert all(re.fullmatch(rb"\[default0\] (line \d{5}|the end)\n", line) for line in lines)
    assert sum(marks) + sum(len(line) - len(PREFIX) for line in lines) == len(data) + 8, "every byte is accounted for"
    assert 1000 <= sum(len(line) for line in lines) < 10_000
    assert len(marks) < 20, "not a mark for each line"
    assert (tmp_path / "log").read_bytes() == data + b"the end\n"


def test_the_limit_lets_a_quiet_worker_pass(tmp_path: Path) -> None:
    screen = Screen(bytes_per_s=10_000)
    append(tmp_path / "log", b"one\ntwo\n")
    screen.tailer.add(tmp_path / "log", b"", 1)
    assert screen.end()[0] == b"one\ntwo\n"


def test_what_was_left_out_is_told_though_its_worker_writes_no_more(tmp_path: Path) -> None:
    screen = Screen(bytes_per_s=100)
    append(tmp_path / "log", b"line\n" * 1000)
    screen.tailer.add(tmp_path / "log", PREFIX, 1)
    screen.out.until(b"[4900 bytes dropped: logs.console_bytes_per_s]\n")
    screen.end()


def test_a_line_begins_with_the_time_at_which_it_is_shown(screen: Screen, tmp_path: Path) -> None:
    append(tmp_path / "log", b"one\ntwo\n")
    screen.tailer.add(tmp_path / "log", render_prefix("${time} {role}: ", role="r"), 1)
    assert re.fullmatch(rb"(\d\d:\d\d:\d\d\.\d{3} r: (one|two)\n){2}", screen.end()[0])


def test_each_rank_has_its_colour_on_a_terminal_and_none_elsewhere(tmp_path: Path) -> None:
    master, fd = pty.openpty()
    console = Console(fd, fd, environ={"TERM": "xterm"})
    assert console.tinted(b"[0]", 1, 0) != console.tinted(b"[0]", 1, 1)
    assert console.tinted(b"", 1, 0) == b""
    assert Console(fd, fd, environ={"TERM": "xterm", "NO_COLOR": "1"}).tinted(b"[0]", 1, 0) == b"[0]"
    tailer = Tailer(console)
    tailer.start()
    append(tmp_path / "log", b"line\n")
    tailer.add(tmp_path / "log", PREFIX, 1, hue=3)
    assert tailer.finish(20)
    assert re.fullmatch(rb"\x1b\[\d+m\[default0\] \x1b\[0mline\r\n", os.read(master, 1000))
    piped = Reader()
    assert Console(piped.fd, fd, environ={"TERM": "xterm"}).tinted(b"[0]", 1, 0) == b"[0]", "stdout is no terminal"
    piped.all()
    os.close(fd)
    os.close(master)


def test_a_long_line_takes_bounded_memory(screen: Screen, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        for _ in range(100):
            file.write(b"x" * 1_000_000)
    tracemalloc.start()
    screen.tailer.add(tmp_path / "log", PREFIX, 1)
    screen.end()
    peak = tracemalloc.get_traced_memory()[1] - len(screen.out.data) * 2  # the reader in this test keeps them all
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("[{role}{rank}] ", b"[trainer7] "),
        ("[${role_name}${rank}|${local_rank}]:", b"[trainer7|3]:"),
        ("{node}/{round}/{nobody} ${HOME} {} 100% ", b"n-1/2/{nobody} ${HOME} {} 100% "),
        ("", b""),
    ],
)
def test_prefix_templates(template: str, expected: bytes) -> None:
    assert render_prefix(template, role="trainer", rank=7, local_rank=3, node="n-1", round=2) == expected
