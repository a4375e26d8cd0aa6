"""Every replica of every kind restarted under load, one by one: no request fails, no token is wrong."""

from __future__ import annotations

from benchmarks.rolling import Setting, run


def test_a_rolling_restart_under_load_fails_no_request() -> None:
    outcome = run(Setting(rounds=1))
    assert (outcome.restarts, outcome.kills) == (4, 2)
    assert outcome.exit_codes == (0,)
    assert outcome.failed == ()
    assert outcome.wrong_tokens == 0
    assert outcome.requests > 16
    assert outcome.verifiers_used == 2
