"""Busy and overlapping time from the timings of steps."""

from __future__ import annotations

import random

import pytest

from minedraft.telemetry.activity import ActivityLog, Role
from minedraft.types import StepTiming

MS = 1_000_000


def step(begin_ms: int, host_ms: int, forward_ms: int) -> StepTiming:
    return StepTiming(queue_ns=7 * MS, host_ns=host_ms * MS, forward_ns=forward_ms * MS, started_unix_ns=begin_ms * MS)


def test_sums() -> None:
    log = ActivityLog()
    pair = log.beside()
    pair.record(Role.DRAFTER, step(0, 1, 9))
    pair.record(Role.VERIFIER, step(5, 2, 18))  # overlaps 5 ms
    pair.record(Role.DRAFTER, step(12, 0, 30))  # overlaps 13 ms
    pair.record(Role.VERIFIER, step(100, 0, 1))
    activity = log.summary()
    assert (activity.drafts, activity.verifications) == (2, 2)
    assert activity.drafter_forward_seconds == pytest.approx(0.039)
    assert activity.drafter_busy_seconds == pytest.approx(0.040)
    assert activity.verifier_forward_seconds == pytest.approx(0.019)
    assert activity.verifier_busy_seconds == pytest.approx(0.021)
    assert activity.overlap_seconds == pytest.approx(0.018)
    assert activity.wall_seconds > 0


def test_overlap_does_not_depend_on_which_reply_comes_first() -> None:
    dice = random.Random(1)
    steps: list[tuple[Role, int, int]] = []
    for role in Role:
        now = 0
        for _ in range(200):
            now += dice.randrange(3)
            length = dice.randrange(1, 9)
            steps.append((role, now, now + length))
            now += length
    busy = {role: {t for r, begin, end in steps if r is role for t in range(begin, end)} for role in Role}
    overlap = len(busy[Role.DRAFTER] & busy[Role.VERIFIER]) / 1000
    log = ActivityLog()
    pair = log.beside()
    for role, begin, end in sorted(steps, key=lambda s: (s[2], dice.random())):  # replies come at the end of steps
        pair.record(role, step(begin, 0, end - begin))
    assert log.summary().overlap_seconds == pytest.approx(overlap)


def test_who_drafts_for_another_verifier_does_not_overlap_with_this_one() -> None:
    log = ActivityLog()
    one, other = log.beside(), log.beside()
    one.record(Role.VERIFIER, step(0, 0, 10))
    other.record(Role.DRAFTER, step(0, 0, 10))
    assert log.summary().overlap_seconds == 0.0
    one.record(Role.DRAFTER, step(8, 0, 4))
    assert log.summary().overlap_seconds == pytest.approx(0.002)
    assert (log.summary().drafts, log.summary().verifications) == (2, 1)
