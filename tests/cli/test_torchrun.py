"""``orchestrate-torchrun``: what its command line means, by the job that it compiles to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import argv, resolvers
from orchestrator.cli.argv import Line
from orchestrator.cli.compose import compose
from orchestrator.cli.job import check
from orchestrator.cli.torchrun import command
from orchestrator.cli.torchrun.compiled import Compiled
from orchestrator.cli.torchrun.meeting import endpoint, is_free, is_this_host, own_address, password
from orchestrator.cli.torchrun.options import all_options, destination, parse
from orchestrator.cli.torchrun.settings import compiled
from orchestrator.core.ranks import fill_in, places, worker_env
from orchestrator.core.specs import JobSpec, Macros, RendezvousKind, Show, StoreKind
from orchestrator.errors import ConfigError
from tests.core.specs import seat

NOBODY_ELSE = {"PATH": os.environ["PATH"]}
HOST, PORT = "127.0.0.1", 29400


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("PET_", "TORCHELASTIC", "SLURM", "ORCHESTRAT"))]:
        monkeypatch.delenv(name)


def compile_words(*words: str, env: Mapping[str, str] = NOBODY_ELSE, hosts: bool = True) -> Compiled:
    return compiled(parse(words, env), env, lambda _host, _port: hosts)


def spec_of(line: Line) -> JobSpec:
    made = resolvers.register()
    composed = compose(line)
    return check(composed.cfg, line, made, composed.problems).spec


def job(*words: str, env: Mapping[str, str] = NOBODY_ELSE, hosts: bool = True) -> JobSpec:
    found = compile_words(*words, env=env, hosts=hosts)
    assert found.problems == []
    return spec_of(found.line("/run"))


# -- the command line

MAIN = (
    "import json; from torch.distributed.run import get_args_parser; p = get_args_parser(); "
    "print(json.dumps({a.dest: [a.option_strings, a.default, a.nargs] for a in p._actions if a.option_strings}))"
)


@pytest.mark.torch
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra [torch]")
def test_every_option_of_torchrun_is_taken_in_every_spelling_and_with_its_default() -> None:
    done = subprocess.run([sys.executable, "-c", MAIN], capture_output=True, text=True, check=True, env=NOBODY_ELSE)
    theirs: dict[str, Any] = json.loads(done.stdout)
    del theirs["help"]
    ours = parse(["x"], {}).values
    assert {destination(option) for option in all_options()} == set(theirs)
    for name, (spellings, default, nargs) in theirs.items():
        assert getattr(ours, name) == default, name
        for spelling in spellings:
            value = (
                [] if nargs == 0 else ["node" if name == "numa_binding" else "fork" if name == "start_method" else "3"]
            )
            assert getattr(parse([spelling, *value, "x"], {}).values, name) != default, spelling


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--nproc_per", "3"], "nproc_per_node", "3"),
        (["--max-r=2"], "max_restarts", 2),
        (["--re=3"], "redirects", "3"),  # ours begin alike, and must be spelled out
        (["--stan"], "standalone", True),
        (["-m"], "module", True),
        (["--duplicate-stdout-filters", "a,b,,c"], "duplicate_stdout_filters", ["a", "b,c"]),
    ],
)
def test_options_may_be_shortened(words: list[str], name: str, value: object) -> None:
    assert getattr(parse([*words, "x"], {}).values, name) == value


def test_whatever_follows_the_script_is_the_scripts() -> None:
    values = parse(["--nnodes=1", "train.py", "--nnodes", "7", "-m", "--report", "x"], {}).values
    assert (values.nnodes, values.training_script) == ("1", "train.py")
    assert values.training_script_args == ["--nnodes", "7", "-m", "--report", "x"]


def test_variables_are_defaults_and_the_command_line_beats_them() -> None:
    env = {"PET_NNODES": "2:3", "PET_MAX_RESTARTS": "4", "PET_MODULE": "1", "PET_NO_PYTHON": "0", "PET_TEE": "3"}
    values = parse(["--tee", "1", "x"], env).values
    assert (values.nnodes, values.max_restarts, values.module, values.no_python) == ("2:3", 4, True, False)
    assert values.tee == "1"
    assert parse(["x"], {"PET_NUMA_BINDING": "node"}).values.numa_binding is None, "which has none in torch either"


@pytest.mark.parametrize("words", [["--nosuch", "x"], [], ["--max-restarts=many", "x"], ["--max=1"], ["--r=1", "x"]])
def test_a_wrong_command_line_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words, {})
    assert end.value.code == 2
    assert "orchestrate-torchrun: error:" in capsys.readouterr().err


def test_help_names_every_option_once_within_the_width_of_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    text = capsys.readouterr().out
    assert all(text.count(f" {option.names[0]}") == 1 for option in all_options() if option.names[0] != "--role")
    assert max(map(len, text.splitlines())) <= 120


# -- what it means


def test_the_defaults_are_torchruns() -> None:
    found = job("train.py", "--lr", "0.1")
    (group,) = found.groups
    assert group.worker.cmd == (sys.executable, "-u", "train.py", "--lr", "0.1")
    assert (group.role, group.worker.nproc, group.min_nodes, group.max_nodes) == ("default", 1, 1, 1)
    assert (group.restart.budget.max, group.restart.backoff.max_s) == (0, 0), "and no delay"
    assert (found.stop.grace_s, found.stop.relay, found.stop.preempt) == (30, True, frozenset())
    assert found.logs.streams == {None: (Show.BARE, Show.BARE)}
    assert (found.rendezvous.kind, found.rendezvous.listen) == (RendezvousKind.EMBEDDED, None)


@pytest.mark.parametrize(
    ("words", "cmd"),
    [
        (["-m", "pkg.mod", "a"], ("PYTHON", "-u", "-m", "pkg.mod", "a")),
        (["--no-python", "./run.sh", "a"], ("./run.sh", "a")),
        (["--run-path", "/x.py"], ("PYTHON", "-u", "/x.py")),
        (["--run-path", "--no-python", "/x.py"], ("PYTHON", "-u", "/x.py")),
    ],
)
def test_what_is_run(words: list[str], cmd: tuple[str, ...]) -> None:
    Path("run.sh").write_text("")
    Path("run.sh").chmod(0o755)
    expected = tuple(word.replace("PYTHON", sys.executable) for word in cmd)
    assert job(*words).groups[0].worker.cmd == expected


def test_another_interpreter_is_used_if_it_is_named() -> None:
    assert job("x.py", env={**NOBODY_ELSE, "PYTHON_EXEC": "/bin/sh"}).groups[0].worker.cmd[0] == "/bin/sh"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["--standalone", "/x.py"], StoreKind.WORKER),
        (["--rdzv-backend=c10d", "/x.py"], StoreKind.WORKER),
        (["/x.py"], StoreKind.AGENT),  # the static backend does not look at it
    ],
)
def test_who_hosts_the_workers_store_is_as_torchs_variable_has_it(words: list[str], kind: StoreKind) -> None:
    unshared = {**NOBODY_ELSE, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    assert job(*words).groups[0].worker.store is StoreKind.AGENT
    assert job(*words, env=unshared).groups[0].worker.store is kind


SEAT = seat(world_size=3, master_addr="h")


def test_arguments_are_filled_in_as_torchrun_does_and_otherwise_untouched() -> None:
    found = job("--nproc-per-node=3", "x.py", "${local_rank}", "$$a", "__rank__", "__python__", "${oc.env:A}", "a\\b")
    (group,) = found.groups
    assert group.worker.macros is Macros.TORCHRUN
    words = fill_in(group.worker.cmd, found, group, places(SEAT, 3)[2])
    assert words[2:] == ["x.py", "2", "$a", "__rank__", "__python__", "${oc.env:A}", "a\\b"]
    untouched = replace(group, worker=replace(group.worker, macros=Macros.NONE))
    assert fill_in(group.worker.cmd, found, untouched, places(SEAT, 3)[2])[3:5] == ["${local_rank}", "$$a"]


@pytest.mark.parametrize(("visible", "devices"), [(None, ["0", "1", "2"]), ("5, 6,7", ["5", "6", "7"])])
def test_each_worker_sees_one_device_with_virtual_local_rank(
    visible: str | None, devices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    inherited = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    for name, value in inherited.items():
        monkeypatch.setenv(name, value)
    found = job("--virtual-local-rank", "--nproc-per-node=3", "x.py")
    (group,) = found.groups
    seen = [
        worker_env(found, group, place, inherited, error_file="", result_file="", store="") for place in places(SEAT, 3)
    ]
    assert [(env["LOCAL_RANK"], env["CUDA_VISIBLE_DEVICES"]) for env in seen] == [("0", name) for name in devices]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=5,6 has fewer"):
        job("--virtual-local-rank", "--nproc-per-node=3", "x.py")


TEE, BARE, FILE = Show.TEE, Show.BARE, Show.FILE


@pytest.mark.parametrize(
    ("words", "streams"),
    [
        (["-r", "3"], {None: (FILE, FILE)}),
        (["-r", "1"], {None: (FILE, BARE)}),
        (["-t", "3"], {None: (TEE, TEE)}),
        (["-t", "2", "-r", "3"], {None: (FILE, TEE)}),
        (["-r", "0:3,117:1"], {None: (BARE, BARE), 0: (FILE, FILE), 117: (FILE, BARE)}),
        (["-t", "12:3"], {None: (BARE, BARE), 12: (TEE, TEE)}),
        (["--local-ranks-filter", "0,10"], {None: (FILE, FILE), 0: (BARE, BARE), 10: (BARE, BARE)}),
        (["--local-ranks-filter", "1", "-t", "3", "-r", "0:3"], {None: (FILE, FILE), 1: (TEE, TEE)}),
    ],
)
def test_where_each_stream_goes(words: list[str], streams: dict[int | None, tuple[Show, Show]]) -> None:
    assert job(*words, "x.py").logs.streams == streams


def test_what_else_is_said_of_output() -> None:
    found = job("-t3", "--log-dir=out", "--rdzv-id=j", "--duplicate-stderr-filters=a b,c", "x.py").logs
    assert found.prefix == "[{role}{local_rank}]:"
    assert found.filters == ((), ("a b", "c"))
    assert found.dir.startswith(f"{Path.cwd()}/out/j/")


def test_signals_and_their_time() -> None:
    found = job("--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2", "--shutdown-timeout=7", "x.py").stop
    assert (found.preempt, found.grace_s) == (frozenset({signal.SIGUSR2}), 7)
    assert job("x.py", env={**NOBODY_ELSE, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5"}).stop.grace_s == 5


# -- how nodes meet

C10D = ("--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=j", "--rdzv-endpoint=localhost:4000")


def test_the_host_of_the_endpoint_brings_the_server_and_the_others_connect_to_it() -> None:
    host, other = job(*C10D, "x.py", hosts=True).rendezvous, job(*C10D, "x.py", hosts=False).rendezvous
    assert (host.kind, host.listen, host.password) == (RendezvousKind.EMBEDDED, (HOST, 4000), password("j"))
    assert (other.kind, other.url) == (RendezvousKind.REDIS, f"redis://:{password('j')}@127.0.0.1:4000/0")
    assert password("j") != password("k")


@pytest.mark.parametrize(("rank", "hosts"), [(0, True), (1, False)])
def test_static_nodes_meet_at_node_0(rank: int, hosts: bool) -> None:
    words = ("--nnodes=2", f"--node-rank={rank}", "--master-addr=10.1.2.3", "--master-port=7", "x.py")
    found = job(*words, hosts=not hosts)
    assert found.node.rank == rank
    assert found.rendezvous.listen == (("0.0.0.0", 7) if hosts else None)
    assert found.rendezvous.url == (None if hosts else f"redis://:{password('none')}@10.1.2.3:7/0")


def test_is_host_beats_what_is_found_out() -> None:
    assert job(*C10D, "--rdzv-conf=is_host=0", "x.py", hosts=True).rendezvous.kind is RendezvousKind.REDIS
    assert job(*C10D, "--rdzv-conf=is_host=yes", "x.py", hosts=False).rendezvous.kind is RendezvousKind.EMBEDDED


@pytest.mark.parametrize("words", [["--standalone"], [], ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]])
def test_one_node_needs_no_port(words: list[str]) -> None:
    assert job(*words, "x.py").rendezvous.listen is None


def test_a_server_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "geheim")
    given = ("--rdzv-id=j", "--nnodes=2", "x.py")
    env = {**NOBODY_ELSE, "REDIS_PASSWORD": "geheim"}
    own = ("--rdzv-backend=orchestrator", "--rdzv-endpoint=redis.local")
    assert job(*own, *given, env=env).rendezvous.url == "redis://:geheim@redis.local:6379/0"
    special = {**NOBODY_ELSE, "REDIS_PASSWORD": "a/b"}
    assert job(*own, *given, env=special).rendezvous.url == "redis://:a%2Fb@redis.local:6379/0"
    conf = "--rdzv-conf=username=me,password=a/b,db=3,tls=true"
    assert job(*own, conf, *given).rendezvous.url == "rediss://me:a%2Fb@redis.local:6379/3"
    for backend in ("c10d", "static"):
        url = ("--rdzv-endpoint=redis://h:1/2", f"--rdzv-backend={backend}")
        assert job(*url, *given).rendezvous.url == "redis://h:1/2"


def test_durations() -> None:
    conf = "--rdzv-conf=join_timeout=9,last_call_timeout=2,keep_alive_interval=2,keep_alive_max_attempt=4"
    found = job("--nnodes=1:2", "--rdzv-backend=c10d", "--rdzv-id=j", conf, "x.py").rendezvous
    assert (found.join_timeout_s, found.last_call_s, found.lease_s, found.scale_up_s) == (9, 2, 8, 2)
    assert job("--nnodes=2", "--rdzv-conf=timeout=8", "x.py").rendezvous.join_timeout_s == 8, "static's word for it"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("localhost", PORT)),
        ("h", ("h", PORT)),
        ("h-1.x:5", ("h-1.x", 5)),
        ("[::1]:5", ("::1", 5)),
        ("[fe80::1]", ("fe80::1", PORT)),
    ],
)
def test_an_endpoint_is_read_as_torchrun_does(text: str, expected: tuple[str, int]) -> None:
    to = Compiled()
    assert (endpoint(text, PORT, to), to.problems) == (expected, [])


def test_this_host_is_known_by_its_names_and_addresses() -> None:
    assert all(map(is_this_host, ("localhost", "127.0.0.1", "127.8.8.8", "::1", socket.gethostname())))
    assert not is_this_host("192.0.2.7")
    assert not is_this_host("no.such.host.invalid")


def test_the_host_is_reached_at_the_address_that_the_endpoint_leads_to() -> None:
    assert [own_address(host) for host in ("127.0.0.1", "localhost", "192.0.2.7", "no.such.host.invalid")] == [None] * 4
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):  # a machine without a network has no other address
            probe.connect(("192.0.2.1", 9))
        mine = probe.getsockname()[0]
    expected = None if ip_address(mine).is_loopback or mine == "0.0.0.0" else mine
    found = job("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={mine}", "--rdzv-id=j", "x.py", hosts=True)
    assert found.node.addr == expected
    given = ("--nnodes=2", f"--master-addr={mine}", "--local-addr=10.9.9.9", "x.py")
    assert job(*given).node.addr == "10.9.9.9"


def test_a_port_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert not is_free("localhost", port)
        assert not command.brings_server("localhost", port)
    assert not command.brings_server("192.0.2.7", port), "another host's"


# -- what cannot be honoured


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--monitor-interval=5"], "--monitor-interval=5.0 has no effect: nothing is polled here"),
        (["--start-method=fork"], "--start-method=fork has no effect: workers are programs here, never forks"),
        (["--event-log-handler=console"], "--event-log-handler=console has no effect: all events are in events.jsonl"),
        (["--numa-binding=socket"], "--numa-binding=socket is not honoured: only node and exclusive are"),
        (["--numa-binding=node"], "--numa-binding=node: workers are bound in the order of local ranks"),
        (["--signals-to-handle=SIGTERM"], "--signals-to-handle: SIGINT, SIGHUP, SIGQUIT stop the job in any case"),
        (["--signals-to-handle=SIGTERM,SIGNAL"], "--signals-to-handle: SIGNAL is no signal here"),
        (["--signals-to-handle=SIGKILL"], "--signals-to-handle: SIGKILL cannot be caught"),
        (["--standalone", "--nnodes=2"], "--standalone: --nnodes=2 is one node"),
        (["--rdzv-conf=read_timeout=3"], "--rdzv-conf: read_timeout has no effect: nothing waits by it here"),
        (["--rdzv-conf=colour=red"], "--rdzv-conf: colour is not known, and has no effect"),
        (["--nnodes=2"], "--rdzv-id is not given: whoever reaches the endpoint can take part"),
        (["--rdzv-id=a/b c"], "--rdzv-id: 'a/b c' is called a-b-c-"),
        (["--role=@"], "--role: '@' is called x-"),
    ],
)
def test_what_has_no_effect_is_said_on_one_line(words: list[str], said: str) -> None:
    found = compile_words(*words, "x.py")
    assert found.problems == []
    assert [note.partition(said)[1] for note in found.notes if said in note] == [said]
    assert not any("\n" in note for note in found.notes)
    assert spec_of(found.line("/run")), "and the job can be run"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nnodes=0"], "--nnodes: '0' is not allowed; allowed: N or MIN:MAX, from 1, as in 2:4"),
        (["--nnodes=3:2"], "--nnodes: '3:2' is not allowed; allowed: N or MIN:MAX, from 1, as in 2:4"),
        (["--nproc-per-node=xpu"], "--nproc-per-node: 'xpu' is not allowed; only torch can count them; give a number"),
        (["--nproc-per-node=0"], "--nproc-per-node: '0' is not allowed; allowed: a number from 1, auto, cpu, gpu"),
        (["-r", "4"], "--redirects: '4' is not allowed; allowed: 0, 1, 2, 3, or RANK:N,RANK:N"),
        (["-t", "0:3,"], "--tee: '0:3,' is not allowed; allowed: 0, 1, 2, 3, or RANK:N,RANK:N"),
        (["--local-ranks-filter=a"], "--local-ranks-filter: 'a' is not allowed; allowed: local ranks, as in 0,1,2"),
        (["--max-restarts=-1"], "--max-restarts: -1 is negative; allowed: from 0"),
        (["--shutdown-timeout=-1"], "--shutdown-timeout: -1 is not allowed; allowed: whole seconds from 0"),
        (["-m", "--no-python"], "--no-python: is given with --module; remove one of them"),
        (["--logs-specs=mine"], "--logs-specs: 'mine' is a class of torch's kind; leave it out"),
        (["--rdzv-backend=etcd"], "--rdzv-backend: 'etcd' is not to be had; etcd is not spoken here"),
        (["--rdzv-backend=mine"], "--rdzv-backend: 'mine' is not to be had; plug-ins of torch's are not loaded"),
        (["--rdzv-backend=orchestrator"], "--rdzv-id: is not given, and a server remembers a run for a day"),
        (["--rdzv-conf=a"], "--rdzv-conf: 'a' is not allowed; allowed: key=value,key=value"),
        (["--rdzv-conf=join_timeout=x"], "--rdzv-conf: join_timeout=x is no number of seconds; allowed: from 0"),
        (["--rdzv-conf=store_type=file"], "--rdzv-conf: store_type=file is a file that nodes share"),
        (["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-conf=is_host=x"], "--rdzv-conf: is_host=x is neither"),
        (["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=h:0"], "--rdzv-endpoint: port 0 is known to nobody"),
        (["--nnodes=2", "--rdzv-endpoint=a b"], "--rdzv-endpoint: 'a b' is not HOST:PORT"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(words: list[str], said: str) -> None:
    assert [str(one)[: len(said)] for one in compile_words(*words, "x.py").problems] == [said]


def test_a_value_that_only_the_job_can_judge_is_traced_to_its_option() -> None:
    with pytest.raises(ConfigError, match=r"\[override --nproc-per-node=gpu\]"):
        spec_of(compile_words("--nproc-per-node=gpu", "x.py", env={**NOBODY_ELSE}).line("/run"))


# -- the recipe


@pytest.mark.parametrize(
    "words",
    [
        ["x.py"],
        ["--standalone", "--nproc-per-node=cpu", "x.py", "--lr", "0.1", "it's", "a,b", "{c: d}", "[e]", "~", "2:4", ""],
        [*C10D, "--max-restarts=3", "-t", "0:1,12:3", "-r", "3", "--local-ranks-filter=0,12", "x.py"],
        ["--nnodes=1:4", "--rdzv-id=j", "--node-rank=2", "--master-addr=h", "--local-addr=10.0.0.9", "x.py"],
        [
            "-m",
            "--role=trainer",
            "--virtual-local-rank",
            "--numa-binding=exclusive",
            "json.tool",
            "${local_rank}",
            "$$",
        ],
        ["--log-dir=logs", "--rdzv-id=7", "--duplicate-stdout-filters=a,,b", "-t3", "--signals-to-handle=SIGUSR1", "x"],
        ["--rdzv-backend=orchestrator", "--rdzv-endpoint=h:1", "--rdzv-conf=lease=3,password=p/w", "--rdzv-id=j", "x"],
        ["--no-python", "--shutdown-timeout=0", "sh", "-c", "echo $RANK ${HOME} __rank__ \\${x} %s"],
    ],
)
@pytest.mark.parametrize("hosts", [True, False])
def test_the_printed_recipe_runs_the_same_job(words: list[str], hosts: bool, tmp_path: Path) -> None:
    found = compile_words(*words, hosts=hosts)
    recipe = tmp_path / "elsewhere" / "recipe.yaml"  # a script beside it would be found by its whole path
    recipe.parent.mkdir()
    recipe.write_text(found.recipe("x", "torchrun …"))
    direct = spec_of(found.line("/run"))
    printed = spec_of(argv.parse([str(recipe), "hydra.run.dir=/run"]))
    if "--rdzv-id" not in " ".join(words):
        assert direct.run_id != printed.run_id, "made up"
        printed = replace(printed, run_id=direct.run_id)
    assert direct == printed
