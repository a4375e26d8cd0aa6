"""What trials may cost, and have cost. Pure."""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.01  # of the time with rounds
ALLOWANCE: Final = 20.0  # cycles of debt
LEAST: Final = 1.0  # cycles that a trial counts for
SAVED: Final = SHARE * 60.0  # seconds that are not needed now and may be later
SETTLING_ROUNDS: Final = 2  # of each lane after a trial, until requests are where they belong


class Budget:
    """Seconds that trials took beyond what the usual mode would have needed for the same tokens.

    A debt that service pays off. Little is saved of what it does not need: a quiet hour is no reason for a costly
    minute.
    """

    def __init__(self) -> None:
        self.lost = 0.0  # so far
        self._debt = 0.0
        self._settling = 0  # rounds that belong to the cost of the last trial, though it is over
        self._rate = 1.0  # tokens a second before it

    def serve(self, seconds: float) -> None:
        """A round went by; rounds of lanes that run at once count once."""
        self._debt = max(-SAVED, self._debt - SHARE * seconds)

    def allows(self, cycle_seconds: float, cost: float = 0.0) -> bool:
        """Whether another trial may begin, where the cycle of the usual mode takes so long; `cost` is what is known
        beforehand of what it will take, in seconds."""
        return self._debt + cost <= ALLOWANCE * cycle_seconds

    def end_trial(self, seconds: float, tokens: float, rate: float, lanes: int, cycle_seconds: float) -> None:
        """A trial of so many lanes is over; before it, `rate` tokens came in a second.

        It counts for LEAST cycles of the usual mode at least, whatever it brought: the rounds around it are not what
        they would have been, and modes that are as good as each other are not to be tried for ever.
        """
        loss = seconds - tokens / rate
        self._lose(loss, max(loss, LEAST * cycle_seconds))
        self._settling, self._rate = SETTLING_ROUNDS * lanes, rate

    def end_round(self, seconds: float, tokens: float) -> None:
        """A round outside of trials is over."""
        if self._settling > 0:
            self._settling -= 1
            loss = seconds - tokens / self._rate
            self._lose(loss, loss)

    def _lose(self, seconds: float, counted: float) -> None:
        """Less than nothing when a trial gave more than the usual mode."""
        self.lost = max(0.0, self.lost + seconds)
        self._debt = max(min(self._debt, 0.0), self._debt + counted)
