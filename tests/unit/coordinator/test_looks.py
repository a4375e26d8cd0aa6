"""Looks at drafts: at each load rarer and rarer, until drafts are worth it there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from coordinator.looks import LEAST_REST, MOST_REST, Looks


def decisions(looks: Looks, bucket: int, count: int) -> list[int]:
    """At which of so many decisions a look was due, and made."""
    made = []
    for number in range(count):
        looks.decide(bucket)
        if looks.due(bucket):
            looks.look(bucket)
            made.append(number)
    return made


def gaps(made: list[int]) -> list[int]:
    return [later - earlier for earlier, later in pairwise(made)]


def test_looks_get_half_as_often_until_they_are_as_rare_as_they_get() -> None:
    found = gaps(decisions(Looks(), 3, 300))
    assert found[:5] == [2 * LEAST_REST + 1, 4 * LEAST_REST + 1, 8 * LEAST_REST + 1, 16 * LEAST_REST + 1, MOST_REST + 1]
    assert set(found[5:]) == {MOST_REST + 1}


def test_another_load_has_its_own() -> None:
    looks = Looks()
    decisions(looks, 3, 100)
    assert decisions(looks, 6, 40) == decisions(Looks(), 6, 40)
    assert len(decisions(looks, 3, MOST_REST + 1)) <= 1  # what was found there still counts


@pytest.mark.parametrize("begin_anew", [lambda looks: looks.forget(3), Looks.forget_all])
def test_drafts_that_became_worth_it_and_another_drafter_begin_anew(begin_anew: Callable[[Looks], None]) -> None:
    looks = Looks()
    decisions(looks, 3, 100)
    begin_anew(looks)
    assert gaps(decisions(looks, 3, 20))[0] == 2 * LEAST_REST + 1
