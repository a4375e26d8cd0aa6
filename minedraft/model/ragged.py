"""What one forward pass is fed: the new tokens of several sequences, end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segment:
    """One sequence's part of a pass."""

    token_ids: Sequence[int]  # the new tokens, at least one
    start: int  # position of the first new token; the tokens before it are cached
    kv_slots: IndexArray  # [start + new tokens], slots of the whole sequence, in order
    num_logits: int  # logits are wanted for the last this many new tokens


@dataclass(frozen=True, slots=True)
class RaggedBatch:
    """T new tokens of several sequences. Arrays are int64 and may be views of block tables: read only."""

    token_ids: IndexArray  # [T]
    positions: IndexArray  # [T], index of each token in its sequence
    slots: IndexArray  # [T], where the K and V of each token go
    query_lens: tuple[int, ...]  # new tokens of each sequence
    kv_slots: tuple[IndexArray, ...]  # all slots of each sequence, the new tokens' included
    logit_rows: IndexArray  # [R], the tokens whose logits are wanted


def assemble(segments: Sequence[Segment]) -> RaggedBatch:
    """Lay segments end to end. Costs a few numpy calls a segment."""
    lens = [len(segment.token_ids) for segment in segments]
    tokens: list[int] = []
    positions, rows = [], []
    end = 0
    for segment, length in zip(segments, lens, strict=True):
        tokens += segment.token_ids
        positions.append(np.arange(segment.start, segment.start + length, dtype=np.int64))
        end += length
        rows.append(np.arange(end - segment.num_logits, end, dtype=np.int64))
    return RaggedBatch(
        token_ids=np.array(tokens, dtype=np.int64),
        positions=np.concatenate(positions),
        slots=np.concatenate([segment.kv_slots[segment.start :] for segment in segments]),
        query_lens=tuple(lens),
        kv_slots=tuple(segment.kv_slots for segment in segments),
        logit_rows=np.concatenate(rows),
    )
