"""kill -9 of the drafter while dense laws are under way: right tokens, nothing stuck, nothing left in shared memory."""

from __future__ import annotations

from pathlib import Path

from benchmarks.kills import Setting, run


def test_kills_leave_nothing_wrong_stuck_or_behind(tmp_path: Path) -> None:
    outcome = run(Setting(kills=4, folder=tmp_path, seed=7))
    assert outcome.kills == 4
    assert outcome.wrong_tokens == 0
    assert outcome.stuck_requests == 0
    assert outcome.leaked_segments == 0
    assert outcome.channels_opened > 1
    assert outcome.payloads > 100
