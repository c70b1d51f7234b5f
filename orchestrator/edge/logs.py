"""Where a role's workers write, as the configuration has it: their directories, the console, and what bounds them.

Invariant: workers write to their files themselves; whatever fails here costs what is shown, never what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from orchestrator.core.specs import JobSpec, LogsKind, Show
from orchestrator.edge.logkeep import LogKeeper
from orchestrator.edge.tail import Stream, Tailer
from orchestrator.edge.tailed import render_prefix
from orchestrator.edge.worker_files import Worker


class Logs:
    """The logs of one role on this node."""

    def __init__(self, job: JobSpec, role: str, tailer: Tailer | None, log: Callable[..., None]) -> None:
        self._spec = job.logs
        self._node = job.node.name
        self._role = role
        self._tailer = tailer
        self._home = Path(job.logs.dir, role).absolute()
        self._keeper = LogKeeper(str(self._home), job.logs.max_bytes, log) if self.kept else None

    @property
    def kept(self) -> bool:
        """Whether there are files at all."""
        return self._spec.kind is not LogsKind.INHERIT

    @property
    def zygote(self) -> str | None:
        """What the process writes from which workers are forked; None: to where we do."""
        return str(self._home / "zygote.log") if self.kept else None

    def home(self, round_number: int, worker: str) -> Path:
        """The directory of one worker, named by its rank, and its incarnation after the first."""
        return self._home / str(round_number) / worker

    def show(self, worker: Worker) -> None:
        """Have what it writes shown, if that is wished. From any thread, before it starts."""
        shown = self._spec.console
        place = worker.place
        if self._tailer is None or (shown is not None and place.rank not in shown):
            return
        prefix = render_prefix(
            self._spec.prefix,
            role=self._role,
            rank=place.rank,
            local_rank=place.local_rank,
            node=self._node,
            round=place.seat.round,
        )
        own = self._spec.streams.get(place.local_rank) or self._spec.streams.get(None) or (Show.TEE, Show.TEE)
        streams: tuple[tuple[Stream, Path], ...] = ((1, worker.stdout), (2, worker.stderr))
        for (stream, path), how, words in zip(streams, own, self._spec.filters, strict=True):
            if how is Show.BARE:
                self._tailer.add(path, b"", stream)
            elif how is Show.TEE:
                kept = self._home / str(place.seat.round) / f"filtered_{path.name}"
                self._tailer.add(path, prefix, stream, hue=place.rank, through=_copied(words, kept, prefix))

    def keep(self, workers: Iterable[Worker]) -> None:
        """Look after the files of these workers."""
        if self._keeper is not None:
            self._keeper.keep(path for worker in workers for path in (worker.stdout, worker.stderr))

    def end(self) -> None:
        """Nobody writes any more."""
        if self._keeper is not None:
            self._keeper.end()


def _copied(words: tuple[str, ...], path: Path, prefix: bytes) -> Callable[..., Callable[..., None]] | None:
    """What copies lines that have one of ``words``, if there are any."""
    if not words:
        return None
    from orchestrator.edge.filtered import Filtered  # noqa: PLC0415 - few jobs want it

    return partial(Filtered, words=words, path=path, prefix=prefix)
