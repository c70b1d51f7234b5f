"""What a watchdog learns from its run: the decision alone."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.core.beats import Beat, Enter, Leave, Step, Word
from orchestrator.core.learning import OUTLIER, SILENCE, WARM_UP, Gaps, Learning, limit_s, stay_in
from orchestrator.core.policies import LearnPolicy, WatchdogKind, WatchdogPolicy
from orchestrator.core.watchdog import Watch
from orchestrator.core.watched import pace_s

POLICY = LearnPolicy(factor=3, after=4, floor_s=2)
HEARTBEAT = WatchdogPolicy(kind=WatchdogKind.HEARTBEAT, timeout_s=30, warmup_s=60, learn=POLICY)
SECTIONS = WatchdogPolicy(
    kind=WatchdogKind.SECTIONS, timeout_s=30, warmup_s=60, sections={"save": 100}, learn=POLICY
)  # fmt: skip
SAVE = stay_in("save")

policies = st.builds(
    LearnPolicy, factor=st.floats(OUTLIER, 20), after=st.integers(2, 30), floor_s=st.floats(0.5, 60)
)  # fmt: skip
lengths = st.floats(0, 1000)
some_gaps = st.builds(
    lambda two, count: Gaps(max(two), min(two), count), st.tuples(lengths, lengths), st.integers(0, 100)
)  # fmt: skip


def gaps(*lengths_s: float) -> Gaps:
    return reduce(Gaps.seen, lengths_s, Gaps())


def beating(policy: WatchdogPolicy, *lengths_s: float, local_rank: int = 0) -> Watch:
    """A watch over one worker that is warm and has since beaten with these gaps; the last beat is at their sum."""
    found = Watch(policy)
    beat(found, local_rank, *[1.0] * WARM_UP, *lengths_s)
    return found


def beat(watch: Watch, local_rank: int, *lengths_s: float) -> float:
    """A worker starts at 0, speaks at once, and then with these gaps; returns when it spoke last."""
    watch.started(local_rank, 0)
    at_s = 0.0
    watch.hear(local_rank, Beat(7), at_s, 0)
    for length_s in lengths_s:
        at_s += length_s
        watch.hear(local_rank, Beat(7), at_s, 0)
    return at_s


def limit_of(watch: Watch, limit: str = SILENCE) -> float:
    assert watch.learning is not None
    return watch.learning.limits[limit]


# -- the rule


@pytest.mark.parametrize(
    ("seen", "limit"),
    [
        ((), 30),
        ((3, 3, 3), 30),  # not enough yet
        ((3, 3, 3, 3), 9),  # the factor
        ((0.1, 0.1, 0.1, 0.1), 2),  # the floor
        ((3, 3, 8, 3), 12),  # one that is longer counts by half
        ((3, 3, 8, 8), 24),  # two are no outlier
        ((3, 3, 25, 3), 30),  # what was configured is never exceeded
    ],
)
def test_the_limit_follows_from_the_two_longest_gaps(seen: tuple[float, ...], limit: float) -> None:
    assert limit_s(gaps(*seen), POLICY, 30) == pytest.approx(limit)


@given(st.lists(lengths), policies, st.floats(0.5, 1000))
def test_no_gap_that_was_survived_would_be_a_hang(seen: list[float], policy: LearnPolicy, configured_s: float) -> None:
    limit = limit_s(gaps(*seen), policy, configured_s)
    assert min(policy.floor_s, configured_s) <= limit <= configured_s
    assert limit >= min(configured_s, OUTLIER * max(seen, default=0))
    if len(seen) < policy.after:
        assert limit == configured_s


@given(some_gaps, policies, st.floats(OUTLIER, 20), st.floats(0.5, 1000))
def test_a_larger_factor_never_makes_a_shorter_limit(
    seen: Gaps, policy: LearnPolicy, factor: float, configured_s: float
) -> None:
    other = LearnPolicy(factor=factor, after=policy.after, floor_s=policy.floor_s)
    low, high = sorted((policy, other), key=lambda one: one.factor)
    assert limit_s(seen, low, configured_s) <= limit_s(seen, high, configured_s)


@given(some_gaps, st.floats(0, 1000), policies, st.floats(0.5, 1000))
def test_what_holds_grows_with_every_gap_and_never_falls(
    seen: Gaps, gap_s: float, policy: LearnPolicy, configured_s: float
) -> None:
    assume(seen.count >= policy.after)
    assert limit_s(seen, policy, configured_s) <= limit_s(seen.seen(gap_s), policy, configured_s)


@given(st.lists(lengths, min_size=2), lengths, policies)
def test_one_outlier_is_not_given_the_factor(seen: list[float], outlier_s: float, policy: LearnPolicy) -> None:
    usual_s = max(seen)
    limit = limit_s(gaps(*seen, outlier_s), policy, 1e9)
    assume(len(seen) + 1 >= policy.after)
    assert limit <= max(policy.floor_s, policy.factor * usual_s, OUTLIER * outlier_s)


@given(some_gaps, some_gaps, some_gaps)
def test_who_tells_whom_and_how_often_makes_no_difference(a: Gaps, b: Gaps, c: Gaps) -> None:
    assert a.united(b) == b.united(a)
    assert a.united(b).united(c) == a.united(b.united(c))
    assert a.united(b).united(b) == a.united(b)
    assert a.united(Gaps()) == a


# -- what is seen


def test_before_enough_is_known_the_configured_limit_holds() -> None:
    watch = beating(HEARTBEAT, 1, 1, 1)
    assert watch.due_s() == 6 + 30
    watch.hear(0, Beat(7), 7, 0)
    assert watch.due_s() == 7 + 3
    (hang,) = watch.hung(10)
    assert hang.why == "no heartbeat for 3.0 s; watchdog.timeout_s is 30, of which watchdog.learn has made 3.0"


def test_the_first_gaps_after_a_start_neither_teach_nor_are_judged_by_what_was_learnt() -> None:
    watch = Watch(HEARTBEAT)
    at_s = beat(watch, 0, 20, 20, 20, 1, 1, 1, 1)
    assert limit_of(watch) == 3
    assert watch.due_s() == at_s + 3
    watch.started(0, 100)
    watch.hear(0, Beat(8), 101, 0)
    assert watch.due_s() == 101 + 30, "it compiles again"


def test_one_long_gap_counts_once_although_all_workers_wait_for_it() -> None:
    watch = Watch(HEARTBEAT)
    for local_rank in range(8):
        beat(watch, local_rank, *[1] * WARM_UP, 1, 1, 1, 4)
    assert limit_of(watch) == OUTLIER * 4


def test_words_that_are_read_together_are_no_gaps() -> None:
    assert limit_of(beating(HEARTBEAT, *[0] * 50)) == 30


def test_a_step_that_does_not_change_ends_no_silence() -> None:
    watch = Watch(HEARTBEAT)
    watch.started(0, 0)
    for at_s in range(100):
        watch.hear(0, Step(7, at_s // 10), at_s, 0)
    assert watch.learning is not None
    assert watch.learning.known[SILENCE].longest_s == 10


def test_our_own_pause_is_nobodys_silence() -> None:
    watch = beating(HEARTBEAT, 1, 1, 1, 1)
    watch.forgive(20)
    watch.hear(0, Beat(7), 7 + 20 + 1, 0)
    assert limit_of(watch) == 3


def test_who_was_stopped_for_a_learnt_limit_teaches_that_it_was_short() -> None:
    watch = beating(HEARTBEAT, 1, 1, 1, 1)
    assert watch.hung(10)
    assert limit_of(watch) == OUTLIER * 3
    beat(watch, 0, *[1] * WARM_UP, 1)
    assert watch.hung(99)
    assert limit_of(watch) == 30, "it was long twice"


def test_stays_in_a_section_have_a_limit_of_their_own_and_are_no_silence() -> None:
    watch = Watch(SECTIONS)
    watch.started(0, 0)
    words: list[tuple[float, Word]] = []
    for n in range(WARM_UP + POLICY.after):
        words += [(20 * n, Beat(7)), (20 * n + 1, Enter(7, "save")), (20 * n + 19, Leave(7, "save"))]
    for at_s, word in words:
        watch.hear(0, word, at_s, 0)
    assert watch.learning is not None
    assert watch.learning.limits == {SILENCE: 3, SAVE: 54}
    assert watch.learning.known[SAVE] == Gaps(18, 18, POLICY.after)


def test_a_section_without_a_limit_is_a_silence_like_any_other() -> None:
    watch = beating(HEARTBEAT, 1, 1, 1, 1)
    watch.hear(0, Enter(7, "save"), 8, 0)
    watch.hear(0, Leave(7, "save"), 28, 0)
    assert watch.learning is not None
    assert watch.learning.known[SILENCE].longest_s == 20


def test_without_learning_nothing_is_learnt() -> None:
    plain = WatchdogPolicy(kind=WatchdogKind.HEARTBEAT, timeout_s=30, warmup_s=60)
    watch = beating(plain, *[1] * 50)
    assert watch.learning is None
    assert watch.due_s() == 53 + 30


def test_words_are_read_often_enough_for_the_shortest_limit_that_may_be_learnt() -> None:
    assert pace_s(WatchdogPolicy(kind=WatchdogKind.HEARTBEAT, timeout_s=100, warmup_s=100)) == 1
    learn = LearnPolicy(factor=3, after=4, floor_s=10)
    assert pace_s(WatchdogPolicy(kind=WatchdogKind.HEARTBEAT, timeout_s=100, warmup_s=100, learn=learn)) == 0.2


# -- what is told


def told(known: Learning) -> dict[str, Gaps]:
    return dict(known.known)


def test_what_others_have_seen_holds_here_too_and_what_is_no_limit_here_does_not() -> None:
    one, other = Learning(POLICY, {SILENCE: 30}), Learning(POLICY, {SILENCE: 30})
    for _ in range(4):
        one.saw(SILENCE, 0, 3)
    other.hear({**told(one), "sections.elsewhere.timeout_s": Gaps(1, 1, 9)})
    assert other.limits == {SILENCE: 9}
    other.saw(SILENCE, 0, 8)
    assert other.limits == {SILENCE: 12}


def test_there_is_news_when_enough_is_known_or_a_gap_was_clearly_longer() -> None:
    known = Learning(POLICY, {SILENCE: 30})
    assert not known.news()
    for _ in range(3):
        known.saw(SILENCE, 0, 3)
    assert known.news()
    known.hear(told(known))
    assert not known.news()
    known.saw(SILENCE, 0, 3)
    assert known.news(), "now there are enough"
    known.hear(told(known))
    known.saw(SILENCE, 0, 3.1)
    assert not known.news()
    known.saw(SILENCE, 0, 4)
    assert known.news()


def test_a_server_that_has_forgotten_is_news() -> None:
    known = Learning(POLICY, {SILENCE: 30})
    for _ in range(4):
        known.saw(SILENCE, 0, 3)
    known.hear(told(known))
    known.hear({})
    assert known.news()
    assert known.limits == {SILENCE: 9}, "what was learnt stays known here"
