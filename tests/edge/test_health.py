"""The health check server, asked over real connections, by clients that behave and by clients that do not."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import HealthCheckServer
from orchestrator.core.snapshot import Snapshot
from orchestrator.core.specs import HealthSpec
from orchestrator.core.words import State
from orchestrator.edge.health import Board, start_server, stop_server
from orchestrator.edge.httpd import CONNECTIONS, HEAD_BYTES, Answer
from orchestrator.errors import ConfigError

AT = Snapshot(run_id="j1", group="default", node="a", started=time.time(), since=time.time())
SPEC = HealthSpec(host="127.0.0.1", port=0, timeout_s=30)


@contextmanager
def serving(server: HealthCheckServer, board: Board | None = None, token: str | None = None) -> Iterator[int]:
    if board is not None:
        server.attach(board, host="127.0.0.1", token=token)
    server.start()
    try:
        assert server.url is not None
        yield int(server.url.rpartition(":")[2])
    finally:
        server.stop()


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def raw(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        read = b""
        while more := client.recv(65536):
            read += more
        return read


@pytest.fixture
def board() -> Board:
    return Board(AT)


@pytest.fixture
def port(board: Board) -> Iterator[int]:
    with serving(HealthCheckServer(board.alive, 0, 30), board) as number:
        yield number


# -- what is told


def test_an_agent_is_alive_while_its_loop_turns_and_not_when_it_has_stopped_to() -> None:
    board, turned = Board(AT), [time.time()]
    board.watch("the watchdog", lambda: turned[0])
    with serving(HealthCheckServer(board.alive, 0, 30), board) as port:
        assert get(port, "/livez") == (200, "alive\n")
        turned[0] -= 100
        status, said = get(port, "/livez")
        assert status == 503
        assert said.startswith("not alive: the watchdog has not turned for 10")
        assert said.endswith("s; the limit is 30 s\n")
        turned[0] += 100
        assert get(port, "/livez")[0] == 200


def test_a_group_is_ready_when_it_is_healthy(board: Board, port: int) -> None:
    assert get(port, "/readyz") == (503, "not ready: the group is INIT\n")
    board.show(replace(AT, state=State.HEALTHY))
    assert get(port, "/readyz") == (200, "ready\n")
    board.show(replace(AT, state=State.BACKOFF))
    assert get(port, "/readyz") == (503, "not ready: the group is BACKOFF\n")


def test_an_agent_that_is_stuck_is_not_ready_whatever_its_last_word_was() -> None:
    board = Board(replace(AT, state=State.HEALTHY))
    board.watch("the watchdog", lambda: 0.0)
    with serving(HealthCheckServer(board.alive, 0, 30), board) as port:
        assert get(port, "/readyz")[0] == 503
        status, said = get(port, "/status")
        assert (status, json.loads(said)["alive"], json.loads(said)["state"]) == (200, False, "HEALTHY")
        assert 'orchestrator_alive{group="default"} 0' in get(port, "/metrics")[1]


def test_the_status_is_json_without_secrets() -> None:
    board = Board(replace(AT, run_id="hunter22"), mask=lambda text: text.replace("hunter22", "***"))
    with serving(HealthCheckServer(board.alive, 0, 30), board) as port:
        assert json.loads(get(port, "/status")[1])["run_id"] == "***"


def test_an_unknown_path_is_told_what_there_is(port: int) -> None:
    assert get(port, "/") == (404, "nothing is here; there are /livez, /readyz, /status, /metrics\n")


def test_a_question_mark_and_what_follows_are_no_part_of_the_path(port: int) -> None:
    assert get(port, "/livez?verbose")[0] == 200


def test_head_is_answered_without_a_body(port: int) -> None:
    assert get(port, "/livez", "HEAD") == (200, "")


# -- who may ask


def test_a_token_must_be_known(board: Board) -> None:
    with serving(HealthCheckServer(board.alive, 0, 30), board, token="s3cret") as port:
        assert get(port, "/livez")[0] == 401
        assert get(port, "/livez", Authorization="Bearer wrong")[0] == 401
        assert get(port, "/livez", Authorization="Basic s3cret")[0] == 401
        assert get(port, "/nope", Authorization="Bearer wrong")[0] == 401
        assert get(port, "/livez", Authorization="Bearer s3cret")[0] == 200
        assert get(port, "/livez", Authorization="bearer s3cret")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),  # a name that points at the loopback
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:80", "Origin": "http://127.0.0.2:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
    ],
)
def test_pages_of_other_hosts_are_told_nothing(port: int, board: Board, headers: dict[str, str], status: int) -> None:
    assert get(port, "/status", **headers)[0] == status
    with serving(HealthCheckServer(board.alive, 0, 30), board, token="s3cret") as other:
        known = {**headers, "Authorization": "Bearer s3cret"}
        assert get(other, "/status", **known)[0] == 200, "whoever knows the token is no such page"


# -- clients that do not behave


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /livez HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"GET /livez HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"413"),
        (b"GET /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"413"),
        (b"GET /livez\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nnonsense\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nX: " + b"y" * HEAD_BYTES + b"\r\n\r\n", b"431"),
        (b"GET /livez HTTP/1.1\r\n\xff\xfe: \xff\r\n\r\n", b"200"),
    ],
)
def test_what_is_no_small_get_is_refused(port: int, request_: bytes, status: bytes) -> None:
    assert raw(port, request_).split(b" ")[1] == status
    assert get(port, "/livez")[0] == 200


def test_clients_that_say_nothing_do_not_keep_others_from_an_answer_for_long(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.edge.httpd.REQUEST_WITHIN_S", 0.5)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    deadline = time.monotonic() + 20
    while True:
        with suppress(OSError, http.client.HTTPException):
            if get(port, "/livez")[0] == 200:
                break
        assert time.monotonic() < deadline
    for client in silent:
        client.close()


def test_more_connections_than_are_served_are_told_to_come_again(port: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    before = threading.active_count()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
    assert threading.active_count() <= max(before, CONNECTIONS + 3)
    for client in silent:
        client.close()


# -- the extension


class Answering(HealthCheckServer):
    """A user's server with an endpoint of its own."""

    ENDPOINTS = (*HealthCheckServer.ENDPOINTS, "/gpu")

    def answer(self, path: str) -> Answer | None:
        if path == "/gpu":
            return Answer(200, "cool\n")
        if path == "/bug":
            raise RuntimeError("a secret of the user's")
        return super().answer(path)


def test_a_subclass_adds_an_endpoint_and_keeps_the_others(board: Board) -> None:
    with serving(Answering(board.alive, 0, 30), board) as port:
        assert get(port, "/gpu") == (200, "cool\n")
        assert get(port, "/livez")[0] == 200
        assert "/gpu" in get(port, "/nope")[1]


def test_an_error_in_a_subclass_is_its_clients_500_and_nothing_else(board: Board) -> None:
    with serving(Answering(board.alive, 0, 30), board) as port:
        assert get(port, "/bug") == (500, "internal error\n")
        assert get(port, "/livez")[0] == 200


def test_a_server_that_only_knows_the_callback_still_tells_who_is_alive() -> None:
    with serving(HealthCheckServer(lambda: int(time.time()), 0, 30)) as port:
        assert get(port, "/livez")[0] == 200
        assert get(port, "/readyz")[0] == 503
        assert get(port, "/status")[0] == 404


INIT = "def __init__(self, alive_callback, port, timeout): self.given = (alive_callback(), port, timeout)"
START, STOP = "def start(self): self.started = True", "def stop(self): pass"
REFUSE = "def start(self): raise RuntimeError('no licence')"


def mine(*methods: str) -> str:
    return "\n    ".join(["class Mine:", *methods])


USERS = {
    "good": mine(INIT, START, STOP),
    "broken": "raise ValueError('not today')",
    "refuses": mine(INIT, REFUSE, STOP),
    "narrow": mine("def __init__(self, port): pass", START, STOP),
    "empty": mine("pass"),
    "exits": "import sys; sys.exit(3)",
}


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], HealthSpec]:
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str) -> HealthSpec:
        (tmp_path / f"user_{name}.py").write_text(USERS[name])
        return replace(SPEC, port=9, server=f"user_{name}:Mine")

    return write


def test_a_users_class_gets_torchelastics_arguments(board: Board, user: Callable[[str], HealthSpec]) -> None:
    server = start_server(user("good"), board)
    assert server.started
    assert server.given == (board.alive(), 9, 30)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("broken", "'user_broken:Mine' cannot be imported: ValueError: not today"),
        ("exits", "'user_exits:Mine' cannot be imported: SystemExit: 3"),
        ("refuses", "'user_refuses:Mine' cannot be started: RuntimeError: no licence"),
        ("narrow", "'user_narrow:Mine' cannot be started: TypeError: "),
        ("empty", "'user_empty:Mine' is no class with start() and stop()"),
    ],
)
def test_a_users_class_that_does_not_start_is_one_clear_error(
    board: Board, user: Callable[[str], HealthSpec], name: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        start_server(user(name), board)
    (problem,) = caught.value.problems
    assert problem.path == "health.server"
    assert problem.fact.startswith(says)


def test_a_users_class_that_cannot_stop_keeps_nobody_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    class Raises:
        def stop(self) -> None:
            raise RuntimeError("no")

    class Hangs:
        def stop(self) -> None:
            threading.Event().wait()

    monkeypatch.setattr("orchestrator.edge.health.STOP_WITHIN_S", 0.2)
    assert stop_server(Raises()) == "health.server: stop() failed: RuntimeError: no"
    assert stop_server(Hangs()) == "health.server: stop() has not returned within 0.2 s"


def test_an_ipv6_address_is_listened_on(board: Board) -> None:
    try:
        server = start_server(replace(SPEC, host="::1"), board)
    except ConfigError as error:
        pytest.skip(f"no IPv6 here: {error}")
    try:
        assert server.url.startswith("http://[::1]:")
        with urllib.request.urlopen(f"{server.url}/livez", timeout=10) as response:
            assert response.status == 200
    finally:
        server.stop()


def test_a_port_that_is_taken_is_an_error_with_its_remedy(board: Board) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError) as caught:
        start_server(replace(SPEC, port=taken.getsockname()[1]), board)
    (problem,) = caught.value.problems
    assert problem.path == "health.port"
    assert "Address already in use" in problem.fact
    assert problem.remedy == "choose another, or 0 for a free one"


def test_a_host_that_is_not_known_is_an_error(board: Board) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1"):
        start_server(replace(SPEC, host="192.0.2.1"), board)


# -- on a path


def ask_path(path: Path, target: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(f"GET {target} HTTP/1.1\r\n\r\n".encode())
        read = b""
        while more := client.recv(65536):
            read += more
        return read


def test_on_a_path_only_its_owner_is_answered_and_the_path_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "health"
    server = start_server(replace(SPEC, host=f"unix:{path}"), Board(AT))
    try:
        assert server.url == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        assert ask_path(path, "/livez").endswith(b"\r\n\r\nalive\n")
    finally:
        assert stop_server(server) == ""
    assert not path.exists()


def test_a_path_that_a_dead_process_has_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "health"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    server = start_server(replace(SPEC, host=f"unix:{path}"), Board(AT))
    assert ask_path(path, "/livez").endswith(b"alive\n")
    stop_server(server)


def test_a_path_that_somebody_serves_or_that_is_a_file_is_left_alone(tmp_path: Path) -> None:
    path, file = tmp_path / "health", tmp_path / "file"
    file.write_text("mine")
    spec = replace(SPEC, host=f"unix:{path}")
    server = start_server(spec, Board(AT))
    with pytest.raises(ConfigError, match=r"health\.host: cannot listen on unix:.*Address already in use"):
        start_server(spec, Board(AT))
    assert ask_path(path, "/livez").endswith(b"alive\n")
    stop_server(server)
    for where, why in ((file, "no socket"), (tmp_path / "no" / "where", "No such file")):
        with pytest.raises(ConfigError, match=why):
            start_server(replace(SPEC, host=f"unix:{where}"), Board(AT))
    assert file.read_text() == "mine"
