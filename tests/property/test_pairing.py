"""Lanes and drafters: whatever comes and goes, the pairing is even, complete and calm."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from coordinator.pairing import pair

lanes = st.lists(st.integers(0, 30), unique=True, max_size=12)
drafters = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)
former = st.dictionaries(st.integers(0, 30), st.sampled_from("abcdefg"), max_size=12)


@given(lanes, drafters, former)
def test_every_lane_has_a_drafter_and_the_lanes_are_shared_evenly(
    lanes: list[int], drafters: list[str], before: dict[int, str]
) -> None:
    paired = pair(lanes, drafters, before)
    assert set(paired) == (set(lanes) if drafters else set())
    served = Counter(paired.values())
    counts = [served[drafter] for drafter in drafters]
    assert not counts or max(counts) - min(counts) <= 1


@given(lanes, drafters, former)
def test_pairing_again_changes_nothing(lanes: list[int], drafters: list[str], before: dict[int, str]) -> None:
    paired = pair(lanes, drafters, before)
    assert pair(lanes, drafters, paired) == paired


@given(lanes, drafters, former)
def test_only_as_many_lanes_change_as_must(lanes: list[int], drafters: list[str], before: dict[int, str]) -> None:
    paired = pair(lanes, drafters, before)
    kept = sum(before.get(lane) == drafter for lane, drafter in paired.items())
    able = Counter(before[lane] for lane in lanes if before.get(lane) in drafters)
    # No even sharing lets a drafter keep more than the larger share of the lanes that it had.
    least = len(lanes) // max(len(drafters), 1)
    assert kept >= sum(min(count, least) for count in able.values())
    assert kept <= sum(able.values())


@given(lanes, drafters, former, st.sets(st.tuples(st.integers(0, 30), st.sampled_from("abcdef"))))
def test_a_lane_never_gets_a_drafter_that_does_not_fit(
    lanes: list[int], drafters: list[str], before: dict[int, str], unfit: set[tuple[int, str]]
) -> None:
    paired = pair(lanes, drafters, before, lambda lane, drafter: (lane, drafter) not in unfit)
    for lane in lanes:
        fitting = [drafter for drafter in drafters if (lane, drafter) not in unfit]
        assert (paired[lane] in fitting) if fitting else (lane not in paired)
