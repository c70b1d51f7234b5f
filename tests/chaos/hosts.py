"""Hosts of a small network, made of network namespaces: each is an agent's or a server's, and can be cut off.

All namespaces hang on one bridge in a namespace of its own, so nothing is changed outside of them. A cable that is cut
loses packets without a word: neighbours are fixed and links stay up, so that no host hears of anything. Invariant: the
namespaces of a test are gone with it, and those of a killed test process with the next one.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from orchestrator.edge.embedded import find_server
from tests.edge.servers import REDIS, Server, until

PREFIX = "orchtest"
NOBODY = "02:00:00:00:ff:ff"  # whoever is said to be here does not get what is sent
PORT = 6379


def ip(*words: str) -> str:
    """One `ip` command; an AssertionError says what it said."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


@functools.cache
def why_not() -> str:
    """Why there can be no hosts here; empty if there can."""
    missing = [tool for tool in ("ip", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"no {' and no '.join(missing)}: install iproute2 and util-linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with Hosts("t"):
            return ""
    except AssertionError as error:
        return f"network namespaces are not to be had: {error}"


def needs_hosts() -> pytest.MarkDecorator:
    """The mark of tests that need a network of their own."""
    return pytest.mark.skipif(bool(why_not()), reason=why_not() or "there are hosts")


class Host:
    """One namespace with one link, ``eth0``, to all the others."""

    def __init__(self, hosts: Hosts, name: str, number: int) -> None:
        self.name = name
        self.netns = hosts.named(name)
        self.addr = f"10.99.0.{number}"
        self.mac = f"02:00:00:00:00:{number:02x}"
        self._hosts = hosts
        self._bridge, self._port = hosts.switch, f"to-{name}"
        ip("netns", "add", self.netns)
        ip("-n", self.netns, "link", "set", "lo", "up")
        ends = ("eth0", "netns", self.netns, "address", self.mac, "type", "veth", "peer", "name", self._port)
        ip("link", "add", *ends, "netns", self._bridge)
        ip("-n", self._bridge, "link", "set", self._port, "master", "br0", "up")
        ip("-n", self.netns, "addr", "add", f"{self.addr}/24", "dev", "eth0")
        ip("-n", self.netns, "link", "set", "eth0", "up")

    @property
    def wrap(self) -> tuple[str, ...]:
        """What to put before a command so that it runs here; the process keeps its pid."""
        return ("nsenter", f"--net=/run/netns/{self.netns}", "--")

    def believe(self, other: Host, mac: str) -> None:
        """From now on this host sends what is meant for ``other`` to that link address."""
        ip("-n", self.netns, "neigh", "replace", other.addr, "lladdr", mac, "dev", "eth0", "nud", "permanent")

    def cut(self) -> None:
        """Lose every packet, in both directions."""
        ip("-n", self._bridge, "link", "set", self._port, "nomaster")

    def mute(self) -> None:
        """Lose what this host sends; it still hears the others."""
        for other in self._hosts.others(self):
            self.believe(other, NOBODY)

    def deafen(self) -> None:
        """Lose what is sent to this host; the others still hear it."""
        for other in self._hosts.others(self):
            other.believe(self, NOBODY)

    def heal(self) -> None:
        """End whatever of these was done."""
        ip("-n", self._bridge, "link", "set", self._port, "master", "br0")
        for other in self._hosts.others(self):
            self.believe(other, other.mac)
            other.believe(self, self.mac)


class Hosts:
    """The network of one test, with a host for every name."""

    made = 0

    def __init__(self, *names: str) -> None:
        Hosts.made += 1
        self._mark = f"{PREFIX}-{os.getpid()}-{Hosts.made}"
        self._names = names
        self._hosts: dict[str, Host] = {}
        self.switch = self.named("switch")

    def named(self, name: str) -> str:
        """The namespace of a host."""
        return f"{self._mark}-{name}"

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def others(self, host: Host) -> list[Host]:
        """All but one."""
        return [other for other in self._hosts.values() if other is not host]

    def heal(self) -> None:
        """Repair the whole network."""
        for host in self._hosts.values():
            host.heal()

    def __enter__(self) -> Self:
        _sweep()
        try:
            ip("netns", "add", self.switch)
            ip("-n", self.switch, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
            ip("-n", self.switch, "link", "set", "br0", "up")
            for number, name in enumerate(self._names, start=1):
                self._hosts[name] = Host(self, name, number)
            for host in self._hosts.values():
                host.heal()
        except BaseException:
            self._delete()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._delete()

    def _delete(self) -> None:
        for netns in _existing(self._mark):
            ip("netns", "del", netns)


def _existing(mark: str) -> list[str]:
    directory = Path("/run/netns")
    return (
        [entry.name for entry in directory.iterdir() if entry.name.startswith(f"{mark}-")] if directory.is_dir() else []
    )


def _sweep() -> None:
    """Remove what test processes have left that were killed."""
    for netns in _existing(PREFIX):
        if not Path(f"/proc/{netns.split('-')[1]}").exists():
            ip("netns", "del", netns)


class HostedServer(Server):
    """A server on a host of its own. It keeps its data over a SIGKILL, unless told to forget; tests reach it by unix
    socket, which no cut cable harms."""

    def __init__(self, host: Host, *options: str) -> None:
        listen = ("--port", str(PORT), "--bind", host.addr, "--protected-mode", "no")
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"  # a slow disk is not what is tested
        self._data = tempfile.mkdtemp(prefix="orch-test-", dir=memory)
        keep = ("--dir", self._data, "--appendonly", "yes", "--appendfsync", "no")
        super().__init__(REDIS or find_server(), *listen, *keep, *options)
        self._argv = [*host.wrap, *self._argv]
        self.url = f"redis://{host.addr}:{PORT}/0"

    def forget(self) -> None:
        """Lose all data; it must not run."""
        shutil.rmtree(Path(self._data, "appendonlydir"))

    def stop(self) -> None:
        """End it, and with it its data."""
        super().stop()
        shutil.rmtree(self._data, ignore_errors=True)

    def start(self) -> None:
        """Start, and be ready: data that is read back is there."""
        super().start()
        until(lambda: b"PONG" in self.say("PING"), "the server has read its data")


def run_on(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    """One command on a host."""
    command: Sequence[str] = (*host.wrap, *words)
    return subprocess.run(command, capture_output=True, text=True, check=False)
