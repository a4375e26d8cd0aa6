"""The formula: the time between verifications, for any number of lanes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.acceptance import Outlook, Work, emitted
from coordinator.choice import Load, Mode, forecast, lane_sizes
from coordinator.experience import APART, Experience
from coordinator.pace import Pace, Setting

MS = 1e-3
millis = st.floats(0.5, 100.0)


def known(draft: float, verify: float, around: float) -> Pace:
    """Step times that depend on nothing but K: `draft` ms a pass."""
    pace = Pace()
    for lanes in range(1, 5):
        for items in (1, 2, 4, 8, 16, 32):
            for drafts in range(5):
                setting = Setting(lanes, items, drafts)
                for _ in range(40):
                    pace.verified(setting, items * (1 + drafts), 0, verify * MS, 1)
                    pace.spent_around(setting, around * MS, 1)
                    if drafts:
                        pace.drafted(setting, drafts, items * drafts, 0, draft * drafts * MS, 1)
        pace.solve(lanes, 8, 1)
    return pace


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize(("draft", "verify", "around"), [(2, 25, 1), (10, 25, 1), (30, 20, 0.5), (1, 5, 40)])
def test_equal_lanes_follow_the_theory(lanes: int, draft: float, verify: float, around: float) -> None:
    found = forecast(Mode(lanes, 3), Load(8), known(draft, verify, around), Outlook.even((0.7,) * 4))
    t = 3 * draft
    between = max(verify, t, (t + verify + around) / lanes) * MS
    assert found.cycle_seconds / lanes == pytest.approx(between, rel=0.02)
    assert found.tokens == pytest.approx(8 * emitted((0.7,) * 4, 3))


@given(st.integers(1, 200), st.integers(1, 64))
def test_lane_sizes_are_balanced(requests: int, lanes: int) -> None:
    sizes = lane_sizes(requests, lanes)
    assert sum(sizes) == requests
    assert len(sizes) == min(lanes, requests)
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_one_request_gains_nothing_from_a_second_lane() -> None:
    pace = known(5, 20, 1)
    one, two = (forecast(Mode(lanes, 3), Load(1), pace, Outlook.even((0.7,) * 4)) for lanes in (1, 2))
    assert one == two


def test_plain_decoding_needs_no_drafter() -> None:
    found = forecast(Mode(1, 0), Load(4), known(5, 20, 1), Outlook.even((0.7,) * 4))
    assert found.draft_seconds == 0.0
    assert found.tokens == 4.0
    assert found.cycle_seconds == pytest.approx(21 * MS, rel=0.02)


def test_requests_without_drafts_emit_one_token_each() -> None:
    found = forecast(Mode(1, 2), Load(4, drafting=0.5), known(5, 20, 1), Outlook.even((1.0,) * 4))
    assert found.tokens == pytest.approx(2 * 3 + 2)


def test_what_was_seen_corrects_the_forecast_and_fades() -> None:
    seen = Experience()
    mode, other, single = Mode(2, 3), Mode(2, 4), Mode(1, 3)

    def ratios(tick: int) -> dict[Mode, float]:
        return seen.ratios([mode, other, single], 8, tick, lambda *_: 20 * MS)

    assert set(ratios(0).values()) == {1.0}
    for tick in range(40):
        seen.add(mode, 8, 30 * MS, Work(), tick)
    assert ratios(40)[mode] == pytest.approx(1.5, abs=0.02)
    assert ratios(40)[other] == pytest.approx(1.5, abs=0.05)  # the same number of lanes: probably the same
    assert ratios(40)[single] == 1.0
    assert ratios(40_000)[mode] == pytest.approx(1.0, abs=0.01)
    for tick in range(40, 42):
        seen.add(mode, 8, 90 * MS, Work(), tick)
    assert ratios(42)[mode] < 2.0
    assert seen.slack(mode, 8, 40) == 0.0
    assert seen.slack(single, 8, 40) > 0.2
    assert 0.0 < seen.slack(other, 8, 40) < 0.5 * seen.slack(single, 8, 40)  # its kin was seen
    assert seen.slack(mode, 8, 40_000) > 0.2


def test_what_was_seen_is_compared_with_what_its_work_would_take() -> None:
    """The mode ran with few drafts; the forecast of a cycle with as few is right, so that of one with many is."""
    seen = Experience()
    mode = Mode(1, 4)
    for tick in range(20):
        seen.add(mode, 8, (20 + tick % 3) * MS, Work(passes=2.0, drawn=1.0, verified=tick % 3), tick)
    found = seen.ratios([mode], 8, 20, lambda mode, requests, work: (20 + work.verified) * MS)
    assert found[mode] == pytest.approx(1.0, abs=0.02)


def test_kin_at_loads_nearby_leaves_less_to_be_hoped_for() -> None:
    seen = Experience()
    for tick in range(30):
        seen.add(Mode(2, 3), 4, 30 * MS, Work(), tick)
    same, near, far = (seen.slack(Mode(2, 4), requests, 30) for requests in (4, 8, 64))
    assert same < near < far
    assert seen.slack(Mode(2, 0), 4, 30) == seen.slack(Mode(1, 4), 4, 30) > far  # plain decoding has none


def test_one_visit_may_have_been_an_unlucky_one() -> None:
    """However many rounds it had: the machine may have been slow for all of them."""
    seen = Experience()
    plain = Mode(1, 0)
    hopes = []
    for begin in range(0, 8 * 3 * APART, 3 * APART):
        for tick in range(begin, begin + 20):
            seen.add(plain, 8, 30 * MS, Work(), tick)
        hopes.append(seen.slack(plain, 8, begin + 20))
    assert hopes[0] > 0.05
    assert hopes == sorted(hopes, reverse=True)
    assert hopes[-1] == 0.0
    stayed = Experience()
    for tick in range(400):
        stayed.add(plain, 8, 30 * MS, Work(), tick)
    assert stayed.slack(plain, 8, 400) == 0.0  # it was seen for long


@given(st.integers(1, 1000))
def test_buckets_hold_loads_that_are_alike(requests: int) -> None:
    near = [other for other in range(1, 1001) if Experience.bucket(other) == Experience.bucket(requests)]
    assert max(near) / min(near) <= 2.0**0.5 + 1e-9
