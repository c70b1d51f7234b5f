"""File systems of a test's own: small ones that fill, and frozen ones that no writer comes back from.

Needs root; a test that cannot have one is skipped. Invariant: what is mounted here is unmounted here.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.edge.procs import wait_until

MIB = 1 << 20

needs_loop = pytest.mark.skipif(not os.access("/dev/loop-control", os.W_OK), reason="needs loop devices")


@contextmanager
def mounted(kind: str, at: Path, *options: str) -> Iterator[None]:
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", kind, *options, kind, at], check=False).returncode:
        pytest.skip("needs root, to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def sh(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20).stdout.strip()


@contextmanager
def freezable(home: Path) -> Iterator[Path]:
    """A file system whose writers wait, deaf to all signals, while it is frozen; thawed at the end."""
    image, mount = home / "image", home / "mount"
    image.write_bytes(b"")
    os.truncate(image, 16 * MIB)
    mount.mkdir()
    sh("mkfs.ext4", "-q", str(image))
    try:
        sh("mount", "-o", "loop", str(image), str(mount))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs loop devices and ext4: {error.stderr}")
    try:
        yield mount
    finally:
        subprocess.run(["fsfreeze", "-u", str(mount)], check=False, capture_output=True)
        wait_until(lambda: subprocess.run(["umount", str(mount)], check=False, capture_output=True).returncode == 0, "")
