"""How long steps take, learned from the replies' timings: t(n, k) and V(n, k), by what a step is fed. Pure.

Samples of one setting share a cell: an average that forgets and that outliers move little. A law is fitted through the
cells, those of similar load counting most, and tells of settings never tried; where a setting has a cell of its own,
the law is corrected by it. Forgetting happens within a cell, so a setting that is not used is not forgotten.

The law is affine, but for the tokens of a verification: a few cost next to nothing while memory is what it waits for,
and each costs its arithmetic once that is. So V may become steeper, at KNOTS, and never less steep.

A machine gets slower and faster: neighbours, heat, other programs. So cells hold what steps take in a unit of their
own, and beside them stand two levels that they are to be multiplied with: that of now, learned from the settings in use
and felt by all, and that of the beginning, the usual one. What was seen of a setting long ago stays comparable with
what runs today. The level does not return by itself: only the settings in use would make up for it, and all others
would look faster after a slow minute.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

CELL_WINDOW: Final = 48  # samples that a cell remembers
MOST_CELLS: Final = 256
OUTLIER: Final = 4.0  # mean deviations beyond which a sample is pulled in
FRESH: Final = 4096.0  # ticks after which a cell counts half
SURE: Final = 16  # samples after which a cell tells how slow the service is now
FOLLOWS: Final = 0.05  # of a sample's surprise is blamed on the service as a whole, once its cell is full
FARTHEST: Final = 8.0  # how much larger than usual a step of a setting is believed to be
LEAST_FEATURE: Final = 0.02  # less of a feature, on average, is what is left of steps long ago
WIDEST: Final = 2.0  # how far the level may be from 1 before the cells are counted anew
TRUST: Final = 4.0  # samples after which a cell is believed as much as the law
OTHER_WAY: Final = 0.03  # weight of cells measured with lanes overlapping for predictions without, and the reverse
RIDGE: Final = 2e-4
KNOT_RIDGE: Final = 5e-3  # a law is straight unless it has to be bent
NEAR_TOKENS: Final = 2.0  # how far to each side the steepness of V is looked at,
NEAR_SHARE: Final = 0.25  # or this much of the tokens
KNOTS: Final = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)  # tokens of a verification
DRAFT_SHARES: Final = (0.05, 0.9, 0.05, 0.0)  # what a draft step's time is made of, before there is data
STRAIGHT: Final = 4  # features before those of knots
VERIFY_SHARES: Final = (0.8, 0.1, 0.1, 0.0, *(0.0,) * len(KNOTS))
AROUND_SHARES: Final = (0.9, 0.1)

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a cell is the average of."""

    lanes: int  # at work
    items: int  # of one lane's step
    drafts: int  # K
    prefill: int = 0  # 0, or about the binary logarithm of the prompt tokens in the step

    @classmethod
    def of(cls, lanes: int, items: int, drafts: int, prefill_tokens: int) -> Setting:
        return cls(lanes, items, drafts, prefill_tokens.bit_length())


@dataclass(slots=True)
class Cell:
    """Averages of one setting. Mutated by `Fit.add`."""

    features: Vector  # [features]
    seconds: float  # at level 1
    deviation: float
    count: int
    tick: int


@dataclass(frozen=True, slots=True)
class Table:
    """All cells as they are solved: the laws of all numbers of lanes are fitted to the same one."""

    rows: Vector  # [cells, features], features over seconds
    counts: Vector  # [cells]
    ticks: Vector  # [cells]
    items: Vector  # [cells]
    overlapping: NDArray[np.bool_]  # [cells], whether other lanes were at work

    @classmethod
    def of(cls, cells: Mapping[Setting, Cell]) -> Table:
        features = np.array([cell.features for cell in cells.values()])
        seconds = np.maximum([cell.seconds for cell in cells.values()], 1e-9)
        return cls(
            # A thousandth of a token beyond a knot tells nothing, and would be given thousands of seconds a token.
            rows=np.where(features < LEAST_FEATURE, 0.0, features) / seconds[:, None],
            counts=np.array([min(cell.count, 8) for cell in cells.values()], dtype=np.float64),
            ticks=np.array([cell.tick for cell in cells.values()], dtype=np.float64),
            items=np.array([setting.items for setting in cells], dtype=np.float64),
            overlapping=np.array([setting.lanes > 1 for setting in cells]),
        )


class Fit:
    """seconds = level * coefficients . features, all coefficients >= 0. Mutated by `add`, `solve` and `doubt`."""

    def __init__(self, shares: Sequence[float]) -> None:
        """`shares` is what each feature contributes as long as the data do not tell."""
        self._shares: Vector = np.array(shares)
        self._cells: dict[Setting, Cell] = {}
        self._laws: dict[int, Vector] = {}  # coefficients, by the number of lanes that they were fitted for
        self._table: Table | None = None  # of the cells, until one changes
        self._fitted: dict[int, float] = {}  # for how many items laws were fitted to these very cells, by lanes
        self.level = 1.0  # of now
        self.usual_level = 1.0

    @property
    def known(self) -> bool:
        return bool(self._cells)

    @property
    def slowness(self) -> float:
        """What steps take now, over what they usually do."""
        return self.level / self.usual_level

    def add(self, setting: Setting, features: Sequence[float], seconds: float, tick: int) -> None:
        """One step took `seconds`; `tick` counts rounds."""
        self._change()
        cell = self._cells.get(setting)
        fed = np.array(features)
        if cell is None:
            if len(self._cells) >= MOST_CELLS:
                del self._cells[min(self._cells, key=lambda key: self._cells[key].tick)]
            alone = seconds / self.level
            self._cells[setting] = Cell(fed, alone, 0.25 * alone, 1, tick)
            return
        expected = cell.seconds * self._larger(setting.lanes, fed, cell.features)
        reach = OUTLIER * cell.deviation + 0.02 * expected
        error = seconds / self.level - expected
        pulled = max(-reach, min(reach, error))
        if cell.count >= SURE and setting.prefill == 0:  # what prompts take differs too much from step to step
            # By just what the cell moves by: on average nothing once it is right. Any other measure that is not 0 then,
            # be it of logarithms or without outliers, would let both move on together without end. And less while
            # the cell is young: a mode is often chosen because it was lucky, and what follows is its own surprise.
            known = (cell.count / CELL_WINDOW) ** 2
            self.level *= 1.0 + FOLLOWS * known * pulled / max(cell.seconds, 1e-9)
        cell.count = min(cell.count + 1, CELL_WINDOW)
        step = 1.0 / cell.count
        cell.deviation += (min(abs(error), 2.0 * reach) - cell.deviation) * max(step, 0.1)
        cell.seconds += (expected + pulled - cell.seconds) * step
        cell.features += (fed - cell.features) * step
        cell.tick = tick
        if not 1.0 / WIDEST < self.level < WIDEST:
            self._count_anew()

    def _count_anew(self) -> None:
        """Everything in a unit in which the level is 1: it wanders a little, and would wander far in months."""
        self._change()
        for cell in self._cells.values():
            cell.seconds *= self.level
            cell.deviation *= self.level
        self._laws = {lanes: law * self.level for lanes, law in self._laws.items()}
        self.usual_level /= self.level
        self.level = 1.0

    def _change(self) -> None:
        """Cells are about to be others."""
        self._table = None
        self._fitted.clear()

    def _larger(self, lanes: int, fed: Vector, usual: Vector) -> float:
        """What a step that is fed `fed` takes by the law, over what one takes that is fed `usual`."""
        law = self.coefficients(lanes)
        typical = float(law @ usual)  # 0 when the law knows nothing of such steps
        ratio = float(law @ fed) / typical if typical > 0.0 else 1.0
        return max(1.0 / FARTHEST, min(FARTHEST, ratio))

    def coefficients(self, lanes: int) -> Vector:
        """The law for so many lanes at level 1, as of the last `solve`: a number a feature. Zeros before it."""
        law = self._laws.get(lanes)
        return np.zeros_like(self._shares) if law is None else law

    def doubt(self) -> None:
        """The service is another one now: new samples soon outweigh the old."""
        self._change()
        for cell in self._cells.values():
            cell.count = min(cell.count, 1)

    def solve(self, lanes: int, items: float, tick: int) -> None:
        """Fit the law for `lanes` lanes of about `items`: least squares on relative errors, with a slight prior.

        Nothing is done while there is no news, as of a drafter at rest.
        """
        if not self._cells:
            return
        if self._fitted.get(lanes) == items:  # cells fade alike: no law changes by time alone
            return
        self._fitted[lanes] = items
        table = self._table = self._table or Table.of(self._cells)
        weights = table.counts * 0.5 ** ((tick - table.ticks) / FRESH)
        weights /= 1.0 + np.log2(table.items / max(items, 1.0)) ** 2
        weights[table.overlapping != (lanes > 1)] *= OTHER_WAY
        self._laws[lanes] = _least_squares(table.rows, weights, self._shares)

    def seconds(self, setting: Setting, features: Sequence[float]) -> float:
        """The time of a step at level 1, by the law and by what was seen of this very setting."""
        coefficients = self.coefficients(setting.lanes)
        law = max(float(coefficients @ np.array(features)), 1e-9)
        cell = self._cells.get(setting)
        if cell is None:
            return law
        seen = cell.seconds / max(float(coefficients @ cell.features), 1e-9)
        return law * (TRUST + cell.count * seen) / (TRUST + cell.count)


def _least_squares(rows: Vector, weights: Vector, shares: Vector) -> Vector:
    """theta >= 0 that brings rows [cells, features] . theta near 1. Features that would be negative are left out."""
    weights = weights / weights.sum()
    scale = np.maximum(weights @ np.abs(rows), 1e-12)
    scaled = rows / scale
    ridges = np.where(np.arange(len(shares)) < STRAIGHT, RIDGE, KNOT_RIDGE)
    gram = (scaled * weights[:, None]).T @ scaled + np.diag(ridges)
    right = weights @ scaled + ridges * shares
    used = np.flatnonzero(rows.any(axis=0))
    solution: Vector = np.zeros(len(shares))
    while used.size:
        part = np.linalg.solve(gram[used[:, None], used], right[used])
        if (part >= 0.0).all():
            solution[used] = part
            break
        used = np.delete(used, part.argmin())
    solution /= scale
    return solution


class Pace:
    """The times of a round: drafting, verification, and what is around them (round trips and the lane's own work)."""

    def __init__(self) -> None:
        self.draft = Fit(DRAFT_SHARES)
        self.verify = Fit(VERIFY_SHARES)
        self.around = Fit(AROUND_SHARES)
        self._now = True  # whether times are as of now, not at the services' usual speed

    def usual(self) -> Self:
        """The same at the services' usual speed. For questions only."""
        other = copy.copy(self)
        other._now = False
        return other

    def usual_share(self, draft: float, verify: float, around: float) -> float:
        """What a round that spent those seconds would take at the services' usual speed, over what it took."""
        usual = draft / self.draft.slowness + verify / self.verify.slowness + around / self.around.slowness
        return usual / max(draft + verify + around, 1e-9)

    def _level(self, fit: Fit) -> float:
        return fit.level if self._now else fit.usual_level

    def drafted(self, setting: Setting, passes: int, drawn: int, prefill: int, seconds: float, tick: int) -> None:
        """A draft step of `passes` passes that looked at `drawn` drafts in all."""
        self.draft.add(setting, (1.0, passes, drawn, prefill), seconds, tick)

    def verified(self, setting: Setting, tokens: int, prefill: int, seconds: float, tick: int) -> None:
        """A verify step that was fed `tokens` tokens beside `prefill` prompt tokens."""
        self.verify.add(setting, _fed(setting.items, tokens, prefill), seconds, tick)

    def spent_around(self, setting: Setting, seconds: float, tick: int) -> None:
        self.around.add(setting, (1.0, setting.items), seconds, tick)

    def solve(self, lanes: int, items: float, tick: int) -> None:
        """Make ready for questions about `lanes` lanes of about `items` requests."""
        for fit in (self.draft, self.verify, self.around):
            fit.solve(lanes, items, tick)

    def draft_seconds(self, setting: Setting, passes: float, drawn: float) -> float:
        """t: a draft step of so many passes that looks at `drawn` drafts in all."""
        if setting.drafts == 0 or drawn <= 0.0:
            return 0.0
        return self._level(self.draft) * self.draft.seconds(setting, (1.0, passes, drawn, 0.0))

    def verify_seconds(self, setting: Setting, tokens: float) -> float:
        """V: a verification of all items, fed `tokens` tokens."""
        return self._level(self.verify) * self.verify.seconds(setting, _fed(setting.items, tokens))

    def prompt_seconds(self, lanes: int, tokens: float, *, drafts: bool) -> tuple[float, float]:
        """What so many prompt tokens take of the drafter and of the verifier."""
        drafter = self._level(self.draft) * self.draft.coefficients(lanes)[3] if drafts else 0.0
        return float(drafter) * tokens, float(self._level(self.verify) * self.verify.coefficients(lanes)[3]) * tokens

    def around_seconds(self, setting: Setting) -> float:
        return self._level(self.around) * self.around.seconds(setting, (1.0, setting.items))

    def draft_token_seconds(self, lanes: int, tokens: float) -> float:
        """What one more draft in a step adds to drafting and verification together, where a verification of one lane is
        fed `tokens` tokens. Of the steepness of V near there: a single knot is not to decide."""
        law = self.verify.coefficients(lanes)
        near = max(NEAR_TOKENS, NEAR_SHARE * tokens)
        steepness = law @ (np.array(_fed(0, tokens + near)) - np.array(_fed(0, tokens - near))) / (2.0 * near)
        drafting = self._level(self.draft) * self.draft.coefficients(lanes)[2]
        return float(drafting + self._level(self.verify) * steepness)


def _fed(items: float, tokens: float, prefill: float = 0.0) -> tuple[float, ...]:
    """The features of a verification."""
    return (1.0, items, tokens, prefill, *(max(0.0, tokens - knot) for knot in KNOTS))
