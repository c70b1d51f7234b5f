"""YAML 1.2 as recipes are read, what is refused, and that what is written reads the same."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.yaml12 import read, write
from orchestrator.errors import ConfigError

TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff")
) | st.sampled_from(
    [
        "2:4",
        "022",
        "1e-3",
        "0o7",
        "yes",
        "no",
        "on",
        "~",
        "null",
        "True",
        "",
        "<<",
        "=",
        "1_000",
        "12:30:45",
        "a: b",
        "- x",
    ]
)
DATA = st.recursive(
    TEXT | st.integers(-(10**18), 10**18) | st.booleans() | st.none() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT.filter(bool), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2:4", "2:4"),
        ("12:30:45", "12:30:45"),
        ("022", 22),
        ("0o22", 18),
        ("0x1F", 31),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("3.10", 3.1),
        ("'3.10'", "3.10"),
        ("-.inf", -math.inf),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("!!str 5", "5"),
        ("=", "="),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = read(f"key: {text}\n", "f.yaml").data["key"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text_and_merges_work() -> None:
    document = read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n1: one\nyes: 1\n", "f.yaml")
    assert document.data == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "1": "one", "yes": 1}


def test_lines_are_known_by_path() -> None:
    lines = read("a:\n  b:\n  - x\n  - c: 1\n# comment\nd: 2\n", "f.yaml").lines
    assert {path: lines[path] for path in ("a", "a.b", "a.b[0]", "a.b[1].c", "d")} == {
        "a": 1, "a.b": 2, "a.b[0]": 3, "a.b[1].c": 4, "d": 6
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2", "a: is given twice, first in line 1; remove one of them [f.yaml:2]"),
        ("\nb: {c: 1, c: 2}", "b.c: is given twice, first in line 2; remove one of them [f.yaml:2]"),
        ("a: &a [*a]", "a[0]: holds itself; remove the alias [f.yaml:1]"),
        ("a: !!binary aGk=", "a: cannot be read as tag:yaml.org,2002:binary; allowed: plain values [f.yaml:1]"),
        ("a: !!int x", "a: cannot be read as tag:yaml.org,2002:int; allowed: plain values [f.yaml:1]"),
        ("a: !!set {x}", "a: has the tag tag:yaml.org,2002:set; allowed: plain values [f.yaml:1]"),
        ("? [a]\n: 1", "recipe: has a key that is no text; write name: value [f.yaml:1]"),
        ("a: {<<: 3}", "a: merges what is no mapping; <<: takes a mapping [f.yaml:1]"),
        ("a: *b", "recipe: is not YAML: found undefined alias; correct the line [f.yaml:1:4]"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(text, "f.yaml")
    assert str(error.value) == says


@given(DATA)
def test_what_is_written_reads_the_same_as_1_2_and_as_1_1(data: object) -> None:
    text = write({"key": data})
    assert read(text, "f.yaml").data == {"key": data}
    assert yaml.safe_load(text) == {"key": data}
