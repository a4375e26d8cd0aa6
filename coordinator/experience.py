"""What modes were seen to do: the time of their cycles against the forecast, by load. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from coordinator.choice import Mode

WINDOW: Final = 32.0  # rounds that a ratio remembers
FADES: Final = 2048.0  # ticks after which what was seen counts half
TRUST: Final = 2.0  # rounds after which a mode's own ratio counts as much as that of its number of lanes
WIDEST: Final = 2.0  # what one round may say: half or twice the forecast
ENOUGH: Final = 12.0  # rounds after which nothing better is hoped for
HOPE: Final = 0.3  # how much better than its forecast a mode may turn out that was never seen


@dataclass(slots=True)
class Seen:
    """One mode at one load. Mutated by `Experience` only."""

    ratio: float = 1.0
    rounds: float = 0.0
    tick: int = 0

    def add(self, ratio: float, tick: int) -> None:
        rounds = min(self.weight(tick) + 1.0, WINDOW)
        self.ratio += (ratio - self.ratio) / rounds
        self.rounds, self.tick = rounds, tick

    def weight(self, tick: int) -> float:
        return self.rounds * float(0.5 ** ((tick - self.tick) / FADES))


class Experience:
    """Seconds seen over seconds forecast. Mutated by `add` and `skip`."""

    def __init__(self) -> None:
        self._modes: dict[tuple[Mode, int], Seen] = {}
        self._lanes: dict[int, Seen] = {}

    @staticmethod
    def bucket(requests: int) -> int:
        """Loads that differ by less than about 40 % are alike."""
        return round(2.0 * math.log2(requests)) if requests else -1

    def add(self, mode: Mode, requests: int, ratio: float, tick: int) -> None:
        """A settled round took `ratio` times the forecast."""
        held = max(1.0 / WIDEST, min(WIDEST, ratio))
        self._of(mode, requests).add(held, tick)
        self._lanes.setdefault(mode.lanes, Seen()).add(held, tick)

    def skip(self, mode: Mode, requests: int, tick: int) -> None:
        """The mode was tried and never settled: it counts as seen for a while."""
        seen = self._of(mode, requests)
        seen.rounds, seen.tick = seen.weight(tick) + 0.5, tick

    def seen(self, mode: Mode, requests: int, tick: int) -> float:
        """Rounds that are still remembered."""
        found = self._modes.get((mode, self.bucket(requests)))
        return found.weight(tick) if found else 0.0

    def ratio(self, mode: Mode, requests: int, tick: int) -> float:
        """What a forecast is to be multiplied with."""
        pool = self._lanes.get(mode.lanes)
        usual = pool.ratio if pool else 1.0
        found = self._modes.get((mode, self.bucket(requests)))
        if found is None:
            return usual
        weight = found.weight(tick)
        return (found.ratio * weight + usual * TRUST) / (weight + TRUST)

    def slack(self, mode: Mode, requests: int, tick: int) -> float:
        """By how much a mode may do better than is thought."""
        rounds = self.seen(mode, requests, tick)
        return HOPE / (1.0 + rounds) if rounds < ENOUGH else 0.0

    def _of(self, mode: Mode, requests: int) -> Seen:
        return self._modes.setdefault((mode, self.bucket(requests)), Seen())
