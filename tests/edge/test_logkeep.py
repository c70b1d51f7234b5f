from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator.edge.console import Console
from orchestrator.edge.logkeep import LogKeeper
from orchestrator.edge.tail import Tailer
from tests.edge.disks import mounted
from tests.edge.pipes import Reader, stalled
from tests.edge.procs import wait_until
from tests.edge.test_tail import PREFIX, Screen, append

Told = list[tuple[str, dict[str, Any]]]
LIMIT = 1 << 16


@asynccontextmanager
async def keeper(directory: Path, max_bytes: int | None, *paths: Path) -> AsyncIterator[Told]:
    told: Told = []
    kept = LogKeeper(str(directory), max_bytes, lambda event, **fields: told.append((event, fields)))
    kept.keep(paths)
    yield told
    kept.end()


async def eventually(what: str, told: Told) -> None:
    await asyncio.to_thread(wait_until, lambda: any(event == what for event, _ in told), what)


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_the_newest_bytes_are_kept_and_the_older_ones_give_their_blocks_back(tmp_path: Path) -> None:
    path, quiet = tmp_path / "stdout.log", tmp_path / "stderr.log"
    data = os.urandom(1_000_000)
    append(path, data)
    append(quiet, b"little\n")

    async def watched() -> Told:
        async with keeper(tmp_path, LIMIT, path, quiet) as told:
            await eventually("log_trimmed", told)
            append(path, b"more")
            append(path, os.urandom(3 * LIMIT))
            await asyncio.to_thread(wait_until, lambda: on_disk(path) <= LIMIT + 8192, "it is trimmed again")
            return told

    assert asyncio.run(watched()) == [("log_trimmed", {"path": str(path), "max_bytes": LIMIT})], "said once"
    kept = path.read_bytes()
    assert len(kept) == 1_000_000 + 4 + 3 * LIMIT, "offsets stay valid"
    assert not kept[:900_000].strip(b"\0")
    assert kept[-LIMIT:].count(b"\0") < LIMIT // 100
    assert quiet.read_bytes() == b"little\n"


def test_files_of_a_round_that_is_over_are_trimmed_a_last_time(tmp_path: Path) -> None:
    old, new = tmp_path / "1", tmp_path / "2"
    append(old, os.urandom(1_000_000))

    async def rounds() -> None:
        kept = LogKeeper(str(tmp_path), LIMIT, lambda *_, **__: None)
        kept.keep([old])
        kept.keep([new])
        append(new, os.urandom(1_000_000))
        kept.end()

    asyncio.run(rounds())
    wait_until(lambda: max(on_disk(old), on_disk(new)) <= LIMIT + 8192, "both are trimmed")


def test_a_file_system_without_holes_is_named_once_and_nothing_is_lost(tmp_path: Path) -> None:
    with mounted("ramfs", tmp_path):
        path = tmp_path / "log"
        data = os.urandom(300_000)
        append(path, data)

        async def watched() -> Told:
            async with keeper(tmp_path, LIMIT, path) as told:
                await eventually("log_degraded", told)
                return told

        ((event, fields),) = asyncio.run(watched())
        assert (event, fields["path"]) == ("log_degraded", str(tmp_path))
        assert "not supported" in fields["reason"]
        assert path.read_bytes() == data


def test_a_full_disk_is_told_once(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path, "-o", "size=64k"):
        assert subprocess.run(["cp", "/dev/zero", tmp_path / "log"], capture_output=True, check=False).returncode == 1

        async def watched() -> Told:
            async with keeper(tmp_path, None, tmp_path / "log") as told:
                await eventually("log_degraded", told)
                return told

        ((_, fields),) = asyncio.run(watched())
        assert "no space left" in fields["reason"]


def test_what_was_cut_away_before_it_was_shown_is_counted_on_the_console(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"x" * 200_000 + b"\nlast line\n")

    async def trim() -> None:
        async with keeper(tmp_path, LIMIT, path) as told:
            await eventually("log_trimmed", told)

    asyncio.run(trim())
    screen = Screen()
    screen.tailer.add(path, PREFIX, 1)
    shown = screen.end()[0]
    gone = (200_011 - LIMIT) // 4096 * 4096
    assert shown.startswith(PREFIX + b"[%d bytes dropped: logs.max_bytes" % gone)
    assert shown.count(b"x") == 200_000 - gone + 1, "one in the words of the mark"
    assert shown.endswith(b"\n" + PREFIX + b"last line\n")


def test_zeros_that_a_worker_wrote_are_shown(tmp_path: Path) -> None:
    append(tmp_path / "log", bytes(300_000) + b"\n")
    screen = Screen()
    screen.tailer.add(tmp_path / "log", b"", 1)
    assert screen.end()[0] == bytes(300_000) + b"\n"


def test_a_stalled_terminal_does_not_keep_a_file_from_being_trimmed(tmp_path: Path) -> None:
    path, spoken = tmp_path / "log", Reader()
    with stalled() as (_, fd):
        console = Console(fd, spoken.fd, environ={})
        tailer = Tailer(console)
        tailer.start()
        tailer.add(path, PREFIX, 1)
        append(path, b"line\n" * 200_000)

        async def trim() -> None:
            async with keeper(tmp_path, LIMIT, path) as told:
                await eventually("log_trimmed", told)

        asyncio.run(trim())
        assert on_disk(path) <= LIMIT + 8192
        assert not tailer.finish(0.1)
    assert console.close(20)
    assert b"were not shown" in spoken.all()
