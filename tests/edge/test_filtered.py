from __future__ import annotations

from pathlib import Path

from orchestrator.edge.filtered import Filtered


class Shown:
    """A console, and what it was given."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, data: bytes, *, source: object = None, lead: bytes = b"") -> None:
        self.data += data


def test_lines_with_a_word_are_copied_behind_the_plain_prefix_and_all_is_shown(tmp_path: Path) -> None:
    shown, path = Shown(), tmp_path / "copies"
    filtered = Filtered(shown, ["loss", "err"], path, b"[a0]:")
    filtered(b"no\n*loss 1\n*lo", lead=b"*")  # the lead is what the console puts before lines, perhaps in colour
    assert path.read_bytes() == b"[a0]:loss 1\n"
    filtered(b"ss 2\n*nothing\n*errors", lead=b"*")
    assert path.read_bytes() == b"[a0]:loss 1\n[a0]:loss 2\n", "a line is judged when it is whole"
    assert shown.data == b"no\n*loss 1\n*loss 2\n*nothing\n*errors"


def test_a_word_in_the_prefix_alone_copies_nothing(tmp_path: Path) -> None:
    Filtered(Shown(), ["a0"], tmp_path / "copies", b"[a0]:")(b"[a0]:text\n", lead=b"[a0]:")
    assert not (tmp_path / "copies").exists()


def test_a_copy_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    shown = Shown()
    Filtered(shown, ["x"], tmp_path / "nowhere" / "copies", b"")(b"x\n")
    assert shown.data == b"x\n"
