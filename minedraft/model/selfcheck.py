"""The comparison at start-up: our paged attention against the model's own, on random tokens.

Replacing attention can go wrong without a word when a model asks it for more than we know of. So before a model serves,
its logits through the paged path are compared with those of its stock `eager` attention over the same weights. A
backend other than the reference (`sdpa`) is compared with the reference too, over contexts of more than one block, and
captured graphs with the pass that they replay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from minedraft.errors import InternalError, SetupError
from minedraft.kv.pool import BlockPool
from minedraft.kv.store import KVStore
from minedraft.kv.table import BlockTable
from minedraft.model.attention import AttentionBackend
from minedraft.model.graphs import DecodeGraphs
from minedraft.model.hf import HFModel
from minedraft.model.ragged import RaggedBatch, Segment, assemble
from minedraft.model.sdpa import SdpaBackend

LENGTHS: Final = (37, 5, 22)  # tokens of each sequence
CHUNKS: Final = (7, 1, 18)  # most tokens that each sequence is fed in a pass; one is a long prompt for the backend
WRONG_DRAFTS: Final = 3  # drafts that each sequence is fed and rejects half-way
BLOCK_SIZE: Final = 4  # for backends that read blocks of any size
ACROSS: Final = 9  # tokens before and after the end of a block that a longer context is compared on
LONG_CHUNKS: Final = (5, 1, 17)
SEED: Final = 1
# Largest root mean square difference, relative to that of the logits. Eager attention takes the softmax in float32.
# In bfloat16 stock eager and stock sdpa attention of a 30-layer model differ by 0.03, wrong attention by 0.2.
TOLERANCES: Final[Mapping[torch.dtype, float]] = {
    torch.float64: 1e-5,
    torch.float32: 1e-4,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}


def check(model: HFModel) -> float:
    """The largest difference found. Raises SetupError, naming it, when it is beyond the tolerance of the dtype."""
    lengths = [min(length, model.max_len) for length in LENGTHS]
    sequences = _random_sequences(model, lengths)
    block_size = model.backend.block_size or BLOCK_SIZE
    walks = [
        _Walk(token_ids, chunk, model.vocab_size, block_size)
        for token_ids, chunk in zip(sequences, CHUNKS, strict=True)
    ]
    difference = _worst(
        _paged_logits(model, walks, block_size), [model.stock_logits(token_ids) for token_ids in sequences]
    )
    _judge(model, difference, f"paged attention differs from the stock {model.architecture} model")
    if model.backend.name != SdpaBackend.name:
        difference = max(difference, _check_backend(model))
    return difference


def check_graphs(model: HFModel, graphs: DecodeGraphs, store: KVStore) -> float:
    """The difference between replayed and computed passes. Writes to blocks of `store`, which nobody may own yet.

    Raises SetupError when it is beyond the tolerance of the dtype.
    """
    lengths = [store.block_size + 2, 6, 2][: store.num_blocks]
    if sum(-(-length // store.block_size) for length in lengths) > store.num_blocks or lengths[0] > model.max_len:
        lengths = [2]
    pool = BlockPool(store.num_blocks)
    starts, decodes = [], []
    for token_ids in _random_sequences(model, lengths):
        table = BlockTable(store.block_size)
        table.grow(pool, len(token_ids))
        starts.append(Segment(token_ids[:-1], 0, table.slots(0, len(token_ids) - 1), 0))
        decodes.append(Segment(token_ids[-1:], len(token_ids) - 1, table.slots(0, len(token_ids)), 1))
    model.use_graphs(None)
    model.forward(assemble(starts), store)
    difference = 0.0
    for count in range(1, len(decodes) + 1):  # sizes that fit, and one that is padded
        batch = assemble(decodes[:count])
        computed = model.forward(batch, store)
        difference = max(difference, _worst([_replayed(graphs, batch, store)], [computed]))
    _judge(model, difference, "a replayed CUDA graph differs from the pass that it captured")
    return difference


def _check_backend(model: HFModel) -> float:
    """The model's backend against the reference, over the end of a block."""
    block_size = model.backend.block_size or BLOCK_SIZE
    lengths = [min(length, model.max_len) for length in (block_size + ACROSS, 11, 2 * block_size + ACROSS)]
    sequences = _random_sequences(model, lengths)

    def through(backend: AttentionBackend) -> list[Tensor]:
        model.use_backend(backend)
        return _paged_logits(
            model,
            [
                # Only logits near a block's end: those of every token would take much memory.
                _Walk(token_ids, chunk, model.vocab_size, block_size, skip=max(len(token_ids) - 2 * ACROSS, 0))
                for token_ids, chunk in zip(sequences, LONG_CHUNKS, strict=True)
            ],
            block_size,
        )

    served = model.backend
    try:
        difference = _worst(through(served), through(SdpaBackend()))
    finally:
        model.use_backend(served)
    _judge(model, difference, f"{served.name} differs from {SdpaBackend.name}")
    return difference


def _replayed(graphs: DecodeGraphs, batch: RaggedBatch, store: KVStore) -> Tensor:
    logits = graphs.forward(batch, store)
    if logits is None:
        raise InternalError("a decode pass did not fit the graphs that were captured for it")
    return logits


def _judge(model: HFModel, difference: float, what: str) -> None:
    tolerance = TOLERANCES[model.dtype]
    if not difference <= tolerance:  # NaN fails too
        raise SetupError(
            f"self-check failed: {what} by {difference:.2g} of the logits' scale, more than {tolerance:.2g}; "
            "use another model or dtype, or report this as a fault"
        )


def _random_sequences(model: HFModel, lengths: Sequence[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(SEED)
    return [torch.randint(model.vocab_size, (length,), generator=generator).tolist() for length in lengths]


def _worst(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The largest difference of a pair. NaN if one is: `max` would lose it."""
    differences = [relative_difference(one, other) for one, other in zip(first, second, strict=True)]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def relative_difference(paged: Tensor, stock: Tensor) -> float:
    """Root mean square of the difference over that of `stock`, once each row's mean is taken off: both [n, V]."""
    paged, stock = (logits.double() - logits.double().mean(dim=1, keepdim=True) for logits in (paged, stock))
    scale = float(stock.square().mean())
    return float((float((paged - stock).square().mean()) / scale) ** 0.5) if scale else math.inf


@torch.inference_mode()
def _paged_logits(model: HFModel, walks: Sequence[_Walk], block_size: int) -> list[Tensor]:
    """The same logits, fed in odd chunks of several sequences at once, each with rejected drafts half-way."""
    num_blocks = sum(-(-walk.length // block_size) for walk in walks)
    store = KVStore(
        model.num_layers,
        model.kv_heads,
        model.head_dim,
        num_blocks=num_blocks,
        block_size=block_size,
        dtype=model.dtype,
        device=model.device,
    )
    pool = BlockPool(num_blocks)
    while fed := [walk for walk in walks if not walk.done]:
        segments = [walk.segment(pool) for walk in fed]
        logits = model.forward(assemble(segments), store)
        for walk, own in zip(fed, torch.split(logits, [segment.num_logits for segment in segments]), strict=True):
            walk.take(own, pool)
    return [torch.stack(walk.rows) for walk in walks]


class _Walk:
    """One sequence on its way through the paged path, `chunk` tokens a pass; the first `skip` at once, unlooked at."""

    def __init__(self, token_ids: list[int], chunk: int, vocab_size: int, block_size: int, skip: int = 0) -> None:
        self.rows: list[Tensor] = []  # logits of the tokens kept so far, the skipped ones left out
        self._token_ids = token_ids
        self._chunk = chunk
        self._vocab_size = vocab_size
        self._table = BlockTable(block_size)
        self._skip = skip
        self._kept = 0  # tokens fed for good
        self._rejected = False

    @property
    def length(self) -> int:
        return len(self._token_ids)

    @property
    def done(self) -> bool:
        return self._kept == self.length

    def segment(self, pool: BlockPool) -> Segment:
        """The next chunk. Half-way, drafts that are all wrong follow it once; later chunks overwrite their K and V."""
        start, stop = self._kept, self._stop()
        token_ids = self._token_ids[start:stop]
        looked_at = stop > self._skip
        if looked_at and not self._rejected and stop >= (self.length + self._skip) // 2:
            self._rejected = True
            token_ids += [(right + 1) % self._vocab_size for right in self._token_ids[stop : stop + WRONG_DRAFTS]]
        self._table.grow(pool, start + len(token_ids))
        slots = self._table.slots(0, start + len(token_ids))
        return Segment(token_ids, start, slots, len(token_ids) if looked_at else 0)

    def take(self, logits: Tensor, pool: BlockPool) -> None:
        """Keep the rows of the chunk, reject the drafts."""
        start, self._kept = self._kept, self._stop()
        if len(logits):
            self.rows += logits[: self._kept - start].unbind()
        self._table.truncate(pool, self._kept)

    def _stop(self) -> int:
        return self._skip if self._kept < self._skip else min(self._kept + self._chunk, self.length)
