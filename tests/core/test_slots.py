"""A machine's resources, and who has them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.slots import Grant, Machine, Need, Slots

MEMORY = st.just(100)
NEEDS = st.builds(Need, cpus=st.integers(0, 3), gpus=st.integers(0, 3), memory_mb=st.integers(0, 80))


@given(
    st.builds(
        Machine, cpus=st.integers(1, 4), gpus=st.sampled_from(["", "ab", "abcd"]).map(tuple), memory_mb=st.just(100)
    ),
    st.none() | st.integers(1, 4),
    st.lists(st.tuples(NEEDS, st.booleans()), max_size=12),
)
def test_nothing_is_had_twice_and_nothing_is_lost(
    machine: Machine, limit: int | None, wanted: list[tuple[Need, bool]]
) -> None:
    slots = Slots(machine, limit)
    held: list[Grant] = []
    for need, give_back in wanted:
        if give_back and held:
            slots.give_back(held.pop(0))
        grant = slots.take(need)
        if grant is not None:
            held.append(grant)
        gpus = [gpu for one in held for gpu in one.gpus]
        assert len(set(gpus)) == len(gpus)
        assert len({one.slot for one in held}) == len(held)
        assert sum(one.need.cpus for one in held) <= machine.cpus
        assert sum(one.need.memory_mb for one in held) <= machine.memory_mb
        assert all(len(one.gpus) == one.need.gpus for one in held)
        assert limit is None or len(held) <= limit
    for grant in held:
        slots.give_back(grant)
    for need, _ in wanted:
        fits = not slots.lacking(need)
        alone = slots.take(need)
        assert (alone is not None) == fits, "what fits alone is had by whoever waits until it is alone"
        if alone is not None:
            assert alone.slot == 0
            slots.give_back(alone)


def test_what_is_too_much_is_named() -> None:
    slots = Slots(Machine(cpus=2, gpus=("0",), memory_mb=10))
    assert slots.lacking(Need(cpus=3)) == "cpus"
    assert slots.lacking(Need(gpus=2)) == "gpus"
    assert slots.lacking(Need(memory_mb=11)) == "memory_mb"
    assert slots.lacking(Need(cpus=2, gpus=1, memory_mb=10)) == ""


def test_how_many_fit_at_once() -> None:
    machine = Machine(cpus=8, gpus=("0", "1"), memory_mb=100)
    assert Slots(machine).at_once(Need(cpus=3)) == 2
    assert Slots(machine).at_once(Need(cpus=1, gpus=1)) == 2
    assert Slots(machine).at_once(Need(memory_mb=40)) == 2
    assert Slots(machine, 5).at_once(Need()) == 5
    assert Slots(machine, 5).at_once(Need(cpus=4)) == 2
    assert Slots(machine).at_once(Need()) == 8
