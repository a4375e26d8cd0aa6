"""What a drafter says of its drafts' chances, and what it makes of what became of them."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drafter_service.proposers.chances import BINS, Calibration, Chances, largest_probabilities

probabilities = st.floats(0.0, 1.0)


@given(st.lists(st.tuples(probabilities, st.booleans())), probabilities)
def test_a_chance_is_a_chance(outcomes: list[tuple[float, bool]], asked: float) -> None:
    calibration = Calibration()
    for probability, kept in outcomes:
        calibration.learn(probability, kept=kept)
    assert 0.0 <= calibration.chance(asked) <= 1.0


@given(probabilities)
def test_the_models_word_is_taken_until_it_is_known_better(probability: float) -> None:
    assert Calibration().chance(probability) == pytest.approx(probability)


def test_a_model_that_is_too_sure_is_corrected_where_it_is() -> None:
    calibration, dice = Calibration(), random.Random(5)
    for _ in range(2000):
        calibration.learn(0.93, kept=dice.random() < 0.4)
        calibration.learn(0.31, kept=dice.random() < 0.3)
    assert calibration.chance(0.93) == pytest.approx(0.4, abs=0.1)
    assert calibration.chance(0.31) == pytest.approx(0.3, abs=0.1)
    assert calibration.chance(0.61) == pytest.approx(0.61)


def learned(chances: Chances, probability: float) -> float:
    """The chance that a first draft of that probability would now be given."""
    guess = chances.begin("other", 99, ())
    chances.worth(guess, 1, probability, 0.0)
    return guess.through


def test_drafts_are_judged_up_to_the_first_that_was_wrong() -> None:
    chances = Chances()
    guess = chances.begin("lease", 1, (7, 8))
    for token, probability in ((10, 0.51), (11, 0.61), (12, 0.71)):
        assert chances.worth(guess, token, probability, 0.0)
    chances.begin("lease", 1, (7, 8, 10, 99, 12))
    assert learned(chances, 0.51) > 0.51
    assert learned(chances, 0.61) < 0.61
    assert learned(chances, 0.71) == pytest.approx(0.71)  # after a wrong token nothing is known


def test_what_was_left_out_is_judged_too() -> None:
    chances = Chances()
    for round_ in range(40):
        guess = chances.begin("lease", 1, tuple(range(round_)))
        chances.worth(guess, round_, 0.23, 0.5)
    assert learned(chances, 0.23) > 0.6
    guess = chances.begin("lease", 1, tuple(range(40)))
    assert chances.worth(guess, 40, 0.23, 0.5)


def test_the_chance_is_of_all_drafts_together() -> None:
    chances = Chances()
    guess = chances.begin("lease", 1, (7,))
    assert chances.worth(guess, 10, 0.9, 0.5)
    assert chances.worth(guess, 11, 0.8, 0.5)
    assert not chances.worth(guess, 12, 0.6, 0.5)
    assert guess.through == pytest.approx(0.9 * 0.8 * 0.6)


def test_nothing_is_kept_of_released_sequences() -> None:
    chances = Chances()
    for lease in ("a", "b"):
        for sequence in range(3):
            chances.worth(chances.begin(lease, sequence, (7,)), 10, 0.51, 0.0)
    chances.drop("a", [1, 17])
    chances.drop_lease("b")
    assert set(chances._open) == {("a", 0), ("a", 2)}
    chances.begin("b", 0, (7, 10))
    assert learned(chances, 0.51) == pytest.approx(0.51)


@given(st.integers(1, 5), st.integers(2, 60), st.integers(0, 1000))
def test_the_largest_probability_is_that_of_the_softmax(rows: int, tokens: int, seed: int) -> None:
    logits = 5 * torch.randn(rows, tokens, generator=torch.Generator().manual_seed(seed))
    expected = logits.double().softmax(dim=1).amax(dim=1).tolist()
    assert largest_probabilities(logits) == pytest.approx(expected, rel=1e-4)
    assert largest_probabilities(logits.bfloat16()) == pytest.approx(expected, rel=0.2)


def test_bins_cover_all_probabilities() -> None:
    calibration = Calibration()
    for place in range(BINS + 1):
        calibration.learn(place / BINS, kept=True)
    assert all(math.isfinite(calibration.chance(place / BINS)) for place in range(BINS + 1))
