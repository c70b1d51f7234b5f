"""Each test stands in an empty directory of its own, with the commands at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.invoke import Commands


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCHESTRATE_RECIPES", raising=False)
    return Commands(monkeypatch, capsys)
