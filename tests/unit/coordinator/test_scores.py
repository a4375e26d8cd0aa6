"""Scores: the forecast, corrected by what was seen; asking changes nothing."""

from __future__ import annotations

import copy

import pytest

from coordinator.acceptance import Outlook, Work
from coordinator.choice import Load, Mode
from coordinator.experience import Experience
from coordinator.pace import Pace, Setting
from coordinator.scores import Scores, best_of, solve

MODES = [Mode(lanes, drafts) for lanes in (1, 2) for drafts in (0, 1, 2, 4)]
PASS, FIXED, TOKEN = 0.002, 0.010, 0.001  # seconds
REQUESTS = 4
LIKELY, UNLIKELY = Outlook.even((0.9,) * 8), Outlook.even((0.1,) * 8)


def seen() -> Pace:
    """Steps of known laws: a draft pass takes PASS, a verification FIXED and TOKEN for each token."""
    pace = Pace()
    for tick in range(200):
        for lanes in (1, 2):
            for items in (1, 2, 4):
                for drafts in (1, 2, 4):
                    tokens = items * (1 + drafts)
                    setting = Setting(lanes, items, drafts)
                    pace.drafted(setting, drafts, items * drafts, 0, PASS * drafts, tick)
                    pace.verified(setting, tokens, 0, FIXED + TOKEN * tokens, tick)
                    pace.spent_around(setting, 0.001, tick)
    solve(pace, MODES, REQUESTS, 200)
    return pace


def scores(experience: Experience | None = None) -> Scores:
    return Scores(MODES, Load(REQUESTS), seen(), experience or Experience(), 200)


def test_likely_drafts_are_worth_making_and_unlikely_ones_are_not() -> None:
    found = scores()
    assert best_of(found.rates(LIKELY)).draft_tokens == 4
    assert best_of(found.rates(UNLIKELY)).draft_tokens == 0


def test_asking_changes_nothing() -> None:
    experience = Experience()
    for _ in range(20):
        experience.add(Mode(1, 2), REQUESTS, 0.05, Work(2.0, 2.0, 2.0), 200)
    pace = seen()
    before = copy.deepcopy(vars(pace.verify)), copy.deepcopy(vars(experience))
    found = Scores(MODES, Load(REQUESTS), pace, experience, 200)
    first = found.rates(LIKELY)
    found.least_chance(found.rates(UNLIKELY), UNLIKELY)
    assert found.rates(LIKELY) == first
    assert repr(before) == repr((vars(pace.verify), vars(experience)))


def test_a_mode_that_was_slower_than_forecast_falls_back() -> None:
    mode, work = Mode(1, 4), Work(4.0, 4.0, 4.0)
    experience = Experience()
    for _ in range(40):
        experience.add(mode, REQUESTS, 2.0 * scores().expect(mode, Outlook.even((0.0,) * 8)).cycle_seconds, work, 200)
    plain, corrected = scores().rates(LIKELY), scores(experience).rates(LIKELY)
    assert corrected[mode] == pytest.approx(plain[mode] / 2.0, rel=0.1)
    assert corrected[Mode(2, 4)] == pytest.approx(plain[Mode(2, 4)])  # it has other lanes


def test_the_least_chance_is_what_a_draft_takes_in_tokens() -> None:
    """Drafting costs by passes alone here, so one more draft costs its verification: TOKEN seconds."""
    found = scores()
    rates = found.rates(LIKELY)
    assert found.least_chance(rates, LIKELY) == pytest.approx(TOKEN * max(rates.values()), rel=0.1)
