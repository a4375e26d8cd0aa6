"""How rarely plain decoding looks whether drafts have become worth it: at each load, more rarely after each look.
Pure."""

from __future__ import annotations

from typing import Final

LEAST_REST: Final = 1  # decisions between looks
MOST_REST: Final = 32


class Looks:
    """Decisions since the last look, by load. Mutated by all but `due`."""

    def __init__(self) -> None:
        self._rests: dict[int, int] = {}  # decisions until the next look after the last one, by bucket of loads
        self._since: dict[int, float] = {}

    def decide(self, bucket: int, counts: float = 1.0) -> None:
        """A decision was made at a load of that bucket (see `Experience.bucket`), and counts for so many."""
        self._since[bucket] = self._since.get(bucket, 0.0) + counts

    def due(self, bucket: int) -> bool:
        return self._since.get(bucket, 0) > self._rests.get(bucket, LEAST_REST)

    def look(self, bucket: int) -> None:
        """A look begins."""
        self._since[bucket] = 0
        self._rests[bucket] = min(2 * self._rests.get(bucket, LEAST_REST), MOST_REST)

    def forget(self, bucket: int) -> None:
        """Drafts are worth it at that load: should they cease to be, looks begin anew."""
        self._rests.pop(bucket, None)

    def forget_all(self) -> None:
        """The drafter is another one."""
        self._rests.clear()
