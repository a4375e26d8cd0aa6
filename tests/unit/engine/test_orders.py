"""What rank 0 tells the other ranks: it arrives as it was sent, and nothing else is taken for an order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minedraft.errors import ProtocolError
from minedraft.model.orders import Kind, Order, Pass, StockPass, TellMemory, UseBackend, UseStore, decode, encode
from minedraft.model.ragged import RaggedBatch, Segment, assemble

NUMBERS = st.integers(0, 2**40)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    start = draw(st.integers(0, 20))
    token_ids = draw(st.lists(NUMBERS, min_size=1, max_size=8))
    length = start + len(token_ids)
    slots = draw(st.lists(NUMBERS, min_size=length, max_size=length))
    return Segment(token_ids, start, np.array(slots, dtype=np.int64), draw(st.integers(0, len(token_ids))))


BATCHES = st.lists(segments(), min_size=1, max_size=6).map(assemble)
ORDERS: st.SearchStrategy[Order] = st.one_of(
    BATCHES.map(Pass),
    st.lists(NUMBERS, min_size=1, max_size=9).map(lambda ids: StockPass(np.array(ids, dtype=np.int64))),
    st.builds(UseStore, st.integers(1, 2**40), st.integers(1, 1024)),
    st.builds(UseBackend, st.booleans(), st.integers(0, 1024)),
    st.just(TellMemory()),
)


def same(one: Order, other: Order) -> bool:
    match one, other:
        case Pass(a), Pass(b):
            return same_batch(a, b)
        case StockPass(ids), StockPass(others):
            return bool(np.array_equal(ids, others))
        case _:
            return one == other


def same_batch(a: RaggedBatch, b: RaggedBatch) -> bool:
    arrays = ("token_ids", "positions", "slots", "logit_rows")
    return (
        a.query_lens == b.query_lens
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
        and len(a.kv_slots) == len(b.kv_slots)
        and all(np.array_equal(x, y) and y.dtype == np.int64 for x, y in zip(a.kv_slots, b.kv_slots, strict=True))
    )


@given(ORDERS)
def test_round_trip(order: Order) -> None:
    numbers = encode(order)
    assert numbers.dtype == np.int64
    assert same(order, decode(numbers))


@given(BATCHES, st.data())
def test_a_batch_that_lost_numbers_is_refused(batch: RaggedBatch, data: st.DataObject) -> None:
    numbers = encode(Pass(batch))
    kept = data.draw(st.integers(1, len(numbers) - 1))
    with pytest.raises(ProtocolError):
        decode(numbers[:kept])
    with pytest.raises(ProtocolError):
        decode(np.concatenate([numbers, numbers[:1]]))


@given(st.lists(st.integers(-(2**62), 2**62), max_size=30))
def test_random_numbers_never_do_worse_than_be_refused(numbers: list[int]) -> None:
    row = np.array(numbers, dtype=np.int64)
    try:
        order = decode(row)
    except ProtocolError:
        return
    assert np.array_equal(encode(order), row)


@pytest.mark.parametrize(
    "numbers",
    [[], [0], [99, 1], [Kind.STOCK_PASS], [Kind.USE_STORE, 0, 16], [Kind.USE_STORE, 4], [Kind.USE_BACKEND, 2, 0]],
)
def test_what_is_no_order(numbers: list[int]) -> None:
    with pytest.raises(ProtocolError):
        decode(np.array(numbers, dtype=np.int64))


def test_other_numbers_than_int64_are_refused() -> None:
    with pytest.raises(ProtocolError, match="int64"):
        decode(np.array([5.0]))
