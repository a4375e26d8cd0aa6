"""Sequences that begin alike: what is shared, what is not, and that nobody notices but by the time."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch

from minedraft.engine.runner import Engine, Feed, Sequence
from minedraft.kv.content import NOTHING, names
from minedraft.model.hf import HFModel
from minedraft.types import VerifyItem
from tests.models import tiny_model
from tests.unit.engine.helpers import LEASE, begun, feed, full_logits, item

SIZE = 4
COMMON = tuple(range(20, 32))  # three blocks


@pytest.fixture(scope="module")
def model() -> HFModel:
    return tiny_model(max_len=64)


@pytest.fixture
def on(model: HFModel) -> Engine:
    return Engine(model, 32, SIZE, "instance", share_prefixes=True)


def tails(waves: Iterable[list[VerifyItem]]) -> list[list[int]]:
    return [[one.sequence_id for one in wave] for wave in waves]


def test_a_name_covers_all_tokens_before() -> None:
    one = list(names(NOTHING, (1, 2, 3, 4, 5, 6, 7, 8, 9), 4))
    assert len(one) == 2
    assert list(names(one[0], (5, 6, 7, 8), 4)) == one[1:]
    assert list(names(NOTHING, (9, 2, 3, 4, 5, 6, 7, 8), 4))[1] != one[1]
    assert list(names(NOTHING, (1, 2, 3), 4)) == []


def test_a_common_prefix_is_computed_once(on: Engine, model: HFModel) -> None:
    feed(on, item(1, 0, (*COMMON, 40)))
    fed = on.state().fed_tokens
    second = begun(on, item(2, 0, (*COMMON, 41, 42)))
    assert second.feed == (41, 42)
    assert second.table.blocks[:3] == begun(on, item(1, 13, (43,))).table.blocks[:3]
    logits = on.forward([Feed(second, second.feed, 1)])
    torch.testing.assert_close(logits[0], full_logits(model, (*COMMON, 41, 42))[-1], rtol=0, atol=1e-9)
    state = on.state()
    assert state.fed_tokens - fed == 2
    assert (state.prefix_tokens, state.prefix_tokens_found) == (24, 12)
    on.check_integrity()


def test_what_a_finished_sequence_computed_is_found_until_its_room_is_needed(on: Engine) -> None:
    feed(on, item(1, 0, (*COMMON, 40)))
    on.release(LEASE, [1])
    assert on.state().free_blocks == 32
    assert begun(on, item(2, 0, (*COMMON, 41))).feed == (41,)
    on.release(LEASE, [2])
    for number in range(3, 6):
        feed(on, item(number, 0, [50 + number] * 40))
    assert on.state().prefix_evictions == 1
    on.release(LEASE, [3])
    assert begun(on, item(9, 0, (*COMMON, 41))).cached_len == 8  # its end went first
    on.check_integrity()


def test_the_last_token_is_fed_where_logits_are_wanted_and_need_not_be_elsewhere(on: Engine) -> None:
    feed(on, item(1, 0, COMMON))
    assert begun(on, item(2, 0, COMMON)).feed == COMMON[8:]
    whole = on.begin(LEASE, item(3, 0, COMMON), 0, least=0)
    assert isinstance(whole, Sequence)
    assert whole.feed == ()
    assert begun(on, VerifyItem(3, 12, (60, 61), None)).feed == (60, 61)


def test_drafts_are_not_found(on: Engine) -> None:
    """They may be rejected, and their slots written again."""
    feed(on, item(1, 0, COMMON[:6]), drafts=COMMON[6:])
    assert begun(on, item(2, 0, (*COMMON, 40))).cached_len == 4
    begun(on, VerifyItem(1, 6, (*COMMON[6:11], 70), None))  # five drafts were accepted
    on.forward([Feed(begun(on, VerifyItem(1, 6, (*COMMON[6:11], 70), None)), (70,), 1)])
    assert begun(on, item(3, 0, (*COMMON, 40))).cached_len == 8


def test_a_shared_block_is_never_written_to(on: Engine, model: HFModel) -> None:
    feed(on, item(1, 0, (*COMMON, 40)))
    reader = begun(on, item(2, 0, (*COMMON, 41)))
    changed = begun(on, item(1, 0, (*COMMON[:10], 99, 98)))  # the same sequence, said to be another text
    assert changed.cached_len == 8
    on.forward([Feed(changed, changed.feed, 1)])
    logits = on.forward([Feed(reader, reader.feed, 1)])
    torch.testing.assert_close(logits[0], full_logits(model, (*COMMON, 41))[-1], rtol=0, atol=1e-9)
    on.check_integrity()


def test_a_refused_sequence_leaves_nothing_behind(model: HFModel) -> None:
    on = Engine(model, 5, SIZE, "instance", share_prefixes=True)
    feed(on, item(1, 0, (*COMMON, 40)))
    refused = on.begin(LEASE, item(2, 0, (*COMMON, *range(50, 57))), 0)
    assert not isinstance(refused, Sequence)
    assert refused.cached_len == 0
    on.check_integrity()
    assert on.state().free_blocks == 1
    assert begun(on, item(3, 0, (*COMMON, 41))).feed == (41,)


def test_who_begins_alike_waits_for_the_first(on: Engine) -> None:
    items = [
        item(1, 0, (*COMMON, 40)),
        item(2, 0, (*COMMON, 41)),
        item(3, 0, range(100, 113)),
        item(4, 0, (*COMMON[:4], 77)),
        item(5, 0, (5, 6)),
    ]
    assert tails(on.waves(LEASE, items)) == [[1, 3, 5], [2, 4]]
    for wave in on.waves(LEASE, items):
        sequences = [begun(on, one) for one in wave]
        on.forward([Feed(one, one.feed, 1) for one in sequences])
    assert on.state().fed_tokens == 13 + 13 + 2 + 1 + 1
    again = [VerifyItem(one.sequence_id, 0, one.tail_token_ids, one.params) for one in items]
    assert tails(on.waves(LEASE, again)) == [[1, 2, 3, 4, 5]]
    assert on.waves(LEASE, []) == []


def test_chunks_of_a_prompt_find_each_other(on: Engine) -> None:
    feed(on, item(1, 0, (*COMMON, *range(40, 53))))
    first = on.begin(LEASE, item(2, 0, COMMON), 0, least=0)
    assert isinstance(first, Sequence)
    assert first.feed == ()
    second = begun(on, VerifyItem(2, 12, tuple(range(40, 53)), None))
    assert second.feed == (52,)
    ahead = [item(7, 0, range(200, 208)), VerifyItem(2, 24, (52, *range(60, 67)), None)]
    assert tails(on.waves(LEASE, ahead)) == [[7, 2]]


def test_without_sharing_there_is_one_wave(model: HFModel) -> None:
    on = Engine(model, 32, SIZE, "instance")
    items = [item(1, 0, (*COMMON, 40)), item(2, 0, (*COMMON, 41))]
    assert tails(on.waves(LEASE, items)) == [[1, 2]]
    feed(on, items[0])
    assert begun(on, items[1]).feed == (*COMMON, 41)
    assert on.state().prefix_tokens == 0
