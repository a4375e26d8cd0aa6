"""Drafts from a small model with the target's tokenizer: one pass over the tails, then one token a sequence a pass."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drafter_service.payloads import Parcel, Payloads
from drafter_service.proposers.chances import Chances, Guess, largest_probabilities
from minedraft.channel.step import StepChannels
from minedraft.config import DrafterSettings
from minedraft.engine.build import Part, build_engine
from minedraft.engine.runner import Engine, Feed, Refusal, Sequence
from minedraft.model.draft_vocabulary import widen
from minedraft.sampling.draft import Draft, DraftLawKind, collect, draw, draws_by_law
from minedraft.sampling.law import Row, argmax
from minedraft.types import DraftItem, ModelInfo, Proposal, ServiceState


@dataclass(slots=True)
class Drafting:
    """One sequence while its proposal grows. Lives for one step."""

    item: DraftItem
    sequence: Sequence
    committed: tuple[int, ...]
    kind: DraftLawKind
    parcel: Parcel | None  # where a dense law goes
    guess: Guess | None  # where drafts of little chance are to be left out
    drafts: list[Draft] = field(default_factory=list)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(draft.token_id for draft in self.drafts)

    @property
    def unfinished(self) -> bool:
        return len(self.drafts) < self.item.max_draft_tokens

    def first_feed(self) -> Feed:
        return Feed(self.sequence, self.sequence.feed, num_logits=int(self.unfinished))

    def row(self) -> Row:
        return Row(self.sequence.params, self.committed, self.token_ids)

    def proposal(self, channels: StepChannels) -> Proposal:
        """Without drafts when their law cannot be sent."""
        dense = [draft.dense for draft in self.drafts if draft.dense is not None]
        law = self.parcel.send(dense, channels) if self.parcel and dense else collect(self.drafts)
        if law is None:
            return Proposal(self.item.sequence_id, cached_len=len(self.committed))
        return Proposal(self.item.sequence_id, self.token_ids, law, cached_len=len(self.committed))


class ModelProposer:
    """A `Worker` over a draft model. Used on the engine thread only."""

    def __init__(self, engine: Engine, kind: DraftLawKind, top_m: int) -> None:
        self._engine = engine
        self._kind = kind
        self._top_m = top_m
        self._payloads = Payloads()
        self._chances = Chances()
        self.info: ModelInfo = engine.info
        self.payload_device = engine.info.device
        # float16 over the target's vocabulary, which is this model's too
        self.payload_bytes_per_draft = 2 * engine.info.vocab_size if kind is DraftLawKind.DENSE else 0
        self.estimates_chances = not engine.info.simulated  # whose logits mean nothing

    @classmethod
    def load(cls, settings: DrafterSettings) -> ModelProposer:
        """The proposer that the settings ask for. Raises SetupError."""
        engine = build_engine(settings, Part.DRAFT).engine
        return cls(engine, DraftLawKind(settings.draft_law), settings.top_m)

    def step(self, lease: str, items: Seq[DraftItem], channels: StepChannels) -> tuple[Proposal, ...]:
        """One proposal for each item, in order. An item that cannot be served harms no other.

        A dense law goes through the step's channel; a sequence that gets no slot there drafts by TOP_M, which is exact
        as well.
        """
        refused: dict[int, Proposal] = {}
        drafting: list[Drafting] = []
        logits: list[Tensor] = []  # [n, V] of each wave's unfinished ones
        for wave in self._engine.waves(lease, items):
            begun = [self._begin(lease, item, channels) for item in wave]
            refused |= {one.sequence_id: one for one in begun if isinstance(one, Proposal)}
            admitted = [one for one in begun if isinstance(one, Drafting)]
            if feeds := [one.first_feed() for one in admitted if one.sequence.feed]:
                logits.append(self._engine.forward(feeds))
            drafting += admitted
        if growing := [one for one in drafting if one.unfinished]:
            self._grow(growing, torch.cat(logits) if len(logits) > 1 else logits[0])
        done = refused | {one.item.sequence_id: one.proposal(channels) for one in drafting}
        return tuple(done[item.sequence_id] for item in items)

    def release(self, lease: str, sequence_ids: Seq[int]) -> None:
        self._engine.release(lease, sequence_ids)
        self._payloads.drop(lease, sequence_ids)
        self._chances.drop(lease, sequence_ids)

    def release_lease(self, lease: str) -> None:
        self._engine.release_lease(lease)
        self._payloads.drop_lease(lease)
        self._chances.drop_lease(lease)

    def state(self) -> ServiceState:
        return self._engine.state()

    def take_forward_ns(self) -> int:
        return self._engine.take_forward_ns()

    def _law(
        self, lease: str, item: DraftItem, sequence: Sequence, channels: StepChannels
    ) -> tuple[DraftLawKind, Parcel | None]:
        """The law that this item's drafts are drawn from, and the slot that it goes into."""
        if self._kind is not DraftLawKind.DENSE or not draws_by_law(sequence.params):
            return self._kind, None
        nbytes = item.max_draft_tokens * self.payload_bytes_per_draft
        parcel = self._payloads.take(lease, item.sequence_id, nbytes, channels.sender) if nbytes else None
        return (DraftLawKind.DENSE if parcel else DraftLawKind.TOP_M), parcel

    def _begin(self, lease: str, item: DraftItem, channels: StepChannels) -> Drafting | Proposal:
        """The proposal's beginning, or one that says why there is none."""
        drafts = item.max_draft_tokens
        begun = self._engine.begin(lease, item, reserve=max(drafts - 1, 0), least=int(drafts > 0))
        if isinstance(begun, Refusal):
            return Proposal(item.sequence_id, status=begun.status, cached_len=begun.cached_len, reason=begun.reason)
        kind, parcel = self._law(lease, item, begun, channels)
        committed = (*begun.token_ids, *begun.feed)
        sampling = begun.params.sampling
        estimated = self.estimates_chances and item.least_chance > 0.0
        estimated = estimated and sampling.greedy and not sampling.changes_logits
        guess = self._chances.begin(lease, item.sequence_id, committed) if estimated else None
        return Drafting(item, begun, committed, kind, parcel, guess)

    def _grow(self, growing: list[Drafting], logits: Tensor) -> None:
        """Grow every proposal to its length. The last draft of a sequence is not fed: it may be rejected.

        `logits` [n, V] follow the committed tokens.
        """
        while growing:
            growing = self._append(growing, logits)
            if growing:
                logits = self._engine.forward([Feed(one.sequence, one.token_ids[-1:], num_logits=1) for one in growing])

    def _append(self, growing: Seq[Drafting], logits: Tensor) -> list[Drafting]:
        """Append a draft to each proposal, but to those that end before it; those that go on."""
        rows = [one.row() for one in growing]
        drawn = self._draw(logits, rows, [one.kind for one in growing])
        judged = [place for place, one in enumerate(growing) if one.guess is not None]
        some = logits if len(judged) == len(growing) else logits[judged]
        probabilities = dict(zip(judged, largest_probabilities(some), strict=True)) if judged else {}
        going_on = []
        for place, (one, draft) in enumerate(zip(growing, drawn, strict=True)):
            if one.guess is not None:  # greedy: the draft is the likeliest token
                least = one.item.least_chance
                if not self._chances.worth(one.guess, draft.token_id, probabilities[place], least):
                    continue
            one.drafts.append(draft)
            if one.unfinished:
                going_on.append(one)
        return going_on

    def _draw(self, logits: Tensor, rows: Seq[Row], kinds: Seq[DraftLawKind]) -> list[Draft]:
        """A draft for each row. Laws are over the target's whole vocabulary; the likeliest token needs no law."""
        known = self._engine.logit_token_ids
        if all(row.sampling.greedy and not row.sampling.changes_logits for row in rows):
            best = argmax(logits)
            return [Draft(token) for token in (best if known is None else known[best].tolist())]
        if known is not None:
            logits = widen(logits, known, self.info.vocab_size)
        return draw(logits, rows, self.info.eos_token_ids, kinds, self._top_m)
