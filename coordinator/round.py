"""One round of a lane, as the chooser learns from it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from coordinator.choice import Mode
from minedraft.types import DraftItem, Proposal, StepTiming, VerifyItem


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
    draft_work: tuple[int, int, int, int] = (0, 0, 0, 0)  # passes, drafts, proposed, prompt tokens
    verify_timing: StepTiming | None = None
    verify_work: tuple[int, int] = (0, 0)  # tokens, prompt tokens
    emitting: int = 0
    emitted: int = 0  # tokens
    prefilled_before: float = 0.0

    @property
    def prefills(self) -> bool:
        return self.draft_work[3] > 0 or self.verify_work[1] > 0 or self.emitting < self.items

    @property
    def drafting(self) -> int:
        """Requests that drafts were asked for."""
        return sum(asked > 0 for asked in self.asked.values())

    def drafted(self, items: Sequence[DraftItem], proposals: Sequence[Proposal], timing: StepTiming) -> None:
        """The draft step was answered."""
        self.asked = {item.sequence_id: item.max_draft_tokens for item in items}
        wanted = self.asked.values()
        prompts = sum(len(item.tail_token_ids) for item in items if len(item.tail_token_ids) > self.most)
        proposed = sum(len(proposal.token_ids) for proposal in proposals)
        self.draft_work = (max(wanted, default=0), sum(wanted), proposed, prompts)
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
