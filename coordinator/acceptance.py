"""How often drafts are proposed and kept, by their place in the proposal, as an average that forgets. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 512.0  # proposals that the average remembers
RECENT: Final = 32.0  # proposals that tell whether the average is still right
SURPRISE: Final = 4.0  # standard deviations between the two that mean: something has changed
LEAST_SURPRISE: Final = 0.05
EXPECTED: Final = 0.7  # before the first proposal
PRIOR: Final = 6.0  # proposals that a guess is worth
INHERITED: Final = 16.0  # proposals that what was seen under another threshold is worth
OWN_PRIOR: Final = 4.0
OWN_WINDOW: Final = 64.0
FAR_FEWER: Final = 0.5  # of what is usual
RESTING: Final = 0.99  # what is left, after a round, of the evidence of a request that was not drafted for


@dataclass(frozen=True, slots=True)
class Work:
    """What a round's steps are fed, beside a token for each request."""

    passes: float = 0.0  # of the draft model
    drawn: float = 0.0  # drafts that it looks at, for each request that is drafted for
    verified: float = 0.0  # drafts in the proposal of each


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be expected of proposals, place by place."""

    kept: tuple[float, ...]  # the chance that a draft asked for is proposed and kept when all before it were
    proposed: tuple[float, ...]  # the share of proposals that get to the place

    @classmethod
    def even(cls, chances: tuple[float, ...]) -> Outlook:
        """Everything that is asked for is proposed."""
        return cls(chances, (1.0,) * len(chances))

    def emitted(self, drafts: int) -> float:
        """Tokens that a verification emits for a request that K = `drafts` were asked for."""
        return emitted(self.kept, drafts)

    def verified(self, drafts: int) -> float:
        """Drafts in a proposal when K = `drafts` are asked for."""
        return sum(self.proposed[:drafts])

    def drawn(self, drafts: int) -> float:
        """Drafts that are looked at for it: one that is left out was, too."""
        return 1.0 + sum(self.proposed[: drafts - 1]) if drafts else 0.0

    def work(self, drafts: int, requests: float) -> Work:
        """Of a round that asks for K = `drafts` drafts for each of so many requests."""
        return Work(self.passes(drafts, requests), self.drawn(drafts), self.verified(drafts))

    def passes(self, drafts: int, requests: float) -> float:
        """Passes of the draft model until the longest of so many proposals is there."""
        return sum(1.0 - math.pow(1.0 - share, requests) for share in (1.0, *self.proposed)[:drafts])


class _Average:
    """At each place: proposals that got there, and those kept there. Both forget older ones."""

    def __init__(self, places: int, window: float) -> None:
        self._window = window
        self.reached = [0.0] * places
        self.kept = [0.0] * places

    def add(self, asked: int, accepted: int) -> None:
        left = 1.0 - 1.0 / self._window
        for place in range(min(asked, accepted + 1)):
            self.reached[place] = self.reached[place] * left + 1.0
            self.kept[place] = self.kept[place] * left + (place < accepted)

    def inherit(self, other: _Average, most: float, chance: float) -> None:
        """Begin with what another one knows, worth `most` proposals at most; first drafts kept `chance` as often."""
        for place, reached in enumerate(other.reached):
            left = min(1.0, most / max(reached, 1.0))
            self.reached[place] = reached * left
            kept = other.kept[place] * left * (chance if place == 0 else 1.0)
            self.kept[place] = min(kept, self.reached[place])


class Acceptance:
    """The chance that a draft is kept when all before it were. Mutated by `add` and `rest` only.

    A second, shorter average watches the first: when they differ by more than chance allows, the shorter one is
    right, and the longer one begins anew from it.
    """

    def __init__(self, places: int) -> None:
        """`places` is the largest number of drafts in a proposal."""
        self.places = places
        self._long = _Average(places, WINDOW)
        self._short = _Average(places, RECENT)
        self._offered = _Average(places, WINDOW)  # reached: the drafter was asked for one there; kept: it proposed one
        self._rest = 1.0
        self.changes = 0  # how often the average began anew

    @property
    def evidence(self) -> float:
        """Proposals that the average rests on. Falls while nothing is drafted."""
        return self._long.reached[0] * self._rest if self.places else 0.0

    def add(self, asked: int, accepted: int, proposed: int | None = None) -> None:
        """One proposal was judged. Drafts that were asked for and not proposed count as not kept. `proposed` None: all
        that were asked for."""
        if asked <= 0:
            return
        for average in (self._long, self._short):
            average.add(asked, accepted)
        self._offered.add(min(asked, self.places), asked if proposed is None else proposed)
        self._rest = 1.0
        if self._surprised():
            self.changes += 1
            self._long.reached = list(self._short.reached)
            self._long.kept = list(self._short.kept)

    def rest(self, share: float) -> None:
        """Nothing was drafted for a while: what is known is worth `share` of what it was."""
        self._rest *= share

    def inherit(self, other: Acceptance, kept: float, proposed: float) -> None:
        """Begin with what is known under another threshold, under which first drafts are proposed, and kept, that many
        times as often here. It is worth a few proposals."""
        self._long.inherit(other._long, INHERITED, kept)
        self._offered.inherit(other._offered, INHERITED, proposed)
        self._rest = other._rest

    def outlook(self, extra: float = 0.0) -> Outlook:
        """What is to be expected; `extra` as for `by_place`."""
        share, before, shares = 1.0, 1.0, []
        for reached, kept in zip(self._offered.reached, self._offered.kept, strict=True):
            before = (kept + PRIOR * before) / (reached + PRIOR)
            share *= before
            shares.append(share)
        return Outlook(self.by_place(extra), tuple(shares))

    def by_place(self, extra: float = 0.0) -> tuple[float, ...]:
        """The chances, place by place; a place that few drafts reached leans on the one before it.

        `extra` is added to the first, and so felt in all: what an optimist would believe.
        """
        chances = []
        before = EXPECTED
        for reached, kept in zip(self._long.reached, self._long.kept, strict=True):
            before = (kept + PRIOR * before) / (reached + PRIOR)
            chances.append(min(before + extra, 1.0))
        return tuple(chances)

    def doubt(self) -> float:
        """Two standard deviations of the first chance, as far as the evidence goes."""
        first = self.by_place()[0] if self.places else 0.0
        evidence = self.evidence + 1.0
        spread = max(first * (1.0 - first), 0.25 / evidence)
        return 2.0 * math.sqrt(spread / evidence)

    def _surprised(self) -> bool:
        long, short = self._long, self._short
        if long.reached[0] < 2 * RECENT or short.reached[0] < RECENT / 2:
            return False
        usual = (long.kept[0] + 1.0) / (long.reached[0] + 2.0)
        recent = short.kept[0] / short.reached[0]
        spread = math.sqrt(usual * (1.0 - usual) / (2.0 * RECENT))
        return abs(recent - usual) > SURPRISE * spread + LEAST_SURPRISE


def emitted(chances: tuple[float, ...], drafts: int) -> float:
    """Tokens that a verification emits on average: E(K) = 1 + a1 + a1 a2 + ..., K = `drafts`."""
    total, through = 1.0, 1.0
    for chance in chances[:drafts]:
        through *= chance
        total += through
    return total


@dataclass(slots=True)
class OwnAcceptance:
    """One request's: how often its drafts were kept, all places together. Mutated by `add` and `rest`."""

    reached: float = 0.0
    kept: float = 0.0

    def add(self, asked: int, accepted: int) -> None:
        reached = min(asked, accepted + 1)
        left = max(0.0, 1.0 - reached / OWN_WINDOW)
        self.reached = self.reached * left + reached
        self.kept = self.kept * left + accepted

    def rest(self) -> None:
        """A round without drafts: in time the request gets another chance."""
        self.reached *= RESTING
        self.kept *= RESTING

    def chance(self, usual: float) -> float:
        """That a draft is kept, where `usual` is what it is for all requests."""
        return (self.kept + OWN_PRIOR * usual) / (self.reached + OWN_PRIOR)

    def worthwhile(self, drafts: int, usual: float, least: float) -> int:
        """How many of `drafts` to ask for: all, unless this request keeps far fewer than is `usual`.

        Then those that have a chance of at least `least` to be kept.
        """
        chance = self.chance(usual)
        if chance >= FAR_FEWER * usual:
            return drafts
        through = 1.0
        for count in range(drafts):
            through *= chance
            if through < least:
                return count
        return drafts
