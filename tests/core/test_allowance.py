from __future__ import annotations

from orchestrator.core.allowance import Allowance


def test_a_second_s_worth_may_pass_at_once_and_then_so_much_a_second() -> None:
    allowance = Allowance(100, 10.0)
    assert allowance.left(10.0) == 100
    allowance.spend(40)
    assert allowance.left(10.0) == 60
    assert allowance.left(10.25) == 85
    assert allowance.left(99.0) == 100, "no more than a second's worth is saved up"


def test_what_is_used_up_opens_again_with_half_a_second_s_worth() -> None:
    allowance = Allowance(100, 0.0)
    allowance.spend(100)
    assert allowance.left(0.4) == 0
    assert allowance.due_s() == 0.5
    assert allowance.left(0.5) == 50
    assert allowance.left(0.6) == 60


def test_a_piece_that_was_too_large_is_a_debt() -> None:
    allowance = Allowance(100, 0.0)
    allowance.spend(300)
    assert allowance.left(2.4) == 0
    assert allowance.due_s() == 2.5
    assert allowance.left(2.5) == 50


def test_one_byte_a_second_is_a_limit_too() -> None:
    allowance = Allowance(1, 0.0)
    allowance.spend(1)
    assert allowance.left(0.9) == 0
    assert allowance.left(1.0) == 1
    assert not Allowance(None, 0.0).limited
