"""Step times that are learned: affine laws come out, whatever order and noise the samples come in."""

from __future__ import annotations

import itertools
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.pace import KNOTS, MOST_CELLS, SURE, WIDEST, Pace, Setting

MS = 1e-3
law_terms = st.tuples(st.floats(1.0, 50.0), st.floats(0.0, 2.0), st.floats(0.0, 1.0))


def watch(
    pace: Pace, terms: tuple[float, float, float], seen: list[tuple[int, int]], *, noise: float = 0.0, times: int = 6
) -> None:
    """V = (a + b n + c tokens) ms and t = (a K / 10 + c n K / 10) ms at settings (n, K), on one lane."""
    a, b, c = terms
    dice = random.Random(3)
    tick = 0
    for _ in range(times):
        for items, drafts in seen:
            tick += 1
            setting = Setting(1, items, drafts)
            tokens = items * (1 + drafts)
            shaken = 1.0 + noise * dice.uniform(-1.0, 1.0)
            pace.verified(setting, tokens, 0, (a + b * items + c * tokens) * MS * shaken, tick)
            if drafts:
                wanted = items * drafts
                pace.drafted(setting, drafts, wanted, 0, (a * drafts + c * wanted) * MS / 10 * shaken, tick)
    pace.solve(1, seen[-1][0], tick)


@settings(max_examples=60, deadline=None)
@given(law_terms, st.integers(1, 32), st.integers(0, 8))
def test_an_affine_law_tells_of_settings_that_were_never_seen(
    terms: tuple[float, float, float], items: int, drafts: int
) -> None:
    pace = Pace()
    watch(pace, terms, [(4, 0), (4, 2), (4, 6), (16, 2), (16, 4)])
    a, b, c = terms
    tokens = items * (1 + drafts)
    expected = (a + b * items + c * tokens) * MS
    near = 0.05 if tokens >= 4 else 0.2  # fewer than in any setting that was seen: V may be flat down there
    assert pace.verify_seconds(Setting(1, items, drafts), tokens) == pytest.approx(expected, rel=near)
    expected = (a * drafts + c * items * drafts) * MS / 10
    assert pace.draft_seconds(Setting(1, items, drafts), drafts, items * drafts) == pytest.approx(expected, rel=0.1)


def roofline(tokens: float) -> float:
    """Seconds of a pass that waits for memory up to 8 tokens, and for its arithmetic beyond."""
    return max(16.0, 2.0 * tokens) * MS


def watch_roofline(pace: Pace, seen: list[tuple[int, int]]) -> None:
    tick = 0
    for _ in range(20):
        for items, drafts in seen:
            tick += 1
            tokens = items * (1 + drafts)
            pace.verified(Setting(1, items, drafts), tokens, 0, roofline(tokens), tick)
    pace.solve(1, seen[-1][0], tick)


def test_tokens_cost_little_until_arithmetic_is_what_a_pass_waits_for() -> None:
    """Plain decoding of four was never seen: a straight line through what was would have it at half its time."""
    pace = Pace()
    watch_roofline(pace, [(1, 0), (1, 2), (1, 5), (2, 2), (4, 2), (4, 3), (4, 5)])
    for drafts in (0, 1, 4, 6):
        tokens = 4 * (1 + drafts)
        expected = pytest.approx(roofline(tokens), rel=0.12)
        assert pace.verify_seconds(Setting(1, 4, drafts), tokens) == expected


def test_a_draft_costs_what_v_rises_by_where_it_is_now() -> None:
    pace = Pace()
    watch_roofline(pace, [(1, 0), (1, 2), (1, 5), (2, 2), (4, 1), (4, 2), (4, 4), (4, 6)])
    assert pace.draft_token_seconds(1, 3.0) == pytest.approx(0.0, abs=0.3 * MS)
    assert pace.draft_token_seconds(1, 20.0) == pytest.approx(2.0 * MS, rel=0.15)
    costs = [pace.draft_token_seconds(1, tokens) for tokens in range(1, 40)]
    assert all(before <= after + 1e-9 for before, after in itertools.pairwise(costs))


def test_from_one_setting_drafting_is_taken_to_grow_with_k_and_verification_not_to() -> None:
    pace = Pace()
    watch(pace, (20.0, 0.0, 0.0), [(8, 2)])
    assert pace.draft_seconds(Setting(1, 8, 4), 4, 32) == pytest.approx(8 * MS, rel=0.1)
    assert pace.verify_seconds(Setting(1, 8, 4), 40) == pytest.approx(20 * MS, rel=0.15)


def test_noise_and_outliers_are_averaged_away() -> None:
    pace = Pace()
    watch(pace, (20.0, 0.2, 0.1), [(4, 0), (4, 2), (4, 4), (8, 2)], noise=0.1, times=40)
    usual = pace.verify_seconds(Setting(1, 4, 2), 12)
    assert usual == pytest.approx(22.0 * MS, rel=0.05)
    pace.verified(Setting(1, 4, 2), 12, 0, 5.0, 999)  # a hiccup of five seconds
    pace.solve(1, 4, 999)
    assert pace.verify_seconds(Setting(1, 4, 2), 12) == pytest.approx(usual, rel=0.05)


def test_a_lasting_change_of_speed_is_learned() -> None:
    pace = Pace()
    watch(pace, (20.0, 0.0, 0.1), [(4, 0), (4, 2)], times=50)
    for tick in range(200):
        pace.verified(Setting(1, 4, 2), 12, 0, 50 * MS, 1000 + tick)
    pace.solve(1, 4, 1200)
    assert pace.verify_seconds(Setting(1, 4, 2), 12) == pytest.approx(50 * MS, rel=0.15)


def test_what_prompts_cost_is_kept_apart() -> None:
    pace = Pace()
    for tick in range(40):
        prompt = 300 if tick % 2 else 0
        setting = Setting.of(1, 4, 2, prompt)
        pace.verified(setting, 12, prompt, (20 + 0.05 * prompt) * MS, tick)
    pace.solve(1, 4, 40)
    assert pace.verify_seconds(Setting(1, 4, 2), 12) == pytest.approx(20 * MS, rel=0.02)


def test_steps_beside_other_lanes_have_their_own_law() -> None:
    """Drafter and verifier on the same cores: what overlaps is slower."""
    pace = Pace()
    for tick in range(30):
        pace.verified(Setting(1, 4, 2), 12, 0, 20 * MS, tick)
        pace.verified(Setting(2, 4, 2), 12, 0, 35 * MS, tick)
    for lanes, expected in ((1, 20 * MS), (2, 35 * MS)):
        pace.solve(lanes, 4, 30)
        assert pace.verify_seconds(Setting(lanes, 4, 2), 12) == pytest.approx(expected, rel=0.05)


def test_fewer_drafts_than_asked_for_make_smaller_verifications() -> None:
    pace = Pace()
    for tick in range(200):
        pace.verified(Setting(1, 4, 0), 4, 0, 14 * MS, tick)
        pace.verified(Setting(1, 8, 0), 8, 0, 18 * MS, tick)
        pace.verified(Setting(1, 4, 4), 8, 0, 18 * MS, tick)
    pace.solve(1, 4, 200)
    assert pace.verify_seconds(Setting(1, 4, 4), 8) == pytest.approx(18 * MS, rel=0.05)


def test_a_step_beyond_a_knot_long_ago_says_nothing_of_the_next() -> None:
    """Of one step of 20 tokens ever fewer are left in the average; the law is not to explain them by more and more."""
    pace = Pace()
    pace.verified(Setting(1, 4, 4), 20, 0, 30 * MS, 0)
    for tick in range(2000):
        pace.verified(Setting(1, 4, 4), 8, 0, 18 * MS, tick)
        pace.verified(Setting(1, 4, 0), 4, 0, 14 * MS, tick)
        if tick % 16 == 0:
            pace.solve(1, 4, tick)
    assert pace.verify_seconds(Setting(1, 4, 8), 20) < 200 * MS
    for tick in range(2000, 2004):  # nor is one like it to turn everything upside down
        pace.verified(Setting(1, 4, 4), 20, 0, 30 * MS, tick)
    assert pace.usual_share(0.0, 1.0, 0.0) == pytest.approx(1.0, rel=0.2)


def two_settings(ticks: int) -> Pace:
    """K=2 takes 30 ms to verify, K=0 20 ms, of 4 requests."""
    pace = Pace()
    for tick in range(ticks):
        pace.verified(Setting(1, 4, 2), 12, 0, 30 * MS, tick)
        pace.verified(Setting(1, 4, 0), 4, 0, 20 * MS, tick)
    return pace


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_a_machine_that_changes_its_speed_changes_settings_that_do_not_run(factor: float) -> None:
    """K=2 was seen, then K=0 runs while the whole machine gets slower or faster."""
    pace = two_settings(200)
    for tick in range(200, 300):
        pace.verified(Setting(1, 4, 0), 4, 0, 20 * MS * factor, tick)
    pace.solve(1, 4, 300)
    assert pace.verify_seconds(Setting(1, 4, 0), 4) == pytest.approx(20 * MS * factor, rel=0.05)
    assert pace.verify_seconds(Setting(1, 4, 2), 12) == pytest.approx(30 * MS * factor, rel=0.2)
    usual = pace.usual()
    assert usual.verify_seconds(Setting(1, 4, 2), 12) == pytest.approx(30 * MS, rel=0.2)
    assert pace.usual_share(0.0, factor, 0.0) == pytest.approx(1.0 / factor, rel=0.2)


def test_what_differs_from_step_to_step_is_not_taken_for_the_machines_speed() -> None:
    """Proposals of any length in one setting, and prompts now and then."""
    pace = Pace()
    dice = random.Random(2)
    for tick in range(2000):
        tokens = dice.randint(4, 20)
        pace.verified(Setting(1, 4, 4), tokens, 0, (10 + tokens) * MS, tick)
        pace.verified(Setting.of(1, 4, 4, 70), 8, 70, dice.uniform(80, 200) * MS, tick)
        if tick % 16 == 0:
            pace.solve(1, 4, tick)
    assert pace.usual_share(0.0, 1.0, 0.0) == pytest.approx(1.0, rel=0.15)


def test_hiccups_are_not_taken_for_a_service_that_gets_slower_and_slower() -> None:
    """A twentieth of all steps takes three times as long, at two settings, with as many tokens as it happens."""
    pace = Pace()
    dice = random.Random(5)
    found, shares = [], []
    for tick in range(40000):
        drafts = dice.choice((0, 4))
        tokens = 4 if drafts == 0 else dice.randint(4, 20)
        hiccup = 3.0 if dice.random() < 0.05 else 1.0
        pace.verified(Setting(1, 4, drafts), tokens, 0, (10 + tokens) * MS * hiccup, tick)
        if tick % 16 == 0:
            pace.solve(1, 4, tick)
            found.append(pace.verify_seconds(Setting(1, 4, 0), 4))
            shares.append(pace.usual_share(0.0, 1.0, 0.0))
    late = found[len(found) // 2 :]
    assert sum(late) / len(late) == pytest.approx(14 * MS, rel=0.05)
    # The unit wanders, by a tenth in 10,000 steps; what was seen of modes is forgotten five times as fast.
    blocks = [sum(shares[at : at + 625]) / 625 for at in range(0, len(shares), 625)]
    for before, after in pairwise(blocks):
        assert after == pytest.approx(before, rel=0.2)


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_counting_anew_changes_nothing(factor: float) -> None:
    """The unit of the cells is nobody's business."""
    pace = two_settings(100)
    for tick in range(100, 400):
        pace.verified(Setting(1, 4, 0), 4, 0, 20 * MS * factor, tick)
        assert 1.0 / WIDEST < pace.verify.level < WIDEST  # it is counted anew on the way
    assert pace.verify.level != pytest.approx(1.0, rel=0.01)  # and there is something to count anew once more
    pace.solve(1, 4, 400)

    def answers() -> list[float]:
        return [
            *(view.verify_seconds(Setting(1, 4, drafts), 6) for view in (pace, pace.usual()) for drafts in (0, 1, 2)),
            pace.usual_share(1.0, 2.0, 3.0),
            pace.draft_token_seconds(1, 8),
        ]

    before = answers()
    pace.verify._count_anew()
    assert answers() == pytest.approx(before)
    pace.solve(1, 4, 400)
    assert answers() == pytest.approx(before)


def test_a_slow_hour_makes_no_setting_look_faster_than_another() -> None:
    """K=0 runs for long while the machine is half as fast; what was seen of K=2 before stays comparable with it."""
    pace = two_settings(200)
    for tick in range(200, 3000):
        pace.verified(Setting(1, 4, 0), 4, 0, 40 * MS, tick)
    pace.solve(1, 4, 3000)
    ratio = pace.verify_seconds(Setting(1, 4, 2), 12) / pace.verify_seconds(Setting(1, 4, 0), 4)
    assert ratio == pytest.approx(1.5, rel=0.25)  # 0.75 if all of it were blamed on the setting in use


def test_laws_are_fitted_anew_only_when_there_is_news() -> None:
    pace = two_settings(100)
    pace.solve(1, 4, 100)
    law = pace.verify.coefficients(1)
    pace.solve(1, 4, 5000)
    assert pace.verify.coefficients(1) is law  # all samples are older now, and count as they did beside each other
    pace.solve(1, 2, 5000)
    assert pace.verify.coefficients(1) is not law  # another load
    law = pace.verify.coefficients(1)
    pace.verified(Setting(1, 4, 2), 12, 0, 45 * MS, 5001)
    pace.solve(1, 2, 5001)
    assert pace.verify.coefficients(1) is not law
    pace.verify.doubt()
    law = pace.verify.coefficients(1)
    pace.solve(1, 2, 5001)
    assert pace.verify.coefficients(1) is not law


def test_a_law_that_knows_nothing_of_a_setting_is_no_fault() -> None:
    """All that was fitted are prompts: of steps without any the law says zero."""
    pace = Pace()
    pace.verify._laws[1] = np.array([0.0, 0.0, 0.0, 1e-3, *[0.0] * len(KNOTS)])
    for tick in range(2 * SURE):
        pace.verified(Setting(1, 4, 0), 4, 0, 20 * MS, tick)
    assert pace.usual_share(0.0, 1.0, 0.0) == pytest.approx(1.0)
    assert pace.verify_seconds(Setting(1, 4, 0), 4) > 0.0


def test_memory_is_bounded() -> None:
    pace = Pace()
    for items in range(1, 3 * MOST_CELLS):
        pace.verified(Setting(1, items, 0), items, 0, items * MS, items)
    pace.solve(1, 500, 800)
    assert len(pace.verify._cells) == MOST_CELLS
    assert pace.verify_seconds(Setting(1, 500, 0), 500) == pytest.approx(500 * MS, rel=0.05)
