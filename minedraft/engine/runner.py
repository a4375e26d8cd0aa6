"""The engine: the only owner of a model, its KV store and its sequences. Used on the engine thread alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import Final, TypeVar

import torch
from torch import Tensor

from minedraft.engine import memory
from minedraft.engine.batch import Feed, build_batch
from minedraft.engine.prefixes import Prefixes
from minedraft.engine.sequence import Refusal, Sequence, reconcile
from minedraft.errors import InternalError, InvalidRequest, MinedraftError, NoSpace
from minedraft.kv.pool import BlockPool
from minedraft.kv.store import KVStore
from minedraft.kv.table import BlockTable
from minedraft.model.base import CausalModel
from minedraft.ranges import check_sampling
from minedraft.types import DraftItem, ItemStatus, ModelInfo, ServiceState, StepItem, VerifyItem

__all__ = ["Engine", "Feed", "Refusal", "Sequence", "new_store"]

StepT = TypeVar("StepT", DraftItem, VerifyItem)

ADVICE: Final = "lower --memory-fraction or --kv-cache-mib here, or --lane-size or --prefill-chunk of the coordinator"


def new_store(model: CausalModel, num_blocks: int, block_size: int, spare_blocks: int = 0) -> KVStore:
    """An empty KV store for the model."""
    return KVStore(
        model.num_layers,
        model.kv_heads,
        model.head_dim,
        num_blocks=num_blocks,
        block_size=block_size,
        dtype=model.dtype,
        device=model.device,
        spare_blocks=spare_blocks,
    )


class Engine:
    """Sequences of several leases over one model.

    A step calls `begin` for each of its items, then `forward` as often as it needs. A refused item leaves nothing
    behind; a forward pass that fails leaves its sequences as they were before it.
    """

    def __init__(
        self,
        model: CausalModel,
        num_blocks: int,
        block_size: int,
        instance_id: str,
        store: KVStore | None = None,
        *,
        share_prefixes: bool = False,
    ) -> None:
        """`store`, when given, has `num_blocks` blocks of `block_size` tokens for the model. With `share_prefixes`
        sequences that begin alike share the blocks of what they have in common."""
        self._model = model
        self._pool = BlockPool(num_blocks)
        self._prefixes = Prefixes(self._pool, block_size) if share_prefixes else None
        self._store = store or new_store(model, num_blocks, block_size)
        self._leases: dict[str, dict[int, Sequence]] = {}
        self._forward_ns = 0
        self._fed_tokens = 0
        self._instance_id = instance_id
        self.logit_token_ids = model.logit_token_ids
        self.info = ModelInfo(
            model_id=model.model_id,
            architecture=model.architecture,
            vocab_size=model.vocab_size,
            tokenizer_fingerprint=model.tokenizer_fingerprint,
            max_len=min(model.max_len, num_blocks * block_size),  # what never fits is not offered
            block_size=block_size,
            num_blocks=num_blocks,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            attention_backend=model.attention_backend,
            eos_token_ids=model.eos_token_ids,
            simulated=model.simulated,
        )

    def waves(self, lease: str, items: Seq[StepT]) -> list[list[StepT]]:
        """The items in the order in which to begin and feed them: those of a wave together, one wave after the other.

        Without shared prefixes there is one wave. With them, who begins like an earlier item of the same step waits for
        the second, and finds there what the first has computed.
        """
        if self._prefixes is None:
            return [list(items)] if items else []
        sequences = self._leases.get(lease, {})
        return self._prefixes.waves([(item, sequences.get(item.sequence_id)) for item in items])

    def begin(self, lease: str, item: StepItem, reserve: int, least: int = 1) -> Sequence | Refusal:
        """Reconcile an item's sequence and make room for its committed tokens and `reserve` more (drafts).

        Afterwards `sequence.feed` holds the committed tokens that are still to be fed, at least the last `least`, which
        is 1 or, where no logits are wanted, 0. Refusals: GAP when fewer than
        `base_len` tokens are cached, NO_SPACE, and REJECTED for an item that is wrong in itself. A refused item never
        takes blocks: an unknown sequence is not created, a known one keeps what it had, less what disagrees.
        """
        sequences = self._leases.get(lease, {})
        known = sequences.get(item.sequence_id)
        if problem := self._problem(item, reserve, known):
            return Refusal(ItemStatus.REJECTED, known.cached_len if known else 0, problem)
        sequence = known or self._new(item)
        if sequence is None:
            return Refusal(ItemStatus.GAP, 0, f"0 of {item.base_len} tokens are cached")
        plan = reconcile(sequence.token_ids, item.base_len, item.tail_token_ids, least)
        if plan is None:
            return Refusal(
                ItemStatus.GAP, sequence.cached_len, f"{sequence.cached_len} of {item.base_len} tokens are cached"
            )
        if item.base_len == 0 and item.params is not None:
            sequence.params = item.params
        feed = (*self._truncate(sequence, plan.keep), *plan.feed)
        committed_len = sequence.cached_len + len(feed)
        if self._prefixes is not None:
            feed = feed[self._prefixes.adopt(sequence, feed, least) :]
        try:
            sequence.table.grow(self._pool, committed_len + reserve)
        except NoSpace as error:
            if known is None:
                self._truncate(sequence, 0)
            return Refusal(ItemStatus.NO_SPACE, sequence.cached_len, str(error))
        sequence.feed, sequence.committed_len = feed, committed_len
        self._leases.setdefault(lease, sequences)[item.sequence_id] = sequence
        return sequence

    def forward(self, feeds: Seq[Feed]) -> Tensor:
        """Feed tokens after the cached ones of each sequence, in one ragged pass, and count them as cached.

        Returns the logits of the last `num_logits` tokens of each feed, in order: [R, V], or [R, n] for the tokens of
        `logit_token_ids`, in the model's dtype. A sequence may be fed once a pass, and no further than `begin` made
        room. Raises InternalError when the pass fails, NoSpace when it does for want of memory.
        """
        if not feeds:
            return torch.empty(0, self.info.vocab_size, dtype=self._model.dtype, device=self._model.device)
        batch = build_batch(feeds)
        started = time.perf_counter_ns()
        try:
            logits = self._model.forward(batch, self._store)
        except Exception as error:
            for feed in feeds:
                self._truncate(feed.sequence, feed.sequence.cached_len)
            if isinstance(error, MinedraftError):
                raise
            if memory.is_out_of_memory(error):
                raise NoSpace(memory.describe(error, "computing a pass", self._model.device, ADVICE)) from error
            raise InternalError(f"the forward pass failed: {' '.join(str(error).split())}") from error
        finally:
            self._forward_ns += time.perf_counter_ns() - started
        for feed in feeds:
            feed.sequence.token_ids += feed.token_ids
            self._fed_tokens += len(feed.token_ids)
            if self._prefixes is not None:
                self._prefixes.offer(feed.sequence)
        return logits

    def release(self, lease: str, sequence_ids: Iterable[int]) -> None:
        """Free sequences. Unknown ones are no error: the cache may vanish at any moment."""
        sequences = self._leases.get(lease, {})
        for sequence_id in sequence_ids:
            sequence = sequences.pop(sequence_id, None)
            if sequence is not None:
                self._truncate(sequence, 0)
        if not sequences:
            self._leases.pop(lease, None)

    def release_lease(self, lease: str) -> None:
        """Free all sequences of a lease."""
        self.release(lease, list(self._leases.get(lease, {})))

    def state(self) -> ServiceState:
        return ServiceState(
            instance_id=self._instance_id,
            free_blocks=self._pool.free_blocks,
            sequences=sum(map(len, self._leases.values())),
            fed_tokens=self._fed_tokens,
            prefix_tokens=self._prefixes.looked_for if self._prefixes else 0,
            prefix_tokens_found=self._prefixes.found if self._prefixes else 0,
            prefix_evictions=self._pool.evictions,
        )

    def take_forward_ns(self) -> int:
        """Nanoseconds in forward passes since last taken."""
        taken, self._forward_ns = self._forward_ns, 0
        return taken

    def check_integrity(self) -> None:
        """Raises InternalError when a block is lost or its owners are miscounted, or a sequence lacks blocks."""
        sequences = [sequence for lease in self._leases.values() for sequence in lease.values()]
        owned = Counter(block for sequence in sequences for block in sequence.table.blocks)
        if self._prefixes is None and max(owned.values(), default=0) > 1:
            raise InternalError("a KV block is owned twice")
        if any(self._pool.owners(block) != count for block, count in owned.items()):
            raise InternalError("a KV block has more owners, or fewer, than sequences that list it")
        if len(owned) + self._pool.free_blocks != self._pool.num_blocks:
            raise InternalError(
                f"{len(owned)} KV blocks are owned and {self._pool.free_blocks} are free of {self._pool.num_blocks}"
            )
        for sequence in sequences:
            if sequence.table.capacity < sequence.cached_len:
                raise InternalError(f"sequence {sequence.sequence_id} has more tokens than room")

    def _problem(self, item: StepItem, reserve: int, known: Sequence | None) -> str:
        """What is wrong with the item in itself, "" when nothing is."""
        tail = item.tail_token_ids
        if item.base_len < 0 or not tail:
            return f"base_len {item.base_len} with {len(tail)} tail tokens: at least 0 and 1 are needed"
        if item.base_len == 0 and item.params is None:
            return "params: they must be given when base_len is 0"
        if item.base_len == 0 and item.params is not None and (known is None or known.params != item.params):
            try:
                check_sampling(item.params.sampling, self.info.vocab_size, self.info.eos_token_ids)
            except InvalidRequest as error:
                return f"params.{error}"
        if min(tail) < 0 or max(tail) >= self.info.vocab_size:
            return f"tail_token_ids: all must be in [0, {self.info.vocab_size})"
        length = item.base_len + len(tail) + reserve
        if length > self.info.max_len:
            return f"tail_token_ids: {length} tokens with drafts, at most {self.info.max_len} are served"
        return ""

    def _new(self, item: StepItem) -> Sequence | None:
        """A sequence without tokens, not yet listed; None when the item builds on tokens that are not here."""
        if item.base_len > 0 or item.params is None:
            return None
        return Sequence(item.sequence_id, item.params, BlockTable(self.info.block_size))

    def _truncate(self, sequence: Sequence, length: int) -> tuple[int, ...]:
        """Keep the first `length` cached tokens, or fewer: a block that others may read is not written to, so when the
        end would be inside of one, that block is left. Returns the tokens that it cost."""
        size = sequence.table.block_size
        number, beyond = divmod(length, size)
        keep = length
        if beyond and number < len(sequence.table.blocks) and self._pool.is_read_only(sequence.table.blocks[number]):
            keep = number * size
        lost = tuple(sequence.token_ids[keep:length])
        del sequence.token_ids[keep:], sequence.names[keep // size :]
        sequence.table.truncate(self._pool, keep)
        return lost
