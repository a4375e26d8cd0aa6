"""The verifier's work: one ragged forward over prompts, chunks and drafts together, then a verdict a sequence."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

from torch import Tensor

from minedraft.channel.step import StepChannels
from minedraft.config import VerifierSettings
from minedraft.engine.build import Part, build_engine
from minedraft.engine.runner import Engine, Feed, Refusal, Sequence
from minedraft.errors import InvalidRequest
from minedraft.sampling.draft_law import CertainLaw, DenseLaw, Law, read_law
from minedraft.sampling.verdict import Judged, Judgement, check_proposal, judge
from minedraft.types import (
    Dense,
    ItemStatus,
    ModelInfo,
    PayloadRef,
    ServiceState,
    TokenizerFiles,
    Verdict,
    VerifyItem,
)


@dataclass(frozen=True, slots=True)
class Admitted:
    """An item that takes part in the pass."""

    item: VerifyItem
    sequence: Sequence
    judged: Judged  # taken before the pass, which appends the drafts to the sequence
    payload: PayloadRef | None  # the slot that the law is read from

    def feed(self) -> Feed:
        drafts = self.judged.draft_ids
        num_logits = len(drafts) + 1 if self.item.emit else 0
        return Feed(self.sequence, (*self.sequence.feed, *drafts), num_logits)


class Verifier:
    """A `Worker` over the target model. Used on the engine thread only."""

    def __init__(self, engine: Engine, tokenizer: TokenizerFiles, close: Callable[[], None] = lambda: None) -> None:
        """`close` ends what the model runs beside this process."""
        self._engine = engine
        self.info: ModelInfo = engine.info
        self.tokenizer = tokenizer
        self.close = close

    @classmethod
    def load(cls, settings: VerifierSettings) -> Verifier:
        """The verifier that the settings ask for. Raises SetupError."""
        if settings.tensor_parallel > 1:
            from minedraft.engine.build_parallel import build_parallel

            built = build_parallel(settings)
        else:
            built = build_engine(settings, Part.TARGET)
        return cls(built.engine, built.tokenizer, built.close)

    def step(self, lease: str, items: Seq[VerifyItem], channels: StepChannels) -> tuple[Verdict, ...]:
        """One verdict for each item, in order. An item that cannot be served harms no other.

        Drafts whose law cannot be had from its channel are not looked at: the verdict is that of an item without any.
        """
        verdicts: dict[int, Verdict] = {}
        for wave in self._engine.waves(lease, items):
            verdicts |= self._wave(lease, wave, channels)
        return tuple(verdicts[item.sequence_id] for item in items)

    def release(self, lease: str, sequence_ids: Seq[int]) -> None:
        self._engine.release(lease, sequence_ids)

    def release_lease(self, lease: str) -> None:
        self._engine.release_lease(lease)

    def state(self) -> ServiceState:
        return self._engine.state()

    def take_forward_ns(self) -> int:
        return self._engine.take_forward_ns()

    def _wave(self, lease: str, items: Seq[VerifyItem], channels: StepChannels) -> dict[int, Verdict]:
        """One pass, and the verdicts by sequence id."""
        verdicts: dict[int, Verdict] = {}
        admitted: list[Admitted] = []
        for item in items:
            outcome = self._admit(lease, item, channels)
            if isinstance(outcome, Verdict):
                verdicts[item.sequence_id] = outcome
            else:
                admitted.append(outcome)
                if not item.emit:
                    verdicts[item.sequence_id] = Verdict(item.sequence_id, cached_len=outcome.sequence.committed_len)
        if feeds := [feed for feed in (one.feed() for one in admitted) if feed.token_ids]:
            logits = self._engine.forward(feeds)  # [R, V], of the emitting items in order
            for item, judgement in self._judge(logits, [one for one in admitted if one.item.emit], channels):
                verdicts[item.sequence_id] = _verdict(item, judgement)
        return verdicts

    def _admit(self, lease: str, item: VerifyItem, channels: StepChannels) -> Admitted | Verdict:
        """What to feed for an item, or the verdict that refuses it."""
        drafts, law, payload = _drafts(item, channels)
        refused = None
        try:
            check_proposal(drafts, law, self.info.vocab_size)
            begun = self._engine.begin(lease, item, reserve=len(drafts), least=int(item.emit))
        except InvalidRequest as error:
            refused = Verdict(item.sequence_id, status=ItemStatus.REJECTED, reason=str(error))
        else:
            if not isinstance(begun, Refusal):
                judged = Judged(begun.params, (*begun.token_ids, *begun.feed), drafts, law)
                return Admitted(item, begun, judged, payload)
            refused = Verdict(item.sequence_id, status=begun.status, cached_len=begun.cached_len, reason=begun.reason)
        if payload is not None:
            channels.release(payload)
        return refused

    def _judge(
        self, logits: Tensor, admitted: Seq[Admitted], channels: StepChannels
    ) -> list[tuple[VerifyItem, Judgement]]:
        """A judgement for each emitting item. [R, V]. One whose payload changed meanwhile is judged without drafts."""
        judged = [one.judged for one in admitted]
        judgements = judge(logits, judged, self.info.eos_token_ids)
        first = 0
        for index, one in enumerate(admitted):
            if one.payload is not None and not channels.release(one.payload):
                bare = replace(one.judged, draft_ids=(), law=CertainLaw())
                (judgements[index],) = judge(logits[first : first + 1], [bare], self.info.eos_token_ids)
            first += len(one.judged.draft_ids) + 1
        return [(one.item, judgement) for one, judgement in zip(admitted, judgements, strict=True)]


def _drafts(item: VerifyItem, channels: StepChannels) -> tuple[tuple[int, ...], Law, PayloadRef | None]:
    """An item's drafts and their law, and the payload that holds it. No drafts when the payload cannot be had."""
    if item.proposal is None or not item.emit:
        return (), CertainLaw(), None
    law = item.proposal.law
    if not isinstance(law, Dense) or not isinstance(law.weights, PayloadRef):
        return item.proposal.token_ids, read_law(law), None
    weights = channels.receive(law.weights)
    if weights is None:
        return (), CertainLaw(), None
    return item.proposal.token_ids, DenseLaw(weights), law.weights


def _verdict(item: VerifyItem, judgement: Judgement) -> Verdict:
    return Verdict(
        item.sequence_id,
        accepted_len=judgement.accepted_len,
        next_token_id=judgement.next_token_id,
        logprobs=judgement.logprobs,
        cached_len=item.base_len + len(item.tail_token_ids),
    )
