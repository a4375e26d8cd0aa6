"""The attention backend that runs everywhere: PyTorch's scaled dot product attention over gathered K and V.

Sequences with few new tokens (decoding, verification) share one padded call; long prompts go one by one. Grouped query
heads are laid out as further queries of their KV head, so that K and V are never repeated in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from minedraft.model.attention import query_offsets
from minedraft.model.ragged import IndexArray, RaggedBatch

FEW_QUERIES: Final = 16  # at most this many new tokens go into the padded call
SMALL_CONTEXT: Final = 256  # contexts up to here are padded together whatever they waste
NEGATIVE: Final = float("-inf")


class SdpaBackend:
    """See the module's description."""

    name = "sdpa"
    block_size = 0

    def plan(self, batch: RaggedBatch, *, group_size: int, dtype: torch.dtype, device: torch.device) -> SdpaPlan:
        offsets = query_offsets(batch.query_lens)
        pieces = [
            _Piece(batch, members, offsets, group_size=group_size, dtype=dtype, device=device)
            for members in _together(batch)
        ]
        return SdpaPlan(pieces, offsets[-1])


class SdpaPlan:
    """The pieces of one pass. Each sequence is in exactly one."""

    def __init__(self, pieces: Sequence[_Piece], num_tokens: int) -> None:
        self._pieces = pieces
        self._num_tokens = num_tokens

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """See `AttentionPlan.attend`."""
        if len(self._pieces) == 1 and self._pieces[0].is_whole:
            return self._pieces[0].attend(query, keys, values, scaling)
        output = query.new_empty(self._num_tokens, query.shape[1], values.shape[2])
        for piece in self._pieces:
            output.index_copy_(0, piece.rows, piece.attend(query, keys, values, scaling))
        return output


def _together(batch: RaggedBatch) -> Iterator[list[int]]:
    """Split the sequences into calls: long prompts alone, the others with contexts of similar length."""
    lens = [len(slots) for slots in batch.kv_slots]
    few: list[int] = []
    for sequence, query_len in enumerate(batch.query_lens):
        if query_len > FEW_QUERIES:
            yield [sequence]
        else:
            few.append(sequence)
    if few and max(lens[sequence] for sequence in few) > SMALL_CONTEXT:
        few.sort(key=lambda sequence: lens[sequence])  # stable: equal lengths stay in order
    call: list[int] = []
    for sequence in few:
        if call and lens[sequence] > max(SMALL_CONTEXT, 2 * lens[call[0]]):
            yield call
            call = []
        call.append(sequence)
    if call:
        yield call


class _Piece:
    """One attention call: B sequences, padded to Q new tokens and a context of S. G query heads share a KV head.

    Padding rows and slots repeat ones of the same sequence, so that nothing of another sequence is ever read.
    """

    def __init__(
        self,
        batch: RaggedBatch,
        members: Sequence[int],
        offsets: Sequence[int],
        *,
        group_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        query_lens = np.array([batch.query_lens[member] for member in members], dtype=np.int64)  # [B]
        context_lens = np.array([len(batch.kv_slots[member]) for member in members], dtype=np.int64)  # [B]
        self._batch, self._queries, self._context = len(members), int(query_lens.max()), int(context_lens.max())
        self._group = group_size
        firsts = np.array([offsets[member] for member in members], dtype=np.int64)  # [B]
        steps = np.minimum(np.arange(self._queries), query_lens[:, None] - 1)  # [B, Q]
        padded_rows = firsts[:, None] + steps  # [B, Q]
        real = np.arange(self._queries) < query_lens[:, None]  # [B, Q]
        rows = padded_rows[real]
        even = bool(real.all())
        self.is_whole = even and len(rows) == offsets[-1] and bool((np.diff(rows) == 1).all())
        self.rows = torch.from_numpy(rows).to(device)
        self._padded_rows = None if self.is_whole else torch.from_numpy(padded_rows.ravel()).to(device)
        self._kept = None if even else torch.from_numpy(np.flatnonzero(real)).to(device)
        self._take(_padded_slots([batch.kv_slots[member] for member in members], self._context), device)
        seen = torch.from_numpy(context_lens[:, None] - query_lens[:, None] + steps).to(device)  # [B, Q]
        self._mask = self._make_mask(seen, dtype) if self._needs_mask(context_lens) else None

    def _take(self, slots: IndexArray, device: torch.device) -> None:
        """Remember where K and V lie: in one run of the store, which is read in place, or here and there."""
        in_one_run = (
            self._batch == 1 and int(slots[-1] - slots[0]) == slots.size - 1 and bool((np.diff(slots) == 1).all())
        )
        self._run = slice(int(slots[0]), int(slots[-1]) + 1) if in_one_run else None
        self._slots = None if in_one_run else torch.from_numpy(slots).to(device)  # [B * S]
        self._gathered: tuple[Tensor, Tensor] | None = None  # made in the first layer, written anew in each

    def _needs_mask(self, context_lens: IndexArray) -> bool:
        return self._queries > 1 or bool((context_lens != self._context).any())

    def _make_mask(self, seen: Tensor, dtype: torch.dtype) -> Tensor:
        """[B, 1, G*Q, S] or, for one long prompt, [1, 1, Q, S]: 0 for the context up to the token itself, else -inf."""
        hidden = torch.arange(self._context, device=seen.device) > seen[:, :, None]  # [B, Q, S]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=seen.device).masked_fill_(hidden, NEGATIVE)
        if self._is_long:
            return mask.unsqueeze(1)
        grouped = mask[:, None].expand(-1, self._group, -1, -1)  # [B, G, Q, S]
        return grouped.reshape(self._batch, 1, self._group * self._queries, self._context)

    @property
    def _is_long(self) -> bool:
        return self._queries > FEW_QUERIES

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Attention of this piece's tokens, [tokens, heads, head_dim], in the order of `rows`."""
        if self._padded_rows is not None:
            query = query.index_select(0, self._padded_rows)
        _, kv_heads, head_dim = keys.shape
        split = query.reshape(self._batch, self._queries, kv_heads, self._group, head_dim)
        k, v = (part.view(self._batch, self._context, kv_heads, -1).transpose(1, 2) for part in self._kv(keys, values))
        output = self._one_prompt(split, k, v, scaling) if self._is_long else self._many(split, k, v, scaling)
        output = output.reshape(self._batch * self._queries, kv_heads * self._group, -1)
        return output if self._kept is None else output.index_select(0, self._kept)

    def _many(self, query: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
        """query [B, Q, KV, G, D], k and v [B, KV, S, D] -> [B, Q, KV, G, D]; the G heads become G*Q queries."""
        batch, queries, kv_heads, group, head_dim = query.shape
        if queries == 1:  # the same without moving anything: a pass of a small model is mostly small operations
            rows = query.view(batch, kv_heads, group, head_dim)
            output = functional.scaled_dot_product_attention(rows, k, v, attn_mask=self._mask, scale=scaling)
            return output.unsqueeze(1)
        rows = query.permute(0, 2, 3, 1, 4).reshape(batch, kv_heads, group * queries, -1)
        output = functional.scaled_dot_product_attention(rows, k, v, attn_mask=self._mask, scale=scaling)
        return output.view(batch, kv_heads, group, queries, -1).permute(0, 3, 1, 2, 4)

    def _one_prompt(self, query: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
        """query [1, Q, KV, G, D], k and v [1, KV, S, D] -> [Q, KV, G, D]; the G heads become a batch over one K."""
        rows = query[0].permute(2, 1, 0, 3)  # [G, KV, Q, D]
        k, v = k.expand(self._group, -1, -1, -1), v.expand(self._group, -1, -1, -1)
        output = functional.scaled_dot_product_attention(rows, k, v, attn_mask=self._mask, scale=scaling)
        return output.permute(2, 1, 0, 3)

    def _kv(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """K and V of this piece, each [B * S, kv_heads, head_dim]."""
        if self._slots is None:
            return keys[self._run], values[self._run]
        if self._gathered is None:
            self._gathered = keys.index_select(0, self._slots), values.index_select(0, self._slots)
            return self._gathered
        torch.index_select(keys, 0, self._slots, out=self._gathered[0])
        torch.index_select(values, 0, self._slots, out=self._gathered[1])
        return self._gathered


def _padded_slots(slots: Sequence[IndexArray], context: int) -> IndexArray:
    """[B * context]: each sequence's slots, padded with its own first."""
    padded = np.empty((len(slots), context), dtype=np.int64)
    for row, own in zip(padded, slots, strict=True):
        row[: len(own)] = own
        row[len(own) :] = own[0]
    return padded.ravel()
