"""The store's process and torch's own clients: they get from it what they get from torch's own server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edge.stores import Store, store

torch = pytest.importorskip("torch")
TCPStore = pytest.importorskip("torch.distributed").TCPStore

Client = Any  # torch is not typed here
Step = tuple[str, tuple[Any, ...]]
SOON = timedelta(seconds=20)


@pytest.fixture(scope="module")
def host() -> Iterator[Store]:
    with store() as running:
        yield running


@pytest.fixture(scope="module")
def judge() -> Client:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def connect(port: int, world: int | None = None) -> Client:
    return TCPStore(
        "127.0.0.1", port, world_size=world, is_master=False, timeout=SOON, wait_for_workers=world is not None
    )


@pytest.fixture(scope="module")  # torch's client looks its peer's name up, which can take seconds
def one(host: Store) -> Client:
    return connect(host.port)


@pytest.fixture(scope="module")
def other(host: Store) -> Client:
    return connect(host.port)


KEYS = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(-99, 99)
VALUES = NUMBERS.map(str)
STEPS = st.one_of(
    st.tuples(st.just("set"), st.tuples(KEYS, VALUES)),
    st.tuples(st.just("add"), st.tuples(KEYS, NUMBERS)),
    st.tuples(st.just("append"), st.tuples(st.just("e"), VALUES)),
    st.tuples(st.just("compare_set"), st.tuples(KEYS, VALUES | st.just(""), VALUES)),
    st.tuples(st.just("check"), st.tuples(st.lists(KEYS | st.just("e"), min_size=1, max_size=4))),
    st.tuples(st.just("delete_key"), st.tuples(KEYS)),
    st.tuples(st.just("multi_get"), st.tuples(st.lists(KEYS, min_size=1, max_size=4))),
    st.tuples(st.just("multi_set"), st.tuples(st.just(["b", "c"]), st.lists(VALUES, min_size=2, max_size=2))),
    st.tuples(st.just("queue_push"), st.tuples(KEYS, VALUES)),
    st.tuples(st.just("queue_pop"), st.tuples(KEYS, st.just(False))),
    st.tuples(st.just("queue_len"), st.tuples(KEYS)),
    st.tuples(st.just("barrier"), st.tuples(st.just("d"), st.just(1))),
    st.tuples(st.just("list_keys"), st.just(())),
    st.tuples(st.just("num_keys"), st.just(())),
)


def outcome(client: Client, step: Step) -> object:
    name, arguments = step
    if name == "multi_get" and not client.check(*arguments):
        return "it would wait"
    try:
        found = getattr(client, name)(*arguments)
    except torch.distributed.QueueEmptyError:
        return "the queue is empty"
    return sorted(found) if name == "list_keys" else found


def forget(client: Client) -> None:
    for key in client.list_keys():
        client.delete_key(key)
    for key in "abc":
        while client.queue_len(key):
            client.queue_pop(key, False)


@given(st.lists(STEPS, max_size=30))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_done_has_the_outcome_that_it_has_with_torchs_server(
    one: Client, judge: Client, steps: list[Step]
) -> None:
    for client in (one, judge):
        forget(client)
    for step in steps:
        assert outcome(one, step) == outcome(judge, step)


def test_clients_of_one_world_find_each_other(host: Store) -> None:
    met: list[Client] = []
    crowd = [threading.Thread(target=lambda: met.append(connect(host.port, 4))) for _ in range(4)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join(20)
    assert len(met) == 4


def test_a_wait_ends_when_its_keys_come_and_when_its_time_is_up(one: Client, other: Client) -> None:
    waiting, setting = one, other
    with pytest.raises(torch.distributed.DistStoreError, match="wait timeout"):
        waiting.wait(["w1"], timedelta(milliseconds=50))
    with pytest.raises(torch.distributed.DistStoreError, match="barrier timeout"):
        waiting.barrier("w2", 2, timedelta(milliseconds=50))
    thread = threading.Thread(target=lambda: setting.multi_set(["w1", "w3"], ["1", "2"]))
    thread.start()
    waiting.wait(["w1", "w3"], SOON)
    thread.join()
    assert waiting.multi_get(["w1", "w3"]) == [b"1", b"2"]


def test_a_queue_is_waited_for(one: Client, other: Client) -> None:
    popping, pushing = one, other
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(popping.queue_pop("jobs")))
    thread.start()
    pushing.queue_push("jobs", "one")
    thread.join(20)
    assert found == [b"one"]


@pytest.mark.parametrize("size", [0, 1, 65536, 300_000, 8 * 1024 * 1024])
def test_values_of_all_sizes_come_back(one: Client, size: int) -> None:
    one.set("large", "v" * size)
    assert one.get("large") == b"v" * size
    assert one.multi_get(["large", "large"]) == [b"v" * size] * 2


def too_long(client: Client) -> None:
    client.set("k" * 8192, "v")  # the client puts a slash before it
    client.num_keys()


def too_large(client: Client) -> None:
    client.set("k", "v" * (8 * 1024 * 1024 + 1))
    client.num_keys()


def no_number(client: Client) -> None:
    client.set("text", "abc")
    client.add("text", 1)


@pytest.mark.parametrize("deed", [too_long, too_large, no_number])
def test_what_torchs_server_refuses_is_refused(host: Store, judge: Client, deed: Callable[[Client], None]) -> None:
    for port in (judge.port, host.port):
        with pytest.raises(torch.distributed.DistNetworkError):
            deed(connect(port))
