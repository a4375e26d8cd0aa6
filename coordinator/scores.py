"""How the modes that are possible compare at one load, by the laws as they stand: the forecast, corrected by what each
mode was seen to do. Pure: asking changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.acceptance import Outlook
from coordinator.choice import Forecast, Load, Mode, forecast, seconds_for
from coordinator.experience import Experience
from coordinator.pace import Pace


class Scores:
    """Tokens a second, under any outlook on acceptance."""

    def __init__(self, modes: Sequence[Mode], load: Load, pace: Pace, experience: Experience, tick: int) -> None:
        """`pace` is to be solved for the lanes of all modes at this load: see `solve`."""
        self._modes = modes
        self._load = load
        self._pace = pace
        usual = pace.usual()
        self._ratios = experience.ratios(
            modes, load.requests, tick, lambda mode, requests, work: seconds_for(mode, requests, usual, work)
        )

    def expect(self, mode: Mode, outlook: Outlook) -> Forecast:
        """What the formula alone says."""
        return forecast(mode, self._load, self._pace, outlook)

    def rates(self, outlook: Outlook) -> dict[Mode, float]:
        """Tokens a second of each mode."""
        return {mode: self.expect(mode, outlook).tokens_per_second / self._ratios[mode] for mode in self._modes}

    def least_chance(self, rates: Mapping[Mode, float], outlook: Outlook) -> float:
        """That a draft must have to be worth its time: the tokens that the best mode gives while one more is made and
        verified. One mode at least has drafts.

        By the best of those, whether it is in use or not: its threshold is not to change with its use.
        """
        mode = best_of({mode: rate for mode, rate in rates.items() if mode.draft_tokens > 0})
        lanes = min(mode.lanes, self._load.requests)
        size = self._load.requests / lanes
        tokens = size * (1.0 + self._load.drafting * outlook.verified(mode.draft_tokens))
        return min(self._pace.draft_token_seconds(lanes, tokens) * max(rates.values()), 1.0)


def best_of(rates: Mapping[Mode, float]) -> Mode:
    """The mode that gives most; there is at least one."""
    return max(rates, key=lambda mode: rates[mode])


def solve(pace: Pace, modes: Sequence[Mode], requests: int, tick: int) -> None:
    """Fit the laws that are needed to compare `modes` at this load."""
    for lanes in {min(mode.lanes, requests) for mode in modes}:
        pace.solve(lanes, requests / lanes, tick)
