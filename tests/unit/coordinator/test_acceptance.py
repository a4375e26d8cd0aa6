"""What is believed of drafts after some were judged."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.acceptance import Acceptance, OwnAcceptance, emitted

judgements = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: (max(pair), min(pair))))


def feed(acceptance: Acceptance, chance: float, proposals: int, asked: int = 6, seed: int = 1) -> None:
    dice = random.Random(seed)
    for _ in range(proposals):
        accepted = 0
        while accepted < asked and dice.random() < chance:
            accepted += 1
        acceptance.add(asked, accepted)


@given(judgements)
def test_chances_are_chances(judged: list[tuple[int, int]]) -> None:
    acceptance = Acceptance(6)
    for asked, accepted in judged:
        acceptance.add(asked, accepted)
    chances = acceptance.by_place()
    assert len(chances) == 6
    assert all(0.0 <= chance <= 1.0 for chance in chances)
    assert all(a <= b for a, b in zip(chances, acceptance.by_place(0.2), strict=True))
    tokens = [emitted(chances, drafts) for drafts in range(7)]
    assert tokens[0] == 1.0
    assert all(0.0 <= b - a <= 1.0 for a, b in itertools.pairwise(tokens))


@given(st.floats(0.0, 0.99), st.integers(0, 8))
def test_tokens_of_a_round_follow_the_geometric_sum(chance: float, drafts: int) -> None:
    assert emitted((chance,) * 8, drafts) == pytest.approx((1 - chance ** (drafts + 1)) / (1 - chance))


@pytest.mark.parametrize("chance", [0.05, 0.3, 0.6, 0.9])
def test_the_average_finds_the_chance(chance: float) -> None:
    acceptance = Acceptance(6)
    feed(acceptance, chance, 3000)
    assert emitted(acceptance.by_place(), 4) == pytest.approx(emitted((chance,) * 4, 4), rel=0.08)


def test_places_that_were_never_reached_lean_on_those_before() -> None:
    acceptance = Acceptance(6)
    feed(acceptance, 0.4, 400, asked=2)
    chances = acceptance.by_place()
    assert chances[2:] == (chances[1],) * 4


def test_places_may_differ() -> None:
    acceptance = Acceptance(3)
    for number in range(600):
        acceptance.add(3, 1 if number % 2 else 0)  # the second draft is never kept
    first, second, _ = acceptance.by_place()
    assert first == pytest.approx(0.5, abs=0.05)
    assert second < 0.05


@pytest.mark.parametrize(("before", "after"), [(0.02, 0.8), (0.9, 0.3)])
def test_a_change_is_noticed_within_a_few_dozen_proposals(before: float, after: float) -> None:
    acceptance = Acceptance(4)
    feed(acceptance, before, 2000, asked=4)
    feed(acceptance, after, 60, asked=4, seed=2)
    assert acceptance.changes >= 1
    assert acceptance.by_place()[0] == pytest.approx(after, abs=0.2)


def test_a_steady_chance_is_rarely_taken_for_a_change() -> None:
    acceptance = Acceptance(4)
    feed(acceptance, 0.6, 5000, asked=4)
    assert acceptance.changes <= 2


def test_evidence_falls_while_nothing_is_drafted() -> None:
    acceptance = Acceptance(4)
    feed(acceptance, 0.1, 500)
    doubt = acceptance.doubt()
    for _ in range(3000):
        acceptance.rest(0.999)
    assert acceptance.evidence < 0.1 * 500
    assert acceptance.doubt() > 2 * doubt
    acceptance.add(4, 0)
    assert acceptance.doubt() == pytest.approx(doubt, rel=0.1)


def test_a_request_whose_drafts_are_never_kept_gets_fewer_and_another_chance_later() -> None:
    own = OwnAcceptance()
    assert own.worthwhile(4, usual=0.7, least=0.3) == 4
    for _ in range(30):
        own.add(4, 0)
    assert own.worthwhile(4, usual=0.7, least=0.3) == 0
    assert own.worthwhile(4, usual=0.7, least=0.0) == 4  # drafts that cost nothing are always worth it
    rounds = 0
    while own.worthwhile(4, usual=0.7, least=0.3) == 0:
        own.rest()
        rounds += 1
    assert 50 < rounds < 500


def test_a_request_like_the_others_gets_what_they_get() -> None:
    own = OwnAcceptance()
    for _ in range(30):
        own.add(4, 1)
    assert own.worthwhile(4, usual=0.5, least=0.9) == 4
