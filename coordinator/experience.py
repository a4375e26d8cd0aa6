"""What modes were seen to do: how long their cycles took, by load, at the services' usual speed. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from coordinator.acceptance import Work
from coordinator.choice import Mode

WINDOW: Final = 32.0  # rounds that an average remembers
FADES: Final = 2048.0  # ticks after which what was seen counts half
TRUST: Final = 2.0  # rounds after which what a mode did counts as much as what those with as many lanes did
WIDEST: Final = 2.0  # how far from its forecast a mode is believed to be: half or twice
HOPE: Final = 0.3  # how much better than its forecast a mode may turn out that was never seen
OUTLIER: Final = 1.5  # times the average: as far as one round counts
AWAY: Final = 0.5  # what a round at a load 40 % larger or smaller tells, as a part
ENOUGH: Final = 12.0  # rounds after which nothing better is hoped for
LUCK: Final = 0.15  # how much better it may turn out than on a single visit, however many rounds that had
VISITS: Final = 6.0  # that are remembered
ENOUGH_VISITS: Final = 5.0  # after which luck is not thought of; fewer than are remembered, so that it lasts a while
APART: Final = 24  # ticks between two visits, at least
STAY: Final = 32.0  # rounds without a pause that tell as much as another visit


@dataclass(slots=True)
class Seen:
    """One mode at one load: averages over its settled rounds. Mutated by `Experience` only."""

    seconds: float = 0.0  # of a cycle
    requests: float = 0.0
    work: Work = field(default_factory=Work)
    rounds: float = 0.0
    visits: float = 0.0  # moments at which it was seen: a machine may be slow for all rounds of one
    tick: int = 0

    def add(self, seconds: float, requests: int, work: Work, tick: int) -> None:
        rounds = min(self.weight(tick) + 1.0, WINDOW)
        first = self.seconds == 0.0
        again = first or tick - self.tick > APART
        visits = self.faded_visits(tick) + (1.0 if again else 1.0 / STAY)
        if not first:
            seconds = max(self.seconds / OUTLIER, min(self.seconds * OUTLIER, seconds))
        share = 1.0 if first else 1.0 / rounds
        self.seconds += (seconds - self.seconds) * share
        self.requests += (requests - self.requests) * share
        self.work = Work(
            self.work.passes + (work.passes - self.work.passes) * share,
            self.work.drawn + (work.drawn - self.work.drawn) * share,
            self.work.verified + (work.verified - self.work.verified) * share,
        )
        self.rounds, self.visits, self.tick = rounds, min(visits, VISITS), tick

    def weight(self, tick: int) -> float:
        return self.rounds * self._left(tick)

    def faded_visits(self, tick: int) -> float:
        return self.visits * self._left(tick)

    def luck(self, tick: int) -> float:
        """By how much it may have been seen at bad moments only."""
        visits = self.faded_visits(tick)
        return LUCK / visits if 0.5 <= visits < ENOUGH_VISITS else 0.0

    def _left(self, tick: int) -> float:
        return float(0.5 ** ((tick - self.tick) / FADES))


class Experience:
    """Cycles that were seen. Mutated by `add` and `skip`."""

    def __init__(self) -> None:
        self._modes: dict[tuple[Mode, int], Seen] = {}

    @staticmethod
    def bucket(requests: int) -> int:
        """Loads that differ by less than about 40 % are alike."""
        return round(2.0 * math.log2(requests)) if requests else -1

    def add(self, mode: Mode, requests: int, seconds: float, work: Work, tick: int) -> None:
        """A settled round that was fed so much took so long, or would have at the services' usual speed: see
        `Pace.usual_share`."""
        self._modes.setdefault((mode, self.bucket(requests)), Seen()).add(seconds, requests, work, tick)

    def skip(self, mode: Mode, requests: int, tick: int) -> None:
        """The mode was tried and never settled: it counts as seen for a while."""
        seen = self._modes.setdefault((mode, self.bucket(requests)), Seen())
        seen.rounds, seen.visits, seen.tick = seen.weight(tick) + 0.5, seen.faded_visits(tick), tick

    def seen(self, mode: Mode, requests: int, tick: int) -> float:
        """Rounds that are still remembered."""
        found = self._modes.get((mode, self.bucket(requests)))
        return found.weight(tick) if found else 0.0

    def slack(self, mode: Mode, requests: int, tick: int) -> float:
        """By how much a mode may do better than is thought: less, the more was seen of it and of its kin, those with as
        many lanes at loads like this. Plain decoding has no kin: what modes with drafts do tells little of how it
        compares with them."""
        rounds = self.seen(mode, requests, tick)
        bucket = self.bucket(requests)
        found = self._modes.get((mode, bucket))
        hope = HOPE / (1.0 + rounds) if rounds < ENOUGH else 0.0
        if found is not None and mode.draft_tokens == 0:  # of modes with drafts kin tell as much as another visit
            hope = max(hope, found.luck(tick))
        if hope == 0.0:
            return 0.0
        kin = sum(
            seen.weight(tick) * AWAY ** abs(load - bucket)
            for (other, load), seen in self._modes.items()
            if other.lanes == mode.lanes and (other, load) != (mode, bucket) and mode.draft_tokens > 0
        )
        return hope / (1.0 + kin / ENOUGH)

    def ratios(
        self, modes: Collection[Mode], requests: int, tick: int, cycle: Callable[[Mode, float, Work], float]
    ) -> dict[Mode, float]:
        """What the forecast of each mode is to be multiplied with. `cycle` forecasts seconds at the usual speed, of a
        mode at a load, fed with what it was fed when it was seen.

        A mode's own ratio is that of what it took to what would be forecast of it now; as long as little was seen of
        it, it leans on the other modes with as many lanes.
        """
        own: dict[Mode, tuple[float, float]] = {}
        pools: dict[int, tuple[float, float]] = {}
        for mode in modes:
            found = self._modes.get((mode, self.bucket(requests)))
            if found is not None and found.seconds:
                ratio = found.seconds / cycle(mode, found.requests, found.work)
                ratio = max(1.0 / WIDEST, min(WIDEST, ratio))
                weight = found.weight(tick)
                own[mode] = (ratio, weight)
                total, weights = pools.get(mode.lanes, (0.0, 0.0))
                pools[mode.lanes] = (total + ratio * weight, weights + weight)
        ratios = {}
        for mode in modes:
            total, weights = pools.get(mode.lanes, (0.0, 0.0))
            usual = (total + 1.0) / (weights + 1.0)
            ratio, weight = own.get(mode, (1.0, 0.0))
            ratios[mode] = (ratio * weight + usual * TRUST) / (weight + TRUST)
        return ratios
