"""What workers share, on a real server: waits that wake, counts that count once, and a fence around every round."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from orchestrator.core.address import Word
from orchestrator.core.rendezvous import Seat, Standing
from orchestrator.edge.redis import worker_store
from orchestrator.edge.redis.link import Link
from orchestrator.edge.redis.resp import Reply
from orchestrator.edge.redis.scripts import group_keys
from orchestrator.edge.redis.worker_store import Store
from orchestrator.errors import RendezvousError, RoundEnded, ValuesLost
from tests.edge.servers import PATIENCE_S, Member, Server, World, own_server, server, world

__all__ = ["own_server", "server"]  # fixtures
LUA = Path(worker_store.__file__).with_name("lua") / "store"
COMMANDS = sorted(path for path in LUA.glob("*.lua") if path.name != "lib.lua")


@contextmanager
def stores(run: World, seat: Seat, size: int) -> Iterator[list[Store]]:
    """The stores of ``size`` workers of one round."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Store(
                    run.server.url,
                    run_id=run.run_id,
                    group="r",
                    round=seat.round,
                    token=seat.token,
                    rank=rank,
                    world_size=size,
                )
            )
            for rank in range(size)
        ]


def in_a_round(server: Server, size: int, check: Callable[[World, list[Store]], None]) -> None:
    """Run ``check`` in a thread of its own, beside the loop of an agent that has settled a round."""

    async def main() -> None:
        async with world(server) as running:
            member = await running.member("a")
            with stores(running, await member.sit(), size) as workers:
                await asyncio.to_thread(check, running, workers)

    asyncio.run(main())


def keys_of(server: Server, run_id: str) -> dict[str, int]:
    """All keys of a run's store, and how many ms each has to live."""

    def ask(*words: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(server.path)
            link.sendall(b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)]))
            return link.recv(65536)

    names = re.findall(r"orchestrator:\S+", ask("KEYS", f"*{run_id}*:store:*").decode())
    return {name: int(ask("PTTL", name)[1:-2]) for name in names}


def test_a_value_is_what_was_set_last(server: Server) -> None:
    def check(run: World, workers: list[Store]) -> None:
        a, b = workers
        a.set("k", "text ä")
        assert b.get("k") == "text ä".encode()
        b.set("k", b"\r\n\x00\xff")
        assert a.get("k", timeout_s=0) == b"\r\n\x00\xff"
        a.wait(["k"], timeout_s=0)
        a.wait([])

    in_a_round(server, 2, check)


def test_a_wait_that_is_in_vain_ends_in_time_and_names_what_it_waited_for(server: Server) -> None:
    def check(run: World, workers: list[Store]) -> None:
        workers[0].set("there", "")
        with pytest.raises(TimeoutError, match=r"0.05 s in vain for 'nothing' in round 1 of group r"):
            workers[0].get("nothing", timeout_s=0.05)
        with pytest.raises(TimeoutError, match="'there', 'nothing'"):
            workers[0].wait(["there", "nothing"], timeout_s=0.05)
        with pytest.raises(TimeoutError, match="all 2 workers at barrier 'b'"):
            workers[0].barrier("b", timeout_s=0.05)

    in_a_round(server, 2, check)


def test_all_of_64_waiters_wake_also_those_that_come_late(server: Server) -> None:
    def check(run: World, workers: list[Store]) -> None:
        with ThreadPoolExecutor(64) as pool:
            early = [pool.submit(worker.get, "go", PATIENCE_S) for worker in workers[:48]]
            waits = [pool.submit(worker.wait, ["go", "also"], PATIENCE_S) for worker in workers[48:60]]
            workers[60].set("go", "1")
            late = [pool.submit(worker.get, "go", PATIENCE_S) for worker in workers[60:]]
            workers[0].add("also", 1)
            assert {future.result() for future in (*early, *late)} == {b"1"}
            assert {future.result() for future in waits} == {None}

    in_a_round(server, 64, check)


def test_a_barrier_holds_until_all_are_there_and_can_be_used_again(server: Server) -> None:
    def check(run: World, workers: list[Store]) -> None:
        came: list[int] = []
        lock = threading.Lock()

        def walk(worker: Store) -> bool:
            whole = True
            for n in range(1, 6):
                with lock:
                    came.append(n)
                worker.barrier("step", PATIENCE_S)
                with lock:
                    whole = whole and came.count(n) == len(workers)
            return whole

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(walk, workers))

    in_a_round(server, 8, check)


def test_arriving_again_after_a_timeout_is_arriving_once(server: Server) -> None:
    def check(run: World, workers: list[Store]) -> None:
        a, b = workers
        for _ in range(3):
            with pytest.raises(TimeoutError):
                a.barrier("b", timeout_s=0.01)
        with ThreadPoolExecutor(1) as pool:
            arrived = pool.submit(a.barrier, "b", PATIENCE_S)
            b.barrier("b", PATIENCE_S)
            arrived.result()

    in_a_round(server, 2, check)


def test_counts_add_up_and_only_numbers_count(server: Server) -> None:
    def check(run: World, workers: list[Store]) -> None:
        with ThreadPoolExecutor(8) as pool:
            sums = list(pool.map(lambda worker: [worker.add("n", 3) for _ in range(10)], workers))
        assert sorted(n for some in sums for n in some) == list(range(3, 241, 3))
        assert workers[0].add("n", -240) == 0
        assert workers[0].add("big", 2**62) == 2**62
        assert workers[1].get("big") == str(2**62).encode()
        workers[0].set("word", "x")
        with pytest.raises(ValueError, match="'word' does not hold a number"):
            workers[0].add("word", 1)
        with pytest.raises(ValueError, match="not fit 64 bits"):
            workers[0].add("big", 2**62)

    in_a_round(server, 8, check)


def test_a_count_whose_reply_was_lost_counts_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(run: World, workers: list[Store]) -> None:
        store = workers[0]
        ask = Link.ask
        lost: list[object] = []

        def lose(link: Link, *words: Word, within_s: float) -> Reply:
            reply = ask(link, *words, within_s=within_s)
            if not lost:
                lost.append(reply)
                raise EOFError("the server hung up")
            return reply

        assert store.add("n", 1) == 1
        monkeypatch.setattr(Link, "ask", lose)
        assert store.add("n", 1) == 2
        assert lost == [[b"sum", b"2"]]

    in_a_round(server, 1, check)


def test_every_key_carries_its_round_and_token_and_has_an_end(server: Server) -> None:
    def check(run: World, workers: list[Store]) -> None:
        a, b = workers
        a.set("k", "v")
        a.add("n", 1)
        b.wait(["k", "n"])
        with pytest.raises(TimeoutError):
            a.barrier("b", timeout_s=0)
        with ThreadPoolExecutor(1) as pool:
            arrived = pool.submit(a.barrier, "b", PATIENCE_S)
            b.barrier("b", PATIENCE_S)
            arrived.result()
        with pytest.raises(TimeoutError):
            a.barrier("b", timeout_s=0)
        found = keys_of(run.server, run.run_id)
        prefix = f"orchestrator:{{{run.run_id}}}:r:store:{a._fence[0]}:{a._fence[1]}:"
        kinds = {name.removeprefix(prefix).partition(":")[0] for name in found}
        assert kinds == {"values", "requests", "wake", "opened", "arrived"}
        assert all(name.startswith(prefix) for name in found)
        assert all(0 < ms <= 86_400_000 for ms in found.values())

    in_a_round(server, 2, check)


async def both_rounds(run: World) -> tuple[Member, Seat, Seat]:
    member = await run.member("a")
    first = await member.sit()
    return member, first, await member.sit()


def test_a_stale_worker_neither_sees_nor_changes_the_next_round(server: Server) -> None:
    async def main() -> None:
        async with world(server) as run:
            _, first, second = await both_rounds(run)
            assert second.round == first.round + 1
            with stores(run, first, 1) as (old,), stores(run, second, 1) as (new,):
                await asyncio.to_thread(new.set, "k", "new")
                for attempt in (
                    lambda: old.get("k"),
                    lambda: old.set("k", "old"),
                    lambda: old.add("k", 1),
                    lambda: old.wait(["k"]),
                    lambda: old.barrier("b"),
                ):
                    with pytest.raises(RoundEnded, match=r"round 1 of group r in run run-\w+ is over: .* round is 2"):
                        await asyncio.to_thread(attempt)
                assert await asyncio.to_thread(new.get, "k") == b"new"
            assert not [name for name in keys_of(server, run.run_id) if f":store:{first.round}:" in name]

    asyncio.run(main())


def test_who_waits_hears_at_once_that_the_round_has_ended(server: Server) -> None:
    async def main() -> None:
        async with world(server) as run:
            member = await run.member("a")
            with stores(run, await member.sit(), 2) as (a, b):
                waits = [
                    asyncio.create_task(asyncio.to_thread(a.get, "never", 600)),
                    asyncio.create_task(asyncio.to_thread(b.barrier, "b", 600)),
                ]
                await member.sit()
                async with asyncio.timeout(PATIENCE_S):
                    ends = await asyncio.gather(*waits, return_exceptions=True)
                assert [type(end) for end in ends] == [RoundEnded, RoundEnded]

    asyncio.run(main())


def test_a_forked_child_shares_no_connection(server: Server) -> None:
    def check(run: World, workers: list[Store]) -> None:
        store = workers[0]
        store.set("k", "v")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = 0 if store.get("k") == b"v" and store.add("n", 1) == 1 else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert store.add("n", 1) == 2

    in_a_round(server, 1, check)


def test_values_that_a_server_has_lost_are_told_to_be_and_barriers_go_on(own_server: Server) -> None:
    async def main() -> None:
        async with world(own_server) as run:
            member = await run.member("a")
            with stores(run, await member.sit(), 2) as (one, other), ThreadPoolExecutor(4) as pool:
                await asyncio.to_thread(one.set, "k", "v")
                early = pool.submit(one.barrier, "b", PATIENCE_S)
                own_server.kill()
                waits = pool.submit(other.get, "k", PATIENCE_S)
                own_server.start()
                assert isinstance(await member.store.renew(member.claim), Standing)
                with pytest.raises(ValuesLost, match="has lost its memory"):
                    await asyncio.wrap_future(waits)
                for use in (lambda: one.set("k", "v"), lambda: one.add("n"), lambda: one.wait(["k"])):
                    with pytest.raises(ValuesLost):
                        await asyncio.to_thread(use)
                await asyncio.to_thread(other.barrier, "b", PATIENCE_S)
                await asyncio.wrap_future(early)
            with stores(run, await member.sit(), 1) as (fresh,):
                await asyncio.to_thread(fresh.set, "k", "v")  # the next round begins with nothing, as any does

    asyncio.run(main())


def test_a_server_that_is_away_is_a_timeout_and_a_wrong_password_an_error(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store(url: str) -> Store:
        return Store(url, run_id="r", group="g", round=1, token=1, rank=0, world_size=1)

    worker = store("unix:///no/such/socket")
    monkeypatch.setattr(worker_store, "PATIENCE_S", 0.1)
    with pytest.raises(TimeoutError, match=r"no answer from unix:///no/such/socket within 0\.1 s"):
        worker.set("k", "v")
    with pytest.raises(RendezvousError, match="refuses") as caught:
        store(f"unix://u:hunter2@{server.path}").set("k", "v")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "k" * 1025])
def test_a_key_that_is_empty_or_endless_is_refused(key: str) -> None:
    store = Store("unix:///s", run_id="r", group="g", round=1, token=1, rank=0, world_size=1)
    with pytest.raises(ValueError, match="a key has 1 to 1024 bytes"):
        store.set(key, "")


def test_outside_the_orchestrator_there_is_no_store() -> None:
    with pytest.raises(RuntimeError, match=r"ORCHESTRATOR_TOKEN not set; start this script with `orchestrate"):
        Store.from_environment({"ORCHESTRATOR_STORE": "unix:///s", "ORCHESTRATOR_RUN_ID": "r"})


def test_its_keys_are_the_groups() -> None:
    store = Store("unix:///s", run_id="r", group="g", round=1, token=1, rank=0, world_size=1)
    assert {store._keys[0], store._events} <= set(group_keys("r", "g"))


@pytest.mark.parametrize("path", [LUA / "lib.lua", *COMMANDS], ids=lambda path: path.stem)
def test_a_command_documents_exactly_the_keys_and_arguments_that_it_uses(path: Path) -> None:
    lines = path.read_text().splitlines()
    head = "\n".join(lines[: next(n for n, line in enumerate(lines) if not line.startswith("--"))])
    code = "\n".join(line.split("--")[0] for line in lines)
    assert head.startswith(f"-- {path.stem}: ")
    for word in ("KEYS", "ARGV"):
        used = re.findall(rf"{word}\[(\d+)\]", code)
        assert set(re.findall(rf"{word}\[(\d+)\]", head)) == set(used)
        assert not re.search(rf"\b{word}\b(?!\[\d)", code)
    if path.name != "lib.lua":
        assert "-- returns " in head
        assert "-- KEYS[1-3]  see lib.lua" in head
        assert re.match(r"return finish\((ended|gone)\(\) or ", lines[-1])
    assert max(map(len, lines)) <= 132
