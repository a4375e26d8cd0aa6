"""The engine: statuses, room, rollback, releases."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import Tensor

from minedraft.engine.runner import Engine, Feed
from minedraft.errors import InternalError, SetupError
from minedraft.kv.store import KVStore
from minedraft.model.hf import HFModel
from minedraft.model.ragged import RaggedBatch
from minedraft.types import DraftItem, ItemStatus, VerifyItem
from tests.models import tiny_model
from tests.unit.engine.helpers import LEASE, begun, engine, feed, full_logits, item, params, refused

PROMPT = tuple(range(20, 31))


class Failing(HFModel):
    """Raises after the pass, when K and V have been written."""

    failure: Exception | None = None

    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor:
        logits = super().forward(batch, store)
        if self.failure is not None:
            raise self.failure
        return logits


@pytest.fixture(scope="module")
def model() -> HFModel:
    return tiny_model(max_len=64)


def test_info(model: HFModel) -> None:
    info = engine(model).info
    assert (info.architecture, info.vocab_size, info.max_len, info.num_blocks) == ("llama", 300, 64, 64)
    assert (info.dtype, info.device, info.attention_backend) == ("float64", "cpu", "sdpa")
    assert info.eos_token_ids == (3,)
    assert not info.simulated


def test_what_never_fits_is_not_offered(model: HFModel) -> None:
    assert engine(model, num_blocks=3, block_size=4).info.max_len == 12


def test_begin_tells_what_to_feed(model: HFModel) -> None:
    on = engine(model)
    sequence = begun(on, item(1, 0, PROMPT))
    assert sequence.feed == PROMPT
    assert sequence.committed_len == len(PROMPT)
    on.forward([Feed(sequence, PROMPT, 1)])
    again = begun(on, item(1, len(PROMPT), (41, 42)))
    assert again is sequence
    assert again.feed == (41, 42)
    assert (again.cached_len, again.committed_len) == (len(PROMPT), len(PROMPT) + 2)


def test_logits_equal_a_full_pass(model: HFModel) -> None:
    on = engine(model)
    drafts = (50, 60, 70)
    logits = feed(on, item(1, 0, PROMPT), drafts)
    torch.testing.assert_close(logits, full_logits(model, (*PROMPT, *drafts))[-4:], rtol=0, atol=1e-10)
    committed = (*PROMPT, 50, 99)  # the first draft was accepted
    logits = feed(on, item(1, len(PROMPT), (50, 99)))
    torch.testing.assert_close(logits, full_logits(model, committed)[-1:], rtol=0, atol=1e-10)


def test_several_sequences_in_one_pass(model: HFModel) -> None:
    on = engine(model)
    first = begun(on, item(1, 0, PROMPT))
    second = begun(on, item(2, 0, PROMPT[:3]), reserve=2)
    logits = on.forward([Feed(second, (*second.feed, 7, 8), 3), Feed(first, first.feed, 1)])
    torch.testing.assert_close(logits[:3], full_logits(model, (*PROMPT[:3], 7, 8))[-3:], rtol=0, atol=1e-10)
    torch.testing.assert_close(logits[3:], full_logits(model, PROMPT)[-1:], rtol=0, atol=1e-10)


def test_a_pass_without_logits_only_fills(model: HFModel) -> None:
    on = engine(model)
    sequence = begun(on, item(1, 0, PROMPT))
    assert on.forward([Feed(sequence, sequence.feed, 0)]).shape == (0, 300)
    assert sequence.cached_len == len(PROMPT)
    logits = feed(on, item(1, len(PROMPT), (5,)))
    torch.testing.assert_close(logits, full_logits(model, (*PROMPT, 5))[-1:], rtol=0, atol=1e-10)


def test_no_feeds_no_logits(model: HFModel) -> None:
    assert engine(model).forward([]).shape == (0, 300)


def test_gap_of_an_unknown_sequence(model: HFModel) -> None:
    on = engine(model)
    answer = refused(on, item(1, 5, (1,)))
    assert (answer.status, answer.cached_len) == (ItemStatus.GAP, 0)
    assert on.state().sequences == 0


def test_gap_of_a_known_sequence(model: HFModel) -> None:
    on = engine(model)
    feed(on, item(1, 0, PROMPT))
    answer = refused(on, item(1, len(PROMPT) + 1, (1,)))
    assert (answer.status, answer.cached_len) == (ItemStatus.GAP, len(PROMPT))
    assert begun(on, item(1, len(PROMPT), (1, 2))).feed == (1, 2)


@pytest.mark.parametrize(
    ("wrong", "reserve", "reason"),
    [
        (VerifyItem(1, 0, (1,), None), 0, "params"),
        (VerifyItem(1, 0, (), params()), 0, "tail tokens"),
        (VerifyItem(1, -1, (1,), params()), 0, "base_len -1"),
        (VerifyItem(1, 0, (1, 300), params()), 0, r"\[0, 300\)"),
        (VerifyItem(1, 0, (-1,), params()), 0, r"\[0, 300\)"),
        (VerifyItem(1, 0, (1,) * 65, params()), 0, "at most 64"),
        (DraftItem(1, 0, (1,) * 60, params(), 5), 5, "at most 64"),
        (VerifyItem(1, 64, (1,), None), 0, "at most 64"),
    ],
)
def test_rejected(model: HFModel, wrong: VerifyItem, reserve: int, reason: str) -> None:
    on = engine(model)
    answer = refused(on, wrong, reserve=reserve)
    assert answer.status is ItemStatus.REJECTED
    assert re.search(reason, answer.reason)
    assert on.state() == engine(model).state()


def test_rejection_leaves_a_known_sequence_alone(model: HFModel) -> None:
    on = engine(model)
    feed(on, item(1, 0, PROMPT))
    answer = refused(on, item(1, 0, (1, 999)))
    assert (answer.status, answer.cached_len) == (ItemStatus.REJECTED, len(PROMPT))
    assert begun(on, item(1, len(PROMPT), (2,))).feed == (2,)


def test_the_longest_sequence_fits(model: HFModel) -> None:
    on = engine(model, num_blocks=16, block_size=4)
    drafts = (9,) * 4
    token_ids = tuple(range(100, 160))
    logits = feed(on, item(1, 0, token_ids), drafts)
    torch.testing.assert_close(logits, full_logits(model, (*token_ids, *drafts))[-5:], rtol=0, atol=1e-10)
    assert on.state().free_blocks == 0


def test_no_space_for_a_new_sequence_leaves_nothing(model: HFModel) -> None:
    on = engine(model, num_blocks=4, block_size=4)
    feed(on, item(1, 0, PROMPT))
    answer = refused(on, item(2, 0, (1, 2)), reserve=4)
    assert (answer.status, answer.cached_len) == (ItemStatus.NO_SPACE, 0)
    assert on.state().sequences == 1
    assert on.state().free_blocks == 1
    on.check_integrity()
    begun(on, item(2, 0, (1, 2)))


def test_no_space_for_a_known_sequence_keeps_what_agrees(model: HFModel) -> None:
    on = engine(model, num_blocks=4, block_size=4)
    feed(on, item(1, 0, PROMPT))
    begun(on, item(2, 0, (1, 2)))
    answer = refused(on, item(1, 0, (*PROMPT[:5], 1, 2, 3, 4, 5, 6, 7, 8, 9)))
    assert (answer.status, answer.cached_len) == (ItemStatus.NO_SPACE, 5)
    on.check_integrity()
    on.release(LEASE, [2])
    assert begun(on, item(1, 5, (1, 2, 3, 4, 5, 6, 7, 8, 9))).feed == (1, 2, 3, 4, 5, 6, 7, 8, 9)


def test_params_are_kept_and_replaced(model: HFModel) -> None:
    on = engine(model)
    first = params(3)
    assert begun(on, VerifyItem(1, 0, (1, 2, 3), first)).params is first
    feed(on, VerifyItem(1, 0, (1, 2, 3), first))
    assert begun(on, VerifyItem(1, 3, (4,), None)).params is first
    second = dataclasses.replace(first, seed=2)
    sequence = begun(on, VerifyItem(1, 0, (1, 2, 3, 4), second))
    assert sequence.params is second
    assert sequence.feed == (4,)
    assert begun(on, VerifyItem(1, 3, (4,), first)).params is second


def test_leases_do_not_see_each_other(model: HFModel) -> None:
    on = engine(model)
    feed(on, item(1, 0, PROMPT))
    assert refused(on, item(1, len(PROMPT), (1,)), lease="other").status is ItemStatus.GAP
    other = begun(on, item(1, 0, (1, 2)), lease="other")
    on.release_lease(LEASE)
    assert other.table.blocks
    assert on.state().sequences == 1
    on.release_lease("other")
    assert on.state().free_blocks == 64
    on.check_integrity()


def test_release_is_free_of_surprises(model: HFModel) -> None:
    on = engine(model)
    feed(on, item(1, 0, PROMPT))
    feed(on, item(2, 0, PROMPT))
    on.release(LEASE, [1, 7])
    on.release("nobody", [1])
    on.release_lease("nobody")
    assert on.state().sequences == 1
    assert refused(on, item(1, 3, (1,))).cached_len == 0
    on.check_integrity()


def test_a_released_sequence_cannot_be_fed(model: HFModel) -> None:
    on = engine(model)
    sequence = begun(on, item(1, 0, PROMPT))
    on.release(LEASE, [1])
    with pytest.raises(InternalError, match="room for fewer"):
        on.forward([Feed(sequence, PROMPT, 1)])


@pytest.mark.parametrize("logits", [-1, 4])
def test_impossible_rows_are_a_fault(model: HFModel, logits: int) -> None:
    on = engine(model)
    sequence = begun(on, item(1, 0, (1, 2, 3)))
    with pytest.raises(InternalError, match="rows of logits"):
        on.forward([Feed(sequence, sequence.feed, logits)])


def test_feeding_nothing_or_twice_is_a_fault(model: HFModel) -> None:
    on = engine(model)
    sequence = begun(on, item(1, 0, (1, 2, 3)))
    with pytest.raises(InternalError, match="0 tokens"):
        on.forward([Feed(sequence, (), 0)])
    with pytest.raises(InternalError, match="twice"):
        on.forward([Feed(sequence, (1,), 1), Feed(sequence, (2,), 1)])


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(RuntimeError("out\nof memory"), InternalError), (SetupError("refused"), SetupError)],
)
def test_a_failed_pass_leaves_sequences_as_they_were(failure: Exception, expected: type[Exception]) -> None:
    failing = Failing(tiny_model().module, model_id="failing")
    on = engine(failing)
    feed(on, item(1, 0, PROMPT))
    sequences = [begun(on, item(1, len(PROMPT), (5,)), reserve=9), begun(on, item(2, 0, (1, 2)), reserve=9)]
    failing.failure = failure
    with pytest.raises(expected, match=r"out of memory|refused"):
        on.forward([Feed(sequence, (*sequence.feed, 6, 7), 1) for sequence in sequences])
    failing.failure = None
    assert [sequence.cached_len for sequence in sequences] == [len(PROMPT), 0]
    assert on.state().free_blocks == 64 - 3
    on.check_integrity()
    logits = feed(on, item(1, len(PROMPT), (5, 8)))
    torch.testing.assert_close(logits, full_logits(failing, (*PROMPT, 5, 8))[-1:], rtol=0, atol=1e-10)


def test_forward_time_is_taken_once(model: HFModel) -> None:
    on = engine(model)
    feed(on, item(1, 0, PROMPT))
    assert on.take_forward_ns() > 0
    assert on.take_forward_ns() == 0


def test_integrity_check_notices(model: HFModel) -> None:
    on: Engine = engine(model)
    sequence = begun(on, item(1, 0, PROMPT))
    block = sequence.table.blocks.pop()
    with pytest.raises(InternalError, match="2 KV blocks are owned and 61 are free"):
        on.check_integrity()
    sequence.table.blocks += [block, block]
    with pytest.raises(InternalError, match="owned twice"):
        on.check_integrity()
    sequence.table.blocks.pop()
    sequence.token_ids += [0] * 13
    with pytest.raises(InternalError, match="more tokens than room"):
        on.check_integrity()
