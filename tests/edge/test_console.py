from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.edge.console import Console, cut, escape
from tests.edge.pipes import Reader, stalled
from tests.edge.procs import wait_until
from tests.edge.screens import screen

XTERM = {"TERM": "xterm"}


class Tty:
    """A real terminal device, and what a person would see on its last lines."""

    def __init__(self, columns: int = 40) -> None:
        self.master, self.fd = pty.openpty()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
        os.set_blocking(self.master, False)
        self.data = b""

    def read(self) -> bytes:
        try:
            while chunk := os.read(self.master, 65536):
                self.data += chunk
        except BlockingIOError:
            pass
        return self.data

    def shows(self, *lines: str) -> None:
        """Wait until the screen shows exactly these lines (colours aside)."""
        wait_until(lambda: self.screen() == list(lines), f"{lines} instead of {self.screen()}")

    def screen(self) -> list[str]:
        text = re.sub(r"\x1b\[\d*m", "", self.read().decode()).replace("\r\n", "\n")
        return [line.rpartition("\r\x1b[2K")[2] for line in text.split("\n")]


@pytest.fixture
def tty() -> Iterator[Tty]:
    terminal = Tty()
    yield terminal
    os.close(terminal.master)
    os.close(terminal.fd)


def test_what_is_said_goes_to_stderr_in_order_with_control_characters_escaped() -> None:
    out, err = Reader(), Reader()
    console = Console(out.fd, err.fd, environ=XTERM)
    console.say("node \x1b[31mevil\x07\r\u202e", "bad")
    console.say("two\nlines")
    assert console.close(20)
    assert err.all().decode() == "node \\x1b[31mevil\\x07\\r\\u202e\ntwo\nlines\n"
    assert out.all() == b""


def test_secrets_are_masked_in_what_is_said_and_not_in_workers_bytes() -> None:
    reader = Reader()
    console = Console(reader.fd, reader.fd, environ={}, mask=lambda text: text.replace("hunter2", "***"))
    console.out(b"hunter2\n")
    console.say("url redis://:hunter2@host")
    console.close(20)
    assert reader.all() == b"hunter2\nurl redis://:***@host\n"


def test_escape_keeps_tabs_newlines_and_letters_of_all_scripts() -> None:
    assert escape("a\tb\nÄ 漢字 🙂") == "a\tb\nÄ 漢字 🙂"
    assert escape("\x00\x7f\x9b") == "\\x00\\x7f\\x9b"


def test_a_surrogate_from_an_undecodable_name_can_be_said() -> None:
    reader = Reader()
    console = Console(reader.fd, reader.fd, environ={})
    console.say(os.fsdecode(b"bad\xff"))
    console.close(20)
    assert reader.all() == b"bad\\udcff\n"


def test_our_line_does_not_continue_a_workers_unfinished_one() -> None:
    reader = Reader()
    console = Console(reader.fd, reader.fd, environ={})
    console.out(b"progress 10%", source="w", lead=b"[0] ")
    console.say("failed")
    console.close(20)
    console.out(b" 20%\n", source="w", lead=b"[0] ")
    assert reader.all() == b"[0] progress 10%\nfailed\n[0]  20%\n"


def test_lines_on_different_devices_do_not_cut_each_other() -> None:
    out, err = Reader(), Reader()
    console = Console(out.fd, err.fd, environ={})
    console.out(b"half", source="w")
    console.err(b"whole\n", source="v")
    console.out(b" done\n", source="w")
    assert (out.all(), err.all()) == (b"half done\n", b"whole\n")


def test_a_stalled_terminal_never_blocks_who_speaks_and_drops_are_named() -> None:
    with stalled() as (source, fd):
        console = Console(fd, fd, environ={}, max_queued=10)
        began = time.monotonic()
        for number in range(1000):
            console.say(f"line {number}")
            console.status("x")
        assert not console.close(0.2)
        assert time.monotonic() - began < 5
        got, said, dropped = b"", 0, 0
        while said + dropped < 1000:
            got += os.read(source, 65536)
            said = got.count(b"line ")
            dropped = sum(int(n) for n in re.findall(rb"\[(\d+) lines of the launcher were dropped", got))
        assert (said + dropped, dropped > 900) == (1000, True)
        assert console.close(20)


def test_a_stalled_stdout_keeps_nothing_from_stderr() -> None:
    reader = Reader()
    with stalled() as (_, fd):
        console = Console(fd, reader.fd, environ={})
        writing = threading.Thread(target=console.out, args=(b"x\n",))
        writing.start()
        console.say("the cause")
        assert console.close(20)
        reader.until(b"the cause\n")
        assert writing.is_alive()
    writing.join(20)
    reader.all()


def test_a_closed_terminal_is_survived_by_all_methods() -> None:
    source, fd = os.pipe()
    os.close(source)
    console = Console(fd, fd, environ={})
    console.out(b"x\n")
    console.err(b"x\n")
    console.say("x")
    console.status("x")
    assert console.close(20)
    os.close(fd)
    closed = Console(fd, fd, environ=XTERM)
    closed.out(b"x\n")
    closed.say("x")
    assert closed.close(20)


def test_a_full_disk_behind_stdout_is_survived() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        console = Console(full.fileno(), full.fileno(), environ={})
        console.out(b"x\n")
        console.say("x")
        assert console.close(20)


def test_a_non_blocking_terminal_gets_everything() -> None:
    reader = Reader()
    os.set_blocking(reader.fd, False)
    console = Console(reader.fd, reader.fd, environ={})
    console.out(b"x" * 1_000_000)
    assert len(reader.all()) == 1_000_000


def test_what_is_said_after_close_is_still_written() -> None:
    reader = Reader()
    console = Console(reader.fd, reader.fd, environ={})
    console.say("one")
    assert console.close(20)
    console.say("two")
    reader.until(b"one\ntwo\n")
    assert console.close(20)
    assert reader.all() == b"one\ntwo\n"


def test_the_status_line_stays_below_what_is_written(tty: Tty) -> None:
    console = Console(tty.fd, tty.fd, environ=XTERM)
    console.status("round 1")
    tty.shows("round 1")
    console.out(b"worker\n")
    tty.shows("worker", "round 1")
    console.say("launcher", "bad")
    tty.shows("worker", "launcher", "round 1")
    console.status("round 2")
    tty.shows("worker", "launcher", "round 2")
    console.status(None)
    tty.shows("worker", "launcher", "")
    console.close(20)


def test_the_status_line_waits_for_a_worker_to_finish_its_line(tty: Tty) -> None:
    console = Console(tty.fd, tty.fd, environ=XTERM)
    console.status("round 1")
    tty.shows("round 1")
    console.out(b"half", source="w")
    tty.shows("half")
    console.status("round 2")
    console.out(b" done\n", source="w")
    tty.shows("half done", "round 2")
    assert console.close(20)
    tty.shows("half done", "")


def test_the_status_line_never_wraps(tty: Tty) -> None:
    console = Console(tty.fd, tty.fd, environ=XTERM)
    console.status("s" * 100)
    tty.shows("s" * 39)
    console.close(20)


def test_with_stdout_elsewhere_the_status_line_is_left_alone(tty: Tty) -> None:
    out = Reader()
    console = Console(out.fd, tty.fd, environ=XTERM)
    console.status("round 1")
    tty.shows("round 1")
    console.out(b"worker\n")
    assert out.all() == b"worker\n"
    assert tty.screen() == ["round 1"]
    console.close(20)


@pytest.mark.parametrize(
    ("environ", "live", "colour"),
    [
        (XTERM, True, True),
        ({**XTERM, "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({}, False, False),
    ],
)
def test_colours_and_status_need_a_terminal_that_can(
    tty: Tty, environ: dict[str, str], live: bool, colour: bool
) -> None:
    console = Console(tty.fd, tty.fd, environ=environ)
    assert (console.live, console.colour) == (live, colour)
    console.say("text", "good")
    console.status("status")
    wait_until(lambda: (b"status" if live else b"text") in tty.read(), "the terminal shows it")
    console.close(20)
    assert (b"\x1b[32mtext" in tty.read()) is colour
    assert (b"status" in tty.read()) is live


def test_a_pipe_has_neither_status_nor_colour() -> None:
    reader = Reader()
    console = Console(reader.fd, reader.fd, environ=XTERM)
    console.status("status")
    console.say("text", "good")
    console.close(20)
    assert reader.all() == b"text\n"


def test_a_panel_stays_below_what_is_written_and_is_drawn_over_itself() -> None:
    with screen() as seen:
        console = Console(seen.fd, seen.fd, environ=XTERM)
        console.panel([("job 1", None), ("job 2", "bad"), ("2 running", "bold")])
        seen.shows("job 1", "job 2", "2 running")
        console.say("job 3 failed")
        seen.shows("job 3 failed", "job 1", "job 2", "2 running")
        console.out(b"from a worker\n")
        seen.shows("job 3 failed", "from a worker", "job 1", "job 2", "2 running")
        console.panel([("job 2", None), ("1 running", None)])
        seen.shows("job 3 failed", "from a worker", "job 2", "1 running")
        console.status("round 1")
        seen.shows("job 3 failed", "from a worker", "round 1")
        assert console.close(20)
        seen.shows("job 3 failed", "from a worker", "")


def test_a_panel_is_never_larger_than_the_screen() -> None:
    with screen(columns=10, rows=4) as seen:
        console = Console(seen.fd, seen.fd, environ=XTERM)
        console.panel([(f"{n} two\nlines\tand\x1bmore", None) for n in range(9)])
        seen.shows("6 two lin", "7 two lin", "8 two lin")
        assert console.close(20)


@pytest.mark.parametrize(
    ("text", "cells"),
    [("abcdef", "abcd"), ("漢字漢", "漢字"), ("a漢字", "a漢"), ("e\u0301" * 5, "e\u0301" * 4), ("🙂🙂🙂", "🙂🙂")],
)
def test_what_is_cut_fits(text: str, cells: str) -> None:
    assert cut(text, 4) == cells
