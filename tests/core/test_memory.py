"""What an agent remembers of its group: claims do not go back."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.charges import Charge, Ledger
from orchestrator.core.memory import Memory
from orchestrator.core.rendezvous import Restart, Seat
from tests.core import specs


def seat(number: int) -> Seat:
    return specs.seat(round=number, token=1000 + number)


def restart(number: int) -> Restart:
    return Restart(round=number, charged=True, delay_ms=0, remaining=1)


def test_late_word_of_an_older_round_takes_nothing_from_the_newer_one() -> None:
    memory = Memory()
    memory.seated(seat(1), 0.0)
    memory.seated(seat(2), 1.0)
    memory.round_over(1)
    memory.restarting(restart(1), 1.0)
    assert memory.claim(1.0).seat == seat(2), "it is to be given back to a server that forgets"
    assert memory.charged == 0
    memory.restarting(restart(2), 2.0)
    assert memory.claim(2.0).seat is None
    assert memory.charged == 1


def test_charges_that_we_know_of_are_united_with_those_of_a_round_that_does_not() -> None:
    memory = Memory()
    memory.seated(seat(1), 0.0)
    memory.restarting(restart(1), 10.0)
    memory.seated(replace(seat(2), ledger=Ledger(0, (Charge("7", 400),))), 11.0)
    assert memory.claim(12.0).ledger == Ledger(0, (Charge("7", 1400), Charge("1", 2000)))
    memory.seated(replace(seat(3), ledger=Ledger(2, ())), 13.0)
    assert memory.claim(13.0).ledger == Ledger(2, ()), "the run was reopened, and they were forgiven"
