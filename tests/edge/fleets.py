"""Several real servers that belong together, and what TLS needs: nothing here is a mock."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from orchestrator.core.address import Address
from orchestrator.edge.redis.link import Link
from orchestrator.edge.redis.resp import Reply, ServerError
from orchestrator.edge.redis.route import Route, slot_of
from tests.edge.servers import Server, until
from tests.edge.test_rendezvous_connection import free_port

PASSWORD, SENTINEL_PASSWORD = "m@ster/pw:?#%", "sentry@/pw"  # reserved characters must survive in a URL
SERVICE = "main"


def tell(url: str, *words: str | int) -> Reply:
    """One command over a connection of its own; an error reply is returned."""
    link = Link.to_server(Route(Address.from_url(url)), 5)
    try:
        return link.ask(*words, within_s=10)
    except ServerError as error:
        return error
    finally:
        link.close()


class Node(Server):
    """A server on a port of the loopback."""

    def __init__(self, binary: str, *options: str, password: str = "") -> None:
        self.port = free_port()
        login = ("--requirepass", password, "--masterauth", password) if password else ()
        super().__init__(binary, "--port", str(self.port), "--bind", "127.0.0.1", *login, *options)
        who = f":{quote(password, safe='')}@" if password else ""
        self.url = f"redis://{who}127.0.0.1:{self.port}"

    def tell(self, *words: str | int) -> Reply:
        return tell(self.url, *words)


class Sentinel(Node):
    """One of those who watch over a master."""

    def __init__(self, binary: str, master: Node) -> None:
        super().__init__(binary)
        config = Path(self.directory, "sentinel.conf")
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\nunixsocket {self.path}\n"
            f'requirepass "{SENTINEL_PASSWORD}"\nsentinel sentinel-pass "{SENTINEL_PASSWORD}"\n'
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2\n"
            f'sentinel auth-pass {SERVICE} "{PASSWORD}"\n'
            f"sentinel down-after-milliseconds {SERVICE} 300\nsentinel failover-timeout {SERVICE} 2000\n"
        )
        self._argv = [binary, str(config), "--sentinel"]
        self.url = f"redis://:{quote(SENTINEL_PASSWORD, safe='')}@127.0.0.1:{self.port}"


class Watched:
    """A master and its replica, under three Sentinels."""

    def __init__(self, master: Node, replica: Node, sentinels: list[Sentinel]) -> None:
        self.master, self.replica, self.sentinels = master, replica, sentinels

    def url(self, *more_sentinels: int) -> str:
        """``more_sentinels`` are ports, and come first."""
        ports = (*more_sentinels, *(sentinel.port for sentinel in self.sentinels))
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        password, theirs = (quote(text, safe="") for text in (PASSWORD, SENTINEL_PASSWORD))
        return f"redis+sentinel://:{password}@{hosts}/{SERVICE}?sentinel_password={theirs}"

    def in_step(self) -> None:
        """Wait until the replica has everything."""

        def offsets() -> bool:
            info = bytes(self.master.tell("INFO", "replication")).decode()  # type: ignore[arg-type]  # INFO is text
            fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
            return f"offset={fields['master_repl_offset']}," in fields.get("slave0", "")

        until(offsets, "the replica is in step")

    def fail_over(self) -> None:
        """The master dies without a word, once its replica has everything."""
        self.in_step()
        self.master.kill()


def _fields(reply: Reply) -> dict[bytes, bytes]:
    """The first of the instances that a Sentinel tells of."""
    match reply:
        case [list(flat)] | ([*_] as flat) if all(isinstance(item, bytes) for item in flat):
            return dict(zip(flat[::2], flat[1::2], strict=True))  # type: ignore[arg-type]  # bytes, as just checked
    return {}


@contextmanager
def watched(binary: str) -> Iterator[Watched]:
    """All five, in agreement with each other."""
    with ExitStack() as stack:

        def started(node: Node) -> Node:
            stack.callback(node.stop)
            node.start()
            return node

        master = started(Node(binary, "--repl-diskless-sync-delay", "0", password=PASSWORD))
        options = ("--replicaof", f"127.0.0.1 {master.port}", "--repl-diskless-sync-delay", "0")
        replica = started(Node(binary, *options, password=PASSWORD))
        found = Watched(master, replica, [])
        until(lambda: b"slave0:" in bytes(master.tell("INFO", "replication")), "the replica is there")  # type: ignore[arg-type]
        found.in_step()
        for _ in range(3):
            sentinel = Sentinel(binary, master)
            started(sentinel)
            found.sentinels.append(sentinel)
        for sentinel in found.sentinels:
            until(
                lambda sentinel=sentinel: _agrees(_fields(sentinel.tell("SENTINEL", "MASTER", SERVICE))),  # type: ignore[misc]
                "the Sentinels know each other",
            )
        yield found


def _agrees(fields: dict[bytes, bytes]) -> bool:
    return (fields.get(b"num-slaves"), fields.get(b"num-other-sentinels")) == (b"1", b"2")


class Cluster:
    """Three masters without replicas."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.ids = [bytes(node.tell("CLUSTER", "MYID")).decode() for node in nodes]  # type: ignore[arg-type]  # an id

    def url(self, *more: int) -> str:
        """``more`` are ports that are tried first."""
        ports = (*more, *(node.port for node in self.nodes))
        return f"redis+cluster://{','.join(f'127.0.0.1:{port}' for port in ports)}"

    def owner(self, key: str) -> int:
        """Which of the nodes serves a key."""
        for row in self.nodes[0].tell("CLUSTER", "SLOTS"):  # type: ignore[union-attr]  # a list
            if row[0] <= slot_of(key) <= row[1]:  # type: ignore[index,operator]
                return next(n for n, node in enumerate(self.nodes) if node.port == row[2][1])  # type: ignore[index]
        raise AssertionError("nobody has it")

    def begin_move(self, slot: int, source: int, target: int) -> None:
        self._ok(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        self._ok(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[target])

    def end_move(self, slot: int, source: int, target: int) -> None:
        port = self.nodes[target].port
        while keys := self.nodes[source].tell("CLUSTER", "GETKEYSINSLOT", slot, 100):
            self._ok(source, "MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *(key.decode() for key in keys))  # type: ignore[union-attr]
        for node in (target, source, *({0, 1, 2} - {source, target})):
            self._ok(node, "CLUSTER", "SETSLOT", slot, "NODE", self.ids[target])

    def _ok(self, node: int, *words: str | int) -> None:
        said = self.nodes[node].tell(*words)
        assert said in (b"OK", b"NOKEY"), said


@contextmanager
def clustered(binary: str) -> Iterator[Cluster]:
    """A cluster that serves all slots."""
    with ExitStack() as stack:
        nodes = []
        for _ in range(3):
            bus = free_port()
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "2000")
            node = Node(binary, *options)
            stack.callback(node.stop)
            node.start()
            nodes.append((node, bus))
        for n, (node, _) in enumerate(nodes):
            first, last = n * 16384 // 3, (n + 1) * 16384 // 3 - 1
            assert node.tell("CLUSTER", "ADDSLOTSRANGE", first, last) == b"OK"
            for other, bus in nodes[:n]:
                assert node.tell("CLUSTER", "MEET", "127.0.0.1", other.port, bus) == b"OK"
        for node, _ in nodes:
            until(
                lambda node=node: (  # type: ignore[misc]
                    b"cluster_state:ok" in node.tell("CLUSTER", "INFO") and len(node.tell("CLUSTER", "SLOTS")) == 3
                ),
                "the cluster comes together",
            )
        yield Cluster([node for node, _ in nodes])


class Certificates:
    """An authority, and what it has signed for a server and for a client."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ca = str(directory / "ca.crt")
        self._openssl("req", "-x509", "-days", "2", "-subj", "/CN=test authority", *self._key("ca"), "-out", self.ca)
        self.server = self._signed("server", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self.client = self._signed("client", "extendedKeyUsage=clientAuth")

    def _signed(self, name: str, extension: str) -> tuple[str, str]:
        """Paths of a certificate and of its key."""
        request, signed, extensions = (str(self._directory / f"{name}.{end}") for end in ("csr", "crt", "ext"))
        Path(extensions).write_text(extension)
        self._openssl("req", "-subj", f"/CN={name}", *self._key(name), "-out", request)
        signing = ("-CA", self.ca, "-CAkey", str(self._directory / "ca.key"), "-CAcreateserial", "-days", "2")
        self._openssl("x509", "-req", "-in", request, *signing, "-extfile", extensions, "-out", signed)
        return signed, str(self._directory / f"{name}.key")

    def _key(self, name: str) -> tuple[str, ...]:
        ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        return (*ec, "-nodes", "-keyout", str(self._directory / f"{name}.key"))

    def _openssl(self, command: str, *options: str) -> None:
        subprocess.run(["openssl", command, *options], check=True, capture_output=True)
