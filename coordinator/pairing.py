"""Which drafter each lane has. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

Lane = TypeVar("Lane", bound=Hashable)
Drafter = TypeVar("Drafter", bound=Hashable)


def pair(
    lanes: Sequence[Lane],
    drafters: Sequence[Drafter],
    before: Mapping[Lane, Drafter],
    fits: Callable[[Lane, Drafter], bool] = lambda lane, drafter: True,
) -> dict[Lane, Drafter]:
    """A drafter for every lane that any of `drafters` fits, so that they serve about as many lanes each.

    A lane keeps the drafter that it had `before` unless that one is gone or serves at least two lanes more than another
    one that fits: a change costs the lane's sequences their place in a cache. One drafter may serve lanes of several
    verifiers, and the lanes of one verifier may have different drafters.
    """
    paired = {lane: before[lane] for lane in lanes if lane in before and _usable(lane, before[lane], drafters, fits)}
    served = Counter(paired.values())
    for lane in lanes:
        if lane not in paired:
            fitting = [drafter for drafter in drafters if fits(lane, drafter)]
            if fitting:
                paired[lane] = min(fitting, key=served.__getitem__)
                served[paired[lane]] += 1
    for lane in reversed(lanes):
        if lane in paired:
            least = min((drafter for drafter in drafters if fits(lane, drafter)), key=served.__getitem__)
            if served[paired[lane]] - served[least] >= 2:  # one fewer here and one more there gains
                served[paired[lane]] -= 1
                served[least] += 1
                paired[lane] = least
    return paired


def _usable(lane: Lane, drafter: Drafter, drafters: Sequence[Drafter], fits: Callable[[Lane, Drafter], bool]) -> bool:
    return drafter in drafters and fits(lane, drafter)
