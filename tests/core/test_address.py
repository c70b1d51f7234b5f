"""URLs of servers: taken apart in every form, and shown without secrets."""

from __future__ import annotations

import pytest

from orchestrator.core.address import Address, Kind, Place, mask_url

SEEDS = (Place("a", 1), Place("b", 26379))


@pytest.mark.parametrize(
    ("url", "seeds", "facts"),
    [
        ("redis://h", (Place("h", 6379),), {}),
        ("redis://u:p%40w@h:1/2", (Place("h", 1),), {"username": "u", "password": "p@w", "db": 2}),
        ("redis://:pw@[::1]:1?db=3", (Place("::1", 1),), {"password": "pw", "db": 3}),
        ("redis://h/0?socket_timeout=0.5", (Place("h", 6379),), {"timeout_s": 0.5}),
        ("redis://h?username=u&password=p%26w", (Place("h", 6379),), {"username": "u", "password": "p&w"}),
        ("redis://h?protocol=3&health_check_interval=10", (Place("h", 6379),), {}),
        ("rediss://h?ssl_cert_reqs=none", (Place("h", 6379),), {"tls": {"ssl_cert_reqs": "none"}}),
        ("unix://:pw@/a%20b?db=1", (Place(path="/a b"),), {"password": "pw", "db": 1}),
        ("unix:///tmp/a@b", (Place(path="/tmp/a@b"),), {}),
        ("redis+sentinel://a:1,b/main", SEEDS, {"kind": Kind.SENTINEL, "service": "main"}),
        (
            "rediss+sentinel://u:p%2F%3F%23%40%3Aw@a:1,b/my%20main/4?sentinel_username=s&sentinel_password=x%26y",
            SEEDS,
            {
                "kind": Kind.SENTINEL,
                "service": "my main",
                "db": 4,
                "username": "u",
                "password": "p/?#@:w",
                "sentinel_username": "s",
                "sentinel_password": "x&y",
                "tls": {},
            },
        ),
        (
            "redis+cluster://:geheim@[::1]:7000,[::2],h:7002",
            (Place("::1", 7000), Place("::2", 6379), Place("h", 7002)),
            {"kind": Kind.CLUSTER, "password": "geheim"},
        ),
        ("rediss+cluster://h:7000/0", (Place("h", 7000),), {"kind": Kind.CLUSTER, "tls": {}}),
    ],
)
def test_a_url_is_taken_apart(url: str, seeds: tuple[Place, ...], facts: dict[str, object]) -> None:
    address = Address.from_url(url)
    assert address.seeds == seeds
    defaults = {"kind": Kind.DIRECT, "service": "", "username": "", "password": "", "db": 0, "tls": None}
    defaults |= {"sentinel_username": "", "sentinel_password": "", "timeout_s": 5.0}
    assert {name: getattr(address, name) for name in defaults} == defaults | facts
    assert not any(secret and secret in repr(address) for secret in (address.password, address.sentinel_password))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://h", "it begins with 'http'"),
        ("h:6379", "it has no ://"),
        ("redis+http://h", "it begins with 'redis\\+http'"),
        ("unix+cluster:///s", "it begins with 'unix"),
        ("unix://", "names no socket"),
        ("redis://", "no HOST:PORT"),
        ("redis://h:0", "no HOST:PORT"),
        ("redis://h:70000", "no HOST:PORT"),
        ("redis://:a/b@c/@:1", "no HOST:PORT"),
        ("redis://a,b", "several hosts need"),
        ("redis://h/1/2", "its database is a number, not '1/2'"),
        ("redis://h/x", "its database is a number, not 'x'"),
        ("redis://h?ssl_keyfile=x", "'ssl_keyfile' \\(of rediss://\\) is not known"),
        ("redis://h?colour=blue", "'colour' is not known; known: db,"),
        ("redis://h?sentinel_password=x", "belong to redis\\+sentinel://"),
        ("redis://h?socket_timeout=soon", "socket_timeout is in seconds, more than 0, not 'soon'"),
        ("redis://h?socket_timeout=0", "more than 0"),
        ("redis+sentinel://a", "names no SERVICE"),
        ("redis+sentinel://a,/main", "no HOST:PORT"),
        ("redis+cluster://a/1", "no databases but 0"),
        ("redis+cluster://", "no HOST:PORT"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Address.from_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pw@h:6379/2", "redis://user:***@h:6379/2"),
        ("redis://:pw@h", "redis://:***@h"),
        ("redis://:p/w?@h", "redis://:***@h"),
        ("unix://:pw@/tmp/s?db=1", "unix://:***@/tmp/s?db=1"),
        ("unix:///tmp/s", "unix:///tmp/s"),
        ("rediss://h?password=pw&ssl_ca_certs=/ca", "rediss://h?password=***&ssl_ca_certs=/ca"),
        ("rediss://h?ssl_password=pw", "rediss://h?ssl_password=***"),
        (
            "rediss+sentinel://u:p%40w@a:1,b:2/main/1?sentinel_username=s&sentinel_password=pw",
            "rediss+sentinel://u:***@a:1,b:2/main/1?sentinel_username=s&sentinel_password=***",
        ),
        ("redis+cluster://:pw@[::1]:7000,h", "redis+cluster://:***@[::1]:7000,h"),
    ],
)
def test_a_password_is_masked_wherever_it_stands(url: str, shown: str) -> None:
    assert mask_url(url) == shown


def test_a_greeting_is_what_a_fresh_connection_needs() -> None:
    address = Address.from_url("redis+sentinel://u:p@a/main/3?sentinel_password=s")
    assert address.greeting() == (("AUTH", "u", "p"), ("SELECT", 3))
    assert address.sentinel_greeting() == (("AUTH", "s"),)


def test_places_read_as_people_write_them() -> None:
    assert [str(place) for place in (Place("h", 1), Place("::1", 2), Place(path="/s"))] == ["h:1", "[::1]:2", "/s"]
