"""The journal of a run, ``events.jsonl``, and its last word, ``result.json``.

What happened is decided elsewhere and rendered elsewhere (`cli/terminal.py` observes the same records). Invariant:
nothing in here ends a job or holds it up: a disk that is full, gone or hung costs records, which are counted, and is
reported once. Records are made and shown by whoever writes them; a thread of the journal's own takes them to the file.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.edge.filework import FileThread

QUEUED = 10_000  # records that wait for a slow disk; a few megabytes

_FIXED = frozenset({"run_id", "node", "round", "event"})  # what no field of a record may replace

Record = dict[str, Any]
Observer = Callable[[Record], None]
Mask = Callable[[str], str]


def _unmasked(text: str) -> str:
    return text


class Journal:
    """Appends one JSON object a line; agents of one node may share the file, because each line is one O_APPEND write.

    A record is about ``group``, unless it says otherwise. ``on_trouble`` is told once, in a sentence, when records
    begin to be lost. When writing works again, the first line is a ``log_degraded`` record with the number of records
    that were ``dropped``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        run_id: str,
        group: str = "",
        node: str,
        clock: Callable[[], float],
        mono: Callable[[], float],
        mask: Mask = _unmasked,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self._path = Path(path)
        self._who = {"run_id": run_id, "group": group, "node": node}
        self._clock = clock
        self._mono = mono
        self._mask = mask
        self._on_trouble = on_trouble
        self._observers: list[Observer] = []
        self._fd: int | None = None
        self._torn = False  # the last write ended inside a line
        self._thread = FileThread("journal", QUEUED)
        self._counting = threading.Lock()  # of what both threads count; never held while writing
        self._owed = 0  # records lost since the last one that was written
        self._told = False
        self.dropped = 0

    def subscribe(self, observer: Observer) -> None:
        """Let ``observer`` see every record, masked, at once; whether the disk takes it shows later."""
        self._observers.append(observer)

    def write(self, event: str, *, round: int, **fields: object) -> None:  # noqa: A002 - the journal's own key
        """Have one record appended, and show it to the observers.

        Never raises for what a disk or an observer does, and never waits for either. From one thread only.
        """
        record = self._record(event, round, fields)
        if not self._thread.submit(partial(self._append, record)):
            self._lose("the disk is too slow")
        for observer in tuple(self._observers):
            try:
                observer(record)
            except Exception as error:  # noqa: BLE001 - a display that fails must not take the job with it
                self._observers.remove(observer)
                self._report(f"an observer of the journal failed and was removed: {error!r}")

    def flush(self, within_s: float) -> bool:
        """Wait until everything is in the file, or lost; False if that takes longer."""
        return self._thread.flush(within_s)

    def close(self, within_s: float = 5.0) -> None:
        """Write what was said and close the file; a later ``write`` opens it again."""
        self._thread.submit(self._close)
        if not self._thread.close(within_s):
            self._report(f"{self._path}: the disk hangs; the last records are lost")

    def _record(self, event: str, round_: int, fields: Mapping[str, object]) -> Record:
        stamp = {"ts": round(self._clock(), 6), "mono": round(self._mono(), 6)}
        head = {**stamp, **self._who, "round": round_, "event": event}
        own = {key: plain(value, self._mask) for key, value in fields.items() if key not in stamp and key not in _FIXED}
        return {**head, **own}

    def _append(self, record: Record) -> None:
        lines = [record]
        owed = self._owed
        if owed:
            lines.insert(0, self._record("log_degraded", record["round"], {"dropped": owed}))
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        try:
            self._write(b"\n" + data if self._torn else data)
        except OSError as error:
            self._lose(error.strerror or str(error))
        else:
            with self._counting:
                self._owed -= owed

    def _lose(self, why: str) -> None:
        with self._counting:
            self.dropped += 1
            self._owed += 1
            first, self._told = not self._told, True
        if first:
            self._report(f"{self._path}: {why}; the job goes on, records are lost")

    def _write(self, data: bytes) -> None:
        if self._fd is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        done = os.write(self._fd, data)
        # A disk that fills up takes a part of the line. What follows must begin on a line of its own.
        self._torn = done < len(data)
        if self._torn:
            raise OSError(0, "the disk took only a part of a record")

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _report(self, text: str) -> None:
        if self._on_trouble is not None:
            self._on_trouble(text)


def plain(value: object, mask: Mask = _unmasked) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """``value`` as JSON can hold it, every text masked. What JSON has no word for (also NaN) becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, mask) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [plain(item, mask) for item in value]
        return sorted(items, key=str) if isinstance(value, set | frozenset) else items
    if value is None or isinstance(value, bool) or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    return mask(str(value))


def write_result(path: str | os.PathLike[str], result: Mapping[str, object], *, mask: Mask = _unmasked) -> None:
    """Replace ``path`` by ``result``: a reader, also one after a power cut, finds the old file or the new one, whole.

    Raises OSError when the disk does not take it; then the old file, if any, stands and nothing else is left.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            json.dump(plain(result, mask), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
