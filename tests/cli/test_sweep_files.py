from __future__ import annotations

import csv
import html.parser
import importlib.util
import io
import math
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli.secrets import Secrets
from orchestrator.cli.sweep import csv_file, files
from orchestrator.cli.sweep.folder import Folder
from orchestrator.cli.sweep.html_page import page
from orchestrator.cli.sweep.plot import MOST_JOBS, plot
from orchestrator.config.sweep import SweepConfig
from orchestrator.core.sweep import JobState, Sweep, SweepJob
from orchestrator.errors import ConfigError
from tests.cli.sweeps import MIXED, job, sweep

NOTHING = Secrets()
ODD = "</script><script>alert(1)</script>\"'&\x00\x1b[2J\n=1+1\udcff"
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, 5e-324, ODD])
SWEEPS = st.builds(
    lambda jobs, direction: replace(sweep(*(replace(one, n=n) for n, one in enumerate(jobs))), direction=direction),
    st.lists(
        st.builds(
            SweepJob,
            n=st.just(0),
            key=st.text(),
            overrides=st.tuples(st.text()),
            params=st.dictionaries(st.sampled_from(["a", "b.c", "d.c", ODD]), SCALARS),
            state=st.sampled_from(JobState),
            value=st.none() | st.floats(),
            seconds=st.none() | st.floats(0, 1e9),
            message=st.text(),
        ),
        max_size=12,
    ),
    st.sampled_from(["minimize", "maximize"]),
)


class Reader(html.parser.HTMLParser):
    """What is in a page: its tags with their attributes, the rows of its table, and its texts."""

    void = ("meta", "path", "circle", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] != tag and self.open[-1] in self.void:
            self.open.pop()
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def rows(found: Sweep, secrets: Secrets = NOTHING) -> list[list[str]]:
    return list(csv.reader(io.StringIO(csv_file.text(found, secrets), newline="")))


# -- sweep.csv


def test_the_csv_has_a_column_for_each_parameter() -> None:
    head, *found = rows(MIXED)
    assert head == [
        "n",
        "worker.flags.lr",
        "worker.flags.opt",
        "state",
        "value",
        "attempts",
        "seconds",
        "dir",
        "message",
    ]
    assert found[1] == ["1", "0.01", "adam", "succeeded", "0.25", "1", "1.5", "/sweeps/lr/k1", ""]
    assert [row[4] for row in found] == ["0.5", "0.25", "0.125", "", "nan", ""]
    text = csv_file.text(MIXED, NOTHING)
    assert text.count("\r\n") == text.count("\n") == 7


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_no_spreadsheet_executes_a_text(text: str) -> None:
    (_, row) = rows(sweep(job(0, message=text, lr=text)))
    assert row[1] == row[-1] == f"'{text}"


def test_numbers_stay_numbers_and_as_exact_as_they_are() -> None:
    (_, row) = rows(sweep(job(0, value=-0.1234567890123, a=-1, b=-1e-17, c=True, d=None, e='a,"b"\nc')))
    assert row[1:6] == ["-1", "-1e-17", "true", "", 'a,"b"\nc']
    assert row[7] == "-0.1234567890123"


# -- sweep.html


def test_the_page_has_all_jobs_and_the_best_first() -> None:
    found = Reader(page(MIXED, NOTHING))
    assert found.rows[0] == ["job", "loss", "lr", "opt", "state", "took", "attempts", "why"]
    assert [row[0] for row in found.rows[1:]] == ["1", "0", "4", "2", "3", "5"]
    assert found.rows[5][3:5] == ["=1+1", "failed"]
    assert not found.open or set(found.open) <= set(Reader.void)


def test_the_page_loads_nothing() -> None:
    text = page(MIXED, NOTHING)
    found = Reader(text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'") in found.attributes
    assert not {name for name, _ in found.attributes} & {"src", "href", "xlink:href", "action", "srcset"}
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text


def test_no_text_of_a_job_becomes_markup_or_a_control_character() -> None:
    plain = Reader(page(sweep(job(0, value=1.0, opt="x")), NOTHING))
    odd = replace(job(0, value=1.0, message=ODD, opt=ODD), overrides=(ODD,))
    evil = replace(sweep(odd), name=ODD, objective=ODD)
    text = page(evil, NOTHING)
    assert Reader(text).tags == plain.tags
    assert not set(text) & set(map(chr, [*range(9), *range(11, 32), 127]))


def test_secrets_are_in_none_of_the_files(tmp_path: Path) -> None:
    hidden = replace(
        job(0, value=1.0, message="said hush-hush"),
        overrides=("worker.env.MY_KEY=abc", "worker.env.A=hush-hush"),
        params={"worker.env.MY_KEY": 12345, "worker.env.A": "hush-hush"},
        dir="/hush-hush",
    )
    files.write(replace(sweep(hidden), name="hush-hush"), tmp_path, Secrets({"TOKEN": "hush-hush"}))
    for name in ("sweep.csv", "sweep.html"):
        text = (tmp_path / name).read_text()
        assert "***" in text
        assert not [word for word in ("hush", "12345", "MY_KEY=abc") if word in text]


# -- what is drawn


def test_a_parameter_over_decades_has_a_logarithmic_axis_and_words_have_categories() -> None:
    lr, opt = plot(MIXED, NOTHING).panels
    assert (lr.x.log, opt.x.log) == (True, False)
    assert [text for _, text in opt.x.ticks] == ["=1+1", "adam", "sgd"]
    assert [text for _, text in lr.x.ticks] == ["0.001", "0.01", "0.1", "1", "10", "100"]
    assert [point.n for point in lr.points if point.y is None] == [5, 3, 4], "no value, or none that can be drawn"
    assert [point.n for point in lr.points if point.best] == [1]


@pytest.mark.parametrize(
    ("values", "log"),
    [([0.1, 0.5, 0.9], False), ([16, 32, 64], True), ([0, 1, 1000], False), ([1e-4, 1], True), ([3], False)],
)
def test_an_axis_is_logarithmic_where_values_span_decades_or_double(values: list[float], log: bool) -> None:
    drawn = plot(sweep(*(job(n, value=1.0, a=value) for n, value in enumerate(values))), NOTHING)
    assert drawn.panels[0].x.log is log


def test_without_values_it_is_drawn_how_long_jobs_took() -> None:
    drawn = plot(sweep(job(0, a=1), job(1, a=2), objective=None), NOTHING)
    assert drawn.y.label == "seconds"
    assert [point.y for point in drawn.panels[0].points] == [1.5, 1.5]


def test_of_very_many_jobs_the_best_are_drawn_and_the_page_says_so() -> None:
    many = sweep(*(job(n, value=float(n), a=n) for n in range(MOST_JOBS + 1)))
    assert max(point.y or 0 for point in plot(many, NOTHING).panels[0].points) == MOST_JOBS - 1
    assert f"Only the best {MOST_JOBS} of {MOST_JOBS + 1} jobs are drawn" in page(many, NOTHING)


@settings(deadline=None)
@given(SWEEPS)
def test_whatever_jobs_hold_every_file_is_well_formed(found: Sweep) -> None:
    drawn = plot(found, NOTHING)
    for one in drawn.panels:
        for point in one.points:
            assert 0 <= one.x.at(point.x) <= 1
            assert point.y is None or 0 <= drawn.y.at(point.y) <= 1
        assert all(math.isfinite(tick) for tick, _ in one.x.ticks)
    read = Reader(page(found, NOTHING).encode("utf-8", "backslashreplace").decode())
    assert len(read.rows) == 1 + len(found.jobs)
    assert {len(row) for row in read.rows} == {len(read.rows[0])}
    table = rows(found)
    assert len(table) == 1 + len(found.jobs)
    assert {len(row) for row in table} == {len(table[0])}


# -- the files


def test_a_disk_that_takes_nothing_costs_a_sweep_its_notes_and_not_its_lock(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        folder = Folder(tmp_path, SweepConfig())
        with pytest.raises(ConfigError, match=r"is that of a sweep which runs"):
            Folder(tmp_path, SweepConfig())
        folder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    Folder(tmp_path, SweepConfig()).close()


def test_what_was_reported_on_the_way_is_forgotten_when_something_else_is_looked_for(tmp_path: Path) -> None:
    def past(config: SweepConfig) -> SweepJob:
        folder = Folder(tmp_path, config)
        found = folder.past("k0")
        folder.close()
        assert found is not None
        return found

    config = SweepConfig(objective="loss", prune="halving")
    folder = Folder(tmp_path, config)
    pruned = replace(job(0, JobState.PRUNED, 0.5), curve=((1, 0.5),))
    folder.begin(pruned)
    folder.close()
    assert past(config) == pruned
    assert past(replace(config, prune=None)) == replace(pruned, state=JobState.PENDING)
    for other in (replace(config, objective="accuracy"), replace(config, direction="maximize")):
        assert past(other) == replace(pruned, state=JobState.PENDING, curve=())


def test_files_are_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "sweep.html").write_text("old")
    files.write(MIXED, tmp_path, NOTHING)
    assert (tmp_path / "sweep.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "sweep.csv").read_bytes().startswith(b"n,worker.flags.lr")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_file_that_cannot_be_written_is_told_and_the_others_are_there(tmp_path: Path) -> None:
    (tmp_path / "sweep.csv").mkdir()
    notes = files.write(MIXED, tmp_path, NOTHING)
    assert notes[0] == f"{tmp_path}/sweep.csv: Is a directory"
    assert (tmp_path / "sweep.html").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_without_matplotlib_there_is_no_picture_and_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')")
    script = (
        "from pathlib import Path; from orchestrator.cli.sweep.files import write;"
        "from orchestrator.cli.secrets import Secrets; from tests.cli.sweeps import MIXED;"
        "Path('sweep.png').write_text('old'); print(write(MIXED, Path('.'), Secrets()))"
    )
    root = str(Path(files.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str([files.NO_PNG])
    assert not (tmp_path / "sweep.png").exists()
    assert (tmp_path / "sweep.html").exists()


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs the extra [sweep]")
@pytest.mark.parametrize(
    "found",
    [MIXED, sweep(), sweep(job(0)), sweep(*(job(n, value=n % 7, a=f"$x_{n % 5}$ \u6f22") for n in range(40)))],
)
def test_the_picture_is_drawn_where_matplotlib_is(tmp_path: Path, found: Sweep) -> None:
    assert files.write(found, tmp_path, NOTHING) == []
    data = (tmp_path / "sweep.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    assert width > 600
    assert height > 500
