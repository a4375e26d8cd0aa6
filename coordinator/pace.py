"""How long steps take, learned from the replies' timings: t(n, k) and V(n, k), affine in what a step is fed. Pure.

Samples of one setting share a cell: an average that forgets and that outliers move little. An affine law is fitted
through the cells, those of similar load counting most, and tells of settings never tried; where a setting has a cell of
its own, the law is corrected by it. Forgetting happens within a cell, so a setting that is not used is not forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CELL_WINDOW: Final = 48  # samples that a cell remembers
MOST_CELLS: Final = 256
OUTLIER: Final = 4.0  # mean deviations beyond which a sample is pulled in
FRESH: Final = 4096.0  # ticks after which a cell counts half
TRUST: Final = 4.0  # samples after which a cell is believed as much as the law
OTHER_WAY: Final = 0.03  # weight of cells measured with lanes overlapping for predictions without, and the reverse
RIDGE: Final = 2e-4
DRAFT_SHARES: Final = (0.05, 0.9, 0.05, 0.0)  # what a draft step's time is made of, before there is data
VERIFY_SHARES: Final = (0.8, 0.1, 0.1, 0.0)
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
    seconds: float
    deviation: float
    count: int
    tick: int


class Fit:
    """seconds = coefficients . features, all coefficients >= 0. Mutated by `add`, `solve` and `doubt`."""

    def __init__(self, shares: Sequence[float]) -> None:
        """`shares` is what each feature contributes as long as the data do not tell."""
        self._shares: Vector = np.array(shares)
        self._cells: dict[Setting, Cell] = {}
        self._laws: dict[int, Vector] = {}  # coefficients, by the number of lanes that they were fitted for

    @property
    def known(self) -> bool:
        return bool(self._cells)

    def add(self, setting: Setting, features: Sequence[float], seconds: float, tick: int) -> None:
        """One step took `seconds`; `tick` counts rounds."""
        cell = self._cells.get(setting)
        fed = np.array(features)
        if cell is None:
            if len(self._cells) >= MOST_CELLS:
                del self._cells[min(self._cells, key=lambda key: self._cells[key].tick)]
            self._cells[setting] = Cell(fed, seconds, 0.25 * seconds, 1, tick)
            return
        reach = OUTLIER * cell.deviation + 0.02 * cell.seconds
        error = seconds - cell.seconds
        cell.count = min(cell.count + 1, CELL_WINDOW)
        step = 1.0 / cell.count
        cell.deviation += (min(abs(error), 2.0 * reach) - cell.deviation) * max(step, 0.1)
        cell.seconds += max(-reach, min(reach, error)) * step
        cell.features += (fed - cell.features) * step
        cell.tick = tick

    def coefficients(self, lanes: int) -> Vector:
        """The law for so many lanes, as of the last `solve`: one number a feature. Zeros before the first."""
        law = self._laws.get(lanes)
        return np.zeros_like(self._shares) if law is None else law

    def doubt(self) -> None:
        """The service is another one now: new samples soon outweigh the old."""
        for cell in self._cells.values():
            cell.count = min(cell.count, 1)

    def solve(self, lanes: int, items: float, tick: int) -> None:
        """Fit the law for `lanes` lanes of about `items`: least squares on relative errors, with a slight prior."""
        if not self._cells:
            return
        weights, rows = [], []
        for setting, cell in self._cells.items():
            weight = min(cell.count, 8) * 0.5 ** ((tick - cell.tick) / FRESH)
            weight /= 1.0 + math.log2(setting.items / max(items, 1.0)) ** 2
            weights.append(weight * (1.0 if (setting.lanes > 1) == (lanes > 1) else OTHER_WAY))
            rows.append(cell.features / max(cell.seconds, 1e-9))
        self._laws[lanes] = _least_squares(np.array(rows), np.array(weights), self._shares)

    def seconds(self, setting: Setting, features: Sequence[float]) -> float:
        """The time of a step, by the law and by what was seen of this very setting."""
        coefficients = self.coefficients(setting.lanes)
        law = max(float(coefficients @ np.array(features)), 1e-9)
        cell = self._cells.get(setting)
        if cell is None:
            return law
        seen = cell.seconds / max(float(coefficients @ cell.features), 1e-9)
        return law * (TRUST + cell.count * seen) / (TRUST + cell.count)


def _least_squares(rows: Vector, weights: Vector, shares: Vector) -> Vector:
    """theta >= 0 that brings rows [cells, features] . theta near 1. Features that would be negative are left out."""
    scale = np.maximum(np.average(np.abs(rows), axis=0, weights=weights), 1e-12)
    scaled = rows / scale
    weights = weights / weights.sum()
    gram = (scaled * weights[:, None]).T @ scaled
    right = (scaled * weights[:, None]).sum(axis=0)
    used = np.any(rows != 0.0, axis=0)
    solution: Vector = np.zeros(len(shares))
    while used.any():
        ridge = RIDGE * np.eye(int(used.sum()))
        part = np.linalg.solve(gram[np.ix_(used, used)] + ridge, right[used] + RIDGE * shares[used])
        if (part >= 0.0).all():
            solution[used] = part
            break
        used[np.flatnonzero(used)[int(part.argmin())]] = False
    solution /= scale
    return solution


class Pace:
    """The times of a round: drafting, verification, and what is around them (round trips and the lane's own work)."""

    def __init__(self) -> None:
        self.draft = Fit(DRAFT_SHARES)
        self.verify = Fit(VERIFY_SHARES)
        self.around = Fit(AROUND_SHARES)
        self._proposed = 1.0  # drafts that came for each that was asked for

    def drafted(
        self, setting: Setting, passes: int, drafts: int, proposed: int, prefill: int, seconds: float, tick: int
    ) -> None:
        """A draft step of `passes` passes for `drafts` drafts in all, of which `proposed` came."""
        self.draft.add(setting, (1.0, passes, drafts, prefill), seconds, tick)
        if drafts:
            self._proposed += (proposed / drafts - self._proposed) * 0.05

    def verified(self, setting: Setting, tokens: int, prefill: int, seconds: float, tick: int) -> None:
        """A verify step that was fed `tokens` tokens beside `prefill` prompt tokens."""
        self.verify.add(setting, (1.0, setting.items, tokens, prefill), seconds, tick)

    def spent_around(self, setting: Setting, seconds: float, tick: int) -> None:
        self.around.add(setting, (1.0, setting.items), seconds, tick)

    def solve(self, lanes: int, items: float, tick: int) -> None:
        """Make ready for questions about `lanes` lanes of about `items` requests."""
        for fit in (self.draft, self.verify, self.around):
            fit.solve(lanes, items, tick)

    def draft_seconds(self, setting: Setting, drafting: float) -> float:
        """t: a draft step for `drafting` of the items."""
        if setting.drafts == 0 or drafting <= 0.0:
            return 0.0
        return self.draft.seconds(setting, (1.0, setting.drafts, setting.drafts * drafting, 0.0))

    def verify_seconds(self, setting: Setting, drafting: float) -> float:
        """V: a verification of all items, `drafting` of them with drafts."""
        tokens = setting.items + setting.drafts * drafting * self._proposed
        return self.verify.seconds(setting, (1.0, setting.items, tokens, 0.0))

    def prompt_seconds(self, lanes: int, tokens: float, *, drafts: bool) -> tuple[float, float]:
        """What so many prompt tokens take of the drafter and of the verifier."""
        drafter = float(self.draft.coefficients(lanes)[3]) if drafts else 0.0
        return drafter * tokens, float(self.verify.coefficients(lanes)[3]) * tokens

    def around_seconds(self, setting: Setting) -> float:
        return self.around.seconds(setting, (1.0, setting.items))

    def draft_token_seconds(self, lanes: int) -> float:
        """What one more draft in a step adds to drafting and verification together."""
        return float(self.draft.coefficients(lanes)[2] + self.verify.coefficients(lanes)[2])
