"""Decisions: rarer and rarer while nothing comes of them, as often as ever when something does."""

from __future__ import annotations

from itertools import pairwise

import pytest

from coordinator.cadence import EVERY, MOST_PATIENCE, Cadence


def decisions(cadence: Cadence, begin: int, end: int, lanes: int) -> tuple[list[int], list[float]]:
    """At which ticks nothing came of a decision, and for how many each counted."""
    made, counted = [], []
    for tick in range(begin, end):
        if cadence.due(tick, lanes):
            made.append(tick)
            counted.append(cadence.begin(tick, lanes))
            cadence.calm()
    return made, counted


@pytest.mark.parametrize("lanes", [1, 3])
def test_they_get_rarer_and_count_for_as_many_as_there_would_have_been(lanes: int) -> None:
    made, counted = decisions(Cadence(), 0, 2000 * lanes, lanes)
    gaps = [later - earlier for earlier, later in pairwise(made)]
    assert made[0] == EVERY * lanes
    assert gaps == sorted(gaps)
    assert gaps[-1] == EVERY * lanes * MOST_PATIENCE
    assert sum(counted) == pytest.approx(made[-1] / (EVERY * lanes), rel=0.05)


def test_what_changes_makes_them_frequent_again() -> None:
    cadence = Cadence()
    made, _ = decisions(cadence, 0, 1000, 1)
    cadence.stir()
    again, counted = decisions(cadence, made[-1] + 1, made[-1] + 20, 1)
    assert again[0] == made[-1] + EVERY
    assert counted[0] == 1.0


def test_a_decision_out_of_turn_counts_once() -> None:
    cadence = Cadence()
    decisions(cadence, 0, 1000, 1)
    assert cadence.begin(1000, 1) >= 1.0
    assert cadence.begin(1001, 1) == 1.0


def test_a_decision_can_be_asked_for() -> None:
    cadence = Cadence()
    decisions(cadence, 0, 1000, 1)
    at = 1000
    assert not cadence.due(at, 1)
    cadence.hasten()
    assert cadence.due(at, 1)
    assert cadence.begin(at, 1) == 1.0
    assert not cadence.due(at, 1)
    assert cadence.due(at + EVERY, 1)
