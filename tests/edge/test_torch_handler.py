"""The rendezvous as torch's elastic agent calls it: blocking, from threads that know nothing of an event loop."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta

import pytest

from tests.e2e.harness import external_server, until
from tests.edge.servers import PATIENCE_S, Server

pytest.importorskip("torch", reason="needs the extra [torch]")

from torch.distributed import DistStoreError, Store, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousParameters,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.utils.store import barrier, store_timeout, synchronize

from orchestrator.edge.network import ReservedPort
from orchestrator.edge.torch_handler import Handler, Options, create, factory

pytestmark = pytest.mark.torch
Maker = Callable[..., Handler]


@pytest.fixture(scope="module", autouse=True)
def first_store() -> None:
    """torch keeps a pipe from its first store to the end of the process."""
    TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=PATIENCE_S), wait_for_workers=False)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with external_server() as running:
        yield running


@pytest.fixture
def handler(server: Server) -> Iterator[Maker]:
    """Make agents' handlers of one run; those that still are members leave at the end."""
    run_id, made = secrets.token_hex(4), []

    def make(nodes: tuple[int, int] = (2, 2), **conf: str | int) -> Handler:
        endpoint = server.url.removeprefix("redis://").partition("/")[0]
        merged: dict[str, str | int] = {"timeout": 900, "last_call_timeout": "0.05", **conf}
        made.append(create(RendezvousParameters("orchestrator", endpoint, run_id, *nodes, None, **merged)))
        return made[-1]

    yield make
    for one in made:
        one._membership.leave("the test is over")
        one._part()


def meet(*handlers: Handler) -> list[tuple[int, int]]:
    """All of them take part in the next round; their ranks and its size."""
    with ThreadPoolExecutor(len(handlers)) as pool:
        infos = list(pool.map(lambda one: one.next_rendezvous(), handlers))
    token = secrets.token_hex(4)
    infos[0].store.set("who", token)
    assert {info.store.get("who").decode() for info in infos} == {token}, "one store for all"
    assert len({info.bootstrap_store_info.master_port for info in infos}) == 1
    return [(info.rank, info.world_size) for info in infos]


def fail(handler: Handler) -> None:
    """Leave as torch's `launch_agent` does when workers have failed: with the failure in flight."""
    try:
        raise ValueError("workers failed")  # noqa: TRY301 - as it is called
    except ValueError:
        handler.shutdown()


def params(run_id: str = "r", **conf: str | int) -> RendezvousParameters:
    return RendezvousParameters("orchestrator", "h", run_id, 1, 1, None, **conf)


def test_agents_agree_on_ranks_and_on_a_store_that_is_new_in_every_round(handler: Maker) -> None:
    a, b = handler(), handler()
    first = meet(a, b)
    assert sorted(first) == [(0, 2), (1, 2)]
    assert (a.num_nodes_waiting(), b.num_nodes_waiting()) == (0, 0)
    hosted = [one._hosted for one in (a, b) if one._hosted is not None]
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(a.next_rendezvous)  # as after a failure of its workers
        until(lambda: b.num_nodes_waiting() == 1, "the other hears of it")
        rank = b.next_rendezvous().rank
        info = again.result(PATIENCE_S)
    assert [info.rank, rank] == [rank for rank, _ in first], "ranks are kept"
    assert [info.bootstrap_store_info.master_port != store.port for store in hosted] == [True]
    assert not info.store.check(["who"])


def test_a_member_that_leaves_after_a_failure_leaves_the_run_open(handler: Maker) -> None:
    a, b = handler((1, 2)), handler((1, 2))
    meet(a, b)
    fail(b)
    until(lambda: a.num_nodes_waiting() == 1, "the survivor hears of it")
    assert not a.is_closed()
    assert meet(a) == [(0, 1)]


def test_a_newcomer_interrupts_the_round_and_ranks_are_kept(handler: Maker) -> None:
    a, b = handler((1, 2)), handler((1, 2))
    assert meet(a) == [(0, 1)]
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(b.next_rendezvous)
        until(lambda: a.num_nodes_waiting() == 1, "somebody wants to come in")
        info = a.next_rendezvous()
        assert (info.rank, info.world_size) == (0, 2)
        assert waits.result(PATIENCE_S).rank == 1


def test_success_of_all_closes_the_run(handler: Maker) -> None:
    a, b = handler(), handler()
    meet(a, b)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda one: one.shutdown(), (a, b))) == [True, True]
    assert a.is_closed()
    assert b.is_closed()
    with pytest.raises(RendezvousClosedError, match=r"is closed \(succeeded: all workers succeeded\)"):
        handler().next_rendezvous()


def test_success_after_the_round_has_ended_leaves_the_run_to_those_who_go_on(handler: Maker) -> None:
    a, b = handler((1, 2)), handler((1, 2))
    meet(a, b)
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(b.next_rendezvous)  # its workers have failed while ours succeeded
        until(lambda: a.num_nodes_waiting() == 1, "the round is over")
        assert a.shutdown()
        assert (again.result(PATIENCE_S).rank, b.is_closed()) == (0, False)


def test_an_exit_barrier_ends_with_the_round_when_a_peer_has_died(handler: Maker) -> None:
    a, b = handler((1, 2)), handler((1, 2))
    with ThreadPoolExecutor(2) as pool:
        store, _ = [info.store for info in pool.map(lambda one: one.next_rendezvous(), (a, b))]
        waits = pool.submit(barrier, store, 2, "end", 300)
        until(lambda: store.check(["end/num_members"]), "we are at the barrier")
        fail(b)
        with pytest.raises(DistStoreError, match="this worker is stale"):
            waits.result(PATIENCE_S)


def test_a_member_that_died_before_it_had_its_store_costs_another_round(handler: Maker) -> None:
    a, b = handler((1, 2)), handler((1, 2))
    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(a.next_rendezvous)
        b._seat()
        fail(b)
        info = waits.result(PATIENCE_S)
    assert (info.rank, info.world_size) == (0, 1)


def test_agents_tell_each_other_through_the_store_as_torch_expects(handler: Maker) -> None:
    store = handler((1, 1)).next_rendezvous().store
    assert isinstance(store, Store)
    store.multi_set(["x/0", "x/1"], ["a", b"b"])
    assert store.multi_get(["x/0", "x/1"]) == [b"a", b"b"]
    assert (store.add("n", 2), store.add("n", -1), store.check(["n", "no"])) == (2, 1, False)
    with store_timeout(store, 0.05), pytest.raises(DistStoreError, match=r"0\.05 s in vain for 'no'"):
        store.get("no")
    assert store.timeout.total_seconds() == 60
    assert synchronize(store, "data", 0, 1, "s") == [b"data"]


def test_torchrun_may_close_the_run(handler: Maker) -> None:
    a, b = handler(), handler()
    meet(a, b)
    a.set_closed()
    until(b.is_closed, "the other hears of it")
    with pytest.raises(RendezvousClosedError, match="closed by torchrun"):
        b.next_rendezvous()


def test_too_few_agents_are_a_timeout_that_says_which(handler: Maker) -> None:
    with pytest.raises(RendezvousTimeoutError, match=r"no round of at least 2 nodes came together within 0\.2 s"):
        handler(join_timeout="0.2").next_rendezvous()


def test_a_handler_that_never_joined_may_be_shut_down(handler: Maker) -> None:
    fail(handler())
    one = handler()
    assert one.shutdown()
    assert (one.get_backend(), one.use_agent_store, one.is_closed(), one.num_nodes_waiting()) == (
        "orchestrator",
        True,
        False,
        0,
    )


def test_options_have_defaults_and_torchruns_own_addition_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "from the environment")
    assert Options.of(params(timeout=900)) == Options(password="from the environment")
    given = Options.of(params(lease="2", last_call_timeout="0", db="1", tls="yes", password="p", username="u"))
    assert given == Options(lease=2, last_call_timeout=0, db=1, tls=True, password="p", username="u")


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        (
            {"leese": "1", "is_host": "1"},
            "unknown key is_host, leese; known are lease, last_call_timeout, join_timeout",
        ),
        ({"lease": "0"}, "lease=0 is no number of seconds"),
        ({"join_timeout": "soon"}, "join_timeout=soon is no number of seconds"),
        ({"tls": "perhaps"}, "'tls'"),
        ({"db": "x"}, "'db'"),
    ],
)
def test_what_cannot_be_is_refused(conf: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=r"--rdzv-conf|option") as caught:
        factory()(params(**conf))
    assert said in str(caught.value)


@pytest.mark.parametrize("run_id", ["", "none"])
def test_a_run_needs_an_id_of_its_own(run_id: str) -> None:
    with pytest.raises(ValueError, match="--rdzv-id: give this run an id"):
        create(params(run_id))


def test_a_server_that_does_not_answer_is_named_while_the_agent_tries_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with closing(ReservedPort("127.0.0.1")) as nobody:
        one = create(RendezvousParameters("orchestrator", f"127.0.0.1:{nobody.number}", "r", 1, 1, join_timeout="1.6"))
        with pytest.raises(RendezvousTimeoutError, match="no server at"):
            one.next_rendezvous()
    assert any("trying on" in message for message in caplog.messages)
    one._membership.leave("the test is over")
