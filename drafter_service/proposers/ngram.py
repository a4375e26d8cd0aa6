"""Prompt lookup: the drafts are what followed the last occurrence of the sequence's own final n-gram.

No model, no torch, no KV. Strong where the output repeats the input: rewriting, summarising, code. The idea is Saxena's
prompt lookup decoding (2023). The law is POINT_MASS, since nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from minedraft.channel.step import StepChannels
from minedraft.types import DraftItem, ItemStatus, ModelInfo, PointMass, Proposal, ServiceState


class History:
    """One sequence's tokens and where each of its n-grams last ended. Mutated by `extend` only."""

    def __init__(self, shortest: int, longest: int) -> None:
        self.token_ids: list[int] = []
        self._sizes = range(longest, shortest - 1, -1)
        self._follows: dict[tuple[int, ...], int] = {}  # n-gram -> index of the token after its last occurrence
        self._indexed = 0  # n-grams that end before this index are known

    def extend(self, token_ids: Sequence[int]) -> None:
        self.token_ids.extend(token_ids)

    def propose(self, count: int) -> tuple[int, ...]:
        """Up to `count` tokens; none when no n-gram has been seen before."""
        self._index()
        tokens = self.token_ids
        for size in self._sizes:
            start = self._follows.get(tuple(tokens[-size:])) if size < len(tokens) else None
            if start is not None:
                drafts = tokens[start : start + count]
                period = len(tokens) - start  # a match that runs into the end goes on with itself
                while len(drafts) < count:
                    drafts.append(drafts[-period] if len(drafts) >= period else tokens[start + len(drafts)])
                return tuple(drafts)
        return ()

    def _index(self) -> None:
        """Learn every n-gram that has a token after it. Costs a constant for each new token."""
        tokens = self.token_ids
        for follow in range(max(self._indexed, 1), len(tokens)):
            for size in self._sizes:
                if size <= follow:
                    self._follows[tuple(tokens[follow - size : follow])] = follow
        self._indexed = len(tokens)


class NgramProposer:
    """A `Proposer` that needs no model. Used on the engine thread only."""

    def __init__(self, instance_id: str, shortest: int, longest: int, max_len: int = 1 << 20) -> None:
        self.info = ModelInfo(
            model_id="ngram",
            architecture="ngram",
            vocab_size=0,
            tokenizer_fingerprint="",
            max_len=max_len,
            block_size=0,
            num_blocks=0,
            dtype="none",
            device="cpu",
            attention_backend="none",
            instance_id=instance_id,
        )
        self.payload_device = ""  # nothing is sent over a tensor channel
        self.payload_bytes_per_draft = 0
        self.estimates_chances = False  # a match has no probability
        self._instance_id = instance_id
        self._sizes = (shortest, longest)
        self._histories: dict[str, dict[int, History]] = {}

    def step(self, lease: str, items: Sequence[DraftItem], channels: StepChannels) -> tuple[Proposal, ...]:
        histories = self._histories.setdefault(lease, {})
        return tuple(self._propose(histories, item) for item in items)

    def release(self, lease: str, sequence_ids: Sequence[int]) -> None:
        for sequence_id in sequence_ids:
            self._histories.get(lease, {}).pop(sequence_id, None)

    def release_lease(self, lease: str) -> None:
        self._histories.pop(lease, None)

    def state(self) -> ServiceState:
        return ServiceState(self._instance_id, free_blocks=0, sequences=sum(map(len, self._histories.values())))

    def take_forward_ns(self) -> int:
        """Always 0: there is no forward pass."""
        return 0

    def _propose(self, histories: dict[int, History], item: DraftItem) -> Proposal:
        history = histories.get(item.sequence_id)
        known = len(history.token_ids) if history else 0
        if item.base_len + len(item.tail_token_ids) > self.info.max_len:
            return Proposal(
                item.sequence_id, status=ItemStatus.REJECTED, cached_len=known,
                reason=f"tail_token_ids: at most {self.info.max_len} tokens are served",
            )  # fmt: skip
        if item.base_len > known:
            return Proposal(item.sequence_id, status=ItemStatus.GAP, cached_len=known)
        if history is None or history.token_ids[item.base_len :] != list(item.tail_token_ids[: known - item.base_len]):
            kept = history.token_ids[: item.base_len] if history else []
            history = histories[item.sequence_id] = History(*self._sizes)
            history.extend(kept)
        history.extend(item.tail_token_ids[len(history.token_ids) - item.base_len :])
        drafts = history.propose(item.max_draft_tokens) if item.max_draft_tokens else ()
        return Proposal(item.sequence_id, drafts, PointMass(), cached_len=len(history.token_ids))
