"""The budget of trials: a few cycles of debt, paid off by a share of the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.budget import ALLOWANCE, LEAST, SAVED, SETTLING_ROUNDS, SHARE, Budget

CYCLE = 0.1


def test_a_few_cycles_may_be_lost_at_once_and_a_share_of_the_time_later() -> None:
    budget = Budget()
    assert budget.allows(CYCLE)
    budget.end_trial(seconds=1.5 * ALLOWANCE * CYCLE, tokens=0.0, rate=100.0, lanes=1, cycle_seconds=0.0)
    assert not budget.allows(CYCLE)
    budget.serve(0.49 * ALLOWANCE * CYCLE / SHARE)
    assert not budget.allows(CYCLE)
    budget.serve(0.02 * ALLOWANCE * CYCLE / SHARE)
    assert budget.allows(CYCLE)


def test_little_is_saved_of_what_is_not_needed() -> None:
    budget = Budget()
    budget.serve(1e6)
    budget.end_trial(seconds=ALLOWANCE * CYCLE + 0.9 * SAVED, tokens=0.0, rate=100.0, lanes=1, cycle_seconds=0.0)
    assert budget.allows(CYCLE)
    budget.end_trial(seconds=0.2 * SAVED, tokens=0.0, rate=100.0, lanes=1, cycle_seconds=0.0)
    assert not budget.allows(CYCLE)
    assert budget.lost == pytest.approx(ALLOWANCE * CYCLE + 1.1 * SAVED)


def test_a_trial_costs_what_the_usual_mode_would_have_saved() -> None:
    budget = Budget()
    budget.end_trial(seconds=1.0, tokens=60.0, rate=100.0, lanes=2, cycle_seconds=0.0)
    assert budget.lost == pytest.approx(0.4)
    for _ in range(SETTLING_ROUNDS * 2):
        budget.end_round(seconds=0.1, tokens=5.0)  # 5 tokens take 0.05 s by the usual mode
    assert budget.lost == pytest.approx(0.4 + SETTLING_ROUNDS * 2 * 0.05)
    budget.end_round(seconds=9.0, tokens=0.0)  # a slow round later is not the trial's fault
    assert budget.lost == pytest.approx(0.4 + SETTLING_ROUNDS * 2 * 0.05)


@given(st.lists(st.tuples(st.floats(0.0, 1e3), st.floats(0.0, 1e3), st.floats(0.1, 1e3), st.integers(1, 4))))
def test_a_lucky_trial_is_no_credit(trials: list[tuple[float, float, float, int]]) -> None:
    budget = Budget()
    for seconds, tokens, rate, lanes in trials:
        before = budget.lost
        budget.end_trial(seconds, tokens, rate, lanes, 0.0)
        assert budget.lost == pytest.approx(max(0.0, before + seconds - tokens / rate))
        assert budget.lost >= 0.0


def test_a_trial_counts_for_a_cycle_at_least() -> None:
    """Modes that are as good as each other are not to be tried for ever."""
    budget = Budget()
    trials = 0
    while budget.allows(CYCLE):
        budget.end_trial(seconds=1.0, tokens=100.0, rate=100.0, lanes=1, cycle_seconds=CYCLE)
        trials += 1
    assert trials == pytest.approx(ALLOWANCE / LEAST, abs=2)
