"""A short look at a mode that is not in use. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.choice import Mode
from coordinator.request import Request

NARROW: Final = 8  # requests that are drafted for when plain decoding looks whether drafts have become better
MOST_TO_CATCH_UP: Final = 256  # tokens, for all of them


@dataclass(slots=True)
class Trial:
    """A mode that is being looked at. Mutated by the chooser."""

    mode: Mode
    rate: float  # tokens a second that the usual mode gives
    cycle_seconds: float  # of the usual mode
    narrow: bool = False
    settled: int = 0
    rounds: int = 0
    seconds: float = 0.0  # of service: rounds of lanes that run at once count once
    tokens: float = 0.0  # that came of its rounds


def shortest(requests: Sequence[Request], drafter: int) -> set[int]:
    """The requests that the drafter has least to catch up with: NARROW at most, at least one."""
    able = [request for request in requests if request.max_draft_tokens > 0]
    able.sort(key=lambda request: request.tail_len(request.draft_cache, drafter))
    tokens = 0
    chosen: set[int] = set()
    for request in able[:NARROW]:
        tokens += request.tail_len(request.draft_cache, drafter)
        if chosen and tokens > MOST_TO_CATCH_UP:
            break
        chosen.add(request.id)
    return chosen
