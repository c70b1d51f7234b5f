"""Who hangs, and who does not: the decision alone, with instants as a test likes them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.beats import Beat, Enter, Leave, Release, Stacks, Step, Timer, Word, parse
from orchestrator.core.policies import WatchdogKind, WatchdogPolicy
from orchestrator.core.watchdog import Hang, Watch
from orchestrator.core.watched import pace_s

HEARTBEAT = WatchdogPolicy(kind=WatchdogKind.HEARTBEAT, timeout_s=10, warmup_s=60)
SECTIONS = WatchdogPolicy(kind=WatchdogKind.SECTIONS, timeout_s=10, warmup_s=60, sections={"save": 100, "load": 5})
TIMER = WatchdogPolicy(kind=WatchdogKind.TIMER)
OBSERVE = WatchdogPolicy(kind=WatchdogKind.OBSERVE, after_s=100)
WALL = 1_700_000_000.0  # what the clock on the wall shows at instant 0


def watch(policy: WatchdogPolicy, *said: tuple[float, Word]) -> Watch:
    """A watch over local rank 0, started at 0, which says these words."""
    found = Watch(policy)
    found.started(0, 0)
    for at_s, word in said:
        found.hear(0, word, at_s, WALL + at_s)
    return found


# -- what is said


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"beat 7", Beat(7)),
        (b"beat 7 ", Beat(7)),
        (b"step 7 12", Step(7, 12)),
        (b"enter 7 checkpoint", Enter(7, "checkpoint")),
        (b"leave 7 checkpoint", Leave(7, "checkpoint")),
        (b"stacks 7 60", Stacks(7, 60)),
        (b'{"version": 1, "pid": 7, "scope_id": "a.py#3", "expiration_time": 1.5, "signal": 9}',
         Timer(7, "a.py#3", 1.5, 9)),
        (b'{"version": 1, "pid": 7, "scope_id": "s", "expiration_time": -1, "signal": 0}', Release(7, "s")),
    ],
)  # fmt: skip
def test_a_line_is_a_word(line: bytes, word: Word) -> None:
    assert parse(line) == word


@pytest.mark.parametrize(
    "line",
    [
        b"", b"beat", b"beat x", b"beat -1", b"beat 0", b"beat 99999999", b"beat 7 8", b"step 7", b"step 7 x",
        b"enter 7", b"enter 7 a/b", b"enter 7 " + b"a" * 65, b"kill 7", b"stacks 7 HUP", b"\xff\x00", b"{", b"[]",
        b"{}",
        b'{"pid": 7, "scope_id": "s", "expiration_time": NaN, "signal": 9}',
        b'{"pid": 7, "scope_id": "s", "expiration_time": 1e300, "signal": 9}',
        b'{"pid": 7, "scope_id": "s", "expiration_time": true, "signal": 9}',
        b'{"pid": 7, "scope_id": 3, "expiration_time": 1, "signal": 9}',
        b'{"pid": "7", "scope_id": "s", "expiration_time": 1, "signal": 9}',
        b'{"pid": 7, "scope_id": "s", "expiration_time": 1, "signal": 9000000}',
        b"[" * 4000, b'{"a":' * 800, b"beat 7" + b" " * 5000,
    ],
)  # fmt: skip
def test_a_line_without_sense_is_no_word(line: bytes) -> None:
    assert parse(line) is None


@given(st.binary() | st.text().map(str.encode) | st.dictionaries(st.text(), st.none()).map(json.dumps).map(str.encode))
def test_no_line_raises(line: bytes) -> None:
    parse(line)


# -- heartbeats


def test_a_worker_has_its_warm_up_before_its_first_word() -> None:
    silent = watch(HEARTBEAT)
    assert silent.hung(59.9) == []
    assert silent.hung(61) == [Hang(0, "no heartbeat within 61.0 s of its start; watchdog.warmup_s is 60", fails=True)]


def test_after_its_first_word_a_worker_must_go_on_speaking() -> None:
    speaking = watch(HEARTBEAT, (1, Beat(7)))
    assert speaking.due_s() == 11
    assert speaking.hung(10.9) == []
    assert speaking.hung(11) == [Hang(0, "no heartbeat for 10.0 s; watchdog.timeout_s is 10", fails=True)]
    assert speaking.hung(99) == [], "once is enough"


def test_a_step_that_does_not_change_is_no_progress() -> None:
    stuck = watch(HEARTBEAT, (1, Step(7, 5)), (9, Step(7, 5)))
    assert stuck.hung(11) == [Hang(0, "no heartbeat for 10.0 s since step 5; watchdog.timeout_s is 10", fails=True)]
    assert watch(HEARTBEAT, (1, Step(7, 5)), (9, Step(7, 6))).hung(11) == []


def test_who_has_exited_or_is_being_stopped_cannot_hang() -> None:
    gone, stopped = watch(HEARTBEAT), watch(HEARTBEAT)
    gone.ended(0)
    stopped.clear()
    assert gone.hung(1e6) == stopped.hung(1e6) == []
    assert gone.due_s() is None


# -- sections


def test_a_section_has_a_limit_of_its_own_which_heartbeats_do_not_extend() -> None:
    saving = watch(SECTIONS, (1, Enter(7, "save")))
    assert saving.hung(100) == [], "outside of it, 10 s of silence would be too much"
    saving.hear(0, Beat(7), 100, 0)
    (hang,) = saving.hung(101)
    assert hang.why == "in section save for 100.0 s; watchdog.sections.save.timeout_s is 100"


def test_after_a_section_silence_counts_again() -> None:
    left = watch(SECTIONS, (1, Enter(7, "save")), (50, Leave(7, "save")))
    assert left.hung(59) == []
    assert "no heartbeat for 10.0 s" in left.hung(60)[0].why


def test_the_innermost_limit_that_is_exceeded_first_decides() -> None:
    nested = watch(SECTIONS, (1, Enter(7, "save")), (2, Enter(7, "load")))
    assert nested.due_s() == 7
    nested.hear(0, Leave(7, "load"), 6, 0)
    assert nested.due_s() == 101


def test_a_section_without_a_limit_is_only_named() -> None:
    elsewhere = watch(SECTIONS, (1, Enter(7, "lunch")))
    (hang,) = elsewhere.hung(11)
    assert hang.why == "no heartbeat for 10.0 s, in section lunch; watchdog.timeout_s is 10"


def test_a_section_that_is_entered_twice_is_left_twice() -> None:
    twice = watch(SECTIONS, (1, Enter(7, "save")), (20, Enter(7, "save")), (30, Leave(7, "save")))
    assert twice.due_s() == 120, "the milder reading: the first one was left"
    twice.hear(0, Leave(7, "save"), 40, 0)
    assert twice.due_s() == 50


# -- torch's timers


def test_a_timer_expires_when_the_clock_on_the_wall_says_so() -> None:
    timed = watch(TIMER, (1, Timer(7, "step", WALL + 6, 9)))
    assert timed.due_s() == pytest.approx(6)
    assert timed.hung(5.9) == []
    assert timed.hung(6.1) == [Hang(0, "its timer step has expired after 5.1 s", fails=True, pid=7)]


def test_a_timer_is_replaced_by_its_own_scope_and_released() -> None:
    timed = watch(
        TIMER, (1, Timer(7, "a", WALL + 6, 9)), (2, Timer(7, "b", WALL + 9, 9)), (3, Timer(7, "a", WALL + 8, 9))
    )
    assert timed.due_s() == pytest.approx(8)
    timed.hear(0, Release(7, "a"), 4, WALL + 4)
    timed.hear(0, Release(7, "never set"), 4, WALL + 4)
    assert timed.due_s() == pytest.approx(9)
    timed.drop_timers(0, 7)
    assert timed.due_s() is None


def test_a_timer_without_a_signal_is_only_told_and_once() -> None:
    timed = watch(TIMER, (1, Timer(7, "{0} %s", WALL + 2, 0)))
    assert timed.hung(3) == [Hang(0, "its timer {0} %s has expired after 2.0 s", fails=False, pid=7)]
    assert timed.hung(4) == []


def test_without_timers_nothing_is_asked_of_a_worker() -> None:
    assert watch(TIMER, (1, Beat(7))).hung(1e9) == []


# -- observing


def test_a_worker_that_does_nothing_is_told_of_once_an_episode() -> None:
    seen = watch(OBSERVE)
    for at_s in (1, 50, 100):
        seen.looked(0, at_s, 3.0, 10)
    assert seen.hung(100) == []
    assert seen.hung(101) == [Hang(0, "no CPU time and no output for 100.0 s", fails=False)]
    assert seen.hung(500) == []
    seen.looked(0, 600, 3.0, 11)
    assert seen.due_s() == 700
    assert len(seen.hung(700)) == 1


@pytest.mark.parametrize(("cpu_s", "output"), [(3.5, 10), (3.0, 11), (2.0, 10)])
def test_computing_writing_and_new_processes_are_signs_of_life(cpu_s: float, output: int) -> None:
    seen = watch(OBSERVE)
    seen.looked(0, 1, 3.0, 10)
    seen.looked(0, 90, cpu_s, output)
    assert seen.hung(150) == []


def test_threads_that_only_wake_up_now_and_then_are_no_sign_of_life() -> None:
    seen = watch(OBSERVE)
    seen.looked(0, 1, 3.0, 10)
    seen.looked(0, 101, 3.05, 10)
    assert len(seen.hung(101)) == 1


def test_a_heartbeat_is_a_sign_of_life_too() -> None:
    seen = watch(OBSERVE)
    seen.looked(0, 1, 3.0, 10)
    seen.hear(0, Beat(7), 90, 0)
    assert seen.due_s() == 190


# -- our own faults


def test_who_listens_late_lets_everybody_have_the_time() -> None:
    for policy, word in ((HEARTBEAT, Beat(7)), (SECTIONS, Enter(7, "load")), (TIMER, Timer(7, "s", WALL + 5, 9))):
        late = watch(policy, (1, word))
        due_s = late.due_s()
        assert due_s is not None
        late.forgive(30)
        assert late.due_s() == pytest.approx(due_s + 30)


def test_who_may_have_lost_words_judges_nobody_by_what_was_before() -> None:
    lost = watch(SECTIONS, (1, Enter(7, "load")))
    lost.amnesty(5)
    assert lost.due_s() == 15
    timed = watch(TIMER, (1, Timer(7, "s", WALL + 5, 9)))
    timed.amnesty(5)
    assert timed.due_s() is None


def test_a_worker_cannot_make_us_remember_without_bound() -> None:
    for policy, words in ((SECTIONS, [Enter(7, f"s{n}") for n in range(999)]),
                          (TIMER, [Timer(7, f"s{n}", WALL, 9) for n in range(9999)])):  # fmt: skip
        greedy = watch(policy, *[(1, word) for word in words])
        worker = greedy._workers[0]
        assert len(worker.sections) <= 64
        assert len(worker.timers) <= 256


WORDS = st.one_of(
    st.just(Beat(7)),
    st.builds(Step, st.just(7), st.integers(0, 3)),
    st.builds(Enter, st.just(7), st.sampled_from(["save", "load", "other"])),
    st.builds(Leave, st.just(7), st.sampled_from(["save", "load", "other"])),
    st.builds(Timer, st.just(7), st.sampled_from("ab"), st.floats(WALL, WALL + 500), st.sampled_from([0, 9])),
    st.builds(Release, st.just(7), st.sampled_from("ab")),
)
POLICIES = st.sampled_from([HEARTBEAT, SECTIONS, TIMER])
GAPS = st.floats(0, 30)


@given(POLICIES, st.lists(st.tuples(GAPS, WORDS), max_size=20), GAPS)
def test_somebody_hangs_exactly_when_it_is_due(
    policy: WatchdogPolicy, history: list[tuple[float, Word]], later: float
) -> None:
    now_s = 0.0
    watched = watch(policy)
    for gap_s, word in history:
        now_s += gap_s
        watched.hear(0, word, now_s, WALL + now_s)
    now_s += later
    due_s = watched.due_s()
    hung = watched.hung(now_s)
    assert bool(hung) is (due_s is not None and due_s <= now_s)


@given(st.lists(st.tuples(st.floats(0, 9.9), st.sampled_from([Beat(7), Enter(7, "other"), Leave(7, "other")]))))
def test_who_speaks_often_enough_never_hangs(history: list[tuple[float, Word]]) -> None:
    now_s = 0.0
    for policy in (HEARTBEAT, SECTIONS):
        watched = watch(policy)
        for gap_s, word in history:
            now_s += gap_s
            assert watched.hung(now_s) == []
            watched.hear(0, word, now_s, WALL + now_s)
        now_s = 0.0


@given(POLICIES, st.lists(st.tuples(GAPS, WORDS), max_size=10), st.floats(0, 100))
def test_forgiving_never_makes_anybody_hang_sooner(
    policy: WatchdogPolicy, history: list[tuple[float, Word]], lag_s: float
) -> None:
    watched, now_s = watch(policy), 0.0
    for gap_s, word in history:
        now_s += gap_s
        watched.hear(0, word, now_s, WALL + now_s)
    before = watched.due_s()
    watched.forgive(lag_s)
    after = watched.due_s()
    assert (before is None) is (after is None)
    assert before is None or after is None or after >= before


def test_words_are_gathered_for_a_small_part_of_the_shortest_limit() -> None:
    assert [pace_s(one) for one in (HEARTBEAT, SECTIONS, TIMER, OBSERVE)] == [0.2, 0.1, 0.1, 1.0]
