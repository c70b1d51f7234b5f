from __future__ import annotations

import pytest

from orchestrator.edge.network import published_addr


@pytest.mark.parametrize(
    ("local", "server", "published"),
    [
        ("10.0.0.1", "10.0.0.9", "10.0.0.1"),
        ("10.0.0.1", "head.cluster", "10.0.0.1"),
        ("127.0.0.1", "head.cluster", "head.cluster"),  # 127.0.1.1 head.cluster head
        ("::1", "head", "head"),
        ("127.0.0.1", "localhost", "127.0.0.1"),
        ("127.0.0.1", "redis.localhost", "127.0.0.1"),
        ("127.0.0.1", "127.0.1.1", "127.0.0.1"),
        ("::1", "::1", "::1"),
        ("fe80::1%eth0", "head", "fe80::1%eth0"),
        ("127.0.0.1", "", "127.0.0.1"),  # a unix socket
    ],
)
def test_the_servers_host_is_known_by_the_name_that_all_know(local: str, server: str, published: str) -> None:
    assert published_addr(local, server) == published
