"""The verifier's work: one ragged forward over prompts, chunks and drafts together, then a verdict a sequence."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from minedraft.config import VerifierSettings
from minedraft.engine.build import Part, build_engine
from minedraft.engine.runner import Engine, Feed, Refusal, Sequence
from minedraft.errors import InvalidRequest
from minedraft.sampling.verdict import Judged, Judgement, check_law, judge
from minedraft.types import ItemStatus, ModelInfo, ServiceState, TokenizerFiles, Verdict, VerifyItem


class Verifier:
    """A `Worker` over the target model. Used on the engine thread only."""

    def __init__(self, engine: Engine, tokenizer: TokenizerFiles) -> None:
        self._engine = engine
        self.info: ModelInfo = engine.info
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, settings: VerifierSettings) -> Verifier:
        """The verifier that the settings ask for. Raises SetupError."""
        built = build_engine(settings, Part.TARGET)
        return cls(built.engine, built.tokenizer)

    def step(self, lease: str, items: Seq[VerifyItem]) -> tuple[Verdict, ...]:
        """One verdict for each item, in order. An item that cannot be served harms no other."""
        verdicts: dict[int, Verdict] = {}
        feeds: list[Feed] = []
        judged: list[tuple[VerifyItem, Judged]] = []
        for item in items:
            feed = self._admit(lease, item)
            if isinstance(feed, Verdict):
                verdicts[item.sequence_id] = feed
                continue
            feeds.append(feed)
            if item.emit:
                judged.append((item, _judged(item, feed.sequence)))
            else:
                verdicts[item.sequence_id] = Verdict(item.sequence_id, cached_len=feed.sequence.committed_len)
        if feeds:
            logits = self._engine.forward(feeds)  # [R, V], the rows of the emitting items in order
            judgements = judge(logits, [group for _, group in judged], self.info.eos_token_ids)
            for (item, _), judgement in zip(judged, judgements, strict=True):
                verdicts[item.sequence_id] = _verdict(item, judgement)
        return tuple(verdicts[item.sequence_id] for item in items)

    def release(self, lease: str, sequence_ids: Seq[int]) -> None:
        self._engine.release(lease, sequence_ids)

    def release_lease(self, lease: str) -> None:
        self._engine.release_lease(lease)

    def state(self) -> ServiceState:
        return self._engine.state()

    def take_forward_ns(self) -> int:
        return self._engine.take_forward_ns()

    def _admit(self, lease: str, item: VerifyItem) -> Feed | Verdict:
        """What to feed for an item, or the verdict that refuses it."""
        drafts = _drafts(item)
        if item.proposal is not None:
            try:
                check_law(drafts, item.proposal.law, self.info.vocab_size)
            except InvalidRequest as error:
                return Verdict(item.sequence_id, status=ItemStatus.REJECTED, reason=str(error))
        begun = self._engine.begin(lease, item, reserve=len(drafts))
        if isinstance(begun, Refusal):
            return Verdict(item.sequence_id, status=begun.status, cached_len=begun.cached_len, reason=begun.reason)
        return Feed(begun, (*begun.feed, *drafts), num_logits=len(drafts) + 1 if item.emit else 0)


def _drafts(item: VerifyItem) -> tuple[int, ...]:
    return item.proposal.token_ids if item.proposal is not None and item.emit else ()


def _judged(item: VerifyItem, sequence: Sequence) -> Judged:
    """What the laws depend on, taken before the forward pass appends the drafts to the sequence."""
    committed = (*sequence.token_ids, *sequence.feed)
    if item.proposal is None:
        return Judged(sequence.params, committed)
    return Judged(sequence.params, committed, item.proposal.token_ids, item.proposal.law)


def _verdict(item: VerifyItem, judgement: Judgement) -> Verdict:
    return Verdict(
        item.sequence_id,
        accepted_len=judgement.accepted_len,
        next_token_id=judgement.next_token_id,
        logprobs=judgement.logprobs,
        cached_len=item.base_len + len(item.tail_token_ids),
    )
