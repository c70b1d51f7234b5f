from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.edge.journal import Journal, write_result
from tests.edge.servers import until


def journal(path: Path, **given: Any) -> Journal:  # noqa: ANN401 - passed on
    defaults: dict[str, Any] = {"clock": lambda: 100.5, "mono": lambda: 7.25}
    return Journal(path, run_id="j1", group="default", node="a", **{**defaults, **given})


def flushed(*written: Journal) -> None:
    assert all(each.flush(20) for each in written)


def closed(*written: Journal) -> None:
    flushed(*written)
    for each in written:
        each.close(20)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Path]:
    """A file whose opening hangs until somebody reads it."""
    path = tmp_path / "events.jsonl"
    os.mkfifo(path)
    yield path
    path.unlink()


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_is_one_line_with_stamp_identity_and_fields_in_this_order(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "j1" / "events.jsonl"
    written = journal(path)
    assert not path.parent.exists(), "nothing is made before there is something to say"
    written.write("worker_started", round=2, rank=3, pid=44)
    closed(written)
    assert path.read_text() == (
        '{"ts": 100.5, "mono": 7.25, "run_id": "j1", "group": "default", "node": "a", "round": 2, '
        '"event": "worker_started", "rank": 3, "pid": 44}\n'
    )


def test_two_agents_may_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    one, other = journal(path), journal(path)
    for number in range(50):
        one.write("tick", round=1, number=number)
        other.write("tick", round=1, number=number)
    closed(one, other)
    assert len(records(path)) == 100


def test_secrets_are_masked_in_values_of_any_depth_and_before_json_quotes_them(tmp_path: Path) -> None:
    secret = 'pass"word\\'
    path = tmp_path / "events.jsonl"
    seen: list[dict[str, Any]] = []
    written = journal(path, mask=lambda text: text.replace(secret, "***"))
    written.subscribe(seen.append)
    written.write("x", round=0, url=f"redis://u:{secret}@h", cause={"lines": (f"a {secret}", 1)})
    closed(written)
    assert records(path)[0]["url"] == "redis://u:***@h"
    assert records(path)[0]["cause"] == {"lines": ["a ***", 1]}
    assert seen == records(path)


def test_what_json_has_no_word_for_becomes_text(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    written = journal(path)
    written.write("x", round=0, loss=math.nan, where=tmp_path, ranks={2, 1}, on=True, none=None)
    closed(written)
    record = records(path)[0]
    assert [record[key] for key in ("loss", "where", "ranks", "on", "none")] == [
        "nan",
        str(tmp_path),
        [1, 2],
        True,
        None,
    ]


def test_a_full_disk_costs_records_and_is_reported_once() -> None:
    trouble: list[str] = []
    seen: list[dict[str, Any]] = []
    written = journal(Path("/dev/full"), on_trouble=trouble.append)
    written.subscribe(seen.append)
    for _ in range(3):
        written.write("tick", round=1)
    closed(written)
    assert written.dropped == 3
    assert trouble == ["/dev/full: No space left on device; the job goes on, records are lost"]
    assert len(seen) == 3, "the terminal sees what the disk does not take"


def test_a_journal_that_cannot_be_made_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trouble: list[str] = []
    written = journal(tmp_path / "file" / "events.jsonl", on_trouble=trouble.append)
    written.write("tick", round=1)
    flushed(written)
    assert len(trouble) == 1


SMALL_DISK = """
import json, resource, signal, sys
from pathlib import Path
from orchestrator.edge.journal import Journal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
journal = Journal(path, run_id="j", group="g", node="a", clock=lambda: 1.0, mono=lambda: 1.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))   # the disk ends inside a record
while journal.dropped < 3:
    journal.write("tick", round=1, text="x" * 100)
    journal.flush(20)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.write("last", round=1)
journal.close()
"""


def test_after_a_full_disk_records_begin_on_a_line_of_their_own_and_the_gap_is_named(tmp_path: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
        pytest.skip("needs an unlimited file size")
    path = tmp_path / "events.jsonl"
    subprocess.run([sys.executable, "-c", SMALL_DISK, str(path)], check=True)
    lines = path.read_text().splitlines()
    with pytest.raises(ValueError):
        json.loads(lines[-3])
    assert json.loads(lines[-2])["event"] == "log_degraded"
    assert json.loads(lines[-2])["dropped"] == 3
    assert json.loads(lines[-1])["event"] == "last"


def test_an_observer_that_fails_is_removed_and_named(tmp_path: Path) -> None:
    trouble: list[str] = []
    seen: list[dict[str, Any]] = []

    def fails(record: dict[str, Any]) -> None:
        raise KeyError(record["event"])

    written = journal(tmp_path / "e", on_trouble=trouble.append)
    written.subscribe(fails)
    written.subscribe(seen.append)
    written.write("one", round=0)
    written.write("two", round=0)
    assert [record["event"] for record in seen] == ["one", "two"]
    assert len(trouble) == 1
    assert "KeyError('one')" in trouble[0]
    closed(written)


def test_a_closed_journal_opens_again(tmp_path: Path) -> None:
    written = journal(tmp_path / "e")
    written.write("one", round=0)
    written.close()
    written.close()
    written.write("two", round=0)
    written.close()
    assert [record["event"] for record in records(tmp_path / "e")] == ["one", "two"]


def test_a_disk_that_hangs_holds_nobody_up_and_gets_everything_in_order_when_it_goes_on(hanging: Path) -> None:
    trouble: list[str] = []
    seen: list[dict[str, Any]] = []
    written = journal(hanging, on_trouble=trouble.append)
    written.subscribe(seen.append)
    for number in range(100):
        written.write("tick", round=1, number=number)
    assert not written.flush(0.05)
    assert [record["number"] for record in seen] == list(range(100))
    with hanging.open() as reader:
        flushed(written)
        written.close()
        assert [json.loads(line)["number"] for line in reader] == list(range(100))
    assert trouble == []


def test_what_a_hanging_disk_leaves_no_room_for_is_counted_and_named(
    hanging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.edge.journal.QUEUED", 10)
    trouble: list[str] = []
    written = journal(hanging, on_trouble=trouble.append)
    while written.dropped < 5:
        written.write("tick", round=1)
    assert trouble == [f"{hanging}: the disk is too slow; the job goes on, records are lost"]
    with hanging.open() as reader:
        until(lambda: written.flush(1) or None, "there is room again")
        written.write("last", round=1)
        written.close()
        got = [json.loads(line) for line in reader]
    assert sum(record.get("dropped", 0) for record in got) == 5
    assert got[-1]["event"] == "last"


def test_the_end_does_not_wait_for_a_disk_that_hangs(hanging: Path) -> None:
    trouble: list[str] = []
    written = journal(hanging, on_trouble=trouble.append)
    written.write("tick", round=1)
    written.close(0.05)
    assert trouble == [f"{hanging}: the disk hangs; the last records are lost"]
    with hanging.open() as reader:
        assert reader.read()  # the thread ends with the test


def test_a_result_replaces_the_old_one_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "run" / "result.json"
    write_result(path, {"state": "FAILED"})
    write_result(path, {"state": "SUCCEEDED", "results": {0: {"loss": math.inf}}}, mask=str.lower)
    assert json.loads(path.read_text()) == {"state": "succeeded", "results": {"0": {"loss": "inf"}}}
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_a_result_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_result(path, {"state": "FAILED"})
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    limit += "; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))"
    code = (
        f"{limit}; from orchestrator.edge.journal import write_result; write_result({str(path)!r}, {{'a': 'b' * 99}})"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "OSError" in ended.stderr
    assert json.loads(path.read_text()) == {"state": "FAILED"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
