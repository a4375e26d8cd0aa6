"""A token bucket in whole numbers: how often something may happen, with bursts. Pure; the caller brings the time.

A bucket of n a minute holds n at most and gains n a minute, evenly. Counting in units of 1/60e9 of an event makes a
nanosecond worth exactly n units, so nothing is ever rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MINUTE_NS: Final = 60_000_000_000
EVENT: Final = MINUTE_NS  # units that one event costs


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left at a moment."""

    units: int
    at_ns: int

    @classmethod
    def full(cls, per_minute: int, now_ns: int) -> Bucket:
        """Room for a burst of `per_minute` events."""
        return cls(per_minute * EVENT, now_ns)

    def at(self, per_minute: int, now_ns: int) -> Bucket:
        """The bucket after some time. A clock that went back gives nothing."""
        gained = max(0, now_ns - self.at_ns) * per_minute
        return Bucket(min(per_minute * EVENT, self.units + gained), max(self.at_ns, now_ns))

    def take(self, per_minute: int, now_ns: int) -> tuple[Bucket, int]:
        """(the bucket after this moment, nanoseconds to wait). 0 means that an event was taken, else none was."""
        bucket = self.at(per_minute, now_ns)
        missing = EVENT - bucket.units
        if missing > 0:
            return bucket, -(-missing // per_minute)
        return Bucket(bucket.units - EVENT, bucket.at_ns), 0
