"""The newest steps of all lanes, for `GetTimeline`: what was where at what time, without text and tokens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import islice

from minedraft.generation import StepKind, TimelinePage, TimelineStep
from minedraft.types import DraftReply, VerifyItem, VerifyReply


class Timeline:
    """A ring of steps. Changed on the event loop, by the lanes."""

    def __init__(self, size: int, clock: Callable[[], int] = time.time_ns) -> None:
        """Keeps `size` steps; with 0 nothing is kept."""
        self._size = size
        self._clock = clock
        self._newest = 0
        self._steps: deque[TimelineStep] = deque(maxlen=size)

    def drafted(self, lane: int, service: str, reply: DraftReply) -> None:
        """A draft step was answered."""
        if self._size:
            drafts = sum(len(proposal.token_ids) for proposal in reply.proposals)
            self._add(StepKind.DRAFT, lane, service, reply, len(reply.proposals), drafts, 0)

    def verified(self, lane: int, service: str, items: list[VerifyItem], reply: VerifyReply) -> None:
        """The verify step of `items` was answered."""
        if self._size:
            drafts = sum(len(item.proposal.token_ids) for item in items if item.proposal)
            accepted = sum(verdict.accepted_len for verdict in reply.verdicts)
            self._add(StepKind.VERIFY, lane, service, reply, len(items), drafts, accepted)

    def page(self, after: int, limit: int) -> TimelinePage:
        """At most `limit` steps with numbers above `after`, the oldest first."""
        oldest = self._newest - len(self._steps) + 1
        start = max(0, after + 1 - oldest)
        return TimelinePage(tuple(islice(self._steps, start, start + limit)), self._newest)

    def _add(
        self, kind: StepKind, lane: int, service: str, reply: DraftReply | VerifyReply, items: int, drafts: int,
        accepted: int,
    ) -> None:  # fmt: skip
        self._newest += 1
        self._steps.append(
            TimelineStep(
                self._newest, kind, lane, service, reply.step_id, items, reply.timing, drafts, accepted, self._clock()
            )
        )
