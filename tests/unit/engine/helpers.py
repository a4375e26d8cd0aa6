"""Engines and items for the tests of the engine room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from minedraft.engine import runner
from minedraft.engine.runner import Engine, Feed, Refusal
from minedraft.model.base import CausalModel
from minedraft.model.hf import HFModel
from minedraft.types import AcceptanceRule, SamplingParams, SequenceParams, VerifyItem

LEASE = "lease"


def params(prompt_len: int = 1) -> SequenceParams:
    return SequenceParams(prompt_len, 1, AcceptanceRule.MATCH, SamplingParams())


def item(sequence_id: int, base_len: int, tail: Iterable[int]) -> VerifyItem:
    """A verify item; params come with base_len 0."""
    tail = tuple(tail)
    return VerifyItem(sequence_id, base_len, tail, params(len(tail)) if base_len == 0 else None)


def engine(model: CausalModel, *, num_blocks: int = 64, block_size: int = 4) -> Engine:
    return Engine(model, num_blocks, block_size, "instance")


def begun(on: Engine, *arguments: VerifyItem, reserve: int = 0, lease: str = LEASE) -> runner.Sequence:
    """Begin one item that must be accepted."""
    (one,) = arguments
    result = on.begin(lease, one, reserve)
    assert isinstance(result, runner.Sequence), result
    return result


def refused(on: Engine, one: VerifyItem, *, reserve: int = 0, lease: str = LEASE) -> Refusal:
    """Begin one item that must be refused."""
    result = on.begin(lease, one, reserve)
    assert isinstance(result, Refusal), result
    return result


def feed(on: Engine, one: VerifyItem, drafts: Sequence[int] = ()) -> Tensor:
    """One item through one pass: logits of the last committed token and of each draft, [1 + drafts, V]."""
    sequence = begun(on, one, reserve=len(drafts))
    return on.forward([Feed(sequence, (*sequence.feed, *drafts), 1 + len(drafts))])


@torch.inference_mode()
def full_logits(model: HFModel, token_ids: Sequence[int], attention: str = "sdpa") -> Tensor:
    """Logits of every token from the stock model, [n, V]."""
    served = model.module.config._attn_implementation
    model.use_attention(attention)
    try:
        logits: Tensor = model.module(input_ids=torch.tensor([list(token_ids)]), use_cache=False).logits[0]
    finally:
        model.use_attention(served)
    return logits
