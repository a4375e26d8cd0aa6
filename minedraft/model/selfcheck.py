"""The comparison at start-up: our paged attention against the model's own, on random tokens.

Replacing attention can go wrong without a word when a model asks it for more than we know of. So before a model serves,
its logits through the paged path are compared with those of its stock `eager` attention over the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from minedraft.errors import SetupError
from minedraft.kv.pool import BlockPool
from minedraft.kv.store import KVStore
from minedraft.kv.table import BlockTable
from minedraft.model.hf import HFModel
from minedraft.model.ragged import Segment, assemble

STOCK: Final = "eager"
LENGTHS: Final = (37, 5, 22)  # tokens of each sequence
CHUNKS: Final = (7, 1, 18)  # most tokens that each sequence is fed in a pass; one is a long prompt for the backend
WRONG_DRAFTS: Final = 3  # drafts that each sequence is fed and rejects half-way
BLOCK_SIZE: Final = 4
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
    """The difference found. Raises SetupError, naming it, when it is beyond the tolerance of the model's dtype."""
    generator = torch.Generator().manual_seed(SEED)
    lengths = [min(length, model.max_len) for length in LENGTHS]
    sequences = [torch.randint(model.vocab_size, (length,), generator=generator).tolist() for length in lengths]
    difference = max(map(relative_difference, _paged_logits(model, sequences), _stock_logits(model, sequences)))
    tolerance = TOLERANCES[model.dtype]
    if not difference <= tolerance:  # NaN fails too
        raise SetupError(
            f"self-check failed: paged attention differs from the stock {model.architecture} model by {difference:.2g} "
            f"of the logits' scale, more than {tolerance:.2g}; use another model or dtype, or report this as a fault"
        )
    return difference


def relative_difference(paged: Tensor, stock: Tensor) -> float:
    """Root mean square of the difference over that of `stock`, once each row's mean is taken off: both [n, V]."""
    paged, stock = (logits.double() - logits.double().mean(dim=1, keepdim=True) for logits in (paged, stock))
    scale = float(stock.square().mean())
    return float((float((paged - stock).square().mean()) / scale) ** 0.5) if scale else math.inf


@torch.inference_mode()
def _stock_logits(model: HFModel, sequences: list[list[int]]) -> list[Tensor]:
    """Logits of every token, each sequence alone: [n, V] each."""
    served = model.module.config._attn_implementation
    model.use_attention(STOCK)
    try:
        return [
            model.module(input_ids=torch.tensor([token_ids], device=model.device), use_cache=False).logits[0]
            for token_ids in sequences
        ]
    finally:
        model.use_attention(served)


@torch.inference_mode()
def _paged_logits(model: HFModel, sequences: list[list[int]]) -> list[Tensor]:
    """The same logits, fed in odd chunks of several sequences at once, each with rejected drafts half-way."""
    num_blocks = sum(-(-len(token_ids) // BLOCK_SIZE) for token_ids in sequences)
    store = KVStore(
        model.num_layers,
        model.kv_heads,
        model.head_dim,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        dtype=model.dtype,
        device=model.device,
    )
    pool = BlockPool(num_blocks)
    walks = [_Walk(token_ids, chunk, model.vocab_size) for token_ids, chunk in zip(sequences, CHUNKS, strict=True)]
    while fed := [walk for walk in walks if not walk.done]:
        segments = [walk.segment(pool) for walk in fed]
        logits = model.forward(assemble(segments), store)
        for walk, own in zip(fed, torch.split(logits, [segment.num_logits for segment in segments]), strict=True):
            walk.take(own, pool)
    return [torch.stack(walk.rows) for walk in walks]


class _Walk:
    """One sequence on its way through the paged path, `chunk` tokens a pass."""

    def __init__(self, token_ids: list[int], chunk: int, vocab_size: int) -> None:
        self.rows: list[Tensor] = []  # logits of the tokens kept so far
        self._token_ids = token_ids
        self._chunk = chunk
        self._vocab_size = vocab_size
        self._table = BlockTable(BLOCK_SIZE)
        self._rejected = False

    @property
    def done(self) -> bool:
        return len(self.rows) == len(self._token_ids)

    def segment(self, pool: BlockPool) -> Segment:
        """The next chunk. Half-way, drafts that are all wrong follow it once; later chunks overwrite their K and V."""
        start = len(self.rows)
        stop = min(start + self._chunk, len(self._token_ids))
        token_ids = self._token_ids[start:stop]
        if not self._rejected and stop >= len(self._token_ids) // 2:
            self._rejected = True
            token_ids += [(right + 1) % self._vocab_size for right in self._token_ids[stop : stop + WRONG_DRAFTS]]
        self._table.grow(pool, start + len(token_ids))
        slots = self._table.slots(0, start + len(token_ids))
        return Segment(token_ids, start, slots, len(token_ids))

    def take(self, logits: Tensor, pool: BlockPool) -> None:
        """Keep the rows of the chunk, reject the drafts."""
        kept = min(self._chunk, len(self._token_ids) - len(self.rows))
        self.rows += logits[:kept].unbind()
        self._table.truncate(pool, len(self.rows))
