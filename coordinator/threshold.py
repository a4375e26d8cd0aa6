"""The least chance of being kept that a draft must have to be proposed, and what drafts do under it. Pure.

A draft is worth its time when what it adds to a round, in seconds, would have given less than the token that it may
bring. Where it pays, the drafter is told so and leaves out what is less likely. What is proposed and kept then depends
on the threshold; so thresholds come in steps, and what was seen is kept for each.
"""

from __future__ import annotations

from typing import Final

from coordinator.acceptance import Acceptance

STEPS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SLACK: Final = 0.04  # beyond the middle between two steps, until the other one is taken


class Threshold:
    """The step in use. Mutated by `choose` and `rest`."""

    def __init__(self, places: int) -> None:
        """`places` is the largest number of drafts in a proposal."""
        self._places = places
        self._seen = {STEPS[0]: Acceptance(places)}
        self.least = STEPS[0]

    @property
    def acceptance(self) -> Acceptance:
        """Under the step in use."""
        return self._seen[self.least]

    def choose(self, worth: float) -> None:
        """Take the step near the chance that makes a draft worth its time."""
        nearest = min(STEPS, key=lambda step: abs(step - worth))
        if nearest == self.least or abs(self.least - worth) - abs(nearest - worth) < 2 * SLACK:
            return
        if nearest not in self._seen:
            fresh = Acceptance(self._places)
            fresh.inherit(self.acceptance, *_change(self.least, nearest))
            self._seen[nearest] = fresh
        self.least = nearest

    def rest(self, share: float) -> None:
        """See `Acceptance.rest`."""
        for acceptance in self._seen.values():
            acceptance.rest(share)


def _change(known: float, least: float) -> tuple[float, float]:
    """(kept, proposed) under a threshold over those under another, were chances spread evenly from 0 to 1."""
    return (1.0 - least**2) / (1.0 - known**2), (1.0 - least) / (1.0 - known)
