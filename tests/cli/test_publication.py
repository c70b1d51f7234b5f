"""A job that is published composes again to the same job, on another node, and holds no secret and no node's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli import argv, resolvers
from orchestrator.cli.compose import compose
from orchestrator.cli.job import Job, check
from orchestrator.cli.publication import as_recipe, publication
from orchestrator.core.publication import PROTOCOL, Publication, differences
from orchestrator.errors import ConfigError
from tests.cli.invoke import Commands

URL = "redis://user:pa%3Ass@h:6379/1"
CASES = [
    ["run_id=r", "recipe=hello", "worker.nproc=2", "restart=always", "stop.signal=INT"],
    ["run_id=r", "recipe=elastic", "nodes=1:3", "rendezvous.url=redis://h", "rendezvous.lease_s=2.0"],
    [
        "run_id=r",
        "nodes=2",
        "rendezvous.listen=127.0.0.1:0",
        "worker.env.A=null",
        "--",
        "true",
        "${x}",
        "2:4",
        "022",
        "",
    ],
    [
        "run_id=r",
        "restart=never",
        "role=trainer",
        "worker.flags.lr=0.1",
        "worker.umask='022'",
        "--",
        "true",
        "\\${y}",
        "ü",
    ],
    [
        "run_id=r",
        "restart.rules=[{exit_codes: [42, '64-78'], action: retry_free}]",
        "worker.env.WHO=${oc.env:HOME}",
        "worker.env.N=${worker.nproc}",
        "--",
        "true",
    ],
]


def composed(*words: str) -> Job:
    line = argv.parse(list(words))
    made = resolvers.register()
    found = compose(line)
    return check(found.cfg, line, made, found.problems)


def joined(published: Publication, *own: str) -> Job:
    with as_recipe(Publication.from_text(published.text), "r", URL, own) as words:
        return composed(*words)


@pytest.mark.parametrize("words", CASES, ids=lambda words: words[1])
def test_a_joined_job_is_the_published_one(commands: Commands, words: list[str]) -> None:
    first = composed(*words, "node.name=a") if "--" not in words else composed("node.name=a", *words)
    published = publication(first)
    second = joined(published, "node.name=b", "worker.nproc=5")
    assert differences(publication(second), published) == ()
    assert publication(second).digest == published.digest
    assert second.spec.node.name == "b"
    assert second.spec.rendezvous.url == URL
    ours, theirs = first.spec.groups[0], second.spec.groups[0]
    assert (theirs.worker.cmd, theirs.worker.env.keys()) == (ours.worker.cmd, ours.worker.env.keys())
    assert (theirs.restart, theirs.role, theirs.min_nodes) == (ours.restart, ours.role, ours.min_nodes)
    assert theirs.worker.nproc == 5


def test_a_node_takes_over_how_many_workers_the_first_one_has(commands: Commands) -> None:
    published = publication(composed("run_id=r", "worker.nproc=3", "--", "true"))
    assert joined(published).spec.groups[0].worker.nproc == 3


@pytest.mark.parametrize(
    "own",
    [
        ["node.name=x", "node.addr=10.0.0.1"],
        ["worker.nproc=7"],
        ["logs=files"],
        ["logs.prefix=''"],
        ["rendezvous.url=redis://elsewhere"],
        ["hydra.run.dir=/tmp/x"],
    ],
)
def test_what_a_node_decides_for_itself_is_no_part_of_the_digest(commands: Commands, own: list[str]) -> None:
    one, other = (publication(composed("run_id=r", *more, "--", "true")) for more in ([], own))
    assert (one.digest, differences(one, other)) == (other.digest, ())


@pytest.mark.parametrize(
    "own", [["restart.budget.max=9"], ["worker.env.A=b"], ["role=x"], ["stop.grace_s=1"], ["rendezvous.lease_s=9"]]
)
def test_what_a_run_agrees_on_is(commands: Commands, own: list[str]) -> None:
    one, other = (publication(composed("run_id=r", *more, "--", "true")) for more in ([], own))
    assert one.digest != other.digest
    (said,) = differences(other, one)
    assert said.startswith(own[0].partition("=")[0])


def test_a_number_has_one_spelling(commands: Commands) -> None:
    one, other = (publication(composed("run_id=r", f"stop.grace_s={text}", "--", "true")) for text in ("5", "5.0"))
    assert (one.digest, differences(one, other)) == (other.digest, ())


def test_secrets_are_published_as_variables(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("run_id=r", "worker.env.API_KEY=s3cret-key", "worker.env.DB=pg://u:pa55word@h/db", "--", "true")
    published = publication(composed(*words))
    assert "s3cret" not in published.text
    assert "pa55word" not in published.text
    with pytest.raises(ConfigError, match="'API_KEY' is not set"):
        joined(published)
    monkeypatch.setenv("API_KEY", "mine")
    monkeypatch.setenv("DB_PASSWORD", "other")
    assert dict(joined(published).spec.groups[0].worker.env) == {"API_KEY": "mine", "DB": "pg://u:other@h/db"}


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"hydra": {"callbacks": {"x": {"_target_": "os.system"}}}}, "hydra: is not for recipes"),
        ({"defaults": [{"override /hydra/job_logging": "x"}]}, "is not a recipe's to choose"),
        ({"nonsense": 1, "worker": {"cmd": ["true"]}}, "nonsense: unknown key"),
        ({"worker": {"cmd": "no-such-program"}}, "is not found on the PATH"),
        ({"worker": {"cmd": ["true"], "env": {"A": "x" * (1 << 20)}}}, "is larger than 1 MiB"),
        ({}, "worker.cmd: is missing"),
    ],
)
def test_what_a_recipe_may_not_hold_is_refused_from_a_server_too(
    commands: Commands, job: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        joined(Publication(job))


@pytest.mark.parametrize("word", ["worker.cmd=[rm]", "restart=never", "+x=1", "python", "recipe=hello", "hydra.mode=x"])
def test_who_joins_decides_nothing_for_the_run(commands: Commands, word: str) -> None:
    with pytest.raises(ConfigError, match="belongs to the job, which the run has"):
        joined(Publication({"worker": {"cmd": ["true"]}}), word)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"protocol": 1, "job": [], "defaults": {}}', "[" * 100_000])
def test_a_text_that_is_no_publication_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Publication.from_text(text)


def test_a_text_that_is_too_deep_is_refused() -> None:
    job: dict[str, object] = {}
    for _ in range(200):
        job = {"x": job}
    with pytest.raises(ValueError, match="nested too deeply"):
        Publication.from_text(json.dumps({"protocol": 1, "job": job, "defaults": {}}))


def test_another_protocol_is_another_job() -> None:
    other = Publication({}, protocol=PROTOCOL + 1)
    assert differences(Publication({}), other) == (f"protocol: {PROTOCOL} here, {PROTOCOL + 1} there",)
    assert Publication({}).digest != other.digest


def test_long_values_are_cut_in_messages() -> None:
    (said,) = differences(Publication({"a": "x" * 500}), Publication({"a": None}))
    assert len(said) < 100
    assert said.endswith("null there")


def test_nothing_is_left_of_the_file_that_a_job_was_read_from(commands: Commands) -> None:
    with as_recipe(Publication({"worker": {"cmd": ["true"]}}), "r", URL, []) as words:
        path = Path(words[0])
        assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0
    assert not path.parent.exists()
