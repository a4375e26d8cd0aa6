"""How likely a draft is to be kept, by the probability that the draft model gives it.

A draft that is unlikely to be kept costs a pass and a place in the verification, and a small model mostly knows when it
guesses (Li et al., EAGLE-2, arXiv 2406.16858, shape trees by it; assisted generation of transformers stops by it). What
became of earlier drafts corrects what the model says of itself. Only greedy drafts are estimated: of those, the chance
to be kept is the chance that both models like the same token best. For drawn ones it is what two laws have in common,
of which the largest probability tells little.

No output depends on this: where a proposal ends is settled before its next draft is looked at, by the tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from torch import Tensor

BINS: Final = 20  # of equal width, over probabilities
WINDOW: Final = 256.0  # drafts that a bin remembers
PRIOR: Final = 16.0  # drafts that the model's own word is worth


class Calibration:
    """From probabilities to chances. Mutated by `learn` only."""

    def __init__(self) -> None:
        self._seen = [0.0] * BINS
        self._kept = [0.0] * BINS

    def chance(self, probability: float) -> float:
        """That a draft of this probability is kept when all before it were."""
        place = _bin(probability)
        return (self._kept[place] + PRIOR * probability) / (self._seen[place] + PRIOR)

    def learn(self, probability: float, *, kept: bool) -> None:
        place = _bin(probability)
        left = 1.0 - 1.0 / WINDOW
        self._seen[place] = self._seen[place] * left + 1.0
        self._kept[place] = self._kept[place] * left + kept


@dataclass(slots=True)
class Guess:
    """The likeliest tokens after the first `start` of a sequence. The last may not have been proposed."""

    start: int
    token_ids: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    through: float = 1.0  # the chance that all are kept

    def add(self, token_id: int, probability: float, chance: float) -> None:
        self.token_ids.append(token_id)
        self.probabilities.append(probability)
        self.through *= chance


class Chances:
    """What is guessed of each sequence, and what became of it. Used on the engine thread only."""

    def __init__(self) -> None:
        self._calibration = Calibration()
        self._open: dict[tuple[str, int], Guess] = {}  # (lease, sequence) -> its newest

    def begin(self, lease: str, sequence_id: int, committed: Sequence[int]) -> Guess:
        """A new guess after the committed tokens, which tell what became of the one before."""
        before = self._open.pop((lease, sequence_id), None)
        if before is not None:
            self._settle(before, committed)
        guess = self._open[lease, sequence_id] = Guess(len(committed))
        return guess

    def worth(self, guess: Guess, token_id: int, probability: float, least: float) -> bool:
        """Note the likeliest next token; whether it has the least chance of being kept with all before it."""
        guess.add(token_id, probability, self._calibration.chance(probability))
        return guess.through >= least

    def drop(self, lease: str, sequence_ids: Iterable[int]) -> None:
        for sequence_id in sequence_ids:
            self._open.pop((lease, sequence_id), None)

    def drop_lease(self, lease: str) -> None:
        self.drop(lease, [sequence_id for owner, sequence_id in self._open if owner == lease])

    def _settle(self, guess: Guess, committed: Sequence[int]) -> None:
        """Up to the first that was wrong: what would have followed it is not known."""
        became = committed[guess.start : guess.start + len(guess.token_ids)]
        for token, probability, real in zip(guess.token_ids, guess.probabilities, became, strict=False):
            self._calibration.learn(probability, kept=token == real)
            if token != real:
                return


def largest_probabilities(logits: Tensor) -> list[float]:
    """Of each row's softmax. [R, V]"""
    if logits.device.type == "cpu":
        rows = logits.float().numpy()
        spread = np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1)
        return [float(1.0 / total) for total in spread]
    return [float(value) for value in logits.float().softmax(dim=1).amax(dim=1).tolist()]


def _bin(probability: float) -> int:
    return min(int(probability * BINS), BINS - 1)
