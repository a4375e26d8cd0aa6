"""What trials may cost, and have cost. Pure."""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.01  # of the time with rounds
ALLOWANCE: Final = 20.0  # cycles beyond it, once
SETTLING_ROUNDS: Final = 2  # of each lane after a trial, until requests are where they belong


class Budget:
    """Seconds that trials took beyond what the usual mode would have needed for the same tokens."""

    def __init__(self) -> None:
        self.lost = 0.0
        self._served = 0.0
        self._settling = 0  # rounds that belong to the cost of the last trial, though it is over
        self._rate = 1.0  # tokens a second before it

    def serve(self, seconds: float) -> None:
        """A round went by; rounds of lanes that run at once count once."""
        self._served += seconds

    def allows(self, cycle_seconds: float, cost: float = 0.0) -> bool:
        """Whether another trial may begin, where the cycle of the usual mode takes so long; `cost` is what is known
        beforehand of what it will take, in seconds."""
        return self.lost + cost <= ALLOWANCE * cycle_seconds + SHARE * self._served

    def end_trial(self, seconds: float, tokens: float, rate: float, lanes: int) -> None:
        """A trial of so many lanes is over; before it, `rate` tokens came in a second."""
        self._lose(seconds - tokens / rate)
        self._settling, self._rate = SETTLING_ROUNDS * lanes, rate

    def end_round(self, seconds: float, tokens: float) -> None:
        """A round outside of trials is over."""
        if self._settling > 0:
            self._settling -= 1
            self._lose(seconds - tokens / self._rate)

    def _lose(self, seconds: float) -> None:
        """Less than nothing when a trial gave more than the usual mode."""
        self.lost = max(0.0, self.lost + seconds)
