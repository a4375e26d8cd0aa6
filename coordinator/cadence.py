"""How often modes are weighed: more rarely, the longer nothing comes of it. Pure.

Weighing takes milliseconds of a core that model services may want.
"""

from __future__ import annotations

from typing import Final

EVERY: Final = 8  # rounds of each lane between decisions, at least
MOST_PATIENCE: Final = 4.0  # times as many at most
CALMER: Final = 1.25  # by this factor, after each decision that changed nothing


class Cadence:
    """Mutated by all but `due`."""

    def __init__(self) -> None:
        self._decided = 0  # tick
        self._patience = 1.0
        self._hastened = False

    def due(self, tick: int, lanes: int) -> bool:
        """Whether it is time for a decision; `tick` counts rounds of all lanes."""
        return self._hastened or tick - self._decided >= EVERY * lanes * self._patience

    def begin(self, tick: int, lanes: int) -> float:
        """A decision is made. Returns for how many it counts, of those that would have been without patience."""
        counts = max(1.0, (tick - self._decided) / (EVERY * lanes))
        self._decided, self._hastened = tick, False
        return min(counts, self._patience)

    def calm(self) -> None:
        """Nothing came of it."""
        self._patience = min(self._patience * CALMER, MOST_PATIENCE)

    def stir(self) -> None:
        """Something has changed, or may soon."""
        self._patience = 1.0

    def hasten(self) -> None:
        """The next decision is due at once."""
        self._patience, self._hastened = 1.0, True
