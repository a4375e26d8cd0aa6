"""Stop strings: find the first that is completed, and never show the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NOTHING: Final = ""


class StopScanner:
    """Text passes through character by character, so where it is cut does not depend on how it arrives in pieces.

    The first stop string to be complete wins; of several that end at the same character, the longest. One state of the
    Knuth-Morris-Pratt automaton for each stop string bounds the cost of a character.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` are not empty strings."""
        self.stopped = False
        self._stops = tuple(stops)
        self._borders = tuple(_borders(stop) for stop in stops)
        self._matched = [0] * len(self._stops)  # for each, how much of it the text ends with
        self._held = NOTHING

    def feed(self, piece: str) -> str:
        """The text that is safe to show now. Sets `stopped` when a stop string is complete; later text is dropped."""
        if self.stopped:
            return NOTHING
        if not self._stops:
            return piece
        text = self._held + piece
        for place, character in enumerate(piece, start=len(self._held) + 1):
            if found := self._step(character):
                self.stopped, self._held = True, NOTHING
                return text[: place - found]
        shown = len(text) - max(self._matched)
        self._held = text[shown:]
        return text[:shown]

    def flush(self) -> str:
        """What was held back, at the end of the output."""
        held, self._held = self._held, NOTHING
        return held

    def _step(self, character: str) -> int:
        """Take one character; the length of the stop string that it completes, 0 for none."""
        found = 0
        for index, (stop, borders) in enumerate(zip(self._stops, self._borders, strict=True)):
            matched = self._matched[index]
            while matched and stop[matched] != character:
                matched = borders[matched - 1]
            matched += stop[matched] == character
            if matched == len(stop):
                found = max(found, matched)
            self._matched[index] = matched
        return found


def _borders(stop: str) -> tuple[int, ...]:
    """For each beginning of `stop`, the length of its longest proper beginning that is also its end."""
    borders = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[index] != stop[length]:
            length = borders[length - 1]
        length += stop[index] == stop[length]
        borders[index] = length
    return tuple(borders)
