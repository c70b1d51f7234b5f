"""Launchers that take torchrun's command line, ours and torchrun itself, and what they said."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

OURS, THEIRS = "orchestrator.cli.torchrun", "torch.distributed.run"
AMBIENT = ("PET_", "TORCHELASTIC", "ORCHESTRAT", "SLURM_", "LOGLEVEL", "OMP_NUM_THREADS", "MASTER_", "RANK")


class Node:
    """One launcher, and what it said."""

    def __init__(
        self, directory: Path, number: int, module: str, words: tuple[str, ...], env: Mapping[str, str]
    ) -> None:
        self.module = module
        self._out, self._err = directory / f"out{number}", directory / f"err{number}"
        plain = {name: value for name, value in os.environ.items() if not name.startswith(AMBIENT)}
        (directory / "tmp").mkdir(exist_ok=True)
        with self._out.open("wb") as stdout, self._err.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=directory,
                env={**plain, "TMPDIR": str(directory / "tmp"), **env},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def wait(self, patience_s: float = 60) -> int:
        """Its exit code."""
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running\n{self.stdout}\n{self.stderr}") from None


def free_port() -> int:
    """A port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def script(directory: Path, text: str) -> str:
    """The name of a script with this text."""
    (directory / "script.py").write_text(text)
    return "script.py"
