"""What rank 0 of a tensor-parallel model tells the other ranks, as int64 numbers.

Each rank does the same work at the same time, so rank 0 says what comes next before it begins itself. An order is a
kind, the counts of its parts, then the parts end to end. Nothing is pickled: what cannot be said in numbers cannot be
sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np

from minedraft.errors import ProtocolError
from minedraft.model.ragged import IndexArray, RaggedBatch

LARGEST: Final = 1 << 32  # numbers in an order; more is a corrupted count


@dataclass(frozen=True, slots=True)
class Pass:
    """Feed a batch through the paged store."""

    batch: RaggedBatch


@dataclass(frozen=True, slots=True)
class StockPass:
    """Feed one sequence through the module's own attention, without a cache."""

    token_ids: IndexArray  # [n]


@dataclass(frozen=True, slots=True)
class UseStore:
    """Allocate a KV store of this size, and let the one before go."""

    num_blocks: int
    block_size: int


@dataclass(frozen=True, slots=True)
class UseBackend:
    """Compute attention with another backend."""

    flash: bool  # flash_attn, or else the reference
    block_size: int  # that flash_attn reads; 0 for the reference


@dataclass(frozen=True, slots=True)
class TellMemory:
    """Take part in finding the rank with the least memory."""


Order = Pass | StockPass | UseStore | UseBackend | TellMemory


class Kind(IntEnum):
    """The first number of an order."""

    PASS = 1
    STOCK_PASS = 2
    USE_STORE = 3
    USE_BACKEND = 4
    TELL_MEMORY = 5


def encode(order: Order) -> IndexArray:
    """The order as numbers: int64 [n]."""
    match order:
        case Pass(batch):
            return _encode_pass(batch)
        case StockPass(token_ids):
            return np.concatenate([_numbers([Kind.STOCK_PASS]), token_ids])
        case UseStore(num_blocks, block_size):
            return _numbers([Kind.USE_STORE, num_blocks, block_size])
        case UseBackend(flash, block_size):
            return _numbers([Kind.USE_BACKEND, flash, block_size])
        case TellMemory():
            return _numbers([Kind.TELL_MEMORY])


def decode(numbers: IndexArray) -> Order:
    """The order that `encode` wrote; its arrays are views of `numbers`. Raises ProtocolError for anything else."""
    if numbers.dtype != np.int64 or numbers.ndim != 1 or not 0 < len(numbers) < LARGEST:
        raise ProtocolError("an order to a rank is not a row of int64 numbers")
    kind, rest = int(numbers[0]), numbers[1:]
    if kind == Kind.PASS:
        return Pass(_decode_pass(rest))
    if kind == Kind.STOCK_PASS and len(rest) > 0:
        return StockPass(rest)
    if kind == Kind.USE_STORE and len(rest) == 2 and bool((rest > 0).all()):
        return UseStore(int(rest[0]), int(rest[1]))
    if kind == Kind.USE_BACKEND and len(rest) == 2 and int(rest[0]) in {0, 1}:
        return UseBackend(bool(rest[0]), int(rest[1]))
    if kind == Kind.TELL_MEMORY and len(rest) == 0:
        return TellMemory()
    raise ProtocolError(f"an order of kind {kind} to a rank has {len(rest)} further numbers: it cannot be read")


def _encode_pass(batch: RaggedBatch) -> IndexArray:
    lens = [len(slots) for slots in batch.kv_slots]
    head = [Kind.PASS, len(batch.token_ids), len(batch.logit_rows), len(lens), *batch.query_lens, *lens]
    parts = (batch.token_ids, batch.positions, batch.slots, batch.logit_rows, *batch.kv_slots)
    return np.concatenate([_numbers(head), *parts])


def _decode_pass(numbers: IndexArray) -> RaggedBatch:
    """T, R, B, the B query lengths, the B context lengths, then token ids, positions, slots, rows and all KV slots."""
    if len(numbers) < 3 or bool((numbers[:3] < 0).any()):
        raise ProtocolError("a batch for a rank has no counts")
    tokens, rows, sequences = (int(count) for count in numbers[:3])
    lens, rest = numbers[3 : 3 + 2 * sequences], numbers[3 + 2 * sequences :]
    if len(lens) != 2 * sequences or bool((lens < 0).any()):
        raise ProtocolError("a batch for a rank lacks the lengths of its sequences")
    query_lens, kv_lens = lens[:sequences].tolist(), lens[sequences:].tolist()
    if sum(query_lens) != tokens or 3 * tokens + rows + sum(kv_lens) != len(rest):
        raise ProtocolError("the counts of a batch for a rank do not add up")
    token_ids, positions, slots, logit_rows, *kv_slots = _split(rest, [tokens, tokens, tokens, rows, *kv_lens])
    return RaggedBatch(token_ids, positions, slots, tuple(query_lens), tuple(kv_slots), logit_rows)


def _split(numbers: IndexArray, lens: Sequence[int]) -> list[IndexArray]:
    return np.split(numbers, np.cumsum(lens[:-1], dtype=np.int64))


def _numbers(values: Sequence[Any]) -> IndexArray:
    return np.array(values, dtype=np.int64)
