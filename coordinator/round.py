"""One round of a lane, as the chooser learns from it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from coordinator.acceptance import Work
from coordinator.choice import Mode
from minedraft.types import DraftItem, Proposal, StepTiming, VerifyItem

NS: Final = 1e-9


@dataclass(slots=True)
class Round:
    """One round of a lane. The lane notes its steps here; `Chooser.end` reads them."""

    lane: int
    mode: Mode
    items: int
    in_flight: int
    began: float
    most: int  # tail tokens beyond which an item is a prompt
    narrow: Collection[int] | None = None  # ids of the only requests to be drafted for; None: all
    asked: dict[int, int] = field(default_factory=dict)  # drafts asked for, by request id
    draft_timing: StepTiming | None = None
    draft_work: tuple[int, int, int] = (0, 0, 0)  # passes, drafts looked at, prompt tokens
    verify_timing: StepTiming | None = None
    verify_work: tuple[int, int] = (0, 0)  # tokens, prompt tokens
    emitting: int = 0
    emitted: int = 0  # tokens
    prefilled_before: float = 0.0

    def seconds(self, elapsed: float) -> tuple[float, float, float]:
        """What drafting, verification, and all around them took of a round, without waiting for other lanes' steps."""
        steps = (self.draft_timing, self.verify_timing)
        drafted, verified = ((step.host_ns + step.forward_ns) * NS if step is not None else 0.0 for step in steps)
        queued = sum(step.queue_ns for step in steps if step is not None) * NS
        return drafted, verified, max(elapsed - queued - drafted - verified, 0.0)

    @property
    def lanes(self) -> int:
        """That ran while it did, and held requests."""
        return max(1, min(self.mode.lanes, self.in_flight))

    @property
    def work(self) -> Work:
        """What its steps were fed, for each of its requests."""
        passes, drawn, _ = self.draft_work
        return Work(passes, drawn / self.items, max(self.verify_work[0] - self.items, 0) / self.items)

    @property
    def prefills(self) -> bool:
        return self.draft_work[2] > 0 or self.verify_work[1] > 0 or self.emitting < self.items

    @property
    def drafting(self) -> int:
        """Requests that drafts were asked for."""
        return sum(asked > 0 for asked in self.asked.values())

    def drafted(self, items: Sequence[DraftItem], proposals: Sequence[Proposal], timing: StepTiming) -> None:
        """The draft step was answered."""
        self.asked = {item.sequence_id: item.max_draft_tokens for item in items}
        prompts = sum(len(item.tail_token_ids) for item in items if len(item.tail_token_ids) > self.most)
        looked_at = [
            min(item.max_draft_tokens, len(proposal.token_ids) + 1)  # one that is left out ends a proposal
            for item, proposal in zip(items, proposals, strict=True)
        ]
        self.draft_work = (max(looked_at, default=0), sum(looked_at), prompts)
        self.draft_timing = timing

    def verified(self, items: Sequence[VerifyItem], timing: StepTiming) -> None:
        """The verify step was answered."""
        tokens = prompts = 0
        for item in items:
            tail = len(item.tail_token_ids)
            if tail > self.most:
                prompts += tail
            else:  # of a tail that was drafted, the verifier has all but the last token
                tokens += 1 + (len(item.proposal.token_ids) if item.proposal else 0)
            self.emitting += item.emit
        self.verify_work = (tokens, prompts)
        self.verify_timing = timing


def is_settled(current: Round, before: tuple[Mode, int], lanes: int, wanted: float) -> bool:
    """Whether a round is what its mode looks like in the long run; drafts are made for `wanted` requests then."""
    even = abs(current.items - current.in_flight / lanes) <= 1.0
    same = before[0] == current.mode and abs(before[1] - current.items) <= 1
    drafted = current.mode.draft_tokens == 0 or current.drafting >= max(0.75 * wanted, 1.0)
    return same and even and drafted
