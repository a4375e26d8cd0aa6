"""The least chance of a draft: its steps, and what is believed of drafts under one that is new."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.acceptance import Acceptance, Outlook
from coordinator.threshold import STEPS, Threshold
from tests.unit.coordinator.timed import coin

PLACES = 4


def chance_of(sequence: int, place: int) -> float:
    """Evenly from 0 to 1."""
    return coin(sequence, -1 - place)


def serve(acceptance: Acceptance, least: float, proposals: int = 4000) -> None:
    """Drafts whose chances lie evenly between 0 and 1, by a drafter that knows them."""
    for sequence in range(proposals):
        proposed, through = 0, 1.0
        while proposed < PLACES and (through := through * chance_of(sequence, proposed)) >= least:
            proposed += 1
        accepted = 0
        while accepted < proposed and coin(sequence, accepted) < chance_of(sequence, accepted):
            accepted += 1
        acceptance.add(PLACES, accepted, proposed)


@given(st.lists(st.floats(0.0, 1.5), min_size=1))
def test_it_stays_near_what_is_worth_it(worths: list[float]) -> None:
    threshold = Threshold(PLACES)
    for worth in worths:
        threshold.choose(worth)
        assert threshold.least in STEPS
        assert abs(threshold.least - min(worth, STEPS[-1])) < 0.1


def test_a_little_to_and_fro_changes_nothing() -> None:
    threshold = Threshold(PLACES)
    threshold.choose(0.31)
    dice = random.Random(1)
    for _ in range(100):
        threshold.choose(dice.uniform(0.27, 0.36))
        assert threshold.least == 0.3


def test_each_step_keeps_what_was_seen_under_it() -> None:
    threshold = Threshold(PLACES)
    serve(threshold.acceptance, 0.0)
    before = threshold.acceptance.outlook()
    threshold.choose(0.5)
    serve(threshold.acceptance, 0.5)
    assert threshold.acceptance.outlook().proposed[0] == pytest.approx(0.5, abs=0.06)
    assert threshold.acceptance.outlook().kept[0] == pytest.approx(0.375, abs=0.06)  # of 0.5 to 1, three quarters
    threshold.choose(0.0)
    assert threshold.acceptance.outlook() == before


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.5), (0.5, 0.2), (0.8, 0.0)])
def test_a_new_step_begins_with_a_fair_guess_and_forgets_it_soon(before: float, after: float) -> None:
    threshold = Threshold(PLACES)
    threshold.choose(before)
    serve(threshold.acceptance, before)
    threshold.choose(after)
    guessed = threshold.acceptance.outlook()
    assert guessed.proposed[0] == pytest.approx(1.0 - after, abs=0.25)
    assert guessed.kept[0] == pytest.approx((1.0 - after**2) / 2, abs=0.2)
    for _ in range(120):
        threshold.acceptance.add(PLACES, 0, PLACES)  # a drafter that leaves nothing out, and is never right
    found = threshold.acceptance.outlook()
    assert found.proposed[0] > 0.9
    assert found.kept[0] < 0.15


@given(st.lists(st.floats(0.0, 1.0), min_size=PLACES, max_size=PLACES), st.integers(1, 20))
def test_what_is_expected_of_proposals_adds_up(shares: list[float], requests: int) -> None:
    proposed = tuple(sorted(shares, reverse=True))
    outlook = Outlook((0.5,) * PLACES, proposed)
    assert outlook.drawn(0) == outlook.verified(0) == outlook.passes(0, requests) == 0.0
    for drafts in range(1, PLACES + 1):
        assert outlook.verified(drafts) <= outlook.drawn(drafts) <= drafts
        assert 1.0 <= outlook.passes(drafts, requests) <= drafts
        assert outlook.passes(drafts, 1) == pytest.approx(outlook.drawn(drafts))
    even = Outlook.even((0.5,) * PLACES)
    assert (even.verified(3), even.drawn(3), even.passes(3, requests)) == (3.0, 3.0, 3.0)
